"""A topic of one partition that this process reads from its beginning and then follows. Who appends a record learns
what it did when the record is applied: as soon as it is acknowledged if no other record precedes it, otherwise when it
is read."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import Callable, Sequence
from itertools import count
from typing import Any

from confluent_kafka import KafkaError, Message

from ...errors import BrokerError, Unavailable
from .admin import Admin
from .cluster import Cluster
from .errors import absent
from .reader import offset_of
from .sealing import how_to_end, open_transactions

RECORD = b"r"
"""Keys of records begin with it."""

_OLD = 60.0  # s for which a clock counts as set


class LogGone(BrokerError):
    """The log's topic does not exist (any more)."""


class LogClient:
    """What all logs of one driver share. Belongs to the event loop that made it."""

    def __init__(self, cluster: Cluster) -> None:
        self.options = cluster.admin.options
        self.me = os.urandom(8)
        """Distinguishes this client's records from all others."""
        self.admin, self.sender = cluster.admin, cluster.sender
        self.reader = cluster.logs_reader
        self.tail = cluster.logs_tail()
        self._numbers = count(1)

    def key(self) -> bytes:
        """A key that no other record has."""
        return RECORD + self.me + next(self._numbers).to_bytes(8, "big")

    def close(self) -> None:
        """Follow no log any more."""
        self.tail.close()


class LogClock:
    """The clock of a log's leader, estimated from the times of records. In ms; rather too early than too late."""

    def __init__(self) -> None:
        self._ahead = time.time() * 1000 - time.monotonic() * 1000
        self._set_at = -math.inf

    def now(self) -> int:
        """The time now."""
        return int(time.monotonic() * 1000 + self._ahead)

    @property
    def is_old(self) -> bool:
        """Whether no record of this process has set it for a while."""
        return time.monotonic() - self._set_at > _OLD

    def read(self, at: int, now: float) -> None:
        """A record of this time was there at `now` (monotonic, s)."""
        self._ahead = max(self._ahead, at - now * 1000)

    def wrote(self, at: int, sent: float, now: float) -> None:
        """A record that this process sent at `sent` got this time; it was acknowledged at `now`."""
        self.read(at, now)
        self._ahead = min(self._ahead, at + 1 - sent * 1000)
        self._set_at = now


class FollowedLog:
    """One log, as far as this process has read it. Attach it before use. Its kinds differ in what they do with a record
    (`_take`, `_apply`)."""

    def __init__(self, client: LogClient, topic: str, clock: LogClock | None = None) -> None:
        self.topic = topic
        self.next = 0
        """The offset of the next record to apply."""
        self.identity = ""
        """What distinguishes the topic from others of its name (see `Described`)."""
        self.clock = clock or LogClock()
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._mine: dict[Any, asyncio.Future[Any]] = {}
        """Appends whose result is still to come."""
        self._left = False

    @property
    def is_whole(self) -> bool:
        """Whether the state is known as of `next`."""
        return True

    def _lacks_beginning(self, first: int) -> None:
        """The topic's first record, as this process attaches, has this offset above 0."""

    def _take(self, offset: int, key: bytes, value: bytes, at: int, now: float) -> None:
        """A record was read. It may have been applied before, and others before it may be missing. Its log took it at
        `at` (ms), this process has it at `now` (monotonic, s)."""
        raise NotImplementedError

    def _ended(self, end: int) -> None:
        """Nothing is left to read before this offset, and perhaps records are missing there."""
        raise NotImplementedError

    def _apply(self, offset: int, key: bytes, value: bytes, at: int) -> None:
        """Apply the next record, and tell its writer if that is this process."""
        raise NotImplementedError

    async def attach(self) -> int:
        """Read the log, and follow it from then on. Returns the offset up to which there are records now. Raises
        LogGone, Unavailable."""
        place = (self.topic, 0)
        # by name first: the client remembers as absent what it is asked by offset
        described = (await self._client.admin.described([self.topic]))[self.topic]
        if described is None:
            raise LogGone(f"topic {self.topic} does not exist")
        self.identity = described.identity
        start, end = await asyncio.gather(self._client.admin.starts([place]), self._client.admin.ends([place]))
        first, last = start[place], end[place]
        if first is None or last is None:
            raise LogGone(f"topic {self.topic} does not exist")
        if first > 0:
            self._lacks_beginning(first)
        at = first
        while at < last:
            try:
                some = await self._client.reader.range(self.topic, 0, at, last)
            except Unavailable as e:
                raise await self._explained(e) from None
            if not some:
                break
            self._feed(some)
            at = offset_of(some[-1]) + 1
        self._client.tail.follow(self.topic, 0, at, self._feed, self._ended)
        return last

    def leave(self) -> None:
        """Stop following it; waiting tasks get LogGone. Idempotent."""
        if self._left:
            return
        self._left = True
        self._client.tail.leave(self.topic, 0)
        self._client.sender.known.discard(self.topic)
        gone = LogGone(f"topic {self.topic} is left")
        for _, waiting in self._waiting:
            fail(waiting, gone)
        for mine in self._mine.values():
            fail(mine, gone)
        self._waiting.clear()
        self._mine.clear()

    async def sync(self, end: int) -> None:
        """Wait until everything before `end` is applied. Raises Unavailable, LogGone."""
        if self.next >= end and self.is_whole:
            return
        if self._left:
            raise LogGone(f"topic {self.topic} is left")
        waiting: asyncio.Future[None] = self._loop.create_future()
        entry = (end, waiting)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(self._client.options.timeout):
                await waiting
        except TimeoutError:
            error = Unavailable(
                f"Kafka at {self._client.options.servers}: topic {self.topic} could not be read up to offset {end} "
                f"within {self._client.options.timeout:g} s (it stands at {self.next}): try again"
                f"{self._because(KafkaError(KafkaError._TIMED_OUT))}"
            )
            raise await self._explained(error) from None
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def _send(
        self, key: bytes, record: bytes | None, stored: Callable[[int], None], failed: Callable[[BrokerError], None]
    ) -> None:
        """Append this record. Calls `stored` with its offset, after it was applied if it was the next; or `failed`, and
        then the record may be stored all the same."""
        sent = time.monotonic()

        def report(error: KafkaError | None, message: Message | None) -> None:
            if error is not None:
                failed(self._trouble(error))
                return
            assert message is not None  # noqa: S101
            offset, at = offset_of(message), message.timestamp()[1]
            self.clock.wrote(at, sent, time.monotonic())
            if offset == self.next and self.is_whole and not self._left:
                self._apply(offset, key, record or b"", at)
            stored(offset)

        self._client.sender.send(self.topic, 0, record, report, key=key)

    async def _explained(self, error: Unavailable) -> Unavailable:
        """The error of a read that found no end; another one, if a transaction of somebody else is the reason."""
        admin, place = self._client.admin, (self.topic, 0)
        try:
            first = (await open_transactions(admin, [place])).get(place)
        except BrokerError:
            first = None
        if first is None:
            return error
        return Unavailable(
            f"Kafka at {admin.options.servers}: topic {self.topic}: another producer's transaction is open from offset "
            f"{first} on, and nothing after that can be read until it ends: no other program may write to this topic. "
            f"{how_to_end(admin, *place)}"
        )

    def _trouble(self, error: KafkaError) -> BrokerError:
        if absent(error):
            return LogGone(f"topic {self.topic} does not exist")
        return unacknowledged(self._client.admin, self.topic, error)

    def _feed(self, messages: Sequence[Message]) -> None:
        now = time.monotonic()
        for message in messages:
            self._take(offset_of(message), message.key() or b"", message.value() or b"", message.timestamp()[1], now)
        if self._waiting and self.is_whole:
            self._wake()

    def _wake(self) -> None:
        for end, waiting in self._waiting:
            if end <= self.next and not waiting.done():
                waiting.set_result(None)

    def _because(self, error: KafkaError) -> str:
        why = self._client.admin.why(error)
        return f"; {why}" if why else ""


def unacknowledged(admin: Admin, topic: str, error: KafkaError) -> BrokerError:
    """The error to raise for a record that was not acknowledged, and may be stored."""
    found = admin.trouble(error, "WRITE", f"topic {topic}")
    if not isinstance(found, Unavailable):
        return found
    why = admin.why(error)
    return Unavailable(
        f"Kafka at {admin.options.servers}: WRITE on topic {topic}: {error.str()} ({error.name()}): it may be done all "
        f"the same; try again{f'; {why}' if why else ''}"
    )


def fail(future: asyncio.Future[Any], error: BaseException) -> None:
    """End the future with this error, unless it has ended."""
    if not future.done():
        future.set_exception(error)
        future.exception()  # the waiting task may have gone: then nobody needs to know
