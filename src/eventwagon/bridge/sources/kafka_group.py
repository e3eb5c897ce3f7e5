"""A member of a Kafka consumer group, in a thread of its own: librdkafka's calls block."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from confluent_kafka import OFFSET_INVALID, Consumer, KafkaError, KafkaException, Message, TopicPartition

from ...backoff import Backoff
from ...display.text import said
from ...drivers.kafka.errors import cause
from ..source import Begin

_MOST, _MOST_BYTES = 4000, 16_000_000
"""Records that are read ahead, and their bytes."""
_TAKEN = 500
_FULL = 1.0
"""Seconds for which a full buffer only keeps the thread from reading. After that the partitions are paused, which
discards what the client has fetched, and the thread polls again: a member that does not poll is thrown out."""
_BUSY, _IDLE = 0.005, 0.1
"""Seconds for which the thread waits for records while somebody may want to commit, and otherwise."""
_FINISH = 20.0
"""Seconds that a batch has to be finished when its partition is taken away."""
_CALL = 10.0
_AGAIN = 1.0
"""Seconds between two looks whether the servers are back."""
_DOWN = (KafkaError._ALL_BROKERS_DOWN, KafkaError._AUTHENTICATION)
_OVER = (KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID, KafkaError.FENCED_INSTANCE_ID)
"""The group has gone on without this member: until it has joined again nothing can be committed."""
_NO_COORDINATOR = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
)
_PAUSES = 0.05, 1.0
"""The first and the longest pause, in seconds, before a coordinator is asked again."""
_logger = logging.getLogger("eventwagon.bridge")


class Arrived(msgspec.Struct, frozen=True, gc=False):
    """A message, its place, and which time it is that its partition is assigned to this member."""

    message: Message
    partition: int
    offset: int
    turn: int

    @property
    def time(self) -> float:
        """Its timestamp, in seconds since the epoch."""
        return self.message.timestamp()[1] / 1000


class Member:
    """Joins the group when it is started, and stays in it until `leave`. Its public methods belong to the event loop
    that made it; partitions are named by their numbers."""

    def __init__(self, config: Mapping[str, Any], topic: str, begin: Begin, name: str) -> None:
        self._config, self._topic, self._begin, self._name = config, topic, begin, name
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        """Held to hand records out, and to take partitions away."""
        self._buffer: deque[Arrived] = deque()
        self._bytes = 0
        self._some = asyncio.Event()
        self._turns: dict[int, int] = {}
        """The partitions that are assigned, and which turn of theirs it is."""
        self._leaving: set[int] = set()
        """Those that are being taken away: nothing more of them is handed out."""
        self._out: dict[int, dict[int, Arrived]] = {}
        """What was handed out and is not committed, by partition and offset."""
        self._committed: dict[int, int] = {}
        self._turn = 0
        self._is_over = False
        self._asked: deque[Callable[[Consumer], None]] = deque()
        self._wanted = threading.Event()
        self._paused = False
        self._full_since: float | None = None
        self._looked = 0.0
        self._closing = threading.Event()
        self._ended = asyncio.Event()
        self.trouble: KafkaError | None = None
        """Why nothing can be read now."""
        threading.Thread(target=self._run, name=f"eventwagon-bridge-{topic}", daemon=True).start()

    # --- for the event loop -------------------------------------------------------------------

    async def take(self, limit: int, wait: float) -> Sequence[Arrived]:
        """The next messages, handed out; [] after `wait` seconds, or at once if there is trouble."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while not (taken := self._take(limit)) and (left := until - loop.time()) > 0 and self.trouble is None:
            self._some.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _IDLE)):
                    await self._some.wait()
        return taken

    def _take(self, limit: int) -> list[Arrived]:
        taken: list[Arrived] = []
        buffer, turns, leaving, out = self._buffer, self._turns, self._leaving, self._out
        with self._lock:
            while buffer and len(taken) < limit:
                one = buffer.popleft()
                self._bytes -= len(one.message)
                if turns.get(one.partition) == one.turn and one.partition not in leaving:
                    out[one.partition][one.offset] = one
                    taken.append(one)
        return taken

    async def commit(self, done: Sequence[Arrived]) -> None:
        """Commit these, which were taken in this order. Those of another turn are passed over. Raises KafkaException,
        TimeoutError."""
        future: asyncio.Future[None] = self._loop.create_future()

        def commit(consumer: Consumer) -> None:
            ours = [one for one in done if self._turns.get(one.partition) == one.turn]
            try:
                self._commit(consumer, {one.partition: one.offset + 1 for one in ours})
            except KafkaException as e:
                self._is_over = cause(e).code() in _OVER
                self._call_back(_fail, future, e)
            else:
                with self._lock:
                    for one in ours:
                        self._out.get(one.partition, {}).pop(one.offset, None)
                self._call_back(_succeed, future)

        self._asked.append(commit)
        self._wanted.set()
        async with asyncio.timeout(2 * _CALL):
            await future

    @property
    def positions(self) -> dict[int, int]:
        """The offset up to which each assigned partition is committed."""
        return {partition: self._committed[partition] for partition in self._turns if partition in self._committed}

    @property
    def oldest(self) -> float | None:
        """The time of the oldest record that is held."""
        with self._lock:
            first = [next(iter(out.values())) for out in self._out.values() if out]
            first += [self._buffer[0]] if self._buffer else []
        return min([one.time for one in first], default=None)

    async def leave(self) -> None:
        """Leave the group, and end the thread."""
        self._closing.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(2 * _CALL):
                await self._ended.wait()

    # --- the thread ---------------------------------------------------------------------------

    def _run(self) -> None:
        backoff = Backoff(0.2, 30.0)
        while not self._closing.is_set():
            try:
                self._serve(backoff)
            except Exception as e:  # noqa: BLE001 - the thread must not end unnoticed
                is_known = isinstance(e, KafkaException)
                self._in_trouble(cause(e) if is_known else KafkaError(KafkaError._FAIL, said(e)))
                self._closing.wait(backoff.next())
        self._call_back(self._ended.set)

    def _serve(self, backoff: Backoff) -> None:
        consumer = Consumer({**self._config, "error_cb": self._on_error})
        try:
            consumer.subscribe(
                [self._topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            while not self._closing.is_set():
                self._answer(consumer)
                if self._is_held_back(consumer):
                    self._wanted.wait(_BUSY)
                    continue
                messages = consumer.consume(_TAKEN, _BUSY if any(self._out.values()) else _IDLE)
                if messages:
                    self._arrive(messages, backoff)
                if self.trouble is not None:
                    self._look(consumer)
        finally:
            consumer.close()  # calls on_revoke
            if self._turns:
                self._drop(set(self._turns))

    def _answer(self, consumer: Consumer) -> None:
        self._wanted.clear()
        while self._asked:
            self._asked.popleft()(consumer)

    def _is_held_back(self, consumer: Consumer) -> bool:
        """Whether to read nothing now, as there is no room."""
        if len(self._buffer) < _MOST and self._bytes < _MOST_BYTES:
            self._full_since = None
            if self._paused:
                consumer.resume(self._assigned())
                self._paused = False
            return False
        now = time.monotonic()
        self._full_since = self._full_since or now
        if now - self._full_since < _FULL:
            return True
        if not self._paused:
            consumer.pause(self._assigned())
            self._paused = True
        return False  # paused partitions give nothing; the poll keeps us in the group

    def _assigned(self) -> list[TopicPartition]:
        return [TopicPartition(self._topic, partition) for partition in self._turns]

    def _arrive(self, messages: Sequence[Message], backoff: Backoff) -> None:
        arrived: list[Arrived] = []
        for message in messages:
            if (error := message.error()) is not None:
                if error.fatal():
                    raise KafkaException(error)
                if error.code() != KafkaError._PARTITION_EOF:
                    self._in_trouble(error)
                continue
            partition, offset = place_of(message)
            if (turn := self._turns.get(partition)) is not None:
                self.trouble = None
                arrived.append(Arrived(message, partition, offset, turn))
        if arrived:
            backoff.reset()
            with self._lock:
                self._buffer += arrived
                self._bytes += sum([len(one.message) for one in arrived])
        self._call_back(self._some.set)

    # --- partitions come and go ---------------------------------------------------------------

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        starts = self._starts(consumer, partitions)
        places = [TopicPartition(self._topic, partition, offset) for partition, offset in starts.items()]
        if "cooperative" in self._config.get("partition.assignment.strategy", ""):
            consumer.incremental_assign(places)
        else:
            consumer.assign(places)
        self._turn += 1
        self._committed.update(starts)
        with self._lock:
            for partition in starts:
                self._turns[partition] = self._turn
                self._leaving.discard(partition)
                self._out[partition] = {}
        consumer.resume(self._assigned())  # also those that stay: if there is no room yet, all are paused again
        self._paused = False
        numbers = ", ".join(map(str, sorted(starts))) or "none"
        _logger.info("bridge from %s: partitions assigned: %s", self._name, numbers)

    def _starts(self, consumer: Consumer, partitions: Sequence[TopicPartition]) -> dict[int, int]:
        """Where to begin. A partition without a position gets one at once, so that a crash changes nothing about it."""
        starts, new = dict[int, int](), dict[int, int]()
        for one in committed(consumer, [TopicPartition(self._topic, p.partition) for p in partitions]):
            first, end = watermarks(consumer, one)
            if one.offset >= 0:
                if not first <= one.offset <= end:
                    _logger.warning(
                        "bridge from %s: partition %d has records from %d to %d, and the group stands at %d: what was "
                        "between is deleted (retention), or the topic was made anew; it begins at %d",
                        self._name,
                        one.partition,
                        first,
                        end,
                        one.offset,
                        first,
                    )
                starts[one.partition] = one.offset if first <= one.offset <= end else first
                continue
            new[one.partition] = starts[one.partition] = begin_at(consumer, one, self._begin, first, end)
        if starts:
            self._begin = "earliest"  # a partition that is new from now on was added: all of it is
        if new:
            self._commit(consumer, new)
            text = ", ".join(f"{partition} at {offset}" for partition, offset in sorted(new.items()))
            _logger.info("bridge from %s: partitions new to the group: %s", self._name, text)
        return starts

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """Wait until what was handed out is committed. While closing nobody commits any more."""
        numbers = {one.partition for one in partitions}
        with self._lock:
            self._leaving |= numbers
        until, self._is_over = time.monotonic() + _FINISH, False
        while any(self._out.get(number) for number in numbers) and time.monotonic() < until:
            if self._closing.is_set() or self._is_over:
                break
            self._answer(consumer)
            self._wanted.wait(_BUSY)
        self._drop(numbers)

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        _logger.warning("bridge from %s: it was out of its group: what it holds comes again elsewhere", self._name)
        self._drop({one.partition for one in partitions})

    def _drop(self, numbers: set[int]) -> None:
        left = 0
        with self._lock:
            for number in numbers:
                self._turns.pop(number, None)
                left += len(self._out.pop(number, {}))
            self._leaving -= numbers
        if not self._closing.is_set():
            _logger.info("bridge from %s: partitions given up: %s", self._name, ", ".join(map(str, sorted(numbers))))
        if left:
            _logger.warning("bridge from %s: %d records were not finished in time, and come again", self._name, left)

    def _commit(self, consumer: Consumer, offsets: Mapping[int, int]) -> None:
        if not offsets:
            return
        places = [TopicPartition(self._topic, partition, offset) for partition, offset in offsets.items()]
        for one in consumer.commit(offsets=places, asynchronous=False) or []:
            if one.error is not None:
                raise KafkaException(one.error)
        self._committed.update(offsets)

    # --- trouble ------------------------------------------------------------------------------

    def _on_error(self, error: KafkaError) -> None:
        if error.code() in _DOWN or error.fatal():
            self._in_trouble(error)

    def _in_trouble(self, error: KafkaError) -> None:
        self.trouble = error
        self._call_back(self._some.set)

    def _look(self, consumer: Consumer) -> None:
        """See whether the trouble is over: a quiet topic does not tell."""
        if (now := time.monotonic()) < self._looked + _AGAIN:
            return
        self._looked = now
        with suppress(KafkaException):
            found = consumer.list_topics(self._topic, timeout=_AGAIN).topics.get(self._topic)
            if found is not None and found.error is None:
                self.trouble = None

    def _call_back(self, call: Callable[..., object], *args: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(call, *args)


def committed(consumer: Consumer, places: Sequence[TopicPartition]) -> list[TopicPartition]:
    """The group's positions. On a server that has just started, or after a failover, the group's coordinator is
    elsewhere or not ready yet, and the client does not ask again. Raises KafkaException."""
    until, backoff = time.monotonic() + _CALL, Backoff(*_PAUSES)
    while True:
        try:
            found: list[TopicPartition] = consumer.committed(list(places), max(0.1, until - time.monotonic()))
            for one in found:
                if one.error is not None:
                    raise KafkaException(one.error)
            return found
        except KafkaException as e:
            pause = backoff.next()
            if cause(e).code() not in _NO_COORDINATOR or time.monotonic() + pause >= until:
                raise
            time.sleep(pause)


def begin_at(consumer: Consumer, place: TopicPartition, begin: Begin, first: int, end: int) -> int:
    """The offset at which a group without a position begins. One that has positions elsewhere in the topic begins at
    the first record: the partition is new."""
    if begin == "latest":
        return end
    if begin is None or begin == "earliest":
        return first
    asked = TopicPartition(place.topic, place.partition, int(begin * 1000))
    (found,) = consumer.offsets_for_times([asked], _CALL)
    if found.error is not None:
        raise KafkaException(found.error)
    return found.offset if found.offset >= 0 else end


def watermarks(consumer: Consumer, place: TopicPartition) -> tuple[int, int]:
    """The partition's first offset, and the one after its last record. Raises KafkaException."""
    found = consumer.get_watermark_offsets(place, timeout=_CALL)
    if found is None:
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the partition's offsets could not be read"))
    return found


def place_of(message: Message) -> tuple[int, int]:
    """Its partition and its offset."""
    partition, offset = message.partition(), message.offset()
    return (-1 if partition is None else partition), (OFFSET_INVALID if offset is None else offset)


def _succeed(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _fail(future: asyncio.Future[None], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
