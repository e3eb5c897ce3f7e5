"""The orchestrators, which run workers outside of the observer's process; one folder for each technology."""
