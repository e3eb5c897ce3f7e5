"""The strategies that are wagons: the real switcher, observer and workers, in virtual time or on any broker."""

from __future__ import annotations

import asyncio
import math
import secrets
import time
from collections.abc import Callable
from contextlib import suppress

from ...connection import Connection
from ...contracts.facts import Fact, Switched, WagonDrained, WagonOpened, WagonRemoved
from ...drivers.opening import open_drivers
from ...errors import EventwagonError
from ...limits import parse_limit, slo
from ...runtime.context import Context
from ...settings import NO_LEDGER
from ...testing.virtual_time import VirtualClock
from ...testing.virtual_time import run as run_in_virtual_time
from ...train import Train
from ...workers import Elastic, Workers
from ..job import REST_MOST, Bar, Job, Outcome
from .pods import SimulatedPods
from .scalers import STOOD

_TRAIN = "lab"
_LEAD = 1.0
"""Seconds for which the standing workers are ready before the first arrival; longer (`STOOD`) if they are elastic."""
_READY = 60.0
"""The longest wait, in seconds, for the standing wagons to be ready, in addition to the start of their Pods."""


class _Run:
    """One run of a job through a train. Its workers are shared, or in simulated Pods."""

    def __init__(
        self, job: Job, workers: Workers, *, spares: int, url: str | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._job = job
        self._real = url is not None
        drivers = open_drivers("memory://" if url is None else url, clock=clock)
        self._broker, self._registry, self._clock = drivers.broker, drivers.registry, clock
        self._spares = spares
        name = f"{_TRAIN}_{secrets.token_hex(4)}" if self._real else _TRAIN  # no train of anybody's
        self._train = Train(
            name,
            limit=parse_limit(job.limit),
            workers=workers,
            spares=spares,
            wagons=job.cap(workers.own, spares),
            provision_timeout=max(30.0, 4 * job.start),
            publish_timeout=3600.0,
            handler_timeout=3600.0,
            ledger=NO_LEDGER,
        )
        self._pods: SimulatedPods | None = None
        if workers.own is not None:
            self._pods = SimulatedPods(self._train, self._broker, clock, start=job.start, step=job.per_pod)
            self._pods.on_change = self._changed
        self._standing = job.workers if workers.own is None else workers.own * (1 + spares)
        """Workers."""
        self._finished = [math.inf] * len(job.arrivals)
        self._runs = 0
        self._switches = 0
        self._times: dict[int, dict[str, float]] = {}
        """By wagon: when it was opened, became active, was cut off, drained; by the loop's time."""
        self._events: dict[int, int] = {}
        """Events handled, by wagon."""
        self._left = len(job.arrivals)
        self._all_done = asyncio.Event()
        self._rests = asyncio.Event()
        self._began = math.inf
        self._paid_before = 0.0
        self._until_done = 0.0
        self._until_rest = 0.0
        self._at_rest = math.inf
        self._levels: list[tuple[float, int]] = []
        """The workers that were paid for, from each of these moments on."""

        @self._train.on(name)
        async def handle(arrival: int, ctx: Context) -> None:
            self._runs += 1
            await asyncio.sleep(job.services[arrival])
            if math.isinf(self._finished[arrival]):
                self._finished[arrival] = self._now()
                self._events[ctx.wagon] = self._events.get(ctx.wagon, 0) + 1
                self._left -= 1
                if not self._left:
                    self._until_done = self._paid()
                    self._all_done.set()

    async def outcome(self, strategy: str, note: str) -> Outcome:
        """Run the job and return the outcome."""
        await self._go()
        end = max(self._finished)
        return Outcome(
            strategy=strategy,
            finished=self._finished,
            standing=self._standing,
            until_done=self._until_done,
            until_rest=self._until_rest,
            at_rest=self._at_rest,
            switches=self._switches,
            duplicates=self._runs - len(self._finished),
            bars=self._bars(end),
            workers=self._levels,
            note=note,
        )

    async def _go(self) -> None:
        """Publish each arrival at its time, whatever the train does. Returns when all are handled and only the standing
        workers are left."""
        connection = self._train.connect(
            broker=self._broker,
            registry=self._registry,
            orchestrator=self._pods,
            listeners=[self._hear],
            clock=self._clock,
        )
        async with connection:
            async with connection.running():
                await self._burst(connection)
            if self._real:
                await connection.remove("the lab is done with it", force=True)

    async def _burst(self, connection: Connection) -> None:
        loop, job = asyncio.get_running_loop(), self._job
        await connection.found()
        await self._stand(connection)
        self._began, self._paid_before = loop.time(), self._paid()
        self._levels = [(0.0, self._standing)]
        async with asyncio.TaskGroup() as tasks:
            for arrival, at in enumerate(job.arrivals):
                wait = self._began + at - loop.time()
                if wait > 0:
                    await asyncio.sleep(wait)
                tasks.create_task(self._publish(connection, arrival))
        await self._all_done.wait()
        self._look_for_rest()
        with suppress(TimeoutError):
            async with asyncio.timeout(REST_MOST):
                await self._rests.wait()
        self._until_rest, self._at_rest = self._paid(), self._now()

    async def _stand(self, connection: Connection) -> None:
        """Wait until the active wagon and its spares are ready; elastic workers must also have been there for a while.
        Raises EventwagonError."""
        for _ in range(round(10 * (_READY + 4 * self._job.start))):
            if len(connection.manifest.ready) >= self._spares and self._stands():
                break
            await asyncio.sleep(0.1)
        await asyncio.sleep(_LEAD if self._train.settings.workers.elastic is None else STOOD)
        if not self._stands():
            raise EventwagonError("before the first event the workers are not those that should stand")

    def _stands(self) -> bool:
        return self._pods is None or self._pods.workers == self._pods.there == self._standing

    async def _publish(self, connection: Connection, arrival: int) -> None:
        await connection.publish(arrival)

    def _changed(self) -> None:
        if self._pods is not None and self._levels and self._pods.workers != self._levels[-1][1]:
            self._levels.append((self._now(), self._pods.workers))
        self._look_for_rest()

    def _look_for_rest(self) -> None:
        if self._all_done.is_set() and (self._pods is None or self._pods.workers <= self._standing):
            self._rests.set()

    def _now(self) -> float:
        """Seconds since the burst began."""
        return asyncio.get_running_loop().time() - self._began

    def _paid(self) -> float:
        """Worker-seconds since the burst began."""
        if self._pods is None:
            return self._job.workers * max(0.0, self._now())
        return self._pods.paid() - self._paid_before

    def _hear(self, fact: Fact) -> None:
        """Record what the picture shows."""
        match fact:
            case WagonOpened(number=n):
                self._note(n, "opened")
            case Switched(old=int(old), new=new):
                self._switches += 1
                self._note(old, "closed")
                self._note(new, "active")
            case WagonDrained(number=n):
                self._note(n, "drained")
            case WagonRemoved(wagon=wagon):
                self._note(wagon.number, "drained")

    def _note(self, number: int, what: str) -> None:
        self._times.setdefault(number, {}).setdefault(what, asyncio.get_running_loop().time())

    def _bars(self, end: float) -> list[Bar]:
        bars = []
        for number in sorted(self._times | {1: {}}):
            times = {what: at - self._began for what, at in self._times.get(number, {}).items()}
            opened = max(0.0, times.get("opened", 0.0))
            drained = min(end, times.get("drained", end))
            if opened < end:
                closed = min(drained, times.get("closed", end))
                active = opened if number == 1 else min(closed, times.get("active", end))
                bars.append(Bar(number, opened, active, closed, drained, self._events.get(number, 0)))
        return bars


def wagons(job: Job, *, url: str | None = None) -> Outcome:
    """The fixed workers, shared between the wagons, with spares."""
    workers = Workers(total=job.workers, floor=job.floor)
    return _run(job, "wagons", workers, job.spares, url, f"wagons that share {job.workers} workers")


def wagons_no_spare(job: Job, *, url: str | None = None) -> Outcome:
    """The fixed workers; the next wagon is opened when one is half full."""
    workers = Workers(total=job.workers, floor=job.floor)
    return _run(job, "wagons_no_spare", workers, 0, url, "the same without a spare")


def wagons_each(job: Job, *, url: str | None = None) -> Outcome:
    """Each wagon has a fixed number of workers of its own; with spares."""
    note = f"wagons with {job.each} workers each, and {_spares(job)}; {_start(job)}"
    return _run(job, "wagons_each", Workers(each=job.each), job.spares, url, note)


def wagons_each_no_spare(job: Job, *, url: str | None = None) -> Outcome:
    """Each wagon has all the standing workers; the next one is opened when it is half full."""
    note = f"the same without a spare: wagons with all {job.standing} standing workers each"
    return _run(job, "wagons_each_no_spare", Workers(each=job.standing), 0, url, note)


def wagons_elastic(job: Job, *, url: str | None = None) -> Outcome:
    """Each wagon has as many workers as its traffic needs, with spares."""
    note = f"wagons whose workers follow the traffic, from {job.each} each, and {_spares(job)}; {_start(job)}"
    return _run(job, "wagons_elastic", Workers(each=_elastic(job, job.each)), job.spares, url, note)


def wagons_elastic_no_spare(job: Job, *, url: str | None = None) -> Outcome:
    """Each wagon starts with all the standing workers, and gets more as its traffic needs them."""
    note = f"the same without a spare: from {job.standing} workers each"
    return _run(job, "wagons_elastic_no_spare", Workers(each=_elastic(job, job.standing)), 0, url, note)


def _elastic(job: Job, least: int) -> Elastic:
    promise = None if slo(parse_limit(job.limit)) is not None else job.slo
    return Elastic(least, max(job.most, 2 * least), promise=promise)


def _spares(job: Job) -> str:
    return "a spare" if job.spares == 1 else f"{job.spares} spares"


def _start(job: Job) -> str:
    return f"Pods work {job.start:g} s after they were asked for"


def _run(job: Job, strategy: str, workers: Workers, spares: int, url: str | None, note: str) -> Outcome:
    if url is None:
        return run_in_virtual_time(_virtual(job, strategy, workers, spares, note))
    return asyncio.run(_real(job, strategy, workers, spares, url, note))


async def _virtual(job: Job, strategy: str, workers: Workers, spares: int, note: str) -> Outcome:
    return await _Run(job, workers, spares=spares, clock=VirtualClock()).outcome(strategy, note)


async def _real(job: Job, strategy: str, workers: Workers, spares: int, url: str, note: str) -> Outcome:
    return await _Run(job, workers, spares=spares, url=url).outcome(strategy, note)


WAGONS: dict[str, Callable[..., Outcome]] = {
    strategy.__name__: strategy
    for strategy in (
        wagons,
        wagons_no_spare,
        wagons_each,
        wagons_each_no_spare,
        wagons_elastic,
        wagons_elastic_no_spare,
    )
}
