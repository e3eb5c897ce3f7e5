"""The one broker and the one registry of a run: the memory drivers, with everything that takes effect written down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextvars import ContextVar

from eventwagon.contracts.broker import Delivery, Depth
from eventwagon.contracts.facts import Entry
from eventwagon.contracts.ledger import WagonRecord, sound_record
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.registry import Snapshot
from eventwagon.contracts.replay import PastEvent
from eventwagon.contracts.rows import ROWS, Outcome
from eventwagon.contracts.timetable import CHANNEL as TO
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import ChannelFull, EventRefused
from eventwagon.event import ARCHIVE, DEAD, Channel, Event

from .guests import DriversDefect
from .history import (
    Attached,
    Created,
    Deleted,
    Detached,
    History,
    Noted,
    Record,
    Recorded,
    Revised,
    SealedChannel,
    Settled,
    SteppedBack,
    Stored,
)
from .loop import PROCESS

SENT_BY: ContextVar[str] = ContextVar("SENT_BY", default="")
"""Whose call it was that takes effect without its process: it was on its way."""


class Recorder:
    """Writes records down, with their number, the virtual time, and whose call it was."""

    def __init__(self, history: History) -> None:
        self.history = history

    def __call__(self, kind: Callable[..., Record], /, *, by: str | None = None, **fields: object) -> None:
        actor = PROCESS.get()
        self.history.add(
            kind(
                seq=len(self.history),
                at=round(asyncio.get_running_loop().time(), 6),
                by=by if by is not None else actor.name if actor else SENT_BY.get(),
                **fields,
            )
        )


EPOCH = 1_750_000_000.0


def key_of(event: Event) -> str:
    """What an event of a simulation is about: its payload, a JSON string."""
    return ROWS if event.type == ROWS else event.data.decode()[1:-1]


class TruthBroker(MemoryBroker):
    """A memory broker that writes down what takes effect. Unfenced: `seal` refuses no writes."""

    def __init__(
        self, record: Recorder, *, fences: bool = True, guest: Callable[[str], str | None] = lambda key: None
    ) -> None:
        super().__init__(fences=fences)
        self._record = record
        self._guest = guest
        self.attached: dict[tuple[str, Channel], int] = {}
        """Consumers that are attached, by process and channel."""
        self.past: dict[int, dict[str, Event]] = {}
        """By wagon: what was settled in its ingress, by id."""
        self.kept: dict[Channel, dict[str, PastEvent]] = {}
        """The same for all channels, and what came of it."""
        self._dead: set[tuple[Channel, str]] = set()
        self._handled: set[tuple[Channel, str]] = set()
        self._half: dict[Channel, None] = {}
        """Deleted, and still listed."""

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        fresh = channel not in self.queues
        await super().create(channel, capacity=capacity)
        self._half.pop(channel, None)
        self._record(Created, channel=channel, capacity=capacity, fresh=fresh)

    async def unbound(self, channel: Channel) -> None:
        await super().unbound(channel)
        if channel in self.queues:
            self._record(Created, channel=channel, capacity=None, fresh=False)

    async def publish(self, channel: Channel, events: Sequence[Event], *, twice: bool = False) -> None:
        stored = len(events)
        try:
            if channel.name not in (DEAD, ARCHIVE):
                self._refuse(events)
            await super().publish(channel, events)
        except ChannelFull as e:
            stored = e.accepted
            raise
        except BaseException:
            stored = 0
            raise
        finally:
            if channel.name == DEAD and channel.wagon:
                for event in events[:stored]:
                    self._dead.add((Channel(channel.train, channel.wagon, event.extensions["deadchannel"]), event.id))
            for event in events[:stored] if channel.name != ARCHIVE else ():
                self._record(Stored, channel=channel, id=event.id, key=key_of(event), twice=twice)

    def _refuse(self, events: Sequence[Event]) -> None:
        """What can never be stored lets nothing of its call be stored."""
        for event in events:
            kind = self._guest(key_of(event))
            if kind == "refused":
                raise EventRefused(f"simulated: {key_of(event)} can't be stored")
            if kind == "breaks":
                raise DriversDefect(f"simulated: {key_of(event)} breaks the driver")

    async def seal(self, channel: Channel) -> None:
        await super().seal(channel)
        self._record(SealedChannel, channel=channel, stood=channel in self.queues)

    async def delete(self, channel: Channel, *, half: bool = False) -> None:
        self._half.pop(channel, None)
        queue = self.queues.get(channel)
        if half and queue:
            self._half[channel] = None
        left = tuple((e.id, key_of(e)) for e in queue.unsettled()) if queue and channel.name != ARCHIVE else ()
        await super().delete(channel)
        self._record(Deleted, channel=channel, stood=queue is not None, left=left)

    async def channels(self, train: str) -> Sequence[Channel]:
        return [*await super().channels(train), *self._half]

    def attach(self, process: str, channel: Channel) -> None:
        """A consumer of this process is attached."""
        self.attached[process, channel] = self.attached.get((process, channel), 0) + 1
        self._record(Attached, channel=channel)

    def detach(self, process: str, channel: Channel) -> None:
        """One of its consumers is attached no more."""
        left = self.attached.pop((process, channel), 0) - 1
        if left > 0:
            self.attached[process, channel] = left
        if left >= 0:
            self._record(Detached, by=process, channel=channel)

    def detach_all(self, process: str) -> None:
        """The process is dead: so are its connections."""
        for name, channel in list(self.attached):
            if name == process:
                self.attached[name, channel] = 1
                self.detach(name, channel)

    def handled(self, channel: Channel, event_id: str) -> None:
        """A handler of this channel, or an undo handler, is done with the event."""
        self._handled.add((channel, event_id))

    def settled(self, channel: Channel, deliveries: Sequence[Delivery]) -> None:
        """These were settled: called right after it took effect."""
        for delivery in deliveries:
            if not channel.name:
                self.past.setdefault(channel.wagon, {}).setdefault(delivery.event.id, delivery.event)
            event, at = delivery.event, asyncio.get_running_loop().time()
            past = PastEvent(event, channel.name, self._outcome(channel, event), delivery.attempt, at)
            self.kept.setdefault(channel, {}).setdefault(event.id, past)
            self._record(Settled, channel=channel, id=event.id, key=key_of(event))

    def _outcome(self, channel: Channel, event: Event) -> Outcome:
        """What an archive would say of it."""
        if not channel.name and TO in event.extensions:
            return "passed"
        if (channel, event.id) in self._dead:
            return "dead"
        return "handled" if (channel, event.id) in self._handled else "skipped"

    def all_channels(self) -> list[Channel]:
        """What stands, by name."""
        return sorted({*self.queues, *self._half}, key=str)

    def contents(self, channel: Channel) -> list[Event]:
        """What is not settled there."""
        queue = self.queues.get(channel)
        return queue.unsettled() if queue else []

    def held_by(self, owners: Collection[str]) -> list[str]:
        """What these owners have claimed and not given back, at this instant."""
        now = asyncio.get_running_loop().time()
        return [
            f"{key_of(hold.event)} of {channel}"
            for channel, queue in self.queues.items()
            for hold in queue.taken.values()
            if hold.owner in owners and not hold.back and hold.due > now
        ]

    def depth_now(self, channel: Channel) -> Depth:
        """The exact depth at this instant."""
        queue = self.queues.get(channel)
        return queue.depth(asyncio.get_running_loop().time()) if queue else Depth()


class TruthRegistry(MemoryRegistry):
    """A memory registry that writes down each version and each line of the journal."""

    def __init__(self, record: Recorder) -> None:
        super().__init__()
        self._record = record
        self.longest: dict[str, int] = {}
        """The most entries that each train's journal ever held."""
        self._past: list[Snapshot] = []

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
        snapshot = await super().replace(train, manifest, expect=expect, entries=entries, keep=keep, beyond=beyond)
        self._past.append(snapshot)
        facts = tuple(e.fact for e in entries)
        self._record(Revised, version=snapshot.version, manifest=manifest, facts=facts)
        self._measure(train)
        return snapshot

    def back(self, train: str, versions: int) -> None:
        """Step back over so many, or to the first; where there is none yet nothing happens."""
        if self._past:
            older = self._past[max(0, len(self._past) - 1 - versions)]
            self._past.append(older)
            self.step_back(train, older)
            self._record(SteppedBack, version=older.version, manifest=older.manifest)

    async def append(self, train: str, entries: Sequence[Entry], *, keep: int = 10_000) -> None:
        await super().append(train, entries, keep=keep)
        self._record(Noted, facts=tuple(e.fact for e in entries))
        self._measure(train)

    def newest(self, train: str) -> Snapshot:
        """The manifest as it is."""
        document = self.documents.get(train)
        return document.newest if document else Snapshot(Manifest(train=train), 0)

    def _measure(self, train: str) -> None:
        self.longest[train] = max(self.longest.get(train, 0), len(self.document_of(train).journal))


class TruthLedger:
    """A ledger that writes down what it is given."""

    def __init__(self, record: Recorder) -> None:
        self._record = record
        self._kept: dict[tuple[str, int, float], WagonRecord] = {}

    async def append(self, record: WagonRecord) -> WagonRecord:
        """See Ledger."""
        kept = self._kept.setdefault((record.train, record.number, record.opened_at), sound_record(record))
        self._record(Recorded, record=kept)
        return kept

    async def read(self, train: str, number: int) -> tuple[WagonRecord, ...]:
        """See Ledger."""
        return tuple(r for r in self._kept.values() if (r.train, r.number) == (train, number))
