"""A replay: past events of a train, handled once more in a wagon of its own. The job and its progress are in the
manifest; what is replayed comes from an `EventSource`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from hashlib import blake2b
from typing import Literal, NamedTuple, Protocol

import msgspec

from ..errors import UsageError
from ..event import UNDO, Event
from .undo import Undo

Kind = Literal["replay", "undo"]


class PastEvents(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """Which events of a removed wagon to replay: those that match everything that is given.

    `wagon`: the wagon's number. `channel`: the inner channel in which they were; empty: its ingress. `ids`: any of
    these. `type`, `subject`, `outcome` (`handled`, `dead`): exactly so. `since`, `until`: their times in seconds since
    the epoch; `since` is included, `until` is not. It is checked where it is used.
    """

    wagon: int
    channel: str = ""
    ids: tuple[str, ...] = ()
    type: str | None = None
    subject: str | None = None
    outcome: str | None = None
    since: float | None = None
    until: float | None = None

    @cached_property
    def _ids(self) -> frozenset[str]:
        """To look one up among many."""
        return frozenset(self.ids)

    def takes(self, past: PastEvent) -> bool:
        """Whether this event is meant. What went to an undo handler never is: no other could handle it. Nor is what was
        skipped there: it had been handled before; nor what was only passed on to its channel."""
        event = past.event
        return (
            not past.cut
            and past.outcome not in ("skipped", "passed")
            and UNDO not in event.extensions
            and (not self.ids or event.id in self._ids)
            and self.channel == past.channel
            and self.type in (None, event.type)
            and self.subject in (None, event.subject)
            and self.outcome in (None, past.outcome)
            and (self.since is None or event.time >= self.since)
            and (self.until is None or event.time < self.until)
        )


class PastEvent(NamedTuple):
    """An event of a removed wagon, and what became of it there."""

    event: Event
    channel: str
    """The inner channel in which it was; empty: the ingress."""
    outcome: str
    """`handled`, `dead`, `skipped`: `once=` remembered that it had been handled, here or in an earlier wagon; or
    `passed`: it was for later, for an inner channel, and was stored there."""
    attempts: int
    settled_at: float = 0.0
    cut: int = 0
    """How many bytes its data had, if they are not kept: it can't be handled again. 0: nothing is missing."""


def mark_of(event: Event) -> bytes:
    """Tells one event from another: by source and id, as CloudEvents does."""
    return blake2b(f"{event.source}\0{event.id}".encode(errors="surrogatepass"), digest_size=16).digest()


class NothingKeptError(UsageError):
    """Nothing is kept of that wagon."""


class EventSource(Protocol):
    """Where the events of removed wagons are kept."""

    async def channels(self, wagon: int) -> tuple[str, ...]:
        """The channels of which something is kept; the ingress's name is empty. Raises as `parts`."""
        ...

    async def parts(self, wagon: int, channel: str) -> tuple[str, ...]:
        """The names of what is kept of that channel, in order; events that come late add parts, and change none. Raises
        NothingKeptError, UsageError if several wagons had that number, and Unavailable."""
        ...

    def events(self, wagon: int, channel: str, parts: Sequence[str]) -> AsyncIterator[Sequence[PastEvent]]:
        """The events of these parts, the same in the same order at each call, in batches that hold up nothing else:
        of some hundreds, with a turn for other tasks between them. Raises Unavailable, also if a part is gone, and
        StorageBroken."""
        ...


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """A replay until it is over. Times are in seconds since the epoch."""

    number: int
    """One of the numbers of wagons, which no wagon gets: it is never used twice, whatever older code drops."""
    of: PastEvents
    count: int
    """How many events are meant."""
    parts: tuple[str, ...] = ()
    """Where they are kept, as it was when they were counted. See EventSource.parts."""
    why: str
    at: float
    by: str = ""
    revision: str | None = None
    """The code that handles them; None: that of new wagons."""
    rate: float | None = None
    """The most events per second that are published; None: no bound."""
    fed: int = 0
    """How many are stored in its wagons: they were published in the source's order."""
    wagon: int = 0
    """The wagon that is fed now, or was last; 0: the next one is not open yet."""
    start: int = 0
    """`fed` when that wagon was opened."""
    feeder: str = ""
    """The process that feeds it; empty: none does."""
    torn: bool = False
    """Which events its wagon got is not known, since the feeder was lost: once the wagon is gone, the archive says
    it."""
    cancelled: str = ""
    """Why it was cancelled; empty: it was not."""
    attempts: int = 0
    """How many wagons in a row never became ready."""
    trouble: str = ""
    """Why it does not get on now."""
    dead: int = 0
    """Dead letters of its wagons that are gone."""
    undo: Undo | None = None
    """Its events go to undo handlers, slice by slice; None: they are handled once more."""

    @property
    def is_over(self) -> bool:
        """Nothing more will be fed, of an undo's slice."""
        return bool(self.cancelled) or (self.fed >= self.count and not self.torn)

    @property
    def kind(self) -> Kind:
        """What it is."""
        return "replay" if self.undo is None else "undo"

    @property
    def undoes(self) -> int:
        """The wagon that is undone; 0: it is a replay."""
        return 0 if self.undo is None else self.undo.wagon

    @property
    def left(self) -> int:
        """How many events it has still to publish."""
        if self.cancelled:
            return 0
        return max(0, self.count - self.fed) + (0 if self.undo is None else sum(each.count for each in self.undo.then))

    def name(self, train: str) -> str:
        """Its name in messages, commands and events."""
        return f"{train}/{self.number}"
