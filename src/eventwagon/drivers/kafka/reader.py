"""Reads given pieces of partitions."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ...background import Background
from ...errors import Unavailable
from .admin import Admin
from .errors import absent, cause

Spot = tuple[str, int, int]
"""Topic, partition, offset."""

_ROOM = 8_000_000  # bytes of messages that are read in one call
_READERS = 4  # that several owners share: each is a client with threads and connections of its own
_KEPT = 5.0  # s for which a consumer that is not used stays connected
_FAR = 2000  # if the gap between two wanted offsets is larger, seeking is cheaper than reading on


class Reader:
    """Reads by position, one piece at a time. It fetches nothing between two calls."""

    def __init__(self, admin: Admin, config: dict[str, Any]) -> None:
        self._admin = admin
        self._config = {**config, "enable.partition.eof": True}
        self._lock = asyncio.Lock()
        self._consumer: Consumer | None = None
        self._stop = threading.Event()
        self._known: set[tuple[str, int]] = set()  # partitions that the consumer knows
        self._timer: asyncio.TimerHandle | None = None
        self._background = Background()

    async def range(
        self, topic: str, partition: int, start: int, stop: int, most: int = 5000, room: int = _ROOM
    ) -> list[Message]:
        """The existing messages from `start` to before `stop` (up to `most` of them, of about `room` bytes). An empty
        list means that there is none, or no topic. Raises Unavailable; a deleted topic is noticed only by its
        timeout."""
        found: list[Message] = await self._read(
            lambda consumer: self._range(consumer, topic, partition, start, stop, most, room), topic
        )
        return found

    async def these(self, topic: str, partition: int, offsets: Sequence[int]) -> list[Message]:
        """The existing messages at these offsets (sorted). Raises Unavailable."""

        def read(consumer: Consumer) -> list[Message]:
            found: list[Message] = []
            wanted, i = set(offsets), 0
            while i < len(offsets):
                j = i
                while j + 1 < len(offsets) and offsets[j + 1] - offsets[j] < _FAR:
                    j += 1
                start = offsets[i]
                while start <= offsets[j]:
                    some = self._range(consumer, topic, partition, start, offsets[j] + 1, 5000, _ROOM)
                    if not some:
                        break
                    found += [m for m in some if m.offset() in wanted]
                    start = offset_of(some[-1]) + 1
                i = j + 1
            return found

        return list(await self._read(read, topic))

    async def single(self, spots: Sequence[Spot]) -> dict[Spot, Message]:
        """The existing messages at these places, in many topics at once. Raises Unavailable."""

        def read(consumer: Consumer) -> dict[Spot, Message]:
            found: dict[Spot, Message] = {}
            left = list(spots)
            while left and not self._stop.is_set():
                turn = {(topic, partition): offset for topic, partition, offset in reversed(left)}
                found |= self._single(consumer, turn)
                left = [spot for spot in left if turn[spot[0], spot[1]] != spot[2]]
            return found

        found: dict[Spot, Message] = await self._read(read, spots[0][0])
        return found

    async def close(self) -> None:
        """End the reads in progress, and the consumer."""
        self._stop.set()
        await self._let_go()
        await self._background.wait()

    async def _let_go(self) -> None:
        async with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            consumer, self._consumer = self._consumer, None
            self._known.clear()
            if consumer is not None:
                await self._admin.blocking(consumer.close)

    async def _read(self, read: Any, topic: str) -> Any:
        async with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            job = asyncio.ensure_future(self._admin.blocking(self._with_consumer, read))
            try:
                found = await asyncio.shield(job)
            except asyncio.CancelledError:
                await asyncio.wait([job])  # one thread at a time uses the consumer
                if not job.cancelled():
                    job.exception()  # nobody waits for it
                raise
            except KafkaException as e:
                error = cause(e)
                if absent(error):
                    # may be the client's own view, while leaders change: what exists must not pass for empty
                    if await self._admin.describe(topic) is None:
                        return []
                    raise Unavailable(
                        f"Kafka at {self._admin.options.servers}: topic {topic} could not be read: {error.str()} "
                        f"({error.name()}), but it exists: try again"
                    ) from None
                raise self._admin.trouble(error, "READ", f"topic {topic}") from None
            finally:
                if not self._stop.is_set():
                    loop = asyncio.get_running_loop()
                    self._timer = loop.call_later(_KEPT, lambda: self._background.start(self._let_go()))
            return found

    def _with_consumer(self, read: Any) -> Any:
        if self._consumer is None:
            self._consumer = Consumer(self._config)
        try:
            return read(self._consumer)
        finally:
            self._consumer.unassign()

    def _single(self, consumer: Consumer, wanted: dict[tuple[str, int], int]) -> dict[Spot, Message]:
        for topic in {topic for topic, _ in wanted.keys() - self._known}:
            consumer.list_topics(topic, timeout=self._admin.options.timeout)
        self._known.update(wanted)
        consumer.assign([TopicPartition(topic, partition, offset) for (topic, partition), offset in wanted.items()])
        found: dict[Spot, Message] = {}
        left = set(wanted)
        until = time.monotonic() + 1.0
        while left and time.monotonic() < until:
            for message in (first, *consumer.consume(100, 0)) if (first := consumer.poll(0.05)) is not None else ():
                at: tuple[str, int] = (message.topic(), message.partition())  # type: ignore[assignment]
                if at in left:
                    left.discard(at)
                    if message.error() is None and message.offset() == wanted[at]:
                        found[*at, wanted[at]] = message
        return found

    def _range(
        self, consumer: Consumer, topic: str, partition: int, start: int, stop: int, most: int, room: int
    ) -> list[Message]:
        consumer.list_topics(
            topic, timeout=self._admin.options.timeout
        )  # otherwise it learns of a new topic only in a second
        consumer.assign([TopicPartition(topic, partition, start)])
        found: list[Message] = []
        deadline = time.monotonic() + self._admin.options.timeout
        while start < stop and len(found) < most and room > 0 and not self._stop.is_set():
            first = consumer.poll(0.05)
            if time.monotonic() > deadline:  # checked here too: errors may come without end
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"nothing came from offset {start}"))
            if first is None:
                continue
            for message in (first, *consumer.consume(_next(first, most, room), 0)):
                error = message.error()
                if error is not None:
                    if error.code() == KafkaError._PARTITION_EOF:
                        start = max(start, offset_of(message))  # what is missing at the end has no message
                    elif error.fatal() or absent(error):
                        raise KafkaException(error)
                    else:
                        time.sleep(0.02)
                    continue
                start = offset_of(message) + 1
                if start <= stop:
                    found.append(message)
                    room -= len(message)
        return found


class ReaderPool:
    """A few readers for several owners. A read waits for others only while all readers read."""

    def __init__(self, admin: Admin, config: dict[str, Any]) -> None:
        """As `Reader`."""
        self._new = partial(Reader, admin, config)
        self._readers: list[Reader] = []
        self._free: list[Reader] = []
        self._turn = asyncio.Semaphore(_READERS)
        self._where = admin.options.servers
        self._closed = False

    async def range(self, topic: str, partition: int, start: int, stop: int, most: int = 5000) -> list[Message]:
        """As `Reader.range`."""
        async with self._one() as reader:
            return await reader.range(topic, partition, start, stop, most)

    async def these(self, topic: str, partition: int, offsets: Sequence[int]) -> list[Message]:
        """As `Reader.these`."""
        async with self._one() as reader:
            return await reader.these(topic, partition, offsets)

    @asynccontextmanager
    async def _one(self) -> AsyncIterator[Reader]:
        """A reader that reads nothing now. Raises Unavailable after `close`."""
        async with self._turn:
            if self._closed:
                raise Unavailable(f"Kafka at {self._where}: the connection is closed")
            if not self._free:
                self._free.append(self._new())
                self._readers.append(self._free[-1])
            reader = self._free.pop()
            try:
                yield reader
            finally:
                self._free.append(reader)

    async def close(self) -> None:
        """End the reads in progress, and the consumers."""
        self._closed = True
        await asyncio.gather(*(reader.close() for reader in self._readers))


def offset_of(message: Message) -> int:
    """Where it is stored."""
    offset = message.offset()
    assert offset is not None  # noqa: S101
    return offset


def _next(first: Message, most: int, room: int) -> int:
    """How many more messages to request, if they are about as large as this one."""
    size = len(first) if first.error() is None else 0
    return max(1, min(most, room // (4 * (size + 1))))
