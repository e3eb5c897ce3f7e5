"""The burst: two trains that get the same sign-ups at the same time, and a record of what became of each.

One train is a single queue: it is never cut. The other has wagons. Both run for real, on the same broker and in the
same event loop. Arrivals don't wait for either.
"""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

import msgspec

from ...connection import Connection
from ...contracts.facts import EventDied, Fact, WagonRemoved
from ...contracts.lifecycle import State
from ...contracts.manifest import Manifest, Wagon
from ...errors import Unavailable, UsageError
from ...event import Channel, Event, new_ids
from ...lab.job import Job, Outcome
from ...lab.pace import TimedWork, fast_clock
from ...lab.queueing import is_late
from ...limits import Limit, Volume, written
from ...payload import encode
from ...policy.edits import asked_of
from ...policy.scheduling import served_first, within
from ...runtime.context import Context
from ...train import Train
from ...workers import Workers
from .machine import Machine, Usage

_STALLED = 60.0
"""Real seconds without any progress after which none is expected."""
_READY = 60.0
"""Real seconds that the standing workers may take to be there."""
_LEAD = 0.5
_COUNT_EVERY = 0.05
"""Seconds between two counts of the workers that are paid for."""
_CAP = 32
"""Live wagons at most."""
_NEVER = Volume(1_000_000_000)
"""A limit that no demo reaches."""


class SignUp(msgspec.Struct):
    customer: int
    """The number of the arrival."""
    email: str


class WelcomeEmail(msgspec.Struct):
    customer: int
    email: str


class CrmUpdate(msgspec.Struct):
    customer: int
    email: str


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. All times in seconds of the burst."""

    url: str
    arrivals: list[float]
    limit: Limit
    """Of the train with wagons."""
    workers: Workers
    slo: float
    steps: tuple[float, float, float]
    speed: float
    title: str
    spares: int = 1
    name: str = "user_registrations"
    """Of the train with wagons."""

    @property
    def first(self) -> int:
        """The first wagon's workers."""
        return self.workers.total or self.workers.own or 1

    @property
    def standing(self) -> int:
        """The workers that stand before the burst and after it: those of the active wagon and its spares, or all that
        the wagons share. The one queue has as many."""
        own = dict.fromkeys(range(1 + self.spares), self.first)
        return self.workers.total or sum(within(self.workers.in_process, own).values())

    def job(self) -> Job:
        """The same for the lab, in which an autoscaled queue has Pods of four workers that come after 2 s."""
        shared = self.workers.total is not None
        each = math.ceil(self.first / 2) if shared else self.first
        elastic = self.workers.elastic
        return Job(
            title=self.title,
            arrivals=self.arrivals,
            services=[sum(self.steps)] * len(self.arrivals),
            workers=self.first,
            each=each,
            spares=1 if shared else self.spares,
            slo=self.slo,
            limit=written(self.limit),
            floor=self.workers.floor,
            wagons=_CAP,
            start=2.0,
            per_pod=4,
            most=elastic.most if elastic else max(64, each * _CAP),
        )


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one train's sign-ups. Times in seconds since the burst began."""

    outcome: Outcome
    published: int
    handled: int
    dead: int
    lost: int
    duplicates: int
    wagons: list[Wagon]
    stalled: bool


class Both(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the burst."""

    order: Order
    job: Job
    queue: Result
    wagons: Result
    seconds: float
    """From the beginning until both trains were done and had only their standing workers left."""
    usage: Usage


class Side:
    """One of the two trains. Its public fields are for the live view."""

    def __init__(
        self,
        order: Order,
        clock: Callable[[], float],
        *,
        name: str,
        limit: Limit,
        workers: Workers,
        spares: int,
        wagons: int,
    ) -> None:
        count = len(order.arrivals)
        self.order = order
        self.began = math.inf
        """When the first second of the burst begins, on the burst's clock."""
        self.published = 0
        """Sign-ups: the first so many arrivals."""
        self.handled = 0
        """Those that have passed all three handlers."""
        self.dead = 0
        self.on_time = bytearray(count)
        """By arrival: 1 where it was handled within the promise."""
        self.handled_on_time = 0
        self.waited = 0.0
        """All waits of the handled ones together."""
        self.worst = 0.0
        self.busy: Counter[int] = Counter()
        """Handlers at work, by wagon."""
        self.workers = 0
        """Workers that are paid for now: those that stand, work, or drain."""
        self.paid = 0.0
        """Worker-seconds since the burst began."""
        self.done = False
        self._clock = clock
        self._spares = spares
        self._finished = [math.inf] * count
        self._until_done = 0.0
        self._at_rest = 0.0
        self._stalled = False
        self._runs: Counter[str] = Counter()
        self._work = TimedWork(order.speed)
        self.train = Train(name, limit=limit, workers=workers, spares=spares, wagons=wagons)
        self._declare(self.train)
        self._connection: Connection | None = None

    def _declare(self, train: Train) -> None:
        steps = self.order.steps

        @train.on(train.name)
        async def register(signup: SignUp, ctx: Context) -> None:
            async with self._at_work(ctx, steps[0]):
                await ctx.emit("welcome_email", WelcomeEmail(signup.customer, signup.email))

        @train.on("welcome_email")
        async def welcome(mail: WelcomeEmail, ctx: Context) -> None:
            async with self._at_work(ctx, steps[1]):
                await ctx.emit("crm_update", CrmUpdate(mail.customer, mail.email))

        @train.on("crm_update")
        async def update(crm: CrmUpdate, ctx: Context) -> None:
            async with self._at_work(ctx, steps[2]):
                self._handled(crm.customer)

    @asynccontextmanager
    async def _at_work(self, ctx: Context, seconds: float) -> AsyncIterator[None]:
        """Work so long, then the body."""
        self._runs[ctx.event.id] += 1
        self.busy[ctx.wagon] += 1
        try:
            await self._work.take(seconds)
            yield
        finally:
            self.busy[ctx.wagon] -= 1

    def _handled(self, customer: int) -> None:
        if math.isfinite(self._finished[customer]):
            return
        now = self._finished[customer] = self._clock() - self.began
        wait = now - self.order.arrivals[customer]
        self.handled += 1
        self.waited += wait
        self.worst = max(self.worst, wait)
        if not is_late(wait, self.order.slo):
            self.on_time[customer] = 1
            self.handled_on_time += 1
        if self.handled == len(self._finished):
            self._count()
            self._until_done = self.paid

    @property
    def connection(self) -> Connection:
        """The train's, while the burst runs."""
        assert self._connection is not None  # noqa: S101 - entered before anybody looks
        return self._connection

    @property
    def active(self) -> int:
        """The number of the active wagon; 0: none yet."""
        active = self.connection.manifest.active
        return active.number if active else 0

    # --- the run --------------------------------------------------------------------------

    @asynccontextmanager
    async def standing(self) -> AsyncIterator[None]:
        """The train runs, and its standing workers are there. Raises UsageError, Unavailable."""
        url = self.order.url
        async with self.train.connect(url, clock=self._clock, listeners=(self._hear,)) as c:
            if c.manifest.wagons or c.manifest.next_number > 1:
                raise UsageError(
                    f"a train {self.train.name!r} exists at {url} already: the demo needs a place of its own"
                )
            async with c.running():
                self._connection = c
                await c.found()
                try:
                    async with asyncio.timeout(_READY * self.order.speed):
                        while not self._stands(c.manifest):  # noqa: ASYNC110 - a connection has no watch to wait for
                            await asyncio.sleep(_COUNT_EVERY)
                except TimeoutError:
                    raise Unavailable(
                        f"train {self.train.name!r} at {url} was not ready {_READY:g} s after its start"
                    ) from None
                yield

    def _stands(self, manifest: Manifest) -> bool:
        return manifest.active is not None and len(manifest.ready) >= self._spares

    def _hear(self, fact: Fact) -> None:
        if isinstance(fact, EventDied):
            self.dead += 1

    async def go(self, began: float) -> None:
        """Publish all sign-ups in their time; return when each was handled and only the standing workers are left."""
        self.began = self._counted = began
        async with asyncio.TaskGroup() as tasks:
            counting = tasks.create_task(self._keep_counting())
            await self._publish()
            self._stalled = await self._finish()
            counting.cancel()
        self._count()
        self._at_rest = max(0.0, self._clock() - self.began)
        self.done = True

    async def _publish(self) -> None:
        """Open-loop: what arrived while a publish was under way travels in the next, with its own time of arrival."""
        arrivals, took = self.order.arrivals, 0
        source = self.train.source
        while took < len(arrivals):
            await asyncio.sleep(max(0.0, self.began + arrivals[took] - self._clock()))
            now = self._clock()
            batch: list[Event] = []
            while took < len(arrivals) and (at := self.began + arrivals[took]) <= now:
                (event_id,) = new_ids(1, at)
                data, kind = encode(SignUp(took, f"customer{took}@example.com"))
                batch.append(Event(event_id, "SignUp", source, at, data, None, kind))
                took += 1
            self.published += await self.connection.publish_many(batch)

    async def _finish(self) -> bool:
        """Wait for the rest; True if it made no progress for so long that none can be expected."""
        seen: object = None
        loop = asyncio.get_running_loop()
        since = loop.time()
        while True:
            manifest = self.connection.manifest
            going = [w for w in manifest.wagons if w.state not in (State.ACTIVE, State.READY, State.PROVISIONING)]
            if self.handled + self.dead >= self.published and not going:
                return False
            state = (self.handled, self.dead, self._runs.total(), manifest)
            if state != seen:
                seen, since = state, loop.time()
            elif loop.time() - since > _STALLED * self.order.speed:
                return True
            await asyncio.sleep(_COUNT_EVERY)

    # --- what it costs --------------------------------------------------------------------

    async def _keep_counting(self) -> None:
        while True:
            self._count()
            await asyncio.sleep(_COUNT_EVERY)

    def _count(self) -> None:
        """Workers are paid for from the moment their wagon is opened until it is removed, at work or not; no more than
        this process runs for all wagons."""
        now = self._clock()
        if now > self._counted:
            self.paid += self.workers * (now - self._counted)
            self._counted = now
        workers = self.train.settings.workers
        wagons = sorted(self.connection.manifest.wagons, key=served_first)
        own = {w.number: asked_of(workers, w) or 0 for w in wagons if w.state is not State.FAILED}
        self.workers = workers.total or sum(within(workers.in_process, own).values())

    # --- what became of it ----------------------------------------------------------------

    async def result(self, standing: int) -> Result:
        """To be called when it is done, while it is connected."""
        dead = {_customer(event) async for event in self.connection.dead_letters()}
        missing = {i for i in range(self.published) if math.isinf(self._finished[i])}
        wagons = await self._wagons()
        duplicates = self._runs.total() - len(self._runs)
        return Result(
            outcome=Outcome(
                strategy=self.train.name,
                finished=self._finished,
                standing=standing,
                until_done=self._until_done or self.paid,
                until_rest=self.paid,
                at_rest=self._at_rest,
                switches=max(0, len(wagons) - 1),
                duplicates=duplicates,
            ),
            published=self.published,
            handled=self.handled,
            dead=len(dead & missing),
            lost=len(missing - dead),
            duplicates=duplicates,
            wagons=[_since(w, self.began) for w in wagons],
            stalled=self._stalled,
        )

    async def _wagons(self) -> list[Wagon]:
        """The removed wagons from the journal, then the live ones that received events."""
        found: dict[int, Wagon] = {}
        async for entry in self.connection.journal():
            if isinstance(entry.fact, WagonRemoved):
                found[entry.fact.wagon.number] = entry.fact.wagon
        for wagon in self.connection.manifest.wagons:
            if wagon.active_at is not None:
                (depth,) = await self.connection.broker.depth([Channel(self.train.name, wagon.number)])
                found[wagon.number] = msgspec.structs.replace(wagon, published=depth.published, settled=depth.settled)
        return [found[number] for number in sorted(found)]


class Burst:
    """One run of both trains."""

    def __init__(self, order: Order, clock: Callable[[], float] | None = None) -> None:
        self.order = order
        self.clock = clock or fast_clock(order.speed)
        self.began = math.inf
        self.machine = Machine(order.speed)
        self.queue = Side(
            order,
            self.clock,
            name=f"{order.name}_one_queue",
            limit=_NEVER,
            workers=Workers(total=order.standing) if order.workers.total else Workers(each=order.standing),
            spares=0,
            wagons=2,
        )
        self.wagons = Side(
            order,
            self.clock,
            name=order.name,
            limit=order.limit,
            workers=order.workers,
            spares=order.spares,
            wagons=_CAP,
        )

    @property
    def sides(self) -> tuple[Side, Side]:
        """The queue, then the wagons."""
        return self.queue, self.wagons

    @property
    def now(self) -> float:
        """Seconds since the burst began."""
        return max(0.0, self.clock() - self.began)

    async def run(self, watching: Callable[[Burst], AbstractAsyncContextManager[None]]) -> Both:
        """Run both to their end: everything handled, every wagon but the active one and its spare removed."""
        async with AsyncExitStack() as stack:
            for side in self.sides:
                await stack.enter_async_context(side.standing())
            self.began = self.clock() + _LEAD
            async with watching(self), self.machine.measured(), asyncio.TaskGroup() as tasks:
                for side in self.sides:
                    tasks.create_task(side.go(self.began))
            seconds = self.now
            return Both(
                order=self.order,
                job=self.order.job(),
                queue=await self.queue.result(self.order.standing),
                wagons=await self.wagons.result(self.order.standing),
                seconds=seconds,
                usage=self.machine.usage,
            )


def _customer(event: Event) -> int:
    """The sign-up that a dead letter belongs to."""
    return int(msgspec.json.decode(event.data)["customer"])


def _since(wagon: Wagon, began: float) -> Wagon:
    """The wagon with its times in seconds since the burst began."""
    names = ("opened_at", "active_at", "closed_at", "sealed_at", "drained_at")
    times = {name: at - began for name in names if (at := getattr(wagon, name)) is not None}
    return msgspec.structs.replace(wagon, **times)
