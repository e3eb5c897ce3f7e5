"""The seam to the record of what a train has handled, by which `once=` keeps an event from being handled twice.
Contracts only; the drivers are in `drivers/`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from hashlib import blake2b
from typing import Protocol, runtime_checkable

from ..event import REPLAY, UNDO, UNDO_CHANNEL, Event

BYTES = 16
"""Length of a key."""


class Standing(Enum):
    """What the record says of a key that was to be claimed."""

    OURS = "ours"
    """The caller has claimed it."""
    HANDLED = "handled"
    """It was handled within the window."""
    CLAIMED = "claimed"
    """Somebody else has claimed it, and that claim has not run out."""


@runtime_checkable
class OnceRecord(Protocol):
    """Remembers for a while which events were handled, for any number of trains. It belongs to a broker or a registry,
    and is open while that is.

    An event is known by its key (`key_of`). A key is claimed before its event is handled, so that of two copies only
    one is handled at a time. Times are by the store's clock. The methods may be called concurrently, from the event
    loop that entered the store. All raise Unavailable and StorageBroken.
    """

    async def claim(self, train: str, keys: Sequence[bytes], *, holder: str, lease: float) -> Sequence[Standing]:
        """Claim these keys for `lease` seconds, each unless it was handled or another holder has it. Returns the
        standing of each key, in their order; the keys differ from one another. Idempotent: a holder that has the key
        already has it for `lease` seconds from now."""
        ...

    async def record(self, train: str, keys: Sequence[bytes], *, window: float) -> None:
        """Remember for `window` seconds from now that the events of these keys were handled, whoever has claimed them;
        durable when it returns. Idempotent."""
        ...

    async def release(self, train: str, keys: Sequence[bytes], *, holder: str) -> None:
        """Give up those of these claims that the holder has. Idempotent; creates nothing."""
        ...

    async def count(self, train: str) -> int:
        """How many handled events it remembers. Some whose window is over may be among them. Creates nothing."""
        ...

    async def clear(self, train: str) -> None:
        """Forget everything of the train. Idempotent."""
        ...


def once_of(*stores: object) -> OnceRecord | None:
    """The record of the first of these stores (a broker, a registry) that has one."""
    found = (getattr(store, "once", None) for store in stores)
    return next((record for record in found if record is not None), None)


def key_of(channel: str, event: Event, since: float = 0.0) -> bytes:
    """The key of an event in a channel, whichever wagon it is in; the ingress has the empty name. CloudEvents knows an
    event by its source and id. An event that is replayed or undone on purpose is known by that, too. `since`: the
    manifest's `once_since`, so that what a process records late, of a train that was removed meanwhile, means nothing
    to a later train of that name."""
    known = f"{channel}\0{event.source}\0{event.id}"
    if since:
        known += f"\0since\0{since!r}"
    if REPLAY in event.extensions:
        known += f"\0{event.extensions[REPLAY]}"
    if UNDO in event.extensions:
        known += f"\0undo\0{event.extensions[UNDO]}\0{event.extensions.get(UNDO_CHANNEL, '')}"
    return blake2b(known.encode(errors="surrogatepass"), digest_size=BYTES).digest()
