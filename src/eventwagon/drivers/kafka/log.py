"""A topic of one partition that carries a state: all readers apply the same rule to the same records.

Each record is a proposal. Its writer learns the result when it applies its own record: as soon as the record is
acknowledged if no other record precedes it, otherwise when it reads the record.

From time to time a writer adds a snapshot of the state before a given offset and removes old records, except as many as
lie between two snapshots, so that readers that are a little behind lose nothing. A reader that finds the beginning
removed waits for the first snapshot that covers the gap. If none comes, somebody else has removed the beginning. Then
it asks the processes that know the state for a snapshot. If none answers, it rebuilds the state from the records that
are left, in a snapshot that all processes adopt, whatever they know, so that all go on with the same state.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec
from confluent_kafka import KafkaError, Message

from ...background import Background
from ...display.text import said
from ...errors import BrokerError, StorageBroken, Unavailable
from .admin import Admin
from .errors import absent
from .options import LOGGER, Options
from .reader import Reader
from .sender import Sender
from .tail import Tail

_SNAPSHOT = b"s"
_RECORD = b"r"
_ASKED = b"q"  # from a reader without a state: asks for a snapshot
_REBUILT = _SNAPSHOT + b"!"  # valid only if no record lies between it and the state: all must have read the same
_PATIENCE = 1.0  # s to wait for a snapshot, and for an answer
_MOST = 900_000  # bytes of a snapshot: a larger state is not worth one, and would not fit


class LogGone(BrokerError):
    """The log's topic does not exist (any more)."""


class Rule(Protocol):
    """A state, and what records do to it. Deterministic: no clock, no randomness."""

    now: int
    """The log's time in ms, as of the last record."""

    def apply(self, offset: int, time: int, record: bytes) -> Any:
        """Apply the next record: its offset, and when the log took it in ms. Returns the result."""
        ...

    def dump(self) -> bytes: ...

    def load(self, dump: bytes) -> None: ...

    def rebuild(self, before: int, records: Sequence[tuple[int, bytes]]) -> bytes | None:
        """A dump of the state as far as it can be known from the last records (time, record) before offset `before`;
        None if that is not enough to go on."""
        ...


class LogClient:
    """What all logs of one driver share. Belongs to the event loop that made it."""

    def __init__(self, options: Options, name: str) -> None:
        self.options = options
        self.me = os.urandom(8)
        """Distinguishes this client's records from all others."""
        self.admin = Admin(options)
        causes = self.admin.causes
        self.sender = Sender(options.producer(linger=0, logger=causes))
        self.reader = Reader(self.admin, options.consumer(wait=5, queued=4096, logger=causes))
        self.tail = Tail(options.consumer(wait=50, queued=4096, logger=causes), f"eventwagon-kafka-{name}")

    async def close(self) -> None:
        """End all of it."""
        await asyncio.gather(self.sender.close(), self.reader.close(), self.tail.close())
        await self.admin.close()


class Log:
    """One log, as far as this process has read it. Attach it before use."""

    def __init__(
        self,
        client: LogClient,
        topic: str,
        rule: Rule,
        *,
        every: int,
        applied: Callable[[Any, bool], None] = lambda result, mine: None,
    ) -> None:
        self.topic = topic
        self.rule = rule
        self.next = 0
        """The offset of the next record to apply."""
        self._client = client
        self._every = every
        self._applied = applied
        self._loop = asyncio.get_running_loop()
        self._ahead = time.time() * 1000 - time.monotonic() * 1000  # ms by which the log's clock is ahead of monotonic
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self._mine: dict[bytes, asyncio.Future[Any]] = {}
        self._count = 0
        self._held_back: list[tuple[int, bytes, bytes, int]] | None = None  # records that wait for a snapshot
        self._from = 0
        self._whole = asyncio.Event()
        self._whole.set()
        self._background = Background()
        self._left = False

    async def attach(self) -> None:
        """Read the log, and follow it from then on. Raises LogGone, Unavailable."""
        place = (self.topic, 0)
        if (
            await self._client.admin.describe(self.topic) is None
        ):  # by name: the client remembers as absent what it is asked by offset
            raise LogGone(f"topic {self.topic} does not exist")
        start, end = await asyncio.gather(self._client.admin.starts([place]), self._client.admin.ends([place]))
        first, last = start[place], end[place]
        if first is None or last is None:
            raise LogGone(f"topic {self.topic} does not exist")
        if first > 0:
            self._begin_anew(first)
        at = first
        while at < last:
            some = await self._client.reader.range(self.topic, 0, at, last)
            if not some:
                break
            self._feed(some)
            at = _offset(some[-1]) + 1
        self._client.tail.follow(self.topic, 0, at, self._feed)
        if self._held_back is not None:
            try:
                await self._recover()
            except BaseException:
                self.leave()
                raise

    def leave(self) -> None:
        """Stop following it; waiting tasks get LogGone."""
        self._left = True
        self._client.tail.leave(self.topic, 0)
        gone = LogGone(f"topic {self.topic} is left")
        for _, waiting in self._waiting:
            _fail(waiting, gone)
        for mine in self._mine.values():
            _fail(mine, gone)
        self._waiting.clear()
        self._mine.clear()
        self._background.cancel()

    @property
    def now(self) -> int:
        """The log's time now in ms, estimated; rather too early than too late."""
        return max(self.rule.now, int(time.monotonic() * 1000 + self._ahead))

    async def sync(self, end: int) -> None:
        """Wait until everything before `end` is applied. Raises Unavailable, LogGone."""
        if self.next >= end and self._held_back is None:
            return
        waiting: asyncio.Future[None] = self._loop.create_future()
        entry = (end, waiting)
        self._waiting.append(entry)
        try:
            async with asyncio.timeout(self._client.options.timeout):
                await waiting
        except TimeoutError:
            raise Unavailable(
                f"Kafka at {self._client.options.servers}: topic {self.topic} could not be read up to offset {end} "
                f"within {self._client.options.timeout:g} s (it stands at {self.next}): try again"
                f"{self._because(KafkaError(KafkaError._TIMED_OUT))}"
            ) from None
        finally:
            if entry in self._waiting:
                self._waiting.remove(entry)

    def append(self, record: bytes) -> asyncio.Future[Any]:
        """Propose this record. The future has the result once the record is in the log and applied. Cancelling takes
        nothing back. It raises LogGone or Unavailable; then the record may still be applied."""
        done: asyncio.Future[Any] = self._loop.create_future()
        if self._left:
            done.set_exception(LogGone(f"topic {self.topic} is left"))
            return done
        if self._held_back is not None:
            done.set_exception(Unavailable(f"topic {self.topic} lost its beginning, and is being rebuilt: try again"))
            return done
        self._count += 1
        key = _RECORD + self._client.me + self._count.to_bytes(8, "big")
        self._mine[key] = done
        sent = time.monotonic()

        def report(error: KafkaError | None, message: Message | None) -> None:
            if error is not None:
                self._mine.pop(key, None)
                _fail(done, self._trouble(error))
                return
            assert message is not None  # noqa: S101
            offset, at = _offset(message), message.timestamp()[1]
            self._set_clock(at, time.monotonic(), sent)
            if offset == self.next and self._held_back is None and not self._left:
                self._apply(offset, key, record, at)
            if offset % self._every == self._every - 1:
                self._background.start(self._snapshot())

        self._client.sender.send(self.topic, 0, record, report, key=key)
        return done

    # --- reading ----------------------------------------------------------------------------

    def _feed(self, messages: Sequence[Message]) -> None:
        now = time.monotonic()
        for message in messages:
            offset = _offset(message)
            if self._held_back is None and offset < self.next:
                continue
            key, value, at = message.key() or b"", message.value() or b"", message.timestamp()[1]
            if self._held_back is None and offset > self.next:
                self._begin_anew(offset)
            if self._held_back is not None:
                self._hold_back(offset, key, value, at)
            else:
                self._set_clock(at, now)
                self._apply(offset, key, value, at)
        if self._waiting and self._held_back is None:
            self._wake()

    def _apply(self, offset: int, key: bytes, value: bytes, at: int) -> None:
        self.next = offset + 1
        if key[:1] == _RECORD:
            result = self.rule.apply(offset, at, value)
            self._applied(result, key in self._mine)
            if (done := self._mine.pop(key, None)) is not None and not done.done():
                done.set_result(result)
        elif key == _REBUILT:
            before, dump = _decode_snapshot(value)
            if before == offset:
                self._warn_of_rebuilding()
                self.rule.load(dump)
        elif key[:1] == _ASKED:
            self._background.start(self._snapshot())
        if self._waiting:
            self._wake()

    def _wake(self) -> None:
        for end, waiting in self._waiting:
            if end <= self.next and not waiting.done():
                waiting.set_result(None)

    def _begin_anew(self, offset: int) -> None:
        """Records before `offset` were removed: from here on only a snapshot helps."""
        if self._held_back is None and self._mine:
            for mine in self._mine.values():
                _fail(mine, Unavailable(f"topic {self.topic} was trimmed beyond what was read: try again"))
            self._mine.clear()
        if self._held_back is None:
            self._whole.clear()
            if self._follows:
                self._background.start(self._recover_while_following())
        self._held_back = []
        self._from = offset

    async def _recover_while_following(self) -> None:
        try:
            await self._recover()
        except BrokerError as e:
            LOGGER.warning("%s", e)

    async def _recover(self) -> None:
        """Wait for a snapshot: from a process that knows the state, or else rebuilt from what is left. Raises
        Unavailable, StorageBroken."""
        if await self._is_whole():
            return
        await self._client.sender.one(self.topic, 0, b"", key=_ASKED + self._client.me)
        deadline = self._loop.time() + self._client.options.timeout
        while not await self._is_whole():
            held_back = self._held_back or []
            before = held_back[-1][0] + 1 if held_back else self._from
            known = [(at, value) for _, key, value, at in held_back if key[:1] == _RECORD]
            dump = self.rule.rebuild(before, known)
            if dump is None:
                raise StorageBroken(
                    f"{self._lost_head()}, and nobody is alive who knows what stood there: see to it that "
                    "retention.ms and retention.bytes are -1 and cleanup.policy is delete"
                )
            if self._loop.time() > deadline:
                raise Unavailable(f"{self._lost_head()}, and could not be rebuilt yet: try again")
            await self._client.sender.one(self.topic, 0, msgspec.msgpack.encode((before, dump)), key=_REBUILT)

    async def _is_whole(self) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._whole.wait()
        except TimeoutError:
            return False
        return True

    def _lost_head(self) -> str:
        return (
            f"Kafka at {self._client.options.servers}: topic {self.topic} lost its records before offset {self._from}, "
            "by retention or by somebody's hand"
        )

    def _warn_of_rebuilding(self) -> None:
        LOGGER.warning(
            "Kafka at %s: topic %s lost its beginning, by retention or because somebody deleted records, and was "
            "rebuilt from the rest: all events not known to be settled come again; make sure that retention.ms and "
            "retention.bytes are -1 and cleanup.policy is delete",
            self._client.options.servers,
            self.topic,
        )

    def _hold_back(self, offset: int, key: bytes, value: bytes, at: int) -> None:
        held_back = self._held_back
        assert held_back is not None  # noqa: S101
        if held_back and offset <= held_back[-1][0]:
            return
        if held_back and offset > held_back[-1][0] + 1:
            held_back.clear()
            self._from = offset
        held_back.append((offset, key, value, at))
        if key[:1] != _SNAPSHOT:
            return
        before, dump = _decode_snapshot(value)
        if before < self._from or (key == _REBUILT and before != offset):
            return
        if key == _REBUILT:
            self._warn_of_rebuilding()
        self.rule.load(dump)
        self._held_back = None
        self._whole.set()
        self.next = before
        for one in held_back:
            if one[0] >= before and one[1] != _REBUILT:
                self._apply(*one)
        self.next = held_back[-1][0] + 1

    def _set_clock(self, at: int, now: float, sent: float | None = None) -> None:
        self._ahead = max(self._ahead, at - now * 1000)
        if sent is not None:
            self._ahead = min(self._ahead, at + 1 - sent * 1000)

    # --- snapshots --------------------------------------------------------------------------

    async def _snapshot(self) -> None:
        if self._held_back is not None:
            return
        before, dump = self.next, self.rule.dump()
        if len(dump) > _MOST:
            return
        error, _ = await self._client.sender.one(self.topic, 0, msgspec.msgpack.encode((before, dump)), key=_SNAPSHOT)
        try:
            if error is None and before > self._every:
                await self._client.admin.trim(self.topic, before - self._every)
        except BrokerError as e:
            LOGGER.warning("topic %s could not be trimmed: %s", self.topic, said(e))

    @property
    def _follows(self) -> bool:
        return self._client.tail.follows(self.topic, 0)

    def _trouble(self, error: KafkaError) -> BrokerError:
        if absent(error):
            return LogGone(f"topic {self.topic} does not exist")
        found = self._client.admin.trouble(error, "WRITE", f"topic {self.topic}")
        if isinstance(found, Unavailable):
            return Unavailable(
                f"Kafka at {self._client.options.servers}: WRITE on topic {self.topic}: {error.str()} "
                f"({error.name()}): it may be done all the same; try again{self._because(error)}"
            )
        return found

    def _because(self, error: KafkaError) -> str:
        why = self._client.admin.why(error)
        return f"; {why}" if why else ""


_decode_snapshot = msgspec.msgpack.Decoder(tuple[int, bytes]).decode


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None  # noqa: S101
    return offset


def _fail(future: asyncio.Future[Any], error: BaseException) -> None:
    if not future.done():
        future.set_exception(error)
        future.exception()  # the waiting task may have gone: then nobody needs to know
