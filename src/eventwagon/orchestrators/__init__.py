"""The orchestrators, which run workers outside the observer's process. One folder for each technology."""
