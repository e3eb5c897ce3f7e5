"""What a user would pick, each on the same job: queues with fixed and elastic crews, serverless, and wagons."""
