"""One partition that this process owns: read forward, once, into a cache from which claims are sliced off."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence

from confluent_kafka import Message

from .reader import offset_of

EACH = 600
"""Bytes that a message takes besides its value, roughly: headers and objects."""


class _Chunk:
    """Messages that were read together, from index `begin` on."""

    __slots__ = ("begin", "first", "messages", "solid")

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.first = offset_of(messages[0])
        self.begin = 0
        self.solid = offset_of(messages[-1]) - self.first + 1 == len(messages)

    def index(self, offset: int) -> int:
        """Of the first message at or after this offset."""
        if self.solid:
            return min(max(offset - self.first, 0), len(self.messages))
        return bisect_left(self.messages, offset, key=offset_of)

    def start(self) -> int:
        """The offset of the first message that is left."""
        return self.first + self.begin if self.solid else offset_of(self.messages[self.begin])


class Lane:
    """The cache of one partition. `position` is the offset after the last one seen."""

    def __init__(self, number: int, position: int) -> None:
        self.number = number
        self.position = position
        self.messages = 0
        self.bytes = 0
        self.full = False
        """Reading was stopped."""
        self._chunks: deque[_Chunk] = deque()

    def add(self, messages: list[Message], fresh: int) -> bool:
        """These were read. Those before `fresh` are claimed already. Returns whether there was a new one."""
        last = offset_of(messages[-1])
        if last < self.position:
            return False
        start, self.position = max(self.position, fresh), last + 1
        if offset_of(messages[0]) < start:
            messages = [m for m in messages if offset_of(m) >= start]
        if messages:
            self._chunks.append(_Chunk(messages))
            self._count(messages, 1)
        return True

    def take(self, start: int, stop: int) -> list[Message]:
        """Take out what was read between these offsets."""
        taken: list[Message] = []
        earlier: list[_Chunk] = []
        chunks = self._chunks
        while chunks and chunks[0].start() < stop:
            chunk = chunks.popleft()
            low, high = max(chunk.begin, chunk.index(start)), chunk.index(stop)
            taken += chunk.messages[low:high]
            if low > chunk.begin:
                earlier.append(_Chunk(chunk.messages[chunk.begin : low]))
            if high < len(chunk.messages):
                chunk.begin = max(high, chunk.begin)
                chunks.appendleft(chunk)
                break
        chunks.extendleft(reversed(earlier))
        self._count(taken, -1)
        return taken

    def _count(self, messages: Sequence[Message], sign: int) -> None:
        self.messages += sign * len(messages)
        self.bytes += sign * (sum(map(len, messages)) + EACH * len(messages))
