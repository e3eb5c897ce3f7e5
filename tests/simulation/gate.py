"""What stands between one simulated process and the truth: its own broker and registry, through which faults come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from contextvars import copy_context
from functools import partial
from typing import Protocol, Self, TypeVar

from eventwagon.contracts.broker import Capabilities, Delivery, Depth, Subscription
from eventwagon.contracts.facts import Entry
from eventwagon.contracts.ledger import WagonRecord
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.once import OnceRecord
from eventwagon.contracts.registry import Member, Snapshot
from eventwagon.contracts.timetable import Timetable
from eventwagon.errors import BrokerError, EventwagonError, PublishUncertain, Unavailable
from eventwagon.event import Channel, Event

from .guests import DriversDefect
from .loop import PROCESS, for_ever
from .scenario import Fault
from .truth import SENT_BY, TruthLedger
from .world import World

T = TypeVar("T")
_MOMENT = 0.001
_SPECIAL = ("twice", "unknown", "torn", "half")


class Gated(Protocol):
    """What a gate needs to know of its process."""

    name: str
    dead: bool
    world: World
    owners: set[str]
    """The names under which it has claimed."""

    def next_fault(self, op: str, events: Sequence[Event] = ()) -> Fault | None:
        """Count a call that is about these events, and say what is to happen at it."""
        ...

    def latency(self) -> float:
        """Seconds that this call takes to take effect."""
        ...

    def answer(self) -> float:
        """Seconds that its answer takes after that."""
        ...

    def pick(self, most: int) -> int:
        """A random number below `most`."""
        ...

    def is_torn(self) -> bool:
        """This depth is read torn."""
        ...

    def is_unknown(self) -> bool:
        """Some figures of this depth are unknown."""
        ...

    def is_cut(self) -> bool:
        """No call gets through now."""
        ...

    def cut(self, seconds: float) -> None:
        """No call gets through for so long."""
        ...

    def pause(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after so long."""
        ...

    def crash(self, back_after: float) -> None:
        """kill -9; a new process after so long."""
        ...

    def seen(self, snapshot: Snapshot) -> None:
        """It was given this manifest."""
        ...

    def jump(self, seconds: float) -> None:
        """Its wall clock jumps."""
        ...


class Gate:
    """Every call of a process to its broker and its registry passes here."""

    def __init__(self, process: Gated) -> None:
        self.process = process

    async def call(
        self,
        op: str,
        effect: Callable[[], Awaitable[T]],
        *,
        events: Sequence[Event] = (),
        lost: type[BrokerError] = Unavailable,
        special: Callable[[Fault], Awaitable[T]] | None = None,
    ) -> T:
        """Make a call, with whatever fault is due at it.

        `events` are what it is about; `lost` is raised where the answer gets lost; `special` takes the effect's place
        for faults of the op's own.
        """
        process = self.process
        if process.dead:
            await for_ever()
        fault = process.next_fault(op, events)
        latency = process.latency()
        if latency > 0:
            await self._wait(latency)
        if process.is_cut():
            await self._wait(_MOMENT)
            raise Unavailable(f"{op}: simulated: no way through")
        if fault is None:
            result = await effect()
            if op != "handle" and (answer := process.answer()) > 0:
                await self._wait(answer)
            return result
        await self._before(fault, op)
        error: EventwagonError | None = None
        try:
            if fault.kind == "in-flight":
                result = await self._in_flight(fault.amount, effect)
            else:
                result = await (special(fault) if special is not None and fault.kind in _SPECIAL else effect())
        except EventwagonError as e:
            error = e
        await self._after(fault)
        if fault.kind == "lost":
            await self._wait(_MOMENT)
            raise lost(f"{op}: simulated: the answer was lost")
        if error is not None:
            raise error
        return result

    async def _before(self, fault: Fault, op: str) -> None:
        process = self.process
        match fault.kind:
            case "delay":
                await self._wait(fault.amount)
            case "error":
                await self._wait(_MOMENT)
                raise Unavailable(f"{op}: simulated: failed before it took effect")
            case "bug":
                await self._wait(_MOMENT)
                raise DriversDefect(f"{op}: simulated: a defect of the driver")
            case "cut":
                process.cut(fault.amount)
                await self._wait(_MOMENT)
                raise Unavailable(f"{op}: simulated: no way through")
            case "hang":
                await for_ever()
            case "pause":
                await self._pause(fault.amount)
            case "crash":
                process.crash(fault.amount)
            case "clock":
                process.jump(fault.amount)
        if process.dead:
            await for_ever()

    async def _in_flight(self, seconds: float, effect: Callable[[], Awaitable[T]]) -> T:
        """It is sent, and arrives later: whatever becomes of the sender meanwhile."""

        async def arrive() -> T:
            await asyncio.sleep(seconds)
            return await effect()

        context = copy_context()
        context.run(PROCESS.set, None)
        context.run(SENT_BY.set, self.process.name)
        arriving = asyncio.get_running_loop().create_task(arrive(), context=context)
        self.process.world.on_its_way(arriving)
        return await asyncio.shield(arriving)

    async def _after(self, fault: Fault) -> None:
        match fault.kind:
            case "slow":
                await self._wait(fault.amount)
            case "hang-after":
                await for_ever()
            case "pause-after":
                await self._pause(fault.amount)
            case "crash-after":
                self.process.crash(fault.amount)
        if self.process.dead:
            await for_ever()

    async def _wait(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        if self.process.dead:
            await for_ever()

    async def _pause(self, seconds: float) -> None:
        self.process.pause(seconds)
        await asyncio.sleep(0)  # parked here until it is over
        if self.process.dead:
            await for_ever()


class AlwaysOpen:
    """Entering and leaving it is nothing: what it stands for goes on for all of a run."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass


class GatedBroker(AlwaysOpen):
    """The broker as one process has it."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._truth = gate.process.world.broker

    @property
    def capabilities(self) -> Capabilities:
        return self._truth.capabilities

    @property
    def timetable(self) -> Timetable | None:
        return self._gate.process.world.timetable_for(self._gate)

    @property
    def once(self) -> OnceRecord | None:
        return self._gate.process.world.once_for(self._gate)

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        await self._gate.call("create", partial(self._truth.create, channel, capacity=capacity))

    async def unbound(self, channel: Channel) -> None:
        # counted among the calls of `create`, and `warm` among those of `publish`: faults are recorded by these numbers
        await self._gate.call("create", partial(self._truth.unbound, channel))

    async def warm(self, channel: Channel) -> None:
        await self._gate.call("publish", partial(self._truth.warm, channel), lost=PublishUncertain)

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        async def twice(_: Fault) -> None:
            await self._truth.publish(channel, events)
            with suppress(BrokerError):
                await self._truth.publish(channel, events, twice=True)

        effect = partial(self._truth.publish, channel, events)
        await self._gate.call("publish", effect, events=events, lost=PublishUncertain, special=twice)

    async def seal(self, channel: Channel) -> None:
        await self._gate.call("seal", partial(self._truth.seal, channel))

    def consume(
        self, channel: Channel, *, visibility: float, owner: str = ""
    ) -> AbstractAsyncContextManager[Subscription]:
        return GatedSubscription(self._gate, channel, visibility, owner)

    async def reclaim(self, channel: Channel, owner: str) -> int:
        return await self._gate.call("reclaim", partial(self._truth.reclaim, channel, owner))

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        process = self._gate.process

        async def special(fault: Fault) -> Sequence[Depth]:
            return await (self._torn(channels, fault.amount) if fault.kind == "torn" else self._unknown(channels))

        async def effect() -> Sequence[Depth]:
            if process.is_torn():
                return await self._torn(channels, (0.02, 0.1, 0.3)[process.pick(3)])
            return await (self._unknown(channels) if process.is_unknown() else self._truth.depth(channels))

        return await self._gate.call("depth", effect, special=special)

    async def _unknown(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        """At least one of them is not known just now."""
        pick = self._gate.process.pick
        hidden = pick(len(channels)) if channels else 0
        depths = await self._truth.depth(channels)
        return [Depth() if i == hidden or pick(3) == 0 else d for i, d in enumerate(depths)]

    async def _torn(self, channels: Sequence[Channel], apart: float) -> Sequence[Depth]:
        """One after another, as a broker that can't do it in one go: inner ones first (emits are missed), or in any
        order."""
        found: dict[int, Depth] = {}
        left, backwards = list(range(len(channels))), self._gate.process.pick(2)
        while left:
            i = left.pop(-1 if backwards else self._gate.process.pick(len(left)))
            (found[i],) = await self._truth.depth([channels[i]])
            await asyncio.sleep(apart)
        return [found[i] for i in range(len(channels))]

    async def read(self, channel: Channel) -> AsyncIterator[Event]:
        async def effect() -> list[Event]:
            return [event async for event in self._truth.read(channel)]

        for event in await self._gate.call("browse", effect):
            yield event

    async def delete(self, channel: Channel) -> None:
        async def half(_: Fault) -> None:
            await self._truth.delete(channel, half=True)
            raise Unavailable("delete: simulated: cut off in the middle")

        await self._gate.call("delete", partial(self._truth.delete, channel), special=half)

    async def channels(self, train: str) -> Sequence[Channel]:
        return await self._gate.call("channels", partial(self._truth.channels, train))


class GatedSubscription:
    """A consumer as one process has it."""

    def __init__(self, gate: Gate, channel: Channel, visibility: float, owner: str) -> None:
        self._gate = gate
        self._channel = channel
        self._truth = gate.process.world.broker
        owner = owner or f"{gate.process.name}, unnamed"  # else all those without a name would be one
        self._inner = self._truth.consume(channel, visibility=visibility, owner=owner)
        self._attached = False
        gate.process.owners.add(owner)

    async def __aenter__(self) -> Subscription:
        async def effect() -> None:
            await self._inner.__aenter__()
            self._attached = True
            self._truth.attach(self._gate.process.name, self._channel)

        try:
            await self._gate.call("attach", effect)
        except BaseException:
            await self._leave()
            raise
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._leave()

    async def _leave(self) -> None:
        if self._attached and not self._gate.process.dead:
            self._attached = False
            await self._inner.__aexit__(None, None, None)
            self._truth.detach(self._gate.process.name, self._channel)

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        return await self._gate.call("receive", partial(self._inner.receive, limit, timeout))

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        async def effect() -> None:
            await self._inner.settle(deliveries)
            self._truth.settled(self._channel, deliveries)

        await self._gate.call("settle", effect, events=[delivery.event for delivery in deliveries])

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None:
        await self._gate.call(
            "release", partial(self._inner.release, deliveries, delay=delay, tried=tried, cleared=cleared)
        )

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        await self._gate.call("extend", partial(self._inner.extend, deliveries))

    async def alone(self, delivery: Delivery) -> bool:
        return await self._gate.call("alone", partial(self._inner.alone, delivery))


class GatedRegistry(AlwaysOpen):
    """The registry as one process has it."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._truth = gate.process.world.registry

    async def read(self, train: str) -> Snapshot:
        return self._seen(await self._gate.call("read", partial(self._truth.read, train)))

    def _seen(self, snapshot: Snapshot) -> Snapshot:
        self._gate.process.seen(snapshot)
        return snapshot

    async def replace(
        self,
        train: str,
        manifest: Manifest,
        *,
        expect: int,
        entries: Sequence[Entry] = (),
        keep: int = 10_000,
        beyond: int = 0,
    ) -> Snapshot:
        effect = partial(self._truth.replace, train, manifest, expect=expect, entries=entries, keep=keep, beyond=beyond)
        return self._seen(await self._gate.call("replace", effect))

    def watch(self, train: str) -> AbstractAsyncContextManager[AsyncIterator[Snapshot]]:
        return _News(self._gate, train)

    async def check_in(self, train: str, member: Member, *, ttl: float) -> None:
        await self._gate.call("check_in", partial(self._truth.check_in, train, member, ttl=ttl))

    async def members(self, train: str) -> Sequence[Member]:
        return await self._gate.call("members", partial(self._truth.members, train))

    async def append(self, train: str, entries: Sequence[Entry], *, keep: int = 10_000) -> None:
        await self._gate.call("append", partial(self._truth.append, train, entries, keep=keep))

    async def entries(self, train: str, *, last: int | None = None) -> AsyncIterator[Entry]:
        async for entry in self._truth.entries(train, last=last):
            yield entry

    async def delete(self, train: str) -> None:
        await self._gate.call("delete", partial(self._truth.delete, train))

    async def trains(self) -> Sequence[str]:
        return await self._truth.trains()


class _News:
    """What a process hears of the manifest: late, with gaps, or old news after new ones, as the faults say."""

    def __init__(self, gate: Gate, train: str) -> None:
        self._gate = gate
        self._watch = gate.process.world.registry.watch(train)
        self._before: Snapshot | None = None
        self._again: Snapshot | None = None

    async def __aenter__(self) -> AsyncIterator[Snapshot]:
        self._inner = await self._watch.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._watch.__aexit__(*exc)

    def __aiter__(self) -> AsyncIterator[Snapshot]:
        return self

    async def __anext__(self) -> Snapshot:
        if self._again is not None:
            again, self._again = self._again, None
            return again
        process = self._gate.process
        snapshot = await self._inner.__anext__()
        if process.dead:
            await for_ever()
        wait = process.latency()
        while process.is_cut():
            await asyncio.sleep(0.25)
        fault = process.next_fault("watch")
        if fault is not None:
            if fault.kind == "old":
                self._again = self._before
            else:
                wait = max(wait, fault.amount)
        if wait > 0:
            await asyncio.sleep(wait)
        if fault is not None and fault.kind == "skipped":
            with suppress(TimeoutError):  # whatever came meanwhile is all that it hears
                async with asyncio.timeout(0):
                    snapshot = await self._inner.__anext__()
        self._before = snapshot
        process.seen(snapshot)
        return snapshot


class GatedLedger:
    """The ledger as one process has it."""

    def __init__(self, gate: Gate, truth: TruthLedger) -> None:
        self._gate = gate
        self._truth = truth

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def append(self, record: WagonRecord) -> WagonRecord:
        return await self._gate.call("ledger", partial(self._truth.append, record))

    async def read(self, train: str, number: int) -> tuple[WagonRecord, ...]:
        return await self._gate.call("recall", partial(self._truth.read, train, number))

    async def records(self, train: str) -> AsyncIterator[WagonRecord]:
        for record in await self._truth.read(train, 1):  # no process of a simulation asks
            yield record
