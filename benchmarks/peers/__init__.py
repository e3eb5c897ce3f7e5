"""`python -m benchmarks.peers`: the same work on the same Redis with eventwagon and with other frameworks, each in a
virtualenv of its own. Not a test: nothing fails by being slow."""
