"""Deterministic simulation of a train: the real code, wagons, workers, observers and publishers as processes, and
faults.

    from eventwagon.testing import simulation

    scenario = simulation.draw(4711)  # everything that is random in the run, decided by one number, as data
    run = simulation.simulate(scenario)  # in virtual time: a fraction of a second
    for violation in simulation.check(run):
        print(violation)
    print(simulation.story(scenario, run.history, simulation.check(run)))

A run has several processes, each with its own connection, its own wall clock, and a gate before the one broker and the
one registry (memory drivers), through which faults come: delays, errors, lost answers, effects twice, calls that arrive
after their sender has died, stops (SIGSTOP), kills (kill -9) at any await, late and old news. Then the trouble ends,
and the train must come to rest. The checker holds the whole history against the design's invariants.

The same scenario gives the same history, in every interpreter. `python -m tests.simulation --help` runs
many."""

from .checker import check, check_evidence, evidence
from .history import History, Record
from .run import Rest, Run, simulate
from .scenario import Arrival, ByHand, Fault, Program, Scenario, draw
from .shrink import shrink
from .story import story
from .violation import Evidence, Violation

__all__ = [
    "Arrival",
    "ByHand",
    "Evidence",
    "Fault",
    "History",
    "Program",
    "Record",
    "Rest",
    "Run",
    "Scenario",
    "Violation",
    "check",
    "check_evidence",
    "draw",
    "evidence",
    "shrink",
    "simulate",
    "story",
]
