"""A consumer in a thread that reads many partitions forward and passes batches to the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from itertools import groupby
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ...display.text import said
from .options import LOGGER
from .reader import offset_of

Sink = Callable[[list[Message]], None]
"""Takes the next messages of one partition, in order, in the event loop."""
End = Callable[[int], None]
"""Called, in the same way, when nothing is left to read before an offset: the log may have left out some at the end."""
_Group = tuple[tuple[str, int], tuple[Sink, End | None] | None, list[Message] | int]
"""What was read of one partition, by which follower: messages, or the offset of its end."""

_BATCH = 2000  # messages that are passed on together, and roughly how many bytes
_BYTES = 1_000_000
_LOOK, _SELDOM = 0.02, 0.1  # s between two checks for requests to the thread, while no message comes
_KEPT = 3.0  # s for which a client without partitions stays connected
_LEFT_MOST = 32  # topics that a client has left: it goes on asking where they are, once a second
_STILL = 0.5  # s for which a full cache may keep the others from being read
_PATIENCE = 2.0  # s for which a new topic is asked for
_TOLD_AGAIN = 60.0  # s between two warnings that clients fail
_AGAIN = 1.0  # s before a client or a thread that could not be had is tried again


class Forward:
    """Reads partitions from given offsets on. Only its own thread calls the consumer's methods: that is not safe while
    another thread waits in `poll`. While it has no partition it has no connection and no thread. Belongs to the event
    loop that made it."""

    def __init__(self, config: dict[str, Any], name: str, *, prompt: bool) -> None:
        """`prompt`: begin at once with a partition that is added."""
        self._config = {**config, "enable.partition.eof": True}
        self._prompt = prompt
        self._look = _LOOK if prompt else _SELDOM
        self._loop = asyncio.get_running_loop()
        self._sinks: dict[tuple[str, int], tuple[Sink, End | None]] = {}
        self.assigned: dict[tuple[str, int], tuple[Sink, End | None]] = {}  # the same, as far as the thread is
        self._starts: dict[tuple[str, int], int] = {}  # behind what was passed on of them; the thread's own
        self._asked: deque[Callable[[Consumer], None]] = deque()
        self._room = threading.Semaphore(2)  # batches on their way to the loop
        self._closing = threading.Event()
        self._full: dict[tuple[str, int], float] = {}  # these are not to be read, since then; the thread's own
        self._paused: set[tuple[str, int]] = set()
        self.left: set[str] = set()
        """Topics that the client still knows. The thread's own, too."""
        self.renewed = 0
        """How often a client was replaced, to forget them."""
        self._signal = threading.Event()  # there is room again
        self._size = 1  # bytes of a message, recently
        self._name = name
        self._thread: threading.Thread | None = None
        """While it has partitions, and a little longer."""
        self._starting = threading.Lock()
        """Held to start the thread, and by the thread to end."""
        self._asks = 0
        """Questions to the cluster so far; the thread's own."""
        self._told = -math.inf
        """When the log had it last that a client failed."""

    def follow(self, topic: str, partition: int, offset: int, sink: Sink, end: End | None = None) -> None:
        """Read this partition from `offset` on."""
        self._sinks[topic, partition] = follower = sink, end

        def assign(consumer: Consumer) -> None:
            # without it the consumer learns of a new topic only at its next regular check; but it waits for the answer
            # to the fetch under way
            if self._prompt and not any(topic == known for known, _ in self.assigned):
                self._asks += 1
                with contextlib.suppress(KafkaException):
                    consumer.list_topics(topic, timeout=_PATIENCE)
            self.assigned[topic, partition], self._starts[topic, partition] = follower, offset
            consumer.incremental_assign([TopicPartition(topic, partition, offset)])
            self._full.pop((topic, partition), None)
            self._paused.discard((topic, partition))
            consumer.resume([TopicPartition(topic, partition)])  # a pause outlives its assignment

        self._asked.append(assign)
        self._wake()

    def follows(self, topic: str, partition: int) -> bool:
        """Whether it reads this partition, or is about to."""
        return (topic, partition) in self._sinks

    def leave(self, topic: str, partition: int) -> None:
        """Stop reading it."""

        def unassign(consumer: Consumer) -> None:
            self.assigned.pop((topic, partition), None)
            self._starts.pop((topic, partition), None)
            self._full.pop((topic, partition), None)
            self._paused.discard((topic, partition))
            self.left.add(topic)
            consumer.incremental_unassign([TopicPartition(topic, partition)])

        if self._sinks.pop((topic, partition), None) is not None:
            self._asked.append(unassign)
            self._wake()

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Go on from `offset`. Messages that were read before may still be passed on."""

        def seek(consumer: Consumer) -> None:
            if (topic, partition) in self.assigned:
                self._starts[topic, partition] = offset
                consumer.seek(TopicPartition(topic, partition, offset))

        self._asked.append(seek)

    def hold(self, topic: str, partition: int) -> None:
        """Read no more of it for now. First nothing at all is read, since pausing a partition discards what the client
        has fetched of it; if this lasts, it is paused and the others go on."""

        def full(consumer: Consumer) -> None:
            if (topic, partition) in self.assigned and (topic, partition) not in self._paused:
                self._full.setdefault((topic, partition), time.monotonic())

        self._asked.append(full)

    def go_on(self, topic: str, partition: int) -> None:
        """Read it again."""

        def room(consumer: Consumer) -> None:
            self._full.pop((topic, partition), None)
            if (topic, partition) in self._paused:
                self._paused.discard((topic, partition))
                consumer.resume([TopicPartition(topic, partition)])

        self._asked.append(room)
        self._signal.set()

    async def close(self) -> None:
        """End the thread and the consumer."""
        self._closing.set()
        self._room.release()
        self._signal.set()
        if (thread := self._thread) is not None:
            await asyncio.to_thread(thread.join)

    def _wake(self) -> None:
        """Have the thread see what it is asked for; start it if it has ended."""
        with self._starting:
            self._signal.set()
            if self._thread is not None or self._closing.is_set():
                return
            thread = threading.Thread(target=self._run, name=self._name, daemon=True)
            try:
                thread.start()
            except RuntimeError as e:  # the system has none left
                LOGGER.warning("a thread for a Kafka consumer could not be started, and is tried again: %s", e)
                self._loop.call_later(_AGAIN, self._wake)
            else:
                self._thread = thread

    def _run(self) -> None:
        while True:
            try:
                self._read_while_needed()
            except Exception as e:  # noqa: BLE001 - it reads for several owners, who would never hear of it
                if self._loop.is_closed():
                    return
                self._tell(e)
                self._closing.wait(_AGAIN)
            with self._starting:
                if self._closing.is_set() or not (self._asked or self.assigned):
                    self._thread = None
                    return

    def _tell(self, error: Exception) -> None:
        """A client failed. Perhaps each one does."""
        now, level = time.monotonic(), logging.DEBUG
        if now >= self._told + _TOLD_AGAIN:
            self._told, level = now, logging.WARNING
        is_ours = not isinstance(error, KafkaException)
        LOGGER.log(level, "a Kafka consumer failed, and another one is made: %s", said(error), exc_info=is_ours)

    def _read_while_needed(self) -> None:
        """Until there has been no partition for a while."""
        consumer = Consumer(self._config)
        try:
            self._go_on_with(consumer)
            needed = time.monotonic()
            while not self._closing.is_set() and time.monotonic() < needed + _KEPT:
                self._turn(consumer)
                if self.assigned or self._asked:
                    needed = time.monotonic()
                if len(self.left) > _LEFT_MOST:
                    consumer = self._renewed(consumer)
        finally:
            self.left.clear()
            with contextlib.suppress(KafkaException):
                consumer.close()

    def _go_on_with(self, consumer: Consumer) -> None:
        """Have it read what the one before has read, from there on."""
        if self.assigned:
            consumer.assign([TopicPartition(*at, self._starts[at]) for at in self.assigned])
        if self._paused:
            consumer.pause([TopicPartition(*at) for at in self._paused])

    def _renewed(self, old: Consumer) -> Consumer:
        """Another consumer that reads the same, and knows no other topics."""
        self.left -= {topic for topic, _ in self.assigned}
        if len(self.left) <= _LEFT_MOST:
            return old
        try:
            new = Consumer(self._config)
        except KafkaException as e:
            LOGGER.debug("a Kafka consumer could not be replaced: %s", e)
            return old
        old.close()
        self._go_on_with(new)
        self.left.clear()
        self.renewed += 1
        return new

    def _turn(self, consumer: Consumer) -> None:
        asks = self._asks
        while self._asked and self._asks == asks and not self._closing.is_set():  # a question may take long
            try:
                self._asked.popleft()(consumer)
            except KafkaException as e:  # the partition is gone meanwhile, or not there yet
                LOGGER.debug("a Kafka consumer could not change what it reads: %s", e)
        if self._full and self._stands_still(consumer):
            return
        first = consumer.poll(0 if self._asked else self._look)
        if first is None:
            return
        size = max(self._size, len(first) if first.error() is None else 0)
        batch = [first, *consumer.consume(max(1, min(_BATCH, _BYTES // size)), 0)]
        self._size = 1 + sum(map(len, batch)) // len(batch)
        groups: list[_Group] = []
        for (at, sound), some in groupby(batch, lambda m: (_place(m), m.error() is None)):
            follower = self.assigned.get(at)
            if sound:
                groups.append((at, follower, list(some)))
            else:
                groups += [(at, follower, end) for message in some if (end := _end(message)) is not None]
        for at, follower, read in groups:  # before they are handed over: then their owners take from them
            if follower is not None:
                self._starts[at] = read if isinstance(read, int) else offset_of(read[-1]) + 1
        if groups:
            self._room.acquire()
            if not self._closing.is_set():
                self._loop.call_soon_threadsafe(self._hand_over, groups)

    def _stands_still(self, consumer: Consumer) -> bool:
        """Wait a moment for room; or, if there was none for long and others could be read, pause what is full."""
        starved = len(self._full) + len(self._paused) < len(self.assigned)
        if not starved or time.monotonic() - min(self._full.values()) < _STILL:
            self._signal.wait(self._look)
            self._signal.clear()
            return True
        for topic, partition in self._full:
            with contextlib.suppress(KafkaException):
                consumer.pause([TopicPartition(topic, partition)])
        self._paused.update(self._full)
        self._full.clear()
        return False

    def _hand_over(self, groups: list[_Group]) -> None:
        self._room.release()
        for group in groups:  # each by itself: an owner that fails costs the others nothing
            self._loop.call_soon(self._pass_on, *group)

    def _pass_on(
        self, at: tuple[str, int], follower: tuple[Sink, End | None] | None, read: list[Message] | int
    ) -> None:
        if follower is None or self._sinks.get(at) is not follower:  # left meanwhile, and perhaps followed anew
            return
        sink, end = follower
        if not isinstance(read, int):
            sink(read)
        elif end:
            end(read)


class ForwardPool:
    """Clients of one kind for several owners. A client reads a partition from one offset on: what several owners read
    is read by as many clients. Belongs to the event loop that made it."""

    def __init__(self, config: dict[str, Any], name: str, *, prompt: bool) -> None:
        """As `Forward`."""
        self._new = partial(Forward, config, name, prompt=prompt)
        self._clients: list[Forward] = []

    def follow(self, topic: str, partition: int, offset: int, sink: Sink, end: End | None = None) -> Forward:
        """Read this partition from `offset` on. Returns the client that does so, which is to be told to leave it."""
        client = next((client for client in self._clients if not client.follows(topic, partition)), None)
        if client is None:
            client = self._new()
            self._clients.append(client)
        client.follow(topic, partition, offset, sink, end)
        return client

    async def close(self) -> None:
        """End the threads and the clients."""
        await asyncio.gather(*(client.close() for client in self._clients))


def _place(message: Message) -> tuple[str, int]:
    return message.topic(), message.partition()  # type: ignore[return-value]


def _end(message: Message) -> int | None:
    """The offset that was read to, if the consumer reports it here."""
    error = message.error()
    if error is not None and error.code() == KafkaError._PARTITION_EOF:
        return message.offset()
    LOGGER.debug("a Kafka consumer says: %s", error)
    return None
