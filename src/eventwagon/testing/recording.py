"""A broker in memory that keeps a record of what became of each event, for tests of a program's handlers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple

from ..cloudevents import is_batch, parts
from ..contracts.broker import Delivery
from ..contracts.timetable import CHANNEL as TO
from ..drivers.memory.broker import MemoryBroker, MemoryHold, MemoryQueue, MemorySubscription
from ..event import DEAD, Channel, Event


class Unfinished(NamedTuple):
    """An event that is neither handled nor dead."""

    channel: Channel
    event: Event
    is_claimed: bool
    due_in: float
    """Seconds until it may be handed out again; 0: now."""


class RecordingBroker(MemoryBroker):
    """A memory broker that records what is stored, handled and dead, in this order.

    It is made in the event loop that uses it. A receive takes at most `patience` seconds: leaving a train waits for
    those under way.
    """

    def __init__(self, *, clock: Callable[[], float], patience: float) -> None:
        super().__init__(clock=clock)
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self.stored: list[tuple[Channel, Event]] = []
        """Published or emitted; without those that only pass on to an inner channel."""
        self.handled: list[tuple[Channel, Event]] = []
        """Settled, and not dead."""
        self.letters: list[Event] = []
        """Dead letters; their extension attributes say where and why they died."""
        self.postponed: set[str] = set()
        """Ids of events whose handler asked for a pause (`Snooze`), until they are handed out again."""
        self._dying: list[tuple[Channel, str]] = []
        """Events whose dead letter is stored, and that are not settled yet."""
        self._change = asyncio.Event()

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        if channel not in self.queues:
            self.queues[channel] = _RecordedQueue(channel, self)
        await super().create(channel, capacity=capacity)

    def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> MemorySubscription:
        return _Subscription(self, channel, visibility, owner, self._patience)

    async def store_again(self, channel: Channel, event: Event) -> None:
        """Store an event that was stored before, in this channel or another. No bound keeps it out, and it is not
        recorded once more."""
        queue = self.queue_of(channel)
        bound, queue.capacity = queue.capacity, None
        try:
            MemoryQueue.put(queue, [event])
        finally:
            queue.capacity = bound

    # --- the record -------------------------------------------------------------------------------

    def record_stored(self, channel: Channel, events: Sequence[Event]) -> None:
        """These were stored in this channel."""
        if channel.name != DEAD:
            self.stored += [(channel, event) for event in events if not _passes_through(channel, event)]
        elif channel.wagon:  # the train's own gets those of removed wagons, which are known
            for letter in events:
                self.letters.append(letter)
                died_in = Channel(channel.train, channel.wagon, letter.extensions.get("deadchannel", ""))
                self._dying.append((died_in, letter.id))
        self.notify()

    def record_settled(self, channel: Channel, events: Sequence[Event]) -> None:
        """These were settled: handled, unless their dead letters were stored before."""
        for message in events:
            for event in parts(message) if is_batch(message) else (message,):
                if (channel, event.id) in self._dying:
                    self._dying.remove((channel, event.id))
                elif channel.name != DEAD and not _passes_through(channel, event):
                    self.handled.append((channel, event))
        self.notify()

    def notify(self) -> None:
        """Something has changed: `change` returns."""
        self._change.set()

    async def change(self, until: float) -> None:
        """Wait for the next change, or until the loop's time is `until`."""
        self._change.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._change.wait()

    # --- what is left -----------------------------------------------------------------------------

    @property
    def is_idle(self) -> bool:
        """Whether no event is unfinished. Quick, since it is asked after each change."""
        return next(self._unfinished(), None) is None

    def unfinished(self) -> list[Unfinished]:
        """The events that are not settled, without dead letters and those that were postponed."""
        return list(self._unfinished())

    def _unfinished(self) -> Iterator[Unfinished]:
        now = self._loop.time()
        for channel, queue in self.queues.items():
            if channel.name != DEAD:
                for each in _unfinished(queue, now):
                    if not (each.due_in > 0 and each.event.id in self.postponed):
                        yield each
        for train, event in self.timetable.unfinished():
            yield Unfinished(Channel(train, 0, event.extensions.get(TO, "")), event, False, 0.0)

    def hurry(self, seconds: float, *, postponed: bool) -> None:
        """Events that were given back come so much sooner; those that were postponed only if asked for."""
        now = self._loop.time()
        for queue in self.queues.values():
            if isinstance(queue, _RecordedQueue):
                queue.hurry(now, seconds, lambda event: postponed or event.id not in self.postponed)


def _passes_through(channel: Channel, event: Event) -> bool:
    """Whether it is in the ingress only on its way from the timetable to its own channel."""
    return not channel.name and TO in event.extensions


def _unfinished(queue: MemoryQueue, now: float) -> Iterator[Unfinished]:
    for hold in queue.taken.values():
        yield Unfinished(queue.channel, hold.event, not hold.back, max(0.0, hold.due - now) if hold.back else 0.0)
    for event in queue.fresh:
        yield Unfinished(queue.channel, event, False, 0.0)


class _RecordedQueue(MemoryQueue):
    def __init__(self, channel: Channel, broker: RecordingBroker) -> None:
        super().__init__(channel)
        self._broker = broker

    def put(self, events: Sequence[Event]) -> None:
        before = self.published
        try:
            super().put(events)
        finally:
            self._broker.record_stored(self.channel, events[: self.published - before])

    def take(self, limit: int, now: float, due: float, owner: str, *, suspect_first: bool) -> list[Delivery]:
        got = super().take(limit, now, due, owner, suspect_first=suspect_first)
        self._broker.postponed.difference_update(delivery.event.id for delivery in got)
        return got

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        claimed = {d.token.number: d.event for d in deliveries if d.token.number in self.taken}
        super().settle(deliveries)
        self._broker.record_settled(self.channel, list(claimed.values()))

    def give_back(self, hold: MemoryHold, due: float, attempt: int, *, suspect: bool) -> None:
        super().give_back(hold, due, attempt, suspect=suspect)
        self._broker.notify()

    def hurry(self, now: float, seconds: float, is_meant: Callable[[Event], bool]) -> None:
        """Events that were given back and are meant come so much sooner."""
        early = [hold for hold in self.taken.values() if hold.back and hold.due > now and is_meant(hold.event)]
        for hold in early:
            self._back -= 1
            self.give_back(hold, max(now, hold.due - seconds), hold.attempt, suspect=hold.suspect)
        if early:
            self.wake()


class _Subscription(MemorySubscription):
    def __init__(
        self, broker: RecordingBroker, channel: Channel, visibility: float, owner: str, patience: float
    ) -> None:
        super().__init__(broker, channel, visibility, owner)
        self._patience = patience

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        return await super().receive(limit, min(timeout, self._patience))
