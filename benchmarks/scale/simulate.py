"""A train of many processes on one server, in virtual time: how long a look takes, and how long a switch takes to reach
every process.

The server works off what it is asked for one after the other, as fast as its limits allow; what each call costs it is
what was measured. Two things are the production code's own: `pause` says when an observer looks next, and `plan`
decides the switch. As in production, all observers may decide at once, one of them stores the switch by
compare-and-swap, and the others look again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from functools import cache

import msgspec

from benchmarks.kit import percentile
from eventwagon.contracts.manifest import Manifest
from eventwagon.policy.leading import LEADERS, LONGEST
from eventwagon.policy.pace import pause
from eventwagon.policy.plan import plan
from eventwagon.settings import Settings
from eventwagon.testing.virtual_time import run

from .model import Cost, Limit, Shape, use
from .train import manifest, seen, settings

ROUND_TRIP = 0.0003
"""Seconds on the network there and back, within one zone: assumed."""
HORIZON = 60.0
"""Seconds after which nothing more is waited for: what has not come by then takes longer."""
_CHECK_IN = Settings().member_ttl / 3
_LOOKS = 3
"""Complete looks of each observer before the switch."""


class Came(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it, in seconds. None: it takes longer than HORIZON."""

    look: float | None
    """That a look takes, in the median."""
    check_in: float | None
    """Until the slowest check-in was answered."""
    decided: float | None
    """From the full wagon to the switch in the manifest."""
    reached: float | None
    """From there until the last process knew it."""
    conflicts: int
    """Observers that decided the same switch, and came too late."""


class Simulated(msgspec.Struct, frozen=True):
    """One run in virtual time."""

    broker: str
    processes: int
    wagons: int
    observers: int
    came: Came


class Server:
    """One after the other. Its unit is the second: of whichever limit a call uses most of."""

    def __init__(self) -> None:
        self._free = 0.0

    async def ask(self, seconds: float) -> None:
        """One call that occupies it for so long."""
        loop = asyncio.get_running_loop()
        self._free = max(self._free, loop.time()) + seconds
        await asyncio.sleep(self._free - loop.time() + ROUND_TRIP)


class Prices(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of the server, or of a process, at one size of train."""

    look: float
    trips: int
    """Round trips of a look, one after the other."""
    own: float
    """A look's CPU time in the observer's process."""
    check_in: float
    """All else that a process asks for between two check-ins."""
    read: float
    """To read the manifest: as the average call of a look at that many wagons, made by the only process."""


def prices(costs: Mapping[str, Cost], limits: Mapping[str, Limit], size: Shape) -> Prices:
    """What calls cost at this size."""
    quiet = msgspec.structs.replace(size, looks=0.0)
    shared = [limit for limit in limits.values() if not limit.per_process]
    alone = msgspec.structs.replace(size, processes=1)
    trips = max(1, round(costs["requests"].terms.get("look", 0.0)))
    return Prices(
        look=max(costs[limit.measure].of_look(size) / limit.most for limit in shared),
        trips=trips,
        own=costs["client_cpu"].of_look(size),
        check_in=max(use(limit, costs, quiet) for limit in shared) * _CHECK_IN / size.processes,
        read=max(costs[limit.measure].of_look(alone) / limit.most for limit in shared) / trips,
    )


def pace(processes: int, wagons: int, each: int) -> float:
    """Seconds between two looks of an observer at a quiet train, as `pause` has it."""
    return pause(seen(processes, wagons, each), "process-00000", quiet=100.0)


class _Train:
    """Those who take part, and what they have seen."""

    def __init__(self, size: Shape, observers: int, price: Prices, every: float) -> None:
        self.size, self.observers, self.price, self.every = size, observers, price, every
        self.server = Server()
        self.version, self.manifests = 1, {1: manifest(size.wagons)}
        self.full_at: float | None = None
        self.switched = asyncio.Event()
        self.took: list[float] = []
        self.check_ins: list[float] = []
        self.left = observers * _LOOKS
        self.warm = asyncio.Event()
        self.conflicts = 0
        self._decided = cache(self._decide)

    def _decide(self, version: int, full: bool) -> Manifest:
        size = self.size
        return plan(seen(size.processes, size.wagons, size.each, full=full, now=self.manifests[version])).manifest

    async def observe(self, number: int) -> None:
        loop, every = asyncio.get_running_loop(), self.every if number < LEADERS else LONGEST
        await asyncio.sleep(every * number / self.observers)
        while True:
            began, version = loop.time(), self.version
            for _ in range(self.price.trips):
                full = self.full_at is not None and not self.switched.is_set()  # as this call's answer has it
                await self.server.ask(self.price.look / self.price.trips)
            await asyncio.sleep(self.price.own)
            self.took.append(loop.time() - began)
            self.left -= 1
            self.heed()
            if full and (decided := self._decided(version, full)) is not self.manifests[version]:
                await self.server.ask(self.price.read)
                if version != self.version:
                    self.conflicts += 1
                    continue  # another was faster: it looks again at once
                self.version = version + 1
                self.manifests[self.version] = decided
                self.switched.set()
            await asyncio.sleep(every)

    def heed(self) -> None:
        """It is warm once everybody has looked and has checked in."""
        if self.left <= 0 and len(self.check_ins) >= self.size.processes:
            self.warm.set()

    async def check_in(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(_CHECK_IN * number / self.size.processes)
        while True:
            began = loop.time()
            await self.server.ask(self.price.check_in)
            self.check_ins.append(loop.time() - began)
            self.heed()
            await asyncio.sleep(_CHECK_IN)

    async def follow(self) -> None:
        """A process that publishes: it reads the manifest when it is told of a change."""
        await self.switched.wait()
        await self.server.ask(self.price.read)


def simulate(
    costs: Mapping[str, Cost], limits: Mapping[str, Limit], *, processes: int, wagons: int, each: int, observers: int
) -> Came:
    """Run it until the switch has reached every process, or as long as HORIZON says. `wagons`: two at
    least, one of them is the spare."""
    size = Shape(processes=processes, wagons=wagons, each=each, looks=0.0)
    return run(_run(size, observers, prices(costs, limits, size), settings(wagons, each).observe_every))


async def _run(size: Shape, observers: int, price: Prices, every: float) -> Came:
    loop, train = asyncio.get_running_loop(), _Train(size, observers, price, every)
    switched_at: float | None = None
    reached_at: float | None = None
    async with asyncio.TaskGroup() as tasks:
        busy = [tasks.create_task(train.observe(n)) for n in range(observers)]
        busy += [tasks.create_task(train.check_in(n)) for n in range(size.processes)]
        followers = [tasks.create_task(train.follow()) for _ in range(size.processes)]
        with suppress(TimeoutError):
            async with asyncio.timeout(HORIZON):
                await train.warm.wait()
        train.full_at = loop.time()
        with suppress(TimeoutError):
            async with asyncio.timeout(HORIZON):
                await train.switched.wait()
                switched_at = loop.time()
                await asyncio.wait(followers)
                reached_at = loop.time()
        for task in (*busy, *followers):
            task.cancel()
    return Came(
        look=_within(percentile(train.took, 0.5) if len(train.took) >= observers else None),
        check_in=_within(max(train.check_ins) if len(train.check_ins) >= size.processes else None),
        decided=_within(None if switched_at is None else switched_at - train.full_at),
        reached=_within(None if switched_at is None or reached_at is None else reached_at - switched_at),
        conflicts=train.conflicts,
    )


def _within(found: float | None) -> float | None:
    return None if found is None or found > HORIZON else found
