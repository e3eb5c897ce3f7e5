"""Undoing a wagon: in which slices, and what an undo handler is told of its event. Pure.

Children are undone before their parents. An event that a handler emitted to a later channel is on its parent's level,
any other one is a level deeper and says so (`LEVEL`), whatever its id is. So the deepest level is undone first, and of
each level the last channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..contracts.lifecycle import State
from ..contracts.manifest import Wagon
from ..contracts.replay import Replay
from ..contracts.undo import Slice, Undo, Undone
from ..display.text import count as counted
from ..event import UNDO, UNDO_ATTEMPTS, UNDO_CHANNEL, UNDO_OF, Channel, Event, wagon_name

# --- the slices ---------------------------------------------------------------------------------


def is_after(order: Sequence[Channel], channel: str, before: str) -> bool:
    """Whether `channel` comes after `before` in a wagon with these channels. One that the wagon did not have when its
    worker last heard of it has been added at the end; of two such ones nobody knows."""
    for each in order:
        if each.name == before:
            return channel != before
        if each.name == channel:
            return False
    return False


def slices_of(channels: Sequence[str], levels: Mapping[str, Mapping[int, int]]) -> tuple[Slice, ...]:
    """The slices that undo these events, in their order. `channels`: as the wagon had them, the ingress first.
    `levels`: by channel, how many events there are of each level."""
    deepest_first = sorted({level for each in levels.values() for level in each}, reverse=True)
    return tuple(
        Slice(channel=c, level=level if len(levels[c]) > 1 else None, count=levels[c][level])
        for level in deepest_first
        for c in reversed(channels)
        if c in levels and level in levels[c]
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
