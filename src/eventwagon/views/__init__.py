"""What people are shown of a train, as data: the command line and the dashboard print the same."""
