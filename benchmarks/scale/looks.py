"""The production code of a look at sizes that this machine can't run for real: the observer's own CPU time, in memory.
What the registry's answer takes to decode is added: in memory nothing is encoded."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from statistics import median
from time import process_time

import msgspec

from benchmarks.observer import observer_of
from eventwagon.contracts.registry import Member, decode_members, encode_member
from eventwagon.drivers.opening import open_drivers

from .model import Shape
from .train import member

SIZES = ((1, 1), (100, 1), (1000, 1), (10_000, 1), (1, 100), (1, 1000), (1, 316), (100, 100))
"""Processes and live wagons."""
_TIMES = 5


class Look(msgspec.Struct, frozen=True):
    """One size."""

    processes: int
    wagons: int
    cpu: float
    """Seconds of CPU time of a look, in the median."""
    answer: int
    """Bytes of all check-ins, which each look reads."""

    def shape(self, each: int) -> Shape:
        """One look a second at it."""
        return Shape(processes=self.processes, wagons=self.wagons, each=each, looks=1.0)


async def looks(each: int) -> list[Look]:
    """All sizes. `each`: workers of each wagon, one a process where there are enough."""
    return [await _look(*size, each) for size in SIZES]


def members_of(processes: int, wagons: int, each: int) -> list[Member]:
    """The check-ins of so many processes: each lists every live wagon, with or without a worker for it."""
    busy = min(processes, each)
    return [member(n, range(1, wagons + 1), each // busy if n < busy else 0) for n in range(processes)]


async def _look(processes: int, wagons: int, each: int) -> Look:
    members = members_of(processes, wagons, each)
    encoded = [encode_member(one) for one in members]
    took = []
    drivers = open_drivers("memory://")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(drivers.broker)
        await stack.enter_async_context(drivers.registry)
        observer = await observer_of(drivers.broker, drivers.registry, wagons, members, stack)
        async with asyncio.TaskGroup() as tasks:
            await observer.look(tasks)
            for _ in range(_TIMES):
                began = process_time()
                decode_members(encoded)
                await observer.look(tasks)
                took.append(process_time() - began)
    return Look(processes, wagons, median(took), sum(map(len, encoded)))
