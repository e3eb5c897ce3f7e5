"""A topic of one partition that carries a state: all readers apply the same rule to the same records.

Each record is a proposal, and its writer learns the result (see following.py).

From time to time a writer adds a snapshot of the state before a given offset and removes old records, except as many as
lie between two snapshots, so that readers that are a little behind lose nothing. A reader that finds the beginning
removed waits for the first snapshot that covers the gap. If none comes, somebody else has removed the beginning. Then
it asks the processes that know the state for a snapshot. If none answers, it rebuilds the state from the records that
are left, in a snapshot that all processes adopt, whatever they know, so that all go on with the same state.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from ...background import Background
from ...backoff import Backoff
from ...display.text import said
from ...errors import BrokerError, StorageBroken, Unavailable
from .following import RECORD, FollowedLog, LogClient, LogGone, fail
from .options import LOGGER
from .reader import offset_of

_SNAPSHOT = b"s"
_ASKED = b"q"  # from a reader without a state: asks for a snapshot
_REBUILT = _SNAPSHOT + b"!"  # valid only if no record lies between it and the state: all must have read the same
_PATIENCE = 1.0  # s to wait for a snapshot, and for an answer
_MOST = 900_000  # bytes of a snapshot: a larger state is not worth one, and would not fit


class _Read(NamedTuple):
    """A record as it was read; `at`: when the log took it, in ms."""

    offset: int
    key: bytes
    value: bytes
    at: int


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


class Log(FollowedLog):
    """One log with snapshots, as far as this process has read it. Attach it before use."""

    def __init__(
        self,
        client: LogClient,
        topic: str,
        rule: Rule,
        *,
        every: int,
        applied: Callable[[Any, bool], None] = lambda result, mine: None,
    ) -> None:
        super().__init__(client, topic)
        self.rule = rule
        self._every = every
        self._applied = applied
        self._held_back: list[_Read] | None = None
        """Records that wait for a snapshot."""
        self._lost_before = 0
        """The offset before which records are lost, while some are held back."""
        self._gap: list[_Read] | None = None
        """Records behind offsets without one, while it is not known whether those were removed."""
        self._gap_end = 0
        """The end of the last offsets without a record."""
        self._attached = False
        self._snapshot_taken = asyncio.Event()
        """Set unless records are held back."""
        self._snapshot_taken.set()
        self._background = Background()

    @property
    def is_whole(self) -> bool:
        return self._held_back is None and self._gap is None

    async def attach(self) -> int:
        """See FollowedLog. Raises StorageBroken, too."""
        last = await super().attach()
        try:
            while not self.is_whole:
                await (self._recover() if self._gap is None else self._judge_gap())
            self._attached = True
        except BaseException:
            self.leave()
            raise
        return last

    def leave(self) -> None:
        super().leave()
        self._background.cancel()

    @property
    def now(self) -> int:
        """The log's time now in ms, estimated; rather too early than too late."""
        return max(self.rule.now, self.clock.now())

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
        key = self._client.key()
        self._mine[key] = done

        def stored(offset: int) -> None:
            if offset % self._every == self._every - 1:
                self._background.start(self._snapshot())

        def failed(error: BrokerError) -> None:
            self._mine.pop(key, None)
            fail(done, error)

        self._send(key, record, stored, failed)
        return done

    # --- reading ----------------------------------------------------------------------------

    def _lacks_beginning(self, first: int) -> None:
        self._begin_anew(first)

    def _take(self, offset: int, key: bytes, value: bytes, at: int, now: float) -> None:
        if self.is_whole and offset == self.next:  # almost always
            self.clock.read(at, now)
            self._apply(offset, key, value, at)
            return
        unread = self._first_unread
        if offset < unread:
            return
        if self._held_back is None:
            self.clock.read(at, now)
        if offset > unread:
            self._note_gap(offset)
        read = _Read(offset, key, value, at)
        if self._gap is None:
            self._advance(read)
        else:
            self._gap.append(read)

    def _ended(self, end: int) -> None:
        if end > self._first_unread:
            self._note_gap(end)

    @property
    def _first_unread(self) -> int:
        """The offset of the next record to be read."""
        return self._gap[-1].offset + 1 if self._gap else self._first_missing

    @property
    def _first_missing(self) -> int:
        """The same, or where the gap begins."""
        if self._held_back is None:
            return self.next
        return self._held_back[-1].offset + 1 if self._held_back else self._lost_before

    def _advance(self, read: _Read) -> None:
        if self._held_back is None:
            self._apply(*read)
        else:
            self._hold_back(read)

    def _note_gap(self, end: int) -> None:
        """Nothing was read up to `end`: records were removed there, or a transaction of somebody else has left its
        trace."""
        self._gap_end = end
        if self._gap is None:
            self._gap = []
            if self._client.tail.follows(self.topic, 0):  # else `attach` sees to it
                self._background.start(self._judge_gaps())

    async def _judge_gaps(self) -> None:
        pauses = Backoff(0.05, 1.0)
        while self._gap is not None:
            try:
                await self._judge_gap()
            except BrokerError as e:
                LOGGER.debug("topic %s: where it begins is not known: %s", self.topic, said(e))
                await asyncio.sleep(pauses.next())

    async def _judge_gap(self) -> None:
        """Ask where the log begins, since only what was before that is removed, and read once more what may have been
        passed over. Raises Unavailable, StorageBroken."""
        place, end = (self.topic, 0), self._gap_end
        first = (await self._client.admin.starts([place]))[place] or 0
        missed = await self._read_again(max(first, self._first_missing), end)
        if self._gap is None or self._gap_end != end:  # another gap: the log may begin elsewhere by now
            return
        behind, self._gap = self._gap, None
        for read in sorted({read.offset: read for read in (*missed, *behind)}.values()):
            if self._first_missing < min(read.offset, first):
                self._begin_anew(read.offset)
            self._advance(read)
        if self._first_missing < min(end, first):
            self._begin_anew(end)
        if self._held_back is None:
            self.next = max(self.next, end)
            self._wake()

    async def _read_again(self, begin: int, end: int) -> list[_Read]:
        """The records between these offsets: a client may have passed over some."""
        found: list[_Read] = []
        while begin < end and (some := await self._client.reader.range(self.topic, 0, begin, end)):
            found += [_Read(offset_of(m), m.key() or b"", m.value() or b"", m.timestamp()[1]) for m in some]
            begin = found[-1].offset + 1
        return found

    def _apply(self, offset: int, key: bytes, value: bytes, at: int) -> None:
        self.next = offset + 1
        try:
            self._apply_record(offset, key, value, at)
        except msgspec.MsgspecError as e:
            LOGGER.warning(
                "topic %s: offset %d is no record of eventwagon's, and is passed over: %s", self.topic, offset, said(e)
            )
        if self._waiting:
            self._wake()

    def _apply_record(self, offset: int, key: bytes, value: bytes, at: int) -> None:
        if key[:1] == RECORD:
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

    def _begin_anew(self, offset: int) -> None:
        """Records before `offset` were removed: from here on only a snapshot helps."""
        if self._held_back is None:
            for mine in self._mine.values():
                fail(mine, Unavailable(f"topic {self.topic} was trimmed beyond what was read: try again"))
            self._mine.clear()
            self._snapshot_taken.clear()
            if self._attached:
                self._background.start(self._recover_while_following())
        self._held_back, self._lost_before = [], offset

    async def _recover_while_following(self) -> None:
        try:
            await self._recover()
        except BrokerError as e:
            LOGGER.warning("%s", e)

    async def _recover(self) -> None:
        """Wait for a snapshot: from a process that knows the state, or else rebuilt from what is left. Raises
        Unavailable, StorageBroken."""
        if await self._got_snapshot():
            return
        await self._client.sender.one(self.topic, 0, b"", key=_ASKED + self._client.me)
        deadline = self._loop.time() + self._client.options.timeout
        while not await self._got_snapshot():
            held_back = self._held_back or []
            before = self._first_missing
            known = [(at, value) for _, key, value, at in held_back if key[:1] == RECORD]
            dump = self.rule.rebuild(before, known)
            if dump is None:
                raise StorageBroken(
                    f"{self._lost_head()}, and nobody is alive who knows what stood there: see to it that "
                    "retention.ms and retention.bytes are -1 and cleanup.policy is delete"
                )
            if self._loop.time() > deadline:
                raise Unavailable(f"{self._lost_head()}, and could not be rebuilt yet: try again")
            await self._client.sender.one(self.topic, 0, msgspec.msgpack.encode((before, dump)), key=_REBUILT)

    async def _got_snapshot(self) -> bool:
        try:
            async with asyncio.timeout(_PATIENCE):
                await self._snapshot_taken.wait()
        except TimeoutError:
            return False
        return True

    def _lost_head(self) -> str:
        return (
            f"Kafka at {self._client.options.servers}: topic {self.topic} lost its records before offset "
            f"{self._lost_before}, by retention or by somebody's hand"
        )

    def _warn_of_rebuilding(self) -> None:
        LOGGER.warning(
            "Kafka at %s: topic %s lost its beginning, by retention or because somebody deleted records, and was "
            "rebuilt from the rest: all events not known to be settled come again; make sure that retention.ms and "
            "retention.bytes are -1 and cleanup.policy is delete",
            self._client.options.servers,
            self.topic,
        )

    def _hold_back(self, read: _Read) -> None:
        held_back, (offset, key, value, _) = self._held_back, read
        assert held_back is not None  # noqa: S101
        held_back.append(read)
        if key[:1] != _SNAPSHOT:
            return
        try:
            before, dump = _decode_snapshot(value)
        except msgspec.MsgspecError:  # not eventwagon's
            return
        if before < self._lost_before or (key == _REBUILT and before != offset):
            return
        if key == _REBUILT:
            self._warn_of_rebuilding()
        self.rule.load(dump)
        self._held_back = None
        self._snapshot_taken.set()
        self.next = before
        for one in held_back:
            if one.offset >= before and one.key != _REBUILT:
                self._apply(*one)
        self.next = read.offset + 1

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


_decode_snapshot = msgspec.msgpack.Decoder(tuple[int, bytes]).decode
