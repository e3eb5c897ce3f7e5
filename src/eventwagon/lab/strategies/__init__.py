"""What a user would pick, each on the same job: queues with fixed and with scaled workers, serverless, and wagons."""
