"""Who is there: the check-ins of a train's processes, in partition 1 of its manifest's topic. Nobody follows them: who
asks reads what is new."""

from __future__ import annotations

import asyncio
import time
from collections import deque

from confluent_kafka import Message

from ...errors import Unavailable
from .errors import absent
from .following import LogClient, LogClock, unacknowledged
from .manifests import LiveMembers, MemberCheckIn, StillThere, decode, encode
from .options import LOGGER
from .reader import offset_of

PARTITION = 1
_ANEW = 30.0  # s after which a member says everything again, so that nobody has to read far back
_KEPT = 120_000  # ms of records that stay, beyond the longest ttl
_MANY = 2000  # records after which the oldest are deleted


class CheckIns:
    """One train's. Belongs to the event loop that made it."""

    def __init__(self, client: LogClient, topic: str) -> None:
        self._client = client
        self._place = (topic, PARTITION)
        self._clock = LogClock()
        self._turn = asyncio.Lock()
        self._members = LiveMembers()
        self._first: int | None = None
        """The first offset that still exists, as far as is known; None: nothing was read yet."""
        self._next = 0
        self._marks: deque[tuple[int, int]] = deque()
        """The offset and time (ms) of some records, in order."""
        self._longest = 0
        self._said: dict[str, tuple[bytes, float]] = {}
        """What this process's members have said last, and when."""
        self._told = False

    async def write(self, op: MemberCheckIn) -> None:
        """Check in. Raises Unavailable: then it may be done all the same."""
        said, at = self._said.pop(op.name, (b"", 0.0))
        sent = time.monotonic()
        full = said != op.member or not op.ttl or sent > at + _ANEW
        topic, number = self._place
        record = encode(op if full else StillThere(op.name, op.ttl))
        error, message = await self._client.sender.one(topic, number, record)
        if error is not None:
            if absent(error):
                raise Unavailable(f"topic {topic} was removed")
            raise unacknowledged(self._client.admin, topic, error)
        if message is not None:
            self._clock.wrote(message.timestamp()[1], sent, time.monotonic())
        if op.ttl:
            self._said[op.name] = (op.member, sent if full else at)

    async def alive(self) -> list[bytes]:
        """The members that are alive now, ordered by name. Raises Unavailable."""
        async with self._turn:
            await self._catch_up()
            await self._trim()
            return self._members.alive(self._clock.now())

    async def _catch_up(self) -> None:
        """Read what is new."""
        admin, place = self._client.admin, self._place
        end = (await admin.ends([place]))[place]
        if end is None:
            raise Unavailable(f"topic {place[0]} was removed")
        if self._first is None or end < self._next:  # the first time, or it was made anew
            first = (await admin.starts([place]))[place] or 0
            self._first, self._next, self._members = first, first, LiveMembers()
            self._marks.clear()
        while self._next < end:
            some = await self._client.reader.range(*place, self._next, end)
            if not some:
                self._next = end
                break
            self._marks.append((offset_of(some[0]), some[0].timestamp()[1]))
            for message in some:
                self._apply(message)
            self._next = offset_of(some[-1]) + 1

    def _apply(self, message: Message) -> None:
        at = message.timestamp()[1]
        self._clock.read(at, time.monotonic())
        try:
            op = decode(message.value() or b"")
        except ValueError:  # nobody depends on what somebody else wrote there
            if not self._told:
                LOGGER.warning("topic %s, partition %d has a record that is no check-in", *self._place)
            self._told = True
            return
        if isinstance(op, MemberCheckIn | StillThere):
            self._longest = max(self._longest, op.ttl)
            self._members.apply(op, at)

    async def _trim(self) -> None:
        """Delete what nobody needs any more, now and then."""
        first = self._first or 0
        if self._next - first < _MANY:
            return
        before = self._clock.now() - _KEPT - self._longest
        while len(self._marks) > 1 and self._marks[1][1] < before:
            self._marks.popleft()
        offset, at = self._marks[0]
        if at < before and offset > first:
            self._first = offset
            await self._client.admin.trim(self._place[0], offset, PARTITION)
