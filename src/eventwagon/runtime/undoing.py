"""What is known of a wagon that is to be undone, and its events in the order in which they are undone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from typing import NamedTuple

from ..contracts.replay import EventSource, PastEvent, Replay, mark_of
from ..contracts.undo import Kept, Undo
from ..errors import UsageError
from ..event import UNDO, Event, wagon_name
from ..policy.slices import Chains, marked

_CHUNK = 5_000
"""Events that are held at a time with their data: what is kept is read once for each chunk, since it is kept in
another order."""
_CHUNK_BYTES = 32 * 2**20
_TURN = 200
"""Events after which others get their turn."""


class _Known(NamedTuple):
    """An event that is known to be handled."""

    settled_at: float
    size: int
    event_id: str


class Survey(NamedTuple):
    """What became of the events of a wagon, by channel."""

    chains: Chains
    handled: dict[str, dict[bytes, _Known]]
    """What can be undone."""
    others: dict[str, Counter[str]]
    """What can't, by what is known of it: `dead`, `data not kept`, …"""
    retried: dict[str, int]
    """Of the handled ones, how many had been delivered before: attempts that failed may have done something, too."""


def in_order(train_channels: Sequence[str], kept: Sequence[str]) -> tuple[str, ...]:
    """The channels of a wagon: the ingress, those of the train in their order, then those that it no longer has."""
    known = ("", *train_channels)
    return (*known, *(name for name in sorted(kept) if name not in known))


async def surveyed(source: EventSource, train: str, kept: Sequence[Kept]) -> Survey:
    """Read all that is kept of a wagon, twice. Some 500 bytes of memory for each event. Raises UsageError if it was an
    undo's own wagon, and what the source raises."""
    channels = [each.channel for each in kept]
    survey = Survey(Chains(train, channels), {}, {}, {})
    for each in kept:
        handled = survey.handled[each.channel] = {}
        retried = set[bytes]()
        others: dict[bytes, str] = {}
        async for past in _read(source, each):
            if UNDO in past.event.extensions and past.outcome == "handled":  # nowhere else
                raise UsageError(
                    f"{wagon_name(train, each.wagon)} is the wagon of an undo ({past.event.extensions[UNDO]}), which "
                    "can't be undone: replay the wagon that was undone"
                )
            mark = mark_of(past.event)
            survey.chains.add(each.channel, past.event.id)
            if past.outcome != "handled" or past.cut:
                others[mark] = "data not kept" if past.outcome == "handled" else past.outcome
                continue
            handled[mark] = _known(past, handled.get(mark))
            if past.attempts > 1:
                retried.add(mark)
        survey.others[each.channel] = Counter(what for mark, what in others.items() if mark not in handled)
        survey.retried[each.channel] = len(retried)
    for each in kept:
        async for past in _read(source, each):
            survey.chains.follow(each.channel, past.event)
    return survey


async def undone_in(source: EventSource, kept: Sequence[Kept]) -> set[bytes]:
    """The events that are known to be undone: handled in these wagons of an undo."""
    found = set[bytes]()
    for each in kept:
        async for past in _read(source, each):
            if past.outcome == "handled":
                found.add(mark_of(past.event))
    return found


async def to_undo(
    source: EventSource, replay: Replay, undo: Undo, train: str, start: int
) -> AsyncGenerator[Sequence[Event], None]:
    """The events of the undo's slice as they are published, without the first `start`: what was settled last comes
    first. The same in the same order at each call. Raises what the source raises."""
    order = await _ordered(source, undo, train)
    size = 0
    chunk: list[bytes] = []
    (kept,) = (each for each in undo.kept if each.channel == undo.slice.channel)
    for place, (mark, known) in enumerate(order[start:], start + 1):
        chunk.append(mark)
        size += known.size
        if len(chunk) >= _CHUNK or size >= _CHUNK_BYTES or place == len(order):
            yield await _chunk(source, kept, chunk, undo, train, replay.name(train))
            chunk, size = [], 0


async def _ordered(source: EventSource, undo: Undo, train: str) -> list[tuple[bytes, _Known]]:
    channel, level = undo.slice.channel, undo.slice.level
    if level is None:
        handled: dict[bytes, _Known] = {}
        for each in undo.kept:
            if each.channel == channel:
                async for past in _read(source, each):
                    if past.outcome == "handled" and not past.cut:
                        mark = mark_of(past.event)
                        handled[mark] = _known(past, handled.get(mark))
    else:
        survey = await surveyed(source, train, undo.kept)
        handled = {
            mark: known
            for mark, known in survey.handled[channel].items()
            if survey.chains.level(channel, known.event_id) == level
        }
    done = await undone_in(source, undo.slice.without) if undo.slice.without else set[bytes]()
    left = ((mark, known) for mark, known in handled.items() if mark not in done)
    return sorted(left, key=lambda each: (-each[1].settled_at, each[0]))


async def _chunk(
    source: EventSource, kept: Kept, marks: Sequence[bytes], undo: Undo, train: str, job: str
) -> Sequence[Event]:
    wanted, found = set(marks), dict[bytes, Event]()
    async for past in _read(source, kept):
        if past.outcome == "handled" and not past.cut:
            mark = mark_of(past.event)
            if mark in wanted:
                found[mark] = marked(past.event, past.attempts, job=job, train=train, undo=undo)
    return [found[mark] for mark in marks if mark in found]


def _known(past: PastEvent, before: _Known | None) -> _Known:
    at = past.settled_at if before is None else max(past.settled_at, before.settled_at)
    return _Known(at, len(past.event.data), past.event.id)


async def _read(source: EventSource, kept: Kept) -> AsyncIterator[PastEvent]:
    """Each event that is kept there. Other tasks get their turn meanwhile."""
    async for batch in source.events(kept.wagon, kept.channel, kept.parts):
        for place, past in enumerate(batch):
            if place % _TURN == 0:
                await asyncio.sleep(0)
            yield past
