"""A simulated operating-system process: a program that connects to the train, publishes, observes,
works or bridges."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext, suppress
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

from eventwagon import DeadFilter, PauseOn
from eventwagon.breaker import Breaker
from eventwagon.bridge import Bridge, Rules
from eventwagon.connection import Connection
from eventwagon.contracts.facts import Fact
from eventwagon.contracts.registry import Snapshot
from eventwagon.contracts.replay import PastEvents
from eventwagon.display.text import said
from eventwagon.errors import EventwagonError, Failed, PublishError, Reject, Retry, Snooze
from eventwagon.event import Channel, Event
from eventwagon.limits import parse_limit
from eventwagon.metrics import Metrics
from eventwagon.payload import shape
from eventwagon.runtime.batching import BatchContext
from eventwagon.runtime.context import Context
from eventwagon.runtime.handler import Handler
from eventwagon.runtime.middleware import Next
from eventwagon.runtime.worker_states import PoolState
from eventwagon.train import Train
from eventwagon.workers import parse_workers

from .check_metrics import handlings_of
from .flow import WHO
from .gate import Gate, GatedBroker, GatedLedger, GatedRegistry
from .guests import (
    REFUSED,
    DriversDefect,
    Exit,
    Failure,
    Unprintable,
    children,
    delay,
    emitted_after,
    fate,
    guest,
    is_named,
    is_once,
    is_thrown,
    pause,
    published,
    raised,
    snoozes,
)
from .history import (
    Accepted,
    Asked,
    Begun,
    Crashed,
    Ended,
    Faulted,
    Handled,
    HandlerEnded,
    Leaked,
    ManifestSeen,
    Measured,
    Paused,
    PutOff,
    Refused,
    Resumed,
    Running,
    Started,
    Tried,
    Undid,
)
from .loop import PROCESS, Actor, for_ever, whereabouts
from .past import reading_past, removed
from .scenario import INNER, Arrival, ByHand, Fault, Guest, Program, Scenario
from .source import GatedSource
from .truth import EPOCH, key_of
from .world import World

TRAIN = "t"

_LEFT: ContextVar[str] = ContextVar("_LEFT", default="")
"""Set by handlers of events that change it."""


class Slot:
    """A place for a process: what its successors take over is what the outside keeps count of."""

    def __init__(self, program: Program, scenario: Scenario) -> None:
        self.program = program
        self.scenario = scenario
        self.arrivals: list[Arrival] = [a for a in scenario.arrivals if a.process == program.name]
        self.by_hand: list[ByHand] = [h for h in scenario.by_hand if h.process == program.name]
        self.published = 0
        self.counts: dict[str, int] = {}
        self.steps = 0
        self.faults: dict[tuple[str, int], Fault] = {}
        for fault in scenario.faults:
            if fault.process == program.name:
                self.faults.setdefault((fault.op, fault.call), fault)
        self.jumped = program.clock
        self.incarnation = 0
        self.rng = random.Random(f"{scenario.seed} {program.name}")
        self.now: Process | None = None
        self.version = 0
        self.unit = 0
        """Its processes serve this unit alone, and were started by the control plane."""
        self.closed = False

    def close(self) -> None:
        """No process is wanted in it any more."""
        self.closed = True
        if self.now is not None:
            self.now.asked_to_end.set()


class Process(Actor):
    """One life of a slot's program."""

    def __init__(self, world: World, slot: Slot) -> None:
        slot.incarnation += 1
        super().__init__(f"{slot.program.name}.{slot.incarnation}")
        self.world = world
        self.slot = slot
        self.version = slot.version
        self.back_after = 0.5
        self.is_up = False
        self.cut_until = 0.0
        self.finished = asyncio.Event()
        self.asked_to_end = asyncio.Event()
        self.calls: dict[str, int] = {}
        self.publishing = 0
        self._seen = 0
        """The newest version of the manifest that it was given."""
        self.pools: list[PoolState] = []
        """Its workers."""
        self.owners: set[str] = set()
        """The names under which it has claimed."""
        self._watch_steps()

    # --- its life -------------------------------------------------------------------------

    def start(self) -> None:
        context = copy_context()
        context.run(PROCESS.set, self)
        self.world.record(Started, by=self.name, roles=self.slot.program.roles, revision=self.slot.program.revision)
        main = asyncio.get_running_loop().create_task(self._main(), context=context)
        main.add_done_callback(self._on_end)

    def _on_end(self, main: asyncio.Task[None]) -> None:
        self.slot.steps += self.steps
        self.steps = 0
        if self.finished.is_set():  # killed
            return
        error = None if main.cancelled() else main.exception()
        self.dead = True
        said = "" if error is None else _said(error)
        if error is None and self.tasks:
            said = f"tasks were left: {', '.join(sorted(map(whereabouts, self.tasks)))}"
        early = not self.is_up and _is_ours(error)
        if error is not None and not early and not is_thrown(error):
            self.world.loop.foreign.append(said)
        held = self.world.broker.held_by(self.owners)
        self.world.record(Ended, by=self.name, error=said, early=early, held=tuple(held))
        self.world.broker.detach_all(self.name)
        self.finished.set()

    async def _main(self) -> None:
        roles = self.slot.program.roles
        meter = Metrics(clock=self.clock) if self.slot.scenario.measured else None
        past = reading_past(Gate(self)) if self.slot.scenario.replays else nullcontext()
        with past:
            connection = self._train().connect(
                broker=GatedBroker(Gate(self)),
                registry=GatedRegistry(Gate(self)),
                ledger=None if self.world.ledger is None else GatedLedger(Gate(self), self.world.ledger),
                orchestrator=self.world.orchestrator(Gate(self)) if "observe" in roles else None,
                clock=self.clock,
                listeners=[self._hear],
                redeclare=self.version > 0,
                meter=meter,
            )
        async with connection:
            if "serve" in roles:
                async with connection.running(
                    observe=False, wagon=self.slot.unit, workers=self.slot.scenario.per_process
                ):
                    await self._live(connection)
            elif "observe" in roles or "work" in roles:
                async with connection.running(observe="observe" in roles, work="work" in roles):
                    await self._live(connection)
            else:
                await self._live(connection)
        if meter is not None and not self.dead:
            self.world.record(Measured, handlings=handlings_of(meter))

    async def _live(self, connection: Connection) -> None:
        self.is_up = True
        self.world.record(Running)
        async with asyncio.TaskGroup() as tasks:
            leaving = asyncio.Event()
            if "bridge" in self.slot.program.roles:
                tasks.create_task(self._bridge(connection, leaving))
            acting = [tasks.create_task(self._publish_all(connection, tasks))]
            acting += [tasks.create_task(self._by_hand(connection, h)) for h in list(self.slot.by_hand)]
            ends = [tasks.create_task(connection.stopped()), tasks.create_task(_wait(self.asked_to_end))]
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            leaving.set()
            for task in (*acting, *ends):
                task.cancel()

    async def _bridge(self, connection: Connection, leaving: asyncio.Event) -> None:
        """As `eventwagon bridge` does."""
        async with GatedSource(Gate(self)) as source:
            rules = Rules.parse(source.name, connection.publishing.now.max_event_bytes, key=f"header:{WHO}")
            await Bridge(source, connection, rules, clock=self.clock).run(leaving)

    def _hear(self, fact: Fact) -> None:
        self.world.heard(fact)
        if self._by_chance(self.slot.scenario.deaf):
            error: BaseException = (Failure("simulated"), Unprintable(), Exit(2))[self.pick(3)]
            raise error

    # --- publishing -----------------------------------------------------------------------

    async def _publish_all(self, connection: Connection, tasks: asyncio.TaskGroup) -> None:
        slot, loop = self.slot, asyncio.get_running_loop()
        while slot.arrivals:
            await asyncio.sleep(max(0.0, slot.arrivals[0].at - loop.time()))
            arrival = slot.arrivals.pop(0)
            keys = [f"{slot.program.name}-{slot.published + i}" for i in range(arrival.count)]
            slot.published += arrival.count
            if arrival.many:
                tasks.create_task(self._publish_many(connection, keys))
            else:
                for key in keys:
                    tasks.create_task(self._publish(connection, key))

    async def _publish(self, connection: Connection, key: str) -> None:
        self.publishing += 1
        try:
            await connection.publish(key, after=delay(self.slot.scenario, key))
        except EventwagonError as e:
            self.world.record(Refused, key=key, why=_said(e))
        else:
            self.world.record(Accepted, key=key)
        finally:
            self.publishing -= 1

    async def _publish_many(self, connection: Connection, keys: Sequence[str]) -> None:
        """As one stream; where the broker refuses one of them for good, what comes after it is sent anew."""
        self.publishing += 1
        try:
            while keys:
                accepted, why = len(keys), ""
                try:
                    await connection.publish_many(keys)
                except PublishError as e:
                    accepted, why = e.accepted, _said(e)
                except EventwagonError as e:
                    accepted, why = 0, _said(e)
                for key in keys[:accepted]:
                    self.world.record(Accepted, key=key)
                refused = keys[accepted:]
                goes_on = bool(refused) and guest(self.slot.scenario, refused[0]) in REFUSED
                for key in refused[:1] if goes_on else refused:
                    self.world.record(Refused, key=key, why=why)
                keys = refused[1:] if goes_on else ()
        finally:
            self.publishing -= 1

    async def _by_hand(self, connection: Connection, hand: ByHand) -> None:
        await asyncio.sleep(max(0.0, hand.at - asyncio.get_running_loop().time()))
        if hand not in self.slot.by_hand:
            return
        self.slot.by_hand.remove(hand)
        self.world.record(Asked, what=hand.what)
        with suppress(Exception):  # whoever asked would ask again
            match hand.what:
                case "stop":
                    await connection.request_stop()
                case "pause":
                    await connection.pause(wagon=_wagon(connection, hand), publishing=hand.publishing)
                case "resume":
                    await connection.resume(wagon=_wagon(connection, hand))
                case "retry":
                    await connection.dead.retry(await connection.dead.preview(DeadFilter(all=True)))
                case "replay":
                    while not (gone := removed(self.world.broker, (await connection.refresh()).manifest)):
                        await asyncio.sleep(0.5)
                    await connection.replays.request(PastEvents(wagon=gone[-1]), rate=hand.rate)
                case "undo":
                    while not (gone := removed(self.world.broker, (await connection.refresh()).manifest)):
                        await asyncio.sleep(0.5)
                    await connection.undo.request(gone[-1], partial=True, again=True)
                case "go on":
                    for undo in connection.undo.standing:
                        await connection.undo.resume(undo.number)
                case "cancel":
                    for replay in connection.replays.standing[:1]:
                        which = connection.replays if replay.undo is None else connection.undo
                        await which.cancel(replay.number)
                case "switch":
                    await connection.request_switch("by hand", revision=hand.revision, watch_errors=hand.watch)

    # --- handling -------------------------------------------------------------------------

    def _train(self) -> Train:
        scenario = self.slot.scenario
        settings: dict[str, Any] = dict(scenario.settings)
        limit, workers = scenario.limit, scenario.workers
        if self.version and scenario.redeclares is not None:
            limit, workers = scenario.redeclares
        if scenario.archived:
            settings["archive"] = "file:///archive"
        train = Train(
            TRAIN,
            limit=parse_limit(limit),
            workers=parse_workers(workers),
            revision=self.slot.program.revision,
            breaker=_breaker(scenario),
            pause_on=None if scenario.pause_on is None else PauseOn(*scenario.pause_on),
            **settings,
        )
        if scenario.surrounded:
            train.middleware(_passed)
            train.publish_middleware(_passed_on)
        if self.slot.program.roles in (("publish",), ("bridge",)):
            return train
        for name, after in _choreography(scenario, self.version).items():
            if name in scenario.batched:
                train.on(name or TRAIN, batch=scenario.batch, within=scenario.within)(self._batch_handler(after))
            else:
                train.on(name or TRAIN, concurrency=None if name else scenario.concurrency)(self._handler(after))
            if scenario.undoes:  # the past is not kept in an archive here, which the decorator would ask for
                undo = self._undo_handler(name)
                train.undo_handlers[name] = Handler(
                    name, undo, shape(undo, locals()), around=train.around_handling, undoes=True
                )
        return train

    def _handler(self, after: str | None) -> Callable[..., Any]:
        scenario = self.slot.scenario

        async def counted(payload: str, ctx: Context) -> object:
            try:
                return await handle(payload, ctx)
            finally:
                if not ctx.channel and not self.dead:
                    self.world.record(HandlerEnded, id=ctx.event.id)

        async def handle(payload: str, ctx: Context) -> object:
            where = Channel(ctx.train, ctx.wagon, ctx.channel)
            self.world.record(Begun, channel=where, id=ctx.event.id, key=payload)
            try:
                await self._begin(payload)
                kind = await self._meet(payload, ctx.attempt, lambda: ctx.emit(ctx.channel or INNER[0], object()))
                await self._work([payload], ctx.channel)
                self._judge(payload, ctx.channel, ctx.attempt)
            except BaseException as e:
                self._tried(where, ctx.event.id, payload, ctx.attempt, e)
                raise
            emitted = children(self.slot.scenario, payload, after)
            for child in emitted:
                await ctx.emit(after or "", child, after=emitted_after(self.slot.scenario, child))
            for more in published(self.slot.scenario, payload, ctx.channel):
                await ctx.publish(more)
            self._handled(where, ctx.event.id, payload, after, ctx.attempt)
            await self._point()
            return object() if kind == "returns" else None

        return handle if scenario.concurrency is None else counted

    def _undo_handler(self, channel: str) -> Callable[..., Any]:
        scenario = self.slot.scenario

        async def undo(payload: str, ctx: Context) -> None:
            await self._point()
            await self._work([payload], channel)
            if not self.world.healed and fate(scenario, payload, f"undo {channel}") > 0.95:
                raise Reject("simulated")
            assert ctx.undone is not None
            of = Channel(ctx.train, ctx.undone.wagon, ctx.undone.channel)
            where, number = Channel(ctx.train, ctx.wagon), ctx.undone.undo
            self.world.broker.handled(where, ctx.event.id)
            self.world.record(Undid, channel=where, id=ctx.event.id, key=payload, of=of, undo=number)
            await self._point()

        return undo

    def _batch_handler(self, after: str | None) -> Callable[..., Any]:
        """Some of those that fail are named; for the others the whole batch fails."""

        async def handle(payloads: list[str], ctx: BatchContext) -> None:
            where = Channel(ctx.train, ctx.wagon, ctx.channel)
            keys = [(event.id, key) for event, key in zip(ctx.events, payloads, strict=True)]
            errors: dict[int, BaseException] = {}
            for event_id, key in keys:
                self.world.record(Begun, channel=where, id=event_id, key=key)
            try:
                await self._begin(payloads[0])
                await self._work(payloads, ctx.channel)
                for index, key in enumerate(payloads):
                    emit = partial(ctx.emit, ctx.channel or INNER[0], object(), of=index)
                    try:
                        await self._meet(key, ctx.attempt, emit)
                        self._judge(key, ctx.channel, ctx.attempt)
                    except BaseException as e:
                        if not is_named(self.slot.scenario, key) or not (isinstance(e, Exception) or is_thrown(e)):
                            raise
                        errors[index] = e
            except BaseException as e:
                for event_id, key in keys:
                    self._tried(where, event_id, key, ctx.attempt, e)
                raise
            for index, (event_id, key) in enumerate(keys):
                if index in errors:
                    self._tried(where, event_id, key, ctx.attempt, errors[index])
                    continue
                for child in children(self.slot.scenario, key, after):
                    await ctx.emit(after or "", child, of=index, after=emitted_after(self.slot.scenario, child))
                for more in published(self.slot.scenario, key, ctx.channel):
                    await ctx.publish(more, of=index)
                self._handled(where, event_id, key, after, ctx.attempt)
            await self._point()
            if errors:
                raise Failed(errors)

        return handle

    async def _begin(self, key: str) -> None:
        if left := _LEFT.get():
            self.world.record(Leaked, key=key, left_by=left)
        await self._point()

    async def _meet(self, key: str, attempt: int, emit_rubbish: Callable[[], Awaitable[None]]) -> Guest | None:
        """Do what a hostile event does, if it is one. Returns its kind."""
        scenario = self.slot.scenario
        if (kind := guest(scenario, key)) and (attempt == 1 or not is_once(scenario, key)):
            await self._misbehave(kind, key, emit_rubbish)
        return kind

    async def _work(self, keys: Sequence[str], channel: str) -> None:
        scenario = self.slot.scenario
        if not scenario.work:
            return
        longest = 0.7 * float(scenario.settings["handler_timeout"])
        most = 0.0
        for key in keys:
            mine = fate(scenario, key, channel)
            seconds = scenario.work * (0.5 + mine) * (scenario.deeper if channel else 1.0)
            is_slow = (mine * 997.0) % 1.0 < scenario.tail
            most = max(most, longest if is_slow else min(seconds, longest))
        await asyncio.sleep(most)
        await self._point()

    def _judge(self, key: str, channel: str, attempt: int) -> None:
        """Raise if the event's ordinary handling fails."""
        scenario = self.slot.scenario
        mine = fate(scenario, key, channel)
        if mine < scenario.poison or (mine < scenario.poison + scenario.trouble and attempt == 1):
            raise ValueError("simulated: this handler fails")
        if mine > 1.0 - scenario.reject:
            raise Reject("simulated")

    def _tried(self, where: Channel, event_id: str, key: str, attempt: int, error: BaseException) -> None:
        if not isinstance(error, GeneratorExit):
            self.world.record(Tried, channel=where, id=event_id, key=key, attempt=attempt, why=_said(error))
        if isinstance(error, Snooze | Retry) and error.after is not None:
            self.world.record(PutOff, channel=where, id=event_id, key=key, seconds=error.after)

    def _handled(self, where: Channel, event_id: str, key: str, after: str | None, attempt: int) -> None:
        emitted = tuple((after or "", child) for child in children(self.slot.scenario, key, after))
        emitted += tuple(("", more) for more in published(self.slot.scenario, key, where.name))
        self.world.broker.handled(where, event_id)
        self.world.record(Handled, channel=where, id=event_id, key=key, children=emitted, attempt=attempt)

    async def _misbehave(self, kind: Guest, key: str, emit_rubbish: Callable[[], Awaitable[None]]) -> None:
        """What a hostile event's handler does."""
        if (error := raised(kind)) is not None:
            raise error
        match kind:
            case "cancels":
                task = asyncio.current_task()
                assert task is not None
                task.cancel()
                await asyncio.sleep(0)
            case "swallows":
                while True:
                    with suppress(asyncio.CancelledError):
                        await asyncio.sleep(3600.0)
            case "emits":
                await emit_rubbish()
            case "kills":
                self.crash(0.5)
                await for_ever()
            case "retry":
                raise Retry(pause(self.slot.scenario, key), "simulated")
            case "snooze":
                snoozed = self.world.snoozed
                if snoozed[key] < snoozes(self.slot.scenario, key):
                    snoozed[key] += 1
                    raise Snooze(pause(self.slot.scenario, key), "simulated: too early")
            case "stains":
                _LEFT.set(key)

    async def _point(self) -> None:
        """A point in a handler at which faults strike."""
        await Gate(self).call("handle", _nothing)

    def short(self, *, at_rest: bool) -> list[str]:
        """Pools of workers that are not of their size, or, `at_rest`, whose workers do not all wait for an event."""
        open_pools = [pool for pool in self.pools if not pool.closed]
        lacks = [f"{self.name} has {p.size} workers, not {p.target}" for p in open_pools if p.size != p.target]
        idle = [p for p in open_pools if at_rest and p.size == p.target != p.free]
        return lacks + [f"{p.free} of {p.target} workers of {self.name} wait for an event" for p in idle]

    # --- what a gate asks of it -----------------------------------------------------------

    def clock(self) -> float:
        """Its own wall clock."""
        return EPOCH + asyncio.get_running_loop().time() + self.slot.jumped

    def next_fault(self, op: str, events: Sequence[Event] = ()) -> Fault | None:
        slot = self.slot
        self.calls[op] = self.calls.get(op, 0) + 1
        if self.world.healed:
            return None
        slot.counts[op] = count = slot.counts.get(op, 0) + 1
        slot.counts["*"] = total = slot.counts.get("*", 0) + 1
        fault = slot.faults.get((op, count)) or (slot.faults.get(("*", total)) if op != "watch" else None)
        if fault is None and self.world.ambush is not None:
            fault = self.world.ambush(self.name, slot.program.roles[0], op, self.world.registry.newest(TRAIN).manifest)
        if fault is not None:
            self._faulted(fault, op, count, tuple(map(key_of, events)))
        return fault

    def _faulted(self, fault: Fault, op: str, call: int, keys: tuple[str, ...] = ()) -> None:
        self.world.record(Faulted, by=self.name, op=op, call=call, kind=fault.kind, amount=fault.amount, keys=keys)

    def latency(self) -> float:
        most = self.slot.scenario.latency
        return self.slot.rng.random() * most if most else 0.0

    def answer(self) -> float:
        most = self.slot.scenario.answers
        return self.slot.rng.random() * most if most else 0.0

    def pick(self, most: int) -> int:
        return int(self.slot.rng.random() * most)

    def is_torn(self) -> bool:
        return self._by_chance(self.slot.scenario.torn)

    def is_unknown(self) -> bool:
        return self._by_chance(self.slot.scenario.unknown)

    def _by_chance(self, share: float) -> bool:
        return share > 0 and not self.world.healed and self.slot.rng.random() < share

    def is_cut(self) -> bool:
        return self.cut_until > asyncio.get_running_loop().time() and not self.world.healed

    def cut(self, seconds: float) -> None:
        self.cut_until = asyncio.get_running_loop().time() + seconds

    def seen(self, snapshot: Snapshot) -> None:
        """It was given this manifest."""
        if snapshot.version > self._seen:
            self._seen = snapshot.version
            self.world.record(ManifestSeen, by=self.name, version=snapshot.version)

    def jump(self, seconds: float) -> None:
        self.slot.jumped += seconds

    def pause(self, seconds: float) -> None:
        if self.world.healed:  # the call it comes after was begun before
            return
        self.world.record(Paused, by=self.name, seconds=seconds)
        self.freeze()
        self.world.later(seconds, self.resume)

    def resume(self) -> None:
        """SIGCONT."""
        if self.frozen and not self.dead:
            self.world.record(Resumed, by=self.name)
            self.thaw(self.world.loop)

    def crash(self, back_after: float) -> None:
        self.back_after = back_after
        self.world.record(Crashed, by=self.name)
        self.slot.steps += self.steps
        self.world.broker.detach_all(self.name)
        self.kill()
        self.finished.set()

    def exit(self, error: SystemExit) -> None:
        self.crash(0.5)
        self.world.record(Ended, by=self.name, error=said(error), early=False)

    def at_step(self) -> None:
        total = self.slot.steps + self.steps
        fault = self.slot.faults.get(("step", total))
        self._watch_steps()
        if fault is None or self.world.healed or self.dead:
            return
        self._faulted(fault, "step", total)
        if fault.kind == "pause":
            self.pause(fault.amount)
        else:
            self.crash(fault.amount)

    def _watch_steps(self) -> None:
        done = self.slot.steps + self.steps
        ahead = [call for op, call in self.slot.faults if op == "step" and call > done]
        self.next_step = min(ahead) - self.slot.steps if ahead else -1


async def _passed(ctx: object, call_next: Next) -> None:
    await call_next()
    await asyncio.sleep(0)


async def _passed_on(events: list[Event], call_next: Next) -> None:
    await call_next(events)
    await asyncio.sleep(0)


def _choreography(scenario: Scenario, version: int) -> dict[str, str | None]:
    """Which channels there are handlers for, and to which channel each of them emits. Where channels are renamed,
    version 1 has handlers for the old ones too, and version 2 has not."""

    def chain(names: Sequence[str]) -> dict[str, str | None]:
        return dict(zip(("", *names), (*names, None), strict=True))

    before = INNER[: scenario.depth - 1]
    if not version or scenario.redeclares is not None:
        return chain(before)
    if scenario.renames is None:
        return chain(INNER[: scenario.depth - 1 + version])
    now = chain(scenario.renames)
    return {**chain(before), **now} if version == 1 else now


def _breaker(scenario: Scenario) -> Breaker | None:
    """It keeps what always fails for long: the usual one would let no end come."""
    if scenario.breaker:
        return Breaker(last=4, least=3, sparse=0.5, events=2, share=0.5, pause=0.2, pause_most=0.5)
    return None if scenario.poison or scenario.guests else Breaker()


def _wagon(connection: Connection, hand: ByHand) -> int | None:
    manifest = connection.manifest
    active = manifest.active
    if not hand.wagon or active is None:
        return None
    return active.number if hand.wagon == "active" else manifest.wagons[0].number


async def _nothing() -> None:
    pass


async def _wait(event: asyncio.Event) -> None:
    await event.wait()


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for e in error.exceptions for leaf in _leaves(e)]
    return [error]


def _is_ours(error: BaseException | None) -> bool:
    """Only what eventwagon raises on purpose, and what its driver raises as it is."""
    return error is None or all(isinstance(e, EventwagonError | DriversDefect) for e in _leaves(error))


def _said(error: BaseException) -> str:
    return "; ".join(said(e) for e in _leaves(error))
