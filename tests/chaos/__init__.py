"""Chaos: real processes, killed and stopped at random, by a plan that can be run again by its number.

    python -m tests.chaos --switches 2000 --plan 7
    python -m tests.chaos --switches 200 --url redis://127.0.0.1:6379/0

In the end every event whose publish returned must have been handled or stand in the dead letters, and nothing may be
left over: no channel, file, process or lock but those of the active wagon and its spares. On SQLite unless a URL names
another broker. From a test: `run.Chaos`, which may kill servers too.
"""
