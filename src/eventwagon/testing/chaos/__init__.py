"""Chaos: real processes on SQLite, killed and stopped at random, by a plan that can be run again by its number.

    python -m eventwagon.testing.chaos --switches 2000 --plan 7

In the end every event whose publish returned must have been handled or stand in the dead letters, and nothing may be
left over: no file, no process, no lock but those of the active wagon and its spares. From a test: `run.Chaos`.
"""
