"""What every part of a process's workers works with."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ..contracts.broker import Broker
from ..contracts.facts import Listener
from ..settings import Settings
from .admission import Gate
from .bulkhead import Bulkhead
from .circuits import Circuits
from .handling import Handler, Threads

PAUSES = (0.05, 2.0)
"""The first pause after a failure and the longest, in seconds."""


class Held:
    """How many workers of the process take nothing, since a handler goes on in its thread after its attempt was
    ended."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Resting:
    """The numbers of the wagons of which nothing is to be handed out, as the process knows from the manifest."""

    __slots__ = ("numbers",)

    def __init__(self) -> None:
        self.numbers: frozenset[int] = frozenset()


class Kit(NamedTuple):
    """What every part of a crew works with."""

    train: str
    handlers: Mapping[str, Handler]
    settings: Settings
    broker: Broker
    clock: Callable[[], float]
    tell: Listener
    rng: random.Random
    threads: Threads
    tasks: asyncio.TaskGroup
    gate: Gate
    held: Held
    bulkhead: Bulkhead
    circuits: Circuits
    resting: Resting
    revision: str = ""
    """Which code this process is, where it says so."""
    owner: str = ""
    """Its name, under which it claims."""
