"""The strategies, each run on the same job: queues with fixed and with scaled workers, serverless, and wagons."""
