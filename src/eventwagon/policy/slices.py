"""Undoing a wagon: in which slices, and what an undo handler is told of its event. Pure.

Children are undone before their parents. Channels are declared parents first, so the channels of a wagon are undone in
the opposite order, one slice each. If a handler emitted to its own channel or back to an earlier one, that order does
not do: then each channel has a slice for each level, where an event's level is that of the event it came from and one
more. An event's id tells which one it came from, since ids of emitted events are made of it (`child_id`).
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from ..contracts.lifecycle import State
from ..contracts.manifest import Wagon
from ..contracts.replay import Replay
from ..contracts.undo import Slice, Undo, Undone
from ..display.text import count as counted
from ..event import UNDO, UNDO_ATTEMPTS, UNDO_CHANNEL, UNDO_OF, Event, child_id, later_id, published_id, wagon_name

_MISSES = 2
"""Children are numbered; so many numbers in a row without a child mean that there are no more. A number may be missing:
what was sent on as a whole `Event` has an id of its own."""


# --- the slices ---------------------------------------------------------------------------------


class Chains:
    """The events of a wagon, and which of them came from which. First `add` all, then `follow` all."""

    def __init__(self, train: str, channels: Sequence[str]) -> None:
        """`channels`: the ingress first, then parents before children."""
        self.goes_back = False
        """An event led to another in its own channel, or in an earlier one."""
        self._train = train
        self._order = {name: place for place, name in enumerate(channels)}
        self._places: dict[tuple[str, str], int] = {}
        self._causes = array("q")
        """By event: the place of the one that it came from; -1: of none here."""

    def add(self, channel: str, event_id: str) -> None:
        """There is this event. Idempotent."""
        place = self._places.setdefault((channel, event_id), len(self._causes))
        if place == len(self._causes):
            self._causes.append(-1)

    def follow(self, channel: str, event: Event) -> None:
        """Find what this event led to. Idempotent."""
        me = self._places[channel, event.id]
        for other in self._order:
            number = missed = 0
            while missed < _MISSES:
                missed += 1
                for child in self._children(event, other, number):
                    if child != me:
                        self._causes[child], missed = me, 0
                        self.goes_back |= self._order[other] <= self._order[channel]
                number += 1

    def _children(self, event: Event, channel: str, number: int) -> Iterator[int]:
        if channel:
            ids = [child_id(event, channel, number), later_id(event, channel, number)]
        else:
            ids = [published_id(event, self._train, number)]
        for each in ids:
            if (place := self._places.get((channel, each))) is not None:
                yield place

    def level(self, channel: str, event_id: str) -> int:
        """How many steps the event is below the first of its chain."""
        level, place = 0, self._causes[self._places[channel, event_id]]
        while place >= 0 and level < len(self._causes):  # hand-made ids may run in a circle
            level, place = level + 1, self._causes[place]
        return level


def slices_of(chains: Chains, channels: Sequence[str], handled: Mapping[str, Collection[str]]) -> tuple[Slice, ...]:
    """The slices that undo these events (ids by channel), in their order: children before parents. `channels`: the
    ingress first, then parents before children."""
    if not chains.goes_back:
        return tuple(Slice(channel=c, count=len(handled[c])) for c in reversed(channels) if handled.get(c))
    levels = {c: Counter(chains.level(c, each) for each in ids) for c, ids in handled.items()}
    deepest = max((level for each in levels.values() for level in each), default=0)
    return tuple(
        Slice(channel=c, level=level, count=levels[c][level])
        for level in range(deepest, -1, -1)
        for c in reversed(channels)
        if c in levels and levels[c][level]
    )


# --- marks --------------------------------------------------------------------------------------


def marked(event: Event, attempts: int, *, job: str, train: str, undo: Undo) -> Event:
    """The event as it goes to the undo handler. `job`: the undo's name."""
    marks = {
        UNDO: job,
        UNDO_OF: wagon_name(train, undo.wagon),
        UNDO_CHANNEL: undo.slice.channel or train,
        UNDO_ATTEMPTS: str(attempts),
    }
    return msgspec.structs.replace(event, extensions={**event.extensions, **marks})


def undone_of(event: Event, train: str, wagon: int, channel: str) -> Undone:
    """What an undo handler is told of its event, which was handled in that channel of that wagon."""
    number, attempts = (
        int(text) if text.isascii() and text.isdigit() else 0
        for text in (
            event.extensions.get(UNDO, "").removeprefix(f"{train}/"),
            event.extensions.get(UNDO_ATTEMPTS, ""),
        )
    )
    return Undone(number, wagon, channel, attempts)


# --- its wagons ---------------------------------------------------------------------------------


def wagon_gone(replay: Replay, wagon: Wagon) -> Replay:
    """A wagon of this replay is removed: note its dead letters; of an undo's also why some of its events may not be
    undone."""
    replay = msgspec.structs.replace(replay, dead=replay.dead + (wagon.letters_kept or 0))
    undo = replay.undo
    if undo is None:
        return replay
    unsure = undo.unsure
    if wagon.ready_at is None:  # it never got an event
        pass
    elif wagon.letters_kept is None:
        unsure = f"how many dead letters wagon {wagon.number} had is not known"
    elif gone := wagon.letters_taken + wagon.letters_lost:
        unsure = f"dead letters of wagon {wagon.number} are gone ({gone:,})"
    elif wagon.lost:
        unsure = f"{counted(wagon.lost, 'event')} of wagon {wagon.number} disappeared from the broker"
    elif wagon.state is State.FAILED:
        unsure = f"wagon {wagon.number} failed: {wagon.trouble or wagon.closed_because}"
    return msgspec.structs.replace(
        replay, undo=msgspec.structs.replace(undo, wagons=(*undo.wagons, wagon.number), unsure=unsure)
    )
