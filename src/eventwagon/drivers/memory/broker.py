"""Channels in this process's memory: for tests, simulation and speed. Nothing survives the process."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from heapq import heappop, heappush
from math import inf

import msgspec

from ...contracts.broker import Capabilities, Delivery, Depth, Finding
from ...errors import ChannelFull, ChannelGone, Sealed
from ...event import Channel, Event
from .once import MemoryOnce
from .timetable import MemoryTimetable


class MemoryBroker:
    """A broker in one process. Enter it as often as you like: it keeps its channels as long as the object exists.

    Visibility times and delays use the event loop's clock, so they work in virtual time, too. The ages of events are
    taken from the events. Only the timetable uses `clock` (seconds since the epoch), which all drivers get. With
    `fences=False` it does not refuse writes to a sealed channel, like some real brokers: for tests of the lease fence.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time, fences: bool = True) -> None:
        self.capabilities = Capabilities(
            fences=fences, bounds=True, totals=True, durable=False, shared=False, reclaims=True
        )
        self.timetable = MemoryTimetable(clock=clock)
        self.once = MemoryOnce(clock=clock)
        self.queues: dict[Channel, MemoryQueue] = {}
        """The contents of each channel: for subclasses that change how a channel behaves."""

    async def __aenter__(self) -> MemoryBroker:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        queue = self.queues.setdefault(channel, MemoryQueue(channel))
        if capacity is not None:
            queue.capacity = capacity

    async def unbound(self, channel: Channel) -> None:
        if queue := self.queues.get(channel):
            queue.capacity = None

    async def warm(self, channel: Channel) -> None:
        self.queue_of(channel)

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        await asyncio.sleep(0)  # lets others run; before the store, so that a cancelled publish has stored nothing
        self.queue_of(channel).put(events)

    async def seal(self, channel: Channel) -> None:
        if (queue := self.queues.get(channel)) and self.capabilities.fences:
            queue.sealed = True

    def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> MemorySubscription:
        return MemorySubscription(self, channel, visibility, owner)

    async def reclaim(self, channel: Channel, owner: str) -> int:
        queue = self.queues.get(channel)
        return queue.reclaim(owner, asyncio.get_running_loop().time()) if owner and queue else 0

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        now = asyncio.get_running_loop().time()
        queues = [self.queues.get(channel) for channel in channels]
        return [queue.depth(now) if queue else Depth() for queue in queues]

    async def read(self, channel: Channel) -> AsyncIterator[Event]:
        for event in self.queue_of(channel).unsettled():
            yield event

    async def delete(self, channel: Channel) -> None:
        if queue := self.queues.pop(channel, None):
            queue.gone = True
            queue.wake()

    async def channels(self, train: str) -> Sequence[Channel]:
        return [channel for channel in self.queues if channel.train == train]

    async def inspect(self, channels: Sequence[Channel]) -> Sequence[Finding]:
        """See Inspectable."""
        means = "all events are lost when this process ends"
        todo = "for tests only; sqlite:///DIRECTORY needs no server either"
        return [Finding(severity="loses", what="memory", means=means, todo=todo)]

    def queue_of(self, channel: Channel) -> MemoryQueue:
        """The contents of a channel. Raises ChannelGone."""
        try:
            return self.queues[channel]
        except KeyError:
            raise ChannelGone(f"channel {channel} does not exist") from None


class MemoryHold(msgspec.Struct, gc=False):
    """An event that was received and is not settled: claimed until `due`, or back in the queue and available from then
    on."""

    number: int
    event: Event
    attempt: int
    due: float
    back: bool
    owner: str = ""
    suspect: bool = False
    alone: bool = False
    """If this claim expires, that counts as an attempt."""


class MemoryQueue:
    """The contents of one channel."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.capacity: int | None = None
        self.sealed = False
        self.gone = False
        self.published = 0
        self.settled = 0
        self.fresh: deque[Event] = deque()  # never received
        self.taken: dict[int, MemoryHold] = {}  # received at least once; with the current claim
        self._again: list[tuple[float, int, MemoryHold]] = []  # given back: a heap; stale where not in `taken`
        self._suspects: list[
            tuple[int, float, int, MemoryHold]
        ] = []  # the same for suspects that are due: by `-attempt`
        self._suspects_later: list[tuple[float, int, MemoryHold]] = []  # the same for those that are due later
        self._back = 0
        self._claims_due = inf  # no claim expires before
        self._waiters: dict[asyncio.Future[None], None] = {}  # a set that keeps its order: runs must be reproducible

    def put(self, events: Sequence[Event]) -> None:
        if self.sealed:
            raise Sealed(f"channel {self.channel} is sealed")
        room = len(events) if self.capacity is None else max(0, self.capacity - self.published)
        taken = events if room >= len(events) else events[:room]
        self.fresh.extend(taken)
        self.published += len(taken)
        if taken:
            self.wake()
        if len(taken) < len(events):
            raise ChannelFull(f"channel {self.channel} holds its {self.capacity} events", accepted=len(taken))

    def take(self, limit: int, now: float, due: float, owner: str, *, suspect_first: bool) -> list[Delivery]:
        """Claim until `due` for this owner: one suspect, or up to `limit` others: first those that are due again, then
        new ones."""
        if self._claims_due <= now:
            self._expire(now)
        suspects = self._suspects or self._suspects_later
        if suspects and suspect_first and (suspect := self._take_suspect(now, due, owner)):
            return suspect
        got: list[Delivery] = []
        taken = self.taken
        while self._again and self._again[0][0] <= now and len(got) < limit:
            _, number, old = heappop(self._again)
            if taken.get(number) is old:
                self._back -= 1
                taken[number] = hold = MemoryHold(number, old.event, old.attempt, due, False, owner)
                got.append(Delivery(old.event, old.attempt, hold))
        fresh = self.fresh
        number = self.published - len(fresh)
        for _ in range(min(limit - len(got), len(fresh))):
            event = fresh.popleft()
            taken[number] = hold = MemoryHold(number, event, 1, due, False, owner)
            got.append(Delivery(event, 1, hold))
            number += 1
        if got:
            self._claims_due = min(self._claims_due, due)
        elif suspects and not suspect_first:
            return self._take_suspect(now, due, owner)
        return got

    def _take_suspect(self, now: float, due: float, owner: str) -> list[Delivery]:
        while self._suspects_later and self._suspects_later[0][0] <= now:
            since, number, old = heappop(self._suspects_later)
            heappush(self._suspects, (-old.attempt, since, number, old))
        while self._suspects:
            _, _, number, old = heappop(self._suspects)
            if self.taken.get(number) is old:
                self._back -= 1
                self.taken[number] = hold = MemoryHold(number, old.event, old.attempt, due, False, owner, True)
                self._claims_due = min(self._claims_due, due)
                return [Delivery(old.event, old.attempt, hold, True)]
        return []

    def settle(self, deliveries: Sequence[Delivery]) -> None:
        taken = self.taken
        for delivery in deliveries:
            hold = taken.pop(delivery.token.number, None)
            if hold is not None:
                self.settled += 1
                self._back -= hold.back

    def release(self, deliveries: Sequence[Delivery], now: float, due: float, *, tried: bool, cleared: bool) -> None:
        if self._claims_due <= now:
            self._expire(now)
        for delivery in deliveries:
            hold: MemoryHold = delivery.token
            if self.taken.get(hold.number) is hold:
                suspect = hold.suspect and not (tried or cleared)
                self.give_back(hold, due, hold.attempt + tried, suspect=suspect)
        self.wake()

    def alone(self, delivery: Delivery, now: float) -> bool:
        if self._claims_due <= now:
            self._expire(now)
        hold: MemoryHold = delivery.token
        hold.alone = self.taken.get(hold.number) is hold
        return hold.alone

    def reclaim(self, owner: str, now: float) -> int:
        held = [hold for hold in self.taken.values() if hold.owner == owner and not hold.back]
        for hold in held:
            self.run_out(hold, min(hold.due, now))
        self.wake()
        return len(held)

    def extend(self, deliveries: Sequence[Delivery], now: float, due: float) -> None:
        if self._claims_due <= now:
            self._expire(now)
        for delivery in deliveries:
            hold: MemoryHold = delivery.token
            if self.taken.get(hold.number) is hold:
                hold.due = due
                self._claims_due = min(self._claims_due, due)

    def depth(self, now: float) -> Depth:
        if self._claims_due <= now:
            self._expire(now)
        times = [hold.event.time for hold in self.taken.values() if hold.back] if self._back else []
        if self.fresh:
            times += (self.fresh[0].time, self.fresh[-1].time)
        return Depth(
            published=self.published,
            settled=self.settled,
            waiting=len(self.fresh) + self._back,
            in_flight=len(self.taken) - self._back,
            oldest_at=min(times, default=None),
            newest_at=max(times, default=None),
        )

    def unsettled(self) -> list[Event]:
        return [*(self.taken[number].event for number in sorted(self.taken)), *self.fresh]

    async def wait(self, until: float) -> None:
        """Wait until something may have changed, or something is due, or the loop's time is `until`."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        due = min(heap[0][0] if heap else inf for heap in (self._again, self._suspects_later))
        timer = loop.call_at(min(until, due, self._claims_due), _wake, waiter)
        self._waiters[waiter] = None
        try:
            await waiter
        finally:
            timer.cancel()
            del self._waiters[waiter]

    def wake(self) -> None:
        for waiter in self._waiters:
            _wake(waiter)

    def _expire(self, now: float) -> None:
        self._claims_due = inf
        for hold in self.taken.values():
            if hold.back:
                continue
            if hold.due <= now:
                self.run_out(hold, hold.due)
            else:
                self._claims_due = min(self._claims_due, hold.due)

    def run_out(self, hold: MemoryHold, due: float) -> None:
        self.give_back(hold, due, hold.attempt + hold.alone, suspect=True)

    def give_back(self, hold: MemoryHold, due: float, attempt: int, *, suspect: bool) -> None:
        back = MemoryHold(hold.number, hold.event, attempt, due, True, suspect=suspect)
        self.taken[hold.number] = back
        self._back += 1
        heappush(self._suspects_later if suspect else self._again, (due, hold.number, back))


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class MemorySubscription:
    def __init__(self, broker: MemoryBroker, channel: Channel, visibility: float, owner: str) -> None:
        self._broker = broker
        self.channel = channel
        self._visibility = visibility
        self._owner = owner
        self._suspect_first = True
        self._attached: MemoryQueue | None = None

    async def __aenter__(self) -> MemorySubscription:
        self._attached = self._broker.queue_of(self.channel)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._attached = None

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        # a consumer in a loop must let others run; before the claim, so that a cancelled one takes nothing
        await asyncio.sleep(0)
        while True:
            queue = self.queue
            now = loop.time()
            due = now + self._visibility
            if got := queue.take(limit, now, due, self._owner, suspect_first=self._suspect_first):
                self._suspect_first = not got[0].suspect
                return got
            if now >= deadline:
                return []
            await queue.wait(deadline)

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        self.queue.settle(deliveries)

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None:
        now = asyncio.get_running_loop().time()
        self.queue.release(deliveries, now, now + delay, tried=tried, cleared=cleared)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        now = asyncio.get_running_loop().time()
        self.queue.extend(deliveries, now, now + self._visibility)

    async def alone(self, delivery: Delivery) -> bool:
        return self.queue.alone(delivery, asyncio.get_running_loop().time())

    @property
    def queue(self) -> MemoryQueue:
        queue = self._attached
        if queue is None:
            raise RuntimeError(f"the consumer of channel {self.channel} was left, or never entered")
        if queue.gone:
            raise ChannelGone(f"channel {self.channel} does not exist any more")
        return queue
