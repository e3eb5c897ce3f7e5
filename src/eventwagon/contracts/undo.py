"""An undo: what a wagon is known to have handled is taken back by the train's undo handlers, the newest first. Its job
is a replay (contracts/replay.py) in several slices."""

from __future__ import annotations

from typing import NamedTuple

import msgspec


class Kept(msgspec.Struct, frozen=True):
    """Where the events of one channel of a wagon are kept. See EventSource.parts."""

    wagon: int
    channel: str
    parts: tuple[str, ...]


class Slice(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one channel that are undone side by side, in one wagon. None of them came from another."""

    channel: str
    """The channel in which they were handled; empty: the ingress."""
    level: int | None = None
    """Only those whose chain had made so many steps back; None: all of the channel, which are of one level."""
    count: int
    without: tuple[Kept, ...] = ()
    """All but those that are known to be undone: handled there."""


class Undo(msgspec.Struct, frozen=True, kw_only=True):
    """What makes a replay an undo: its `of`, `count` and `fed` are those of one slice at a time."""

    wagon: int
    """The number of the wagon that is undone."""
    kept: tuple[Kept, ...]
    """Where its events are, by channel, as it was when they were counted; the ingress first."""
    slice: Slice
    """The one that is undone now."""
    then: tuple[Slice, ...] = ()
    """What follows, in this order."""
    step: int = 1
    """Goes up by one with each slice that begins."""
    done: int = 0
    """Events of slices that are over."""
    dead: int = 0
    """The replay's dead letters when this slice began."""
    opened: tuple[int, ...] = ()
    """The wagons that were opened for this slice."""
    wagons: tuple[int, ...] = ()
    """Those of them that are gone."""
    unsure: str = ""
    """Why it is not known whether all events of this slice were undone, if nothing else says so."""
    whole: int
    """How many events this slice had in the beginning: when it is resumed, only the rest is published again."""
    left: int = 0
    """Events of this slice that stay as they are: somebody has said so."""
    stopped: str = ""
    """Why it goes no further until somebody resumes it; empty: it does."""


class Undone(NamedTuple):
    """What an undo handler is called for: `Context.undone`."""

    undo: int
    """The number of the undo."""
    wagon: int
    """The wagon in which the event was handled."""
    channel: str
    """The channel in which it was handled; empty: the ingress."""
    attempts: int
    """How often it had been delivered there, the time included at which it was handled."""
