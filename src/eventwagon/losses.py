"""What went from the broker without being settled, as one observer sees it from look to look. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from .broker import Depth
from .event import Channel

GONE = "vanished from the broker: deleted, evicted, or not in the copy that the broker was restored from"
_REMOVED = (
    "the broker removed them, by its retention or somebody's hand: the log of the process that found it says where"
)
_FEWER = "the broker holds fewer than it did: it was restored from an older copy"


class _Held(NamedTuple):
    taken: int
    """Published, and published and lost since: this total never falls but where the broker steps back."""
    settled: int


class Losses:
    """Adds up, by wagon, what the driver counts as lost, by how much totals fell, and what stood in channels that have
    vanished: as many at the most, by what was last seen of them."""

    def __init__(self, *, totals: bool) -> None:
        self._totals = totals
        """The broker's totals never fall by themselves."""
        self._held: dict[Channel, _Held] = {}
        self._counted: dict[Channel, int] = {}
        """By the driver."""
        self._fallen: dict[Channel, int] = {}
        self._missing: frozenset[Channel] = frozenset()
        """Those that the broker did not have at the last look."""
        self._before: dict[int, int] = {}
        """What was told of each wagon before it was first seen here, and is not seen here."""
        self.vanished: dict[Channel, int | None] = {}
        """Channels that the broker has not had at two looks in a row, and how many events went with each; None: not
        known."""

    def look(self, depths: Mapping[Channel, Depth], there: Collection[Channel], told: Mapping[int, int]) -> None:
        """What the channels of the wagons in use look like now, which channels the broker has, and what was told of each
        wagon. A channel of which nothing is known is missing only where it is not `there` either: unknown is not
        gone."""
        missing = frozenset(c for c, depth in depths.items() if depth == Depth() and c not in there)
        gone, self._missing = missing & self._missing, missing
        for channel, depth in depths.items():
            if channel in gone:
                held = self._held.pop(channel, None)
                self.vanished.setdefault(channel, None if held is None else max(0, held.taken - held.settled))
            elif depth.published is not None and depth.settled is not None:
                self._see(channel, depth.published, depth.settled, depth.lost)
        for known in (self._held, self._counted, self._fallen, self.vanished):
            for channel in [c for c in known if c not in depths]:
                del known[channel]
        self._before = {n: self._before.get(n, max(0, lost - self._sum(n))) for n, lost in told.items()}

    def _see(self, channel: Channel, published: int, settled: int, lost: int) -> None:
        before = self._held.get(channel)
        taken = published + lost
        if before is not None and taken < before.taken and self._totals:
            self._fallen[channel] = self._fallen.get(channel, 0) + before.taken - taken
        self._held[channel] = _Held(taken, settled + lost)
        self._counted[channel] = lost

    def of(self, number: int) -> int:
        """How many events of that wagon are lost, by all that was told and seen."""
        return self._before.get(number, 0) + self._sum(number)

    def _sum(self, number: int) -> int:
        kinds = (self._counted, self._fallen, self.vanished)
        return sum(count or 0 for kind in kinds for c, count in kind.items() if c.wagon == number)

    def why(self, number: int) -> str:
        """Where those went."""
        reasons = [f"{c} has {GONE}" for c in self.vanished if c.wagon == number and self.vanished[c] != 0]
        if any(count for c, count in self._fallen.items() if c.wagon == number):
            reasons.append(_FEWER)
        if any(count for c, count in self._counted.items() if c.wagon == number):
            reasons.append(_REMOVED)
        return "; ".join(reasons)

    def without(self, wagons: Collection[int], there: Iterable[Channel]) -> Mapping[int, int]:
        """By number, of wagons that are none of these: how many events stood in channels that are not `there`."""
        standing = set(there)
        lost: dict[int, int] = {}
        for channel, held in self._held.items():
            if channel.wagon not in wagons and channel not in standing and held.taken > held.settled:
                lost[channel.wagon] = lost.get(channel.wagon, 0) + held.taken - held.settled
        return lost
