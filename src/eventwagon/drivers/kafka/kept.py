"""Events that were delivered and are not settled: kept for a retry, so that it needs no second read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ...contracts.broker import Delivery
from ...event import Event
from .lane import EACH
from .proposals import Held


class _Delivered:
    __slots__ = ("bytes", "deliveries", "left")

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []
        self.left = 0
        self.bytes = 0


class KeptEvents:
    """Kept by claim while that stands, and by offset once they were released. The oldest are dropped first."""

    def __init__(self) -> None:
        self.bytes = 0
        self._claimed: dict[tuple[int, int], _Delivered] = {}
        self._released: dict[tuple[int, int], Event] = {}

    def keep(self, partition: int, claim: int, deliveries: Sequence[Delivery]) -> None:
        """The claim has delivered these of the partition."""
        known = self._claimed.setdefault((partition, claim), _Delivered())
        known.deliveries += deliveries
        known.left += len(deliveries)
        more = sum([_size(d.event) for d in deliveries])
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
            again = {d.token[:2]: d.event for d in known.deliveries if start <= d.token[1] < stop}
            for at in again:  # one may be given back twice
                self.take(*at)
            self._released |= again
            self.bytes += sum(map(_size, again.values()))
            known.left -= len(again)
            if known.left <= 0:
                self._forget((partition, claim))

    def take(self, partition: int, offset: int) -> Event | None:
        """The released event at this offset, if it is kept."""
        event = self._released.pop((partition, offset), None)
        if event is not None:
            self.bytes -= _size(event)
        return event

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


def _size(event: Event) -> int:
    extensions = sum(map(len, event.extensions.values())) if event.extensions else 0
    return len(event.data) + extensions + EACH
