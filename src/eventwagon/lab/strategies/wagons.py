"""The strategies that are wagons: the real switcher, observer and workers, in virtual time or on any broker."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from ...connection import Connection
from ...contracts.broker import Broker, Subscription
from ...contracts.facts import Fact, Switched, WagonDrained, WagonOpened, WagonRemoved
from ...contracts.registry import Registry
from ...drivers.opening import open_drivers
from ...event import Channel
from ...limits import parse_limit
from ...runtime.handling import Context
from ...testing.virtual_time import VirtualClock
from ...testing.virtual_time import run as run_in_virtual_time
from ...train import Train
from ...workers import Workers
from ..job import Bar, Job, Outcome

_TRAIN = "lab"
_LEAD = 1.0
"""Seconds before the first arrival in which the first wagon and its spare are made, besides what their workers need to
come."""
_REST = 120.0
"""Longest wait for rest after all was done."""


class _SlowStart:
    """A broker on which a wagon's consumers need their time to come, as pods do. Wagon 1 stands when the run begins."""

    def __init__(self, broker: Broker, seconds: float) -> None:
        self._broker = broker
        self._seconds = seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._broker, name)

    async def __aenter__(self) -> Broker:
        await self._broker.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._broker.__aexit__(*exc)

    @asynccontextmanager
    async def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> AsyncIterator[Subscription]:
        """Attached after the delay."""
        if channel.wagon > 1:
            await asyncio.sleep(self._seconds)
        async with self._broker.consume(channel, visibility=visibility, owner=owner) as subscription:
            yield subscription


class _Run:
    """One run of a job through a train."""

    def __init__(self, job: Job, workers: Workers, spares: int, clock: Callable[[], float], start: float) -> None:
        self.job = job
        self._each = workers.own
        self._standing = 1 + spares
        """Wagons."""
        self._lead = _LEAD + start
        self.finished = [math.inf] * len(job.arrivals)
        self.runs = 0
        self.switches = 0
        self.facts: dict[int, dict[str, float]] = {}
        """By wagon: when it was opened, cut off, drained, removed; seconds since the burst began."""
        self.events: dict[int, int] = {}
        self.all_done = asyncio.Event()
        self._removed = asyncio.Event()
        self._at_rest = math.inf
        self.began = math.inf
        self._left = len(job.arrivals)
        self._clock = clock
        cap = job.wagons if self._each is None else min(job.wagons, job.most // self._each)
        self.train = Train(
            _TRAIN, limit=parse_limit(job.limit), workers=workers, spares=spares, wagons=max(cap, spares + 2),
            provision_timeout=max(30.0, 4 * job.start), publish_timeout=3600.0, handler_timeout=3600.0,
        )  # fmt: skip

        @self.train.on(_TRAIN)
        async def handle(arrival: int, ctx: Context) -> None:
            self.runs += 1
            await asyncio.sleep(job.services[arrival])
            if math.isinf(self.finished[arrival]):
                self.finished[arrival] = self.now()
                self.events[ctx.wagon] = self.events.get(ctx.wagon, 0) + 1
                self._left -= 1
                if not self._left:
                    self.all_done.set()

    def now(self) -> float:
        """Seconds since the burst began."""
        return asyncio.get_running_loop().time() - self.began

    def hear(self, fact: Fact) -> None:
        """Keep what the picture shows."""
        moment = asyncio.get_running_loop().time()
        match fact:
            case WagonOpened(number=n):
                self._note(n, "opened", moment)
            case Switched(old=int(old)):
                self.switches += 1
                self._note(old, "closed", moment)
            case WagonDrained(number=n):
                self._note(n, "drained", moment)
            case WagonRemoved(wagon=wagon):
                self._note(wagon.number, "drained", moment)
                self._note(wagon.number, "removed", moment)
                self._removed.set()

    def _note(self, number: int, what: str, moment: float) -> None:
        self.facts.setdefault(number, {}).setdefault(what, moment)

    async def go(self, broker: Broker, registry: Registry) -> None:
        """Publish each arrival in its time, whatever the train does; return when all was handled and the active wagon
        and its spares alone are left."""
        loop = asyncio.get_running_loop()
        connection = self.train.connect(broker=broker, registry=registry, listeners=[self.hear], clock=self._clock)
        async with connection, connection.running():
            await connection.found()
            self.began = loop.time() + self._lead
            async with asyncio.TaskGroup() as tasks:
                for arrival, at in enumerate(self.job.arrivals):
                    wait = self.began + at - loop.time()
                    if wait > 0:
                        await asyncio.sleep(wait)
                    tasks.create_task(self._publish(connection, arrival))
            await self.all_done.wait()
            with suppress(TimeoutError):
                async with asyncio.timeout(_REST):
                    while sum("removed" not in told for told in self.facts.values()) > self._standing:
                        self._removed.clear()
                        await self._removed.wait()
            self._at_rest = self.now()

    async def _publish(self, connection: Connection, arrival: int) -> None:
        await connection.publish(arrival)

    def outcome(self, strategy: str, note: str) -> Outcome:
        """What came of it."""
        end = max(self.finished)
        rest = end if self._each is None else max(end, self._at_rest)
        bars = []
        lives = []
        for number in sorted(self.facts | {1: {}}):
            told = {what: at - self.began for what, at in self.facts.get(number, {}).items()}
            opened = max(0.0, told.get("opened", 0.0))
            drained = min(end, told.get("drained", end))
            if opened < end:
                closed = min(drained, told.get("closed", end))
                bars.append(Bar(number, opened, closed, drained, self.events.get(number, 0)))
            lives.append((opened, told.get("removed", math.inf)))

        def paid(until: float) -> float:
            if self._each is None:
                return self.job.workers * until
            return self._each * sum(max(0.0, min(gone, until) - opened) for opened, gone in lives)

        return Outcome(
            strategy=strategy,
            finished=self.finished,
            standing=self.job.workers if self._each is None else self._each * self._standing,
            until_done=paid(end),
            until_rest=paid(rest),
            at_rest=rest,
            switches=self.switches,
            duplicates=self.runs - len(self.finished),
            bars=bars,
            note=note,
        )


def wagons(job: Job, *, url: str | None = None) -> Outcome:
    """The fixed workers, shared between the wagons, with spares."""
    workers = Workers(total=job.workers, floor=job.floor)
    return _run(job, "wagons", workers, job.spares, url, f"wagons that share {job.workers} workers")


def wagons_no_spare(job: Job, *, url: str | None = None) -> Outcome:
    """The fixed workers; the next wagon is opened when one is half full."""
    workers = Workers(total=job.workers, floor=job.floor)
    return _run(job, "wagons_no_spare", workers, 0, url, "the same without a spare")


def wagons_elastic(job: Job, *, url: str | None = None) -> Outcome:
    """Each wagon has workers of its own, which take their time to come; with spares."""
    spares = "a spare" if job.spares == 1 else f"{job.spares} spares"
    note = f"wagons with {job.each} workers each, there {job.start:g} s after they were asked for, and {spares}"
    return _run(job, "wagons_elastic", Workers(each=job.each), job.spares, url, note, start=job.start)


def wagons_elastic_no_spare(job: Job, *, url: str | None = None) -> Outcome:
    """One wagon has all the standing workers; the next one is opened when it is half full."""
    note = f"the same without a spare: wagons with all {job.standing} standing workers each"
    workers = Workers(each=job.standing)
    return _run(job, "wagons_elastic_no_spare", workers, 0, url, note, start=job.start)


def _run(
    job: Job, strategy: str, workers: Workers, spares: int, url: str | None, note: str, *, start: float = 0.0
) -> Outcome:
    if url is None:
        return run_in_virtual_time(_virtual(job, strategy, workers, spares, note, start))
    return asyncio.run(_real(job, strategy, workers, spares, url, note, start))


async def _virtual(job: Job, strategy: str, workers: Workers, spares: int, note: str, start: float) -> Outcome:
    clock = VirtualClock()
    drivers = open_drivers("memory://", clock=clock)
    run = _Run(job, workers, spares, clock, start)
    await run.go(_SlowStart(drivers.broker, start), drivers.registry)
    return run.outcome(strategy, note)


async def _real(job: Job, strategy: str, workers: Workers, spares: int, url: str, note: str, start: float) -> Outcome:
    drivers = open_drivers(url)
    run = _Run(job, workers, spares, time.time, start)
    await run.go(_SlowStart(drivers.broker, start), drivers.registry)
    return run.outcome(strategy, note)


WAGONS: dict[str, Callable[..., Outcome]] = {
    strategy.__name__: strategy for strategy in (wagons, wagons_no_spare, wagons_elastic, wagons_elastic_no_spare)
}
