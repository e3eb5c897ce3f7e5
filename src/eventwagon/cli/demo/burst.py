"""The burst: arrivals that don't wait for the train, handlers that take time, and a record of each event's outcome."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

import msgspec

from ...connection import Connection
from ...contracts.facts import EventDied, Fact, WagonRemoved
from ...contracts.lifecycle import State
from ...contracts.manifest import Wagon
from ...errors import UsageError
from ...event import Channel, Event, new_ids
from ...lab.pace import TimedWork, fast_clock
from ...limits import Limit
from ...payload import encode
from ...runtime.handling import Context
from ...train import Train
from ...workers import Workers

_STALLED = 60.0
_LEAD = 0.5


class SignUp(msgspec.Struct):
    email: str


class WelcomeEmail(msgspec.Struct):
    signup: str
    email: str


class CrmUpdate(msgspec.Struct):
    signup: str
    email: str


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. All times in seconds of the burst."""

    url: str
    arrivals: list[float]
    limit: Limit
    workers: Workers
    slo: float
    steps: tuple[float, float, float]
    speed: float
    title: str
    name: str = "user_registrations"


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome. Times in seconds since the burst began; `waits` and `registered` by the index of the arrival."""

    order: Order
    published: int
    handled: int
    dead: int
    lost: int
    duplicates: int
    on_time: float
    waits: dict[int, float]
    registered: dict[int, float]
    """Waits until the first handler had finished, in seconds."""
    newcomers: list[int]
    """The indices of the arrivals that were handled before their wagon was cut off."""
    wagons: list[Wagon]
    seconds: float
    stalled: bool


class Burst:
    """One run. The live view reads its public fields."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.clock = fast_clock(order.speed)
        self.began = 0.0
        """When the burst begins, in seconds of its clock."""
        self.arrived = 0
        """How many of the arrivals are published so far."""
        self.dead = 0
        self.busy: Counter[int] = Counter()
        """Running handlers, by wagon."""
        self.handled: dict[str, tuple[float, int]] = {}
        """When each sign-up had passed all handlers, and in which wagon, in this order."""
        self.late = 0
        self.active = 0
        self.fresh: list[tuple[float, float]] = []
        """When each newcomer was handled, and its wait in seconds. The live view removes old entries."""
        self._arrived_at: dict[str, float] = {}
        self._registered: dict[str, float] = {}
        self._runs: Counter[str] = Counter()
        self._work = TimedWork(order.speed)
        self.train = self._train()

    def _train(self) -> Train:
        order, work = self.order, self._work
        train = Train(order.name, limit=order.limit, workers=order.workers, spares=1)

        @train.on(order.name)
        async def register(signup: SignUp, ctx: Context) -> None:
            self._runs[ctx.event.id] += 1
            await self._at(ctx, work.take(order.steps[0]))
            self._registered.setdefault(ctx.event.id, self.clock())
            await ctx.emit("welcome_email", WelcomeEmail(ctx.event.id, signup.email))

        @train.on("welcome_email")
        async def welcome(mail: WelcomeEmail, ctx: Context) -> None:
            self._runs[ctx.event.id] += 1
            await self._at(ctx, work.take(order.steps[1]))
            await ctx.emit("crm_update", CrmUpdate(mail.signup, mail.email))

        @train.on("crm_update")
        async def update(crm: CrmUpdate, ctx: Context) -> None:
            self._runs[ctx.event.id] += 1
            await self._at(ctx, work.take(order.steps[2]))
            self._done(crm.signup, ctx.wagon)

        return train

    async def _at(self, ctx: Context, work: object) -> None:
        self.busy[ctx.wagon] += 1
        try:
            await work  # type: ignore[misc]  # any awaitable
        finally:
            self.busy[ctx.wagon] -= 1

    def _done(self, signup: str, wagon: int) -> None:
        if signup in self.handled:
            return
        now = self.clock()
        self.handled[signup] = now, wagon
        wait = now - self._arrived_at[signup]
        self.late += wait > self.order.slo
        if wagon == self.active:
            self.fresh.append((now, wait))

    # --- the run --------------------------------------------------------------------------

    async def run(self, watching: Callable[[Burst, Connection], AbstractAsyncContextManager[None]]) -> Result:
        """Run the burst until everything is handled and only the active wagon is left. Raises UsageError if the train
        exists already."""
        async with self.train.connect(self.order.url, clock=self.clock, listeners=(self._hear,)) as c:
            if c.manifest.wagons or c.manifest.next_number > 1:
                raise UsageError(
                    f"a train {self.order.name!r} exists at {self.order.url} already: the demo needs a place of its own"
                )
            async with c.running():
                self._follow(c)
                async with watching(self, c):
                    await self._publish(c)
                    stalled = await self._finish(c)
                return await self._result(c, stalled)

    def _hear(self, fact: Fact) -> None:
        if isinstance(fact, EventDied):
            self.dead += 1

    def _follow(self, c: Connection) -> None:
        active = c.manifest.active
        self.active = active.number if active else 0

    async def _publish(self, c: Connection) -> None:
        """Publish open-loop: events that arrive during a publish call travel in the next one, with their own time of
        arrival."""
        arrivals, took = self.order.arrivals, 0
        self.began = self.clock() + _LEAD
        source = self.train.source
        while took < len(arrivals):
            await asyncio.sleep(max(0.0, self.began + arrivals[took] - self.clock()))
            now = self.clock()
            batch: list[Event] = []
            while took < len(arrivals) and (at := self.began + arrivals[took]) <= now:
                (event_id,) = new_ids(1, at)
                data, kind = encode(SignUp(f"customer{took}@example.com"))
                batch.append(Event(event_id, "SignUp", source, at, data, None, kind))
                self._arrived_at[event_id] = at
                took += 1
            self.arrived += await c.publish_many(batch)
            self._follow(c)

    async def _finish(self, c: Connection) -> bool:
        """Wait for the rest. Returns True if there was no progress for so long that none can be expected."""
        seen: object = None
        since = asyncio.get_running_loop().time()
        while True:
            self._follow(c)
            going = [w for w in c.manifest.wagons if w.state not in (State.ACTIVE, State.READY, State.PROVISIONING)]
            if len(self.handled) + self.dead >= self.arrived and not going:
                return False
            now = asyncio.get_running_loop().time()
            state = (len(self.handled), self.dead, self._runs.total(), c.manifest)
            if state != seen:
                seen, since = state, now
            elif now - since > _STALLED * self.order.speed:
                return True
            await asyncio.sleep(0.02 * self.order.speed)

    # --- what became of it ----------------------------------------------------------------

    async def _result(self, c: Connection, stalled: bool) -> Result:
        wagons = await self._wagons(c)
        cut_off = {w.number: w.closed_at for w in wagons}
        ids = list(self._arrived_at)
        index = {event_id: i for i, event_id in enumerate(ids)}
        dead = {_signup(event) async for event in c.dead_letters()}
        waits = {index[i]: at - self._arrived_at[i] for i, (at, _) in self.handled.items()}
        newcomers = [
            index[i]
            for i, (at, wagon) in self.handled.items()
            if (closed := cut_off.get(wagon)) is None or at <= closed
        ]
        return Result(
            order=self.order,
            published=self.arrived,
            handled=len(self.handled),
            dead=len(dead),
            lost=len(set(ids) - self.handled.keys() - dead),
            duplicates=sum(self._runs.values()) - len(self._runs),
            on_time=sum(w <= self.order.slo for w in waits.values()) / max(1, self.arrived),
            waits=waits,
            registered={index[i]: at - self._arrived_at[i] for i, at in self._registered.items()},
            newcomers=newcomers,
            wagons=[_since(w, self.began) for w in wagons],
            seconds=self.clock() - self.began,
            stalled=stalled,
        )

    async def _wagons(self, c: Connection) -> list[Wagon]:
        """The removed wagons from the journal, then the live ones that received events."""
        found: dict[int, Wagon] = {}
        async for entry in c.journal():
            if isinstance(entry.fact, WagonRemoved):
                found[entry.fact.wagon.number] = entry.fact.wagon
        for wagon in c.manifest.wagons:
            if wagon.active_at is not None:
                (depth,) = await c.broker.depth([Channel(self.order.name, wagon.number)])
                found[wagon.number] = msgspec.structs.replace(wagon, published=depth.published, settled=depth.settled)
        return [found[number] for number in sorted(found)]


def _signup(event: Event) -> str:
    """The id of the sign-up that a dead letter belongs to."""
    if not event.extensions.get("deadchannel"):
        return event.id
    return str(msgspec.json.decode(event.data)["signup"])


def _since(wagon: Wagon, began: float) -> Wagon:
    """The wagon with its times in seconds since the burst began."""
    names = ("opened_at", "active_at", "closed_at", "sealed_at", "drained_at")
    times = {name: at - began for name in names if (at := getattr(wagon, name)) is not None}
    return msgspec.structs.replace(wagon, **times)
