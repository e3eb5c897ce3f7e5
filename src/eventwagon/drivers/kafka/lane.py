"""One partition that this process owns: read forward, once, into a cache from which claims are sliced off."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque

from confluent_kafka import Message

from .reader import offset_of

EACH = 600
"""Bytes that a message takes besides its value, roughly: headers and objects."""


class _Chunk:
    """Messages that were read together; `each`: the bytes of one, on average."""

    __slots__ = ("each", "first", "messages", "solid")

    def __init__(self, messages: list[Message], each: int) -> None:
        self.messages = messages
        self.each = each
        self.first = offset_of(messages[0])
        self.solid = offset_of(messages[-1]) - self.first + 1 == len(messages)

    def index(self, offset: int) -> int:
        """Of the first message at or after this offset."""
        if self.solid:
            return min(max(offset - self.first, 0), len(self.messages))
        return bisect_left(self.messages, offset, key=offset_of)


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
            self._chunks.append(_Chunk(messages, EACH + sum(map(len, messages)) // len(messages)))
            self._count(len(messages), self._chunks[-1].each)
        return True

    def take(self, start: int, stop: int) -> list[Message]:
        """Take out what was read between these offsets: nothing here refers to it any more."""
        taken: list[Message] = []
        passed: list[_Chunk] = []
        chunks = self._chunks
        while chunks and chunks[0].first < stop:
            chunk = chunks.popleft()
            low, high = chunk.index(start), chunk.index(stop)
            taken += chunk.messages[low:high]
            self._count(low - high, chunk.each)
            if low:
                passed.append(_Chunk(chunk.messages[:low], chunk.each))
            del chunk.messages[:high]
            if chunk.messages:
                chunks.appendleft(_Chunk(chunk.messages, chunk.each))
                break
        chunks.extendleft(reversed(passed))
        return taken

    def _count(self, more: int, each: int) -> None:
        self.messages += more
        self.bytes += more * each
