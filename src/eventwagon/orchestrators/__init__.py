"""What gives wagons their workers outside of the process; one folder a technology."""
