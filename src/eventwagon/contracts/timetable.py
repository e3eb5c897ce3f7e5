"""The seam to the timetable, which keeps a train's events until they are due. Contracts only; the drivers are in
`drivers/`.

An event is due at its `time`. One for an inner channel names that channel in the extension attribute `laterchannel`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Protocol

import msgspec

from ..cloudevents import undecodable
from ..display.text import said
from ..event import Event

CHANNEL = "laterchannel"
"""The extension attribute that names the inner channel of an event for later."""


class Due(msgspec.Struct, frozen=True, kw_only=True):
    """What `Timetable.claim` found. All times are in seconds since the epoch, by the store's clock."""

    events: Sequence[Event]
    """Claimed for the caller until `until`, the earliest first."""
    keys: Sequence[str]
    """The key under which each of them is kept: for one that can't be read, not that of the event."""
    until: float
    now: float
    next_at: float | None
    """When the next event that was not claimed is due, or its claim expires; None: nothing else waits."""


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """How many events wait in a timetable, and when the earliest of them is due (seconds since the epoch; None: nothing
    waits). `now` is the time by the store's clock."""

    count: int
    next_at: float | None
    now: float


class Timetable(Protocol):
    """Keeps events for later, for any number of trains. It belongs to a broker or a registry, and is open while that
    is.

    An event is known by its key (`key_of`). Its methods may be called concurrently, from the event loop that entered
    the store. All raise Unavailable and StorageBroken.
    """

    async def now(self, train: str) -> float:
        """The time by the store's clock, in seconds since the epoch; by this process's clock if the store has none."""
        ...

    async def add(self, train: str, events: Sequence[Event]) -> None:
        """Keep these events until they are due; durable when it returns. Idempotent: an event whose key is kept already
        changes nothing, also if it has another time. After an error some of them may be kept. Raises EventTooLarge."""
        ...

    async def claim(self, train: str, *, limit: int, most_bytes: int, lease: float) -> Due:
        """Claim up to `limit` events that are due, the earliest first: nobody else gets them for `lease` seconds. After
        that they are due again. At most `most_bytes` of stored events, but at least one event. Creates nothing."""
        ...

    async def remove(self, train: str, keys: Sequence[str], *, until: float) -> None:
        """These events were published: forget those that are still under the claim that ends at `until`. Idempotent."""
        ...

    async def cancel(self, train: str, keys: Sequence[str]) -> bool:
        """Forget these events, unless they are claimed now. Returns True if one of them was kept and never claimed: it
        will not be published. Idempotent."""
        ...

    async def waiting(self, train: str) -> Waiting:
        """How many wait, claimed ones included."""
        ...

    def entries(self, train: str) -> AsyncIterator[Event]:
        """All events that are kept, the earliest first; those that are claimed, or were, may come later than that."""
        ...

    async def latest(self, train: str, series: str) -> float | None:
        """The latest tick of this series that `tick` has recorded; None: none yet."""
        ...

    async def latest_of_all(self, train: str) -> Mapping[str, float]:
        """The same for each series of the train that has one, by its name. Creates nothing."""
        ...

    async def tick(self, train: str, series: str, at: float, event: Event | None) -> bool:
        """Record a tick of a series and keep its event, in one step. Returns False, and changes nothing, unless `at` is
        later than every tick of the series before: so of any number of processes one succeeds. Without an event, or at
        the first tick of a series, no event is kept."""
        ...

    async def clear(self, train: str) -> int:
        """Forget everything of the train. Returns how many events there were. Idempotent."""
        ...


def timetable_of(*stores: object) -> Timetable | None:
    """The timetable of the first of these stores (a broker, a registry) that has one."""
    found = (getattr(store, "timetable", None) for store in stores)
    return next((timetable for timetable in found if timetable is not None), None)


def key_of(event: Event) -> str:
    """The key under which a timetable keeps the event: its inner channel and its id."""
    return key(event.id, event.extensions.get(CHANNEL, ""))


def key(event_id: str, channel: str = "") -> str:
    """The key of the event with this id for this inner channel; empty: for the ingress."""
    return f"{channel} {event_id}"  # no channel's name has a blank


def for_channel(event: Event, channel: str) -> Event:
    """The event as a timetable keeps it for an inner channel; unchanged for the ingress."""
    return msgspec.structs.replace(event, extensions={**event.extensions, CHANNEL: channel}) if channel else event


def passed_on(event: Event) -> tuple[str, Event]:
    """The inner channel that an event from a timetable is for, and the event as it is stored there."""
    extensions = {name: value for name, value in event.extensions.items() if name != CHANNEL}
    return event.extensions[CHANNEL], msgspec.structs.replace(event, extensions=extensions)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Event)


def encode(event: Event) -> bytes:
    """The event, as timetables store it."""
    return _encoder.encode(event)


def decode(data: bytes, *, kept_as: str) -> Event:
    """The event that `encode` wrote. What can't be read (another writer's) becomes an event that goes to the dead
    letters, with its bytes; `kept_as` is its key. Never raises."""
    try:
        event = _decoder.decode(data)
        if key_of(event) == kept_as:
            return event
        because = "it is kept under another key"
    except Exception as e:  # noqa: BLE001 - one bad entry must not keep the others
        because = said(e)
    channel, blank, event_id = kept_as.partition(" ")
    stand_in = undecodable(data, (), position=event_id or "unknown", written=0.0, because=because)
    return for_channel(stand_in, channel if blank else "")
