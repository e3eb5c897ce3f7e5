"""What is done to whom, and when: from a number, always the same."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Literal, NamedTuple

Role = Literal["publisher", "observer", "worker"]
ROLES: tuple[Role, ...] = ("publisher", "observer", "worker")


class Outage(NamedTuple):
    """A server killed and started again. Times in seconds."""

    pause: float
    """After the one before had ended."""
    which: float
    """From 0 to 1: which of the servers."""
    back: float
    """It is started again so long after the kill."""


class Strike(NamedTuple):
    """One blow. Times in seconds."""

    pause: float
    """After the one before."""
    role: Role
    which: float
    """From 0 to 1: which of those that live, in the order of their names."""
    stop: float | None
    """Stopped for so long, then continued; None: killed."""
    back: float
    """When it was killed: after so long another takes its place."""


def strikes(number: int, *, mean: float = 0.45) -> Iterator[Strike]:
    """The plan of that number: blows without end, `mean` seconds apart."""
    rng = random.Random(number)
    while True:
        role = rng.choices(ROLES, weights=(3, 2, 5))[0]
        stop: float | None = None
        if rng.random() < 0.55:
            stop = rng.uniform(5.5, 7.0) if rng.random() < 0.03 else rng.uniform(0.02, 1.2)
        yield Strike(rng.expovariate(1 / mean), role, rng.random(), stop, rng.uniform(0.0, 1.0))


def outages(number: int, *, mean: float = 8.0) -> Iterator[Outage]:
    """The servers' part of the plan of that number: outages without end, `mean` seconds apart."""
    rng = random.Random(f"servers {number}")
    while True:
        yield Outage(rng.expovariate(1 / mean), rng.random(), rng.uniform(0.2, 1.0))
