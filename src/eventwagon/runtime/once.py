"""Once: keeps what was handled within a window from being handled again, by the train's record of handled events.

The record has a step on both sides of the path of an event (see `prefetch`): what a receive has brought is claimed
before anything of it is handed out, and what was handled is recorded once all that it emitted is stored, before it is
settled. A crash after the record settles nothing, and the event is skipped when it comes again; a crash before it has
the event handled again.
"""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..contracts.broker import Delivery
from ..contracts.facts import EventsSkipped
from ..contracts.once import OnceRecord, Standing, key_of, once_of
from ..contracts.timetable import CHANNEL
from ..errors import EventwagonError, Unavailable, UsageError
from ..event import Channel
from ..settings import Settings
from .bulkhead import Bulkhead, is_ours
from .handler import Handler

COPY_AGAIN = 1.0
"""Seconds after which an event comes again if a copy of it is being handled."""
_TO_RELEASE = 2.0
"""The longest, in seconds, that giving up claims may take. Claims that were not given up run out."""


class Once(NamedTuple):
    """A train's record, and for how many seconds it remembers an event."""

    record: OnceRecord
    window: float


def once_for(train: str, settings: Settings, handlers: Mapping[str, Handler], *stores: object) -> Once | None:
    """The record of a program with these handlers; None if its train has no `once=`. Raises UsageError if none of the
    stores keeps a record."""
    if settings.once is None or not handlers:
        return None
    if (record := once_of(*stores)) is None:
        names = " and ".join(dict.fromkeys(type(store).__name__ for store in stores))
        raise UsageError(
            f"train {train!r}: once= needs a record of handled events, which {names} can't keep: keep the manifest in "
            "a registry that can (…?registry=redis://host or ?registry=sqlite:///directory), or leave once= out"
        )
    assert isinstance(settings.once, float)  # noqa: S101 - for the type checker: Settings has made it one
    return Once(record, settings.once)


class Admitted(NamedTuple):
    """What may become of events that were received."""

    ours: Sequence[Delivery]
    """To be handled."""
    handled: Sequence[Delivery]
    """They were handled before: to be settled."""
    copies: Sequence[Delivery]
    """Copies of events that are being handled: to be given back for a moment."""


class OnceGuard:
    """The claims of one consumer of a channel in the train's record. It belongs to the channel's Settler, which says
    what came of each event."""

    def __init__(
        self, once: Once, channel: Channel, *, lease: float, bulkhead: Bulkhead, since: Callable[[], float]
    ) -> None:
        self.skipped = 0
        """How many events were settled because they had been handled before."""
        self._record, self._window = once
        self._channel = channel
        self._lease = lease
        self._since = since
        """The manifest's `once_since`, as far as the consumer knows it."""
        self._bulkhead = bulkhead
        self._holder = os.urandom(9).hex()
        self._keys: dict[int, bytes] = {}
        """By identity of the delivery: those that are claimed."""
        self._until: dict[int, float] = {}
        """By identity: until when the claim is certain, by the event loop's clock. Only of confirmed claims."""
        self._at_hand: set[bytes] = set()
        """The same keys: copies that this consumer gets wait."""
        self._dead: set[int] = set()
        """By identity: those that are to be among the dead letters. They were not handled."""

    async def admit(self, deliveries: Sequence[Delivery], *, within: float) -> Admitted:
        """Claim these events. Raises Unavailable (also after `within` s without an answer) and StorageBroken; then they
        must be given back."""
        new: list[Delivery] = []
        copies: list[Delivery] = []
        passing: set[int] = set()
        for delivery in deliveries:
            if not self._channel.name and CHANNEL in delivery.event.extensions:
                passing.add(id(delivery))  # it is on its way to an inner channel, where it is claimed
                continue
            key = key_of(self._channel.name, delivery.event, self._since())
            if key in self._at_hand:
                copies.append(delivery)
            else:
                self._at_hand.add(key)
                self._keys[id(delivery)] = key
                new.append(delivery)
        standings: dict[int, Standing] = {}
        if new:
            keys = [self._keys[id(delivery)] for delivery in new]
            loop = asyncio.get_running_loop()
            began = loop.time()
            try:
                async with asyncio.timeout(within):
                    found = await self._claim(keys)
            except TimeoutError:
                raise Unavailable("the record of handled events has not answered in time") from None
            if loop.time() - began > self._lease:  # this process was suspended, say: others may have the claims by now
                raise Unavailable("the record of handled events took so long to answer that its claims have run out")
            standings = {id(delivery): standing for delivery, standing in zip(new, found, strict=True)}
            until = began + self._lease  # by the time before the call: the store's lease begins later
            self._until.update((id(d), until) for d in new if standings[id(d)] is Standing.OURS)
            self.forget(delivery for delivery in new if standings[id(delivery)] is Standing.CLAIMED)
        copies += [delivery for delivery in new if standings[id(delivery)] is Standing.CLAIMED]
        handled = [delivery for delivery in new if standings[id(delivery)] is Standing.HANDLED]
        self.skip(handled)
        ours = [d for d in deliveries if id(d) in passing or standings.get(id(d)) is Standing.OURS]
        return Admitted(ours, handled, copies)

    async def _claim(self, keys: Sequence[bytes]) -> Sequence[Standing]:
        return await self._record.claim(self._channel.train, keys, holder=self._holder, lease=self._lease)

    async def keep(self, deliveries: Iterable[Delivery]) -> Mapping[int, Standing]:
        """Extend the claims of these events. Returns, by identity, those that others have claimed or handled since the
        claim ran out. Raises Unavailable, StorageBroken."""
        kept = [delivery for delivery in deliveries if id(delivery) in self._until]
        if not kept:
            return {}
        until = asyncio.get_running_loop().time() + self._lease
        found = await self._claim([self._keys[id(delivery)] for delivery in kept])
        lost: dict[int, Standing] = {}
        for delivery, standing in zip(kept, found, strict=True):
            if id(delivery) not in self._until:
                continue  # it was settled or given back meanwhile
            if standing is Standing.OURS:
                self._until[id(delivery)] = until
            else:
                self._until[id(delivery)] = -math.inf
                lost[id(delivery)] = standing
        return lost

    def holds(self, delivery: Delivery) -> bool:
        """Its claim certainly holds: it may be handed out."""
        until = self._until.get(id(delivery))
        return until is None or asyncio.get_running_loop().time() < until

    def skip(self, handled: Sequence[Delivery]) -> None:
        """Others have handled these: they are to be settled and are not recorded anew."""
        self.forget(handled)
        self.skipped += len(handled)

    def died(self, delivery: Delivery) -> None:
        """Mark it as dead: it is not recorded, so that its retry is handled."""
        if id(delivery) in self._keys:
            self._dead.add(id(delivery))

    async def record(self, deliveries: Iterable[Delivery]) -> None:
        """Record that these were handled, but for those that died. Idempotent. Raises Unavailable, StorageBroken."""
        handled = [delivery for delivery in deliveries if id(delivery) not in self._dead]
        if keys := self._claimed(handled):
            await self._record.record(self._channel.train, keys, window=self._window)
            self._keep_no_more(handled)

    async def release_dead(self, deliveries: Iterable[Delivery]) -> None:
        """Give up the claims of those that died. Never raises."""
        if self._dead:
            await self.release([delivery for delivery in deliveries if id(delivery) in self._dead])

    async def release(self, deliveries: Iterable[Delivery]) -> None:
        """Give up the claims of these events, whose handling is left to others. If that fails, the claims run out.
        Never raises."""
        deliveries = list(deliveries)
        keys = self._claimed(deliveries)
        if not keys:
            return
        self._keep_no_more(deliveries)
        try:
            async with asyncio.timeout(_TO_RELEASE):
                await self._record.release(self._channel.train, keys, holder=self._holder)
        except (EventwagonError, TimeoutError):
            pass
        except BaseException as e:
            if is_ours(e):
                raise
            self._bulkhead.report(f"giving up claims in {self._channel}", e)

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """They are settled or given back, or their claims are left to run out. Idempotent."""
        for delivery in deliveries:
            if (key := self._keys.pop(id(delivery), None)) is not None:
                self._at_hand.discard(key)
                self._until.pop(id(delivery), None)
            self._dead.discard(id(delivery))

    def _keep_no_more(self, deliveries: Iterable[Delivery]) -> None:
        """Their claims are given up or replaced by the record. They may stay unsettled for long, if the broker is away:
        `keep` must not claim them again meanwhile."""
        for delivery in deliveries:
            self._until.pop(id(delivery), None)

    def fact(self, skipped: Sequence[Delivery]) -> EventsSkipped:
        """The fact about a group of skipped events: at least one."""
        channel = self._channel
        return EventsSkipped(
            train=channel.train,
            number=channel.wagon,
            channel=channel.name,
            id=skipped[0].event.id,
            count=len(skipped),
        )

    def _claimed(self, deliveries: Iterable[Delivery]) -> list[bytes]:
        return [key for delivery in deliveries if (key := self._keys.get(id(delivery))) is not None]
