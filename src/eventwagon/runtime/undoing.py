"""What is known of a wagon that is to be undone, and its events in the order in which they are undone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Container, Sequence
from typing import NamedTuple

from ..contracts.replay import EventSource, PastEvent, Replay, mark_of
from ..contracts.undo import Kept, Slice, Undo
from ..errors import StorageBroken, UsageError
from ..event import UNDO, UNDO_CHANNEL, Event, level_of, wagon_name
from ..policy.slices import marked
from .spool import Spool

_CHUNK = 500
"""Events that are held at a time."""


class Known(NamedTuple):
    """An event that is known to be handled. If it was handled twice, both count."""

    settled_at: float
    """The last time."""
    level: int
    """See Slice.level. The highest: of two copies from two parents, that of the deeper one."""

    @staticmethod
    def of(past: PastEvent, wagon: int, before: Known | None) -> Known:
        """What is known with this row, too."""
        level = level_of(past.event, wagon)
        if before is None:
            return Known(past.settled_at, level)
        return Known(max(past.settled_at, before.settled_at), max(level, before.level))


class Survey(NamedTuple):
    """What became of the events of one channel of a wagon."""

    handled: dict[bytes, Known]
    """What can be undone."""
    others: Counter[str]
    """What can't, by what is known of it: `dead`, `data not kept`, …"""
    retried: int
    """Of the handled ones, how many had been delivered before: attempts that failed may have done something, too."""
    rows: int
    """How many rows are kept, whatever they say."""

    @property
    def levels(self) -> Counter[int]:
        """How many handled events there are of each level."""
        return Counter(known.level for known in self.handled.values())


def in_order(channels: Sequence[str], kept: Sequence[str]) -> tuple[str, ...]:
    """The channels of which something is kept: the ingress, these in their order, then others."""
    known = ("", *channels)
    return (*known, *(name for name in sorted(kept) if name not in known))


async def surveyed(source: EventSource, train: str, kept: Kept) -> Survey:
    """Read all that is kept of a channel, once. Some 300 bytes of memory for each event. Raises UsageError if it was an
    undo's own wagon, and what the source raises."""
    handled: dict[bytes, Known] = {}
    retried = set[bytes]()
    others: dict[bytes, str] = {}
    rows = 0
    async for past in _read(source, kept):
        rows += 1
        if past.outcome == "passed":
            continue
        if UNDO in past.event.extensions and past.outcome == "handled":  # nowhere else
            raise UsageError(
                f"{wagon_name(train, kept.wagon)} is the wagon of an undo ({past.event.extensions[UNDO]}), which "
                "can't be undone: replay the wagon that was undone"
            )
        mark = mark_of(past.event)
        if _can_be_undone(past):
            handled[mark] = Known.of(past, kept.wagon, handled.get(mark))
            if past.attempts > 1:
                retried.add(mark)
        else:
            others[mark] = "data not kept" if past.outcome == "handled" else past.outcome
    left = Counter(what for mark, what in others.items() if mark not in handled)
    return Survey(handled, left, len(retried), rows)


async def left_of(source: EventSource, undo: Undo, train: str, wagons: Sequence[Kept]) -> int:
    """How many events of the undo's slice are not known to be undone in these wagons of it."""
    done = await _undone_in(source, wagons, undo.slice.channel or train)
    found = dict[bytes, Known]()
    async for past in _read(source, _kept_of(undo)):
        if _can_be_undone(past) and (mark := mark_of(past.event)) not in done:
            found[mark] = Known.of(past, undo.wagon, found.get(mark))
    return sum(_is_in(undo.slice, known) for known in found.values())


async def to_undo(
    source: EventSource, replay: Replay, undo: Undo, train: str, start: int
) -> AsyncGenerator[Sequence[Event], None]:
    """The events of the undo's slice as they are published, without the first `start`: what was settled last comes
    first. The same in the same order at each call. What is kept is read once; until they are published, events wait in
    a `Spool`, and some 300 bytes of memory for each. Raises what the source and the spool raise, and StorageBroken if
    the source has other events than were counted."""
    done = await _undone_in(source, undo.slice.without, undo.slice.channel or train)
    job = replay.name(train)
    with Spool() as spool:
        order = await _spooled(source, undo, done, spool)
        if len(order) != replay.count:
            raise StorageBroken(f"{replay.count:,} events were counted, and {len(order):,} are kept now")
        for first in range(start, len(order), _CHUNK):
            events = [spool.take(place) for _, _, place in order[first : first + _CHUNK]]
            yield [marked(event, attempts, job=job, train=train, undo=undo) for event, attempts in events]
            await asyncio.sleep(0)


async def _spooled(
    source: EventSource, undo: Undo, done: Container[bytes], spool: Spool
) -> Sequence[tuple[bytes, Known, int]]:
    """Put the events of the slice into the spool: the mark of each, what is known of it, and its place, in order."""
    found = dict[bytes, tuple[Known, int]]()
    async for past in _read(source, _kept_of(undo)):
        if not _can_be_undone(past) or (mark := mark_of(past.event)) in done:
            continue
        before, place = found.get(mark, (None, -1))
        if place < 0 and undo.slice.level in (None, level_of(past.event, undo.wagon)):
            place = spool.add(past.event, past.attempts)
        found[mark] = Known.of(past, undo.wagon, before), place
    order = [(mark, known, place) for mark, (known, place) in found.items() if _is_in(undo.slice, known)]
    return sorted(order, key=lambda each: (-each[1].settled_at, each[0]))


def _kept_of(undo: Undo) -> Kept:
    """Where the events of its slice are."""
    (kept,) = (each for each in undo.kept if each.channel == undo.slice.channel)
    return kept


def _is_in(part: Slice, known: Known) -> bool:
    return part.level in (None, known.level)


def _can_be_undone(past: PastEvent) -> bool:
    return past.outcome == "handled" and not past.cut


async def _undone_in(source: EventSource, wagons: Sequence[Kept], channel: str) -> set[bytes]:
    """The events of this channel that are known to be undone: handled in these wagons of an undo. Other channels may
    have events of the same ids."""
    found = set[bytes]()
    for each in wagons:
        async for past in _read(source, each):
            if past.outcome in ("handled", "skipped") and past.event.extensions.get(UNDO_CHANNEL, channel) == channel:
                found.add(mark_of(past.event))
    return found


async def _read(source: EventSource, kept: Kept) -> AsyncIterator[PastEvent]:
    """Each event that is kept there."""
    async for batch in source.events(kept.wagon, kept.channel, kept.parts):
        for past in batch:
            yield past
