"""Messages that were delivered and are not settled: kept for a retry, so that it needs no second read."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import Message

from .lane import EACH
from .proposals import Held
from .reader import offset_of


class _Delivered:
    __slots__ = ("bytes", "left", "messages")

    def __init__(self, messages: list[Message]) -> None:
        self.messages = messages
        self.left = 0
        self.bytes = 0


class KeptMessages:
    """Kept by claim while that stands, and by offset once they were released. The oldest are dropped first."""

    def __init__(self) -> None:
        self.bytes = 0
        self._claimed: dict[tuple[int, int], _Delivered] = {}
        self._released: dict[tuple[int, int], Message] = {}

    def keep(self, partition: int, claim: int, messages: list[Message]) -> None:
        """The claim has delivered these of the partition."""
        known = self._claimed.setdefault((partition, claim), _Delivered([]))
        known.messages += messages
        known.left += len(messages)
        more = _size(messages)
        known.bytes += more
        self.bytes += more

    def settled(self, held: Iterable[Held]) -> None:
        """These need not be kept any more."""
        for partition, start, stop, claim in held:
            if (known := self._claimed.get((partition, claim))) is not None:
                known.left -= stop - start
                if known.left <= 0:
                    self._forget((partition, claim))

    def released(self, held: Iterable[Held]) -> None:
        """These may soon be claimed again."""
        for partition, start, stop, claim in held:
            if (known := self._claimed.get((partition, claim))) is None:
                continue
            again = [m for m in known.messages if start <= offset_of(m) < stop]
            self._released |= {(partition, offset_of(m)): m for m in again}
            self.bytes += _size(again)
            known.left -= len(again)
            if known.left <= 0:
                self._forget((partition, claim))

    def take(self, partition: int, offset: int) -> Message | None:
        """The released message at this offset, if it is kept."""
        message = self._released.pop((partition, offset), None)
        if message is not None:
            self.bytes -= _size([message])
        return message

    def shrink(self, most: int) -> None:
        """Keep no more than so many bytes."""
        while self.bytes > most and self._released:
            self.take(*next(iter(self._released)))
        while self.bytes > most and self._claimed:
            self._forget(next(iter(self._claimed)))

    def clear(self) -> None:
        """Keep nothing."""
        self.shrink(-1)

    def _forget(self, key: tuple[int, int]) -> None:
        self.bytes -= self._claimed.pop(key).bytes


def _size(messages: list[Message]) -> int:
    return sum(map(len, messages)) + EACH * len(messages)
