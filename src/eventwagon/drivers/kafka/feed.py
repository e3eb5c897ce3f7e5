"""One channel's messages, as one process reads them: forward, once, into a bounded cache."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from confluent_kafka import Message

from ...errors import ChannelGone, Unavailable
from ...event import Channel
from .claims import ChannelClaims, Grant, WagonClaims
from .proposals import Run
from .reader import Reader
from .tail import Tail

_EACH = 600  # bytes that a message takes besides its value, roughly: headers and objects
_FAR = 5000  # if others have claimed more offsets than this, seeking is cheaper than reading on
_FIRST = 1000  # messages that are read in one call when a consumer attaches


class Taken(NamedTuple):
    """The result of a claim: messages with their attempt and claim, and offsets without a message."""

    messages: list[tuple[Message, int, int]]
    missing: list[tuple[int, int]]


class PartitionFeed:
    """One partition, read forward. `position` is the offset after the last one seen."""

    def __init__(self, number: int, position: int) -> None:
        self.number = number
        self.position = position
        self.cache: dict[int, Message] = {}
        """Read, and not claimed yet."""
        self.held: dict[int, Message] = {}
        """Claimed by this process and not settled: kept for a retry while there is room."""
        self.cached = 0
        self.kept = 0
        self.paused = False

    def keep(self, messages: Sequence[Message], most: int) -> None:
        """Keep what was claimed; the oldest is dropped first."""
        held = self.held
        for message in messages:
            offset: int = message.offset()  # type: ignore[assignment]
            if offset not in held:
                held[offset] = message
                self.kept += len(message) + _EACH
        while self.kept > most and held:
            self.kept -= len(held.pop(next(iter(held)))) + _EACH

    def forget(self, runs: Iterable[Run]) -> None:
        """These are settled."""
        for partition, start, stop in runs:
            if partition == self.number and self.held:
                gone = [m for offset in range(start, stop) if (m := self.held.pop(offset, None)) is not None]
                self.kept -= sum(map(len, gone)) + _EACH * len(gone)

    def drop(self, start: int, stop: int) -> None:
        """Other processes have claimed these: drop them."""
        if not self.cache:
            return
        for offset in range(start, stop):
            if (message := self.cache.pop(offset, None)) is not None:
                self.cached -= len(message) + _EACH


class Feed:
    """The partitions of one channel, and the tasks that wait for events from them."""

    def __init__(
        self,
        channel: Channel,
        topic: str,
        partitions: int,
        claims: WagonClaims,
        tail: Tail,
        reader: Reader,
        room: Callable[[], int],
    ) -> None:
        self.channel = channel
        self.topic = topic
        self.users = 0
        self.asked = 0
        """Events that are being claimed right now."""
        self.gone = False
        self.missed = 0
        """How many checks in a row did not find the topic."""
        self.partition_count = partitions
        self._wagon = claims
        self._tail = tail
        self._reader = reader
        self._room = room
        self.partitions: list[PartitionFeed] = []
        self._waiters: dict[asyncio.Future[None], None] = {}

    async def start(self, ends: Sequence[int]) -> None:
        """Begin to read at the first unclaimed event; `ends` are the present ends of each partition."""
        for number in range(self.partition_count):
            partition = PartitionFeed(number, self._claims().partition(number).fresh)
            self.partitions.append(partition)
            if partition.position < ends[number]:
                stop = min(ends[number], partition.position + _FIRST)
                room = self._room() // self.partition_count
                with contextlib.suppress(Unavailable):  # then the tail reads it when it can
                    first = await self._reader.range(self.topic, number, partition.position, stop, _FIRST, room)
                    self._take_in(partition, first)
        for partition in self.partitions:
            self._tail.follow(
                self.topic,
                partition.number,
                partition.position,
                partial(self._read, partition),
                partial(self._read_to, partition),
            )
            if partition.paused:  # requested before the tail had it
                self._tail.pause(self.topic, partition.number)

    def stop(self) -> None:
        """Stop reading it."""
        for partition in self.partitions:
            self._tail.leave(self.topic, partition.number)
        self.partitions.clear()

    def end(self) -> None:
        """The channel is gone: the waiting tasks raise that."""
        self.gone = True
        self.stop()
        self.wake()

    def check(self) -> None:
        """Raise ChannelGone if the channel is gone."""
        if self.gone:
            raise ChannelGone(f"channel {self.channel} does not exist any more")

    def ends(self) -> list[tuple[int, int]]:
        """How far each partition was seen."""
        return [(partition.number, partition.position) for partition in self.partitions]

    def available(self, now: int) -> bool:
        """Whether there seems to be an event to claim, beyond those in claims under way."""
        claims = self._claims()
        fresh = sum(
            max(0, partition.position - claims.partition(partition.number).fresh) for partition in self.partitions
        )
        if claims.due() <= now:
            fresh += claims.waiting_again(now)
        return fresh > self.asked

    def due(self) -> float:
        """The log's time in ms at which an event comes back."""
        return self._claims().due()

    async def wait(self, seconds: float) -> None:
        """Wait until something may have changed, or for this many seconds."""
        loop = asyncio.get_running_loop()
        waiter = loop.create_future()
        timer = loop.call_later(max(0.0, seconds), _wake, waiter)
        self._waiters[waiter] = None
        try:
            await waiter
        finally:
            timer.cancel()
            del self._waiters[waiter]

    def wake(self) -> None:
        """Something changed."""
        for waiter in self._waiters:
            _wake(waiter)

    # --- what comes -------------------------------------------------------------------------

    def _claims(self) -> ChannelClaims:
        return self._wagon.channel(self.channel.name)

    def _read(self, partition: PartitionFeed, messages: list[Message]) -> None:
        if self.partitions and self._take_in(partition, messages):
            self.wake()

    def _read_to(self, partition: PartitionFeed, end: int) -> None:
        """Nothing is left to read before `end`. Offsets left out there have no message, but must be claimed like
        one."""
        if self.partitions and end > partition.position:
            partition.position = end
            self.wake()

    def _take_in(self, partition: PartitionFeed, messages: list[Message]) -> bool:
        fresh = max(partition.position, self._claims().partition(partition.number).fresh)
        numbered: list[tuple[int, Message]] = [(m.offset(), m) for m in messages]  # type: ignore[misc]
        if not numbered or numbered[-1][0] < partition.position:
            return False
        last = numbered[-1][0]
        if numbered[0][0] < fresh:
            numbered = [one for one in numbered if one[0] >= fresh]
            messages = [message for _, message in numbered]
        partition.cache.update(numbered)
        partition.cached += sum(map(len, messages)) + _EACH * len(messages)
        partition.position = last + 1
        self._mind_room(partition)
        return True

    def _mind_room(self, partition: PartitionFeed) -> None:
        room = self._room() // max(1, len(self.partitions))
        if not partition.paused and partition.cached > room:
            partition.paused = True
            self._tail.pause(self.topic, partition.number)
        elif partition.paused and partition.cached <= room // 2:
            partition.paused = False
            self._tail.resume(self.topic, partition.number)

    # --- what is claimed ----------------------------------------------------------------------

    def claimed_by_others(self, grants: Sequence[Grant]) -> None:
        """Other processes have claimed these: drop them."""
        for grant in grants:
            if grant.partition >= len(self.partitions):
                continue
            partition = self.partitions[grant.partition]
            partition.drop(grant.start, grant.stop)
            if grant.stop - partition.position > _FAR:
                partition.position = grant.stop
                self._tail.seek(self.topic, partition.number, grant.stop)
            self._mind_room(partition)

    async def take(self, grants: Sequence[Grant]) -> Taken:
        """The messages of the granted offsets: from the cache, or read again. Raises Unavailable, ChannelGone."""
        self.check()
        messages: list[tuple[Message, int, int]] = []
        again: list[tuple[Grant, list[int]]] = []
        for grant in grants:
            partition, (_, start, stop, attempt, claim, _) = self.partitions[grant.partition], grant
            pop, held = partition.cache.pop, partition.held
            here = [pop(offset, None) for offset in range(start, stop)]
            cached = [message for message in here if message is not None]
            partition.cached -= sum(map(len, cached)) + _EACH * len(cached)
            if len(cached) < len(here):
                wanted = [start + i for i, message in enumerate(here) if message is None]
                cached += [held[offset] for offset in wanted if offset in held]
                if away := [offset for offset in wanted if offset not in held]:
                    again.append((grant, away))
            messages += [(message, attempt, claim) for message in cached]
        missing: list[tuple[int, int]] = []
        for grant, offsets in again:
            found = await self._reader.these(self.topic, grant.partition, offsets)
            messages += [(m, grant.attempt, grant.claim) for m in found]
            missing += [(grant.partition, o) for o in sorted(set(offsets).difference(m.offset() for m in found))]
        self.check()
        keep = self._room() // max(1, len(self.partitions))
        for partition in self.partitions:
            partition.keep(
                [m for m, _, _ in messages if len(self.partitions) == 1 or m.partition() == partition.number], keep
            )
            self._mind_room(partition)
        return Taken(messages, missing)

    def lost(self, runs: Sequence[Run]) -> None:
        """These are not handed out any more."""
        for partition in self.partitions:
            for p, start, stop in runs:
                if p == partition.number:
                    partition.drop(start, stop)
            self._mind_room(partition)
        self.wake()

    def settled(self, runs: Sequence[Run]) -> None:
        """These need not be kept any more."""
        for partition in self.partitions:
            partition.forget(runs)


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
