"""Counts events that disappeared from the broker without being settled, as one observer sees them from pass to pass.
Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

import msgspec

from ..contracts.broker import Depth
from ..event import Channel

GONE = "vanished from the broker: deleted, evicted, or not in the copy that the broker was restored from"
LETTERS_REMOVED = "the broker's server removed them (retention, eviction), or somebody's hand"
_REMOVED = (
    "the broker removed them, by retention or because somebody deleted them: the log of the process that found it says "
    "where"
)
_SURE = 10.0
"""Seconds for which a channel must be missing: a server that has lost nothing may still not see one for a while."""
_FEWER = "the broker holds fewer events than before: it was restored from an older copy"


class _Held(NamedTuple):
    taken: int
    """Published plus lost: this total falls only if the broker steps back."""
    settled: int

    @property
    def outstanding(self) -> int:
        return max(0, self.taken - self.settled)


class Losses:
    """Adds up per wagon: the driver's count of lost events, the amount by which totals fell, and the events in vanished
    channels (at most as many as were last seen there)."""

    def __init__(self, *, totals: bool) -> None:
        self._totals = totals
        """Whether the broker's totals never fall by themselves."""
        self._held: dict[Channel, _Held] = {}
        self._counted: dict[Channel, int] = {}
        """Lost events as counted by the driver, where there are any: the losses of each wagon are summed at each pass.
        """
        self._fallen: dict[Channel, int] = {}
        self._missing: dict[Channel, float] = {}
        """Channels that the broker did not have in the last pass, and since when."""
        self._undeliverable: dict[Channel, float] = {}
        """Channels whose events could only be read in the last pass, and since when."""
        self.undeliverable: dict[Channel, bool] = {}
        """Those of two passes in a row, and whether that has lasted so long that it is for good."""
        self._before: dict[int, int] = {}
        """The losses of each wagon that were reported before this observer first saw it."""
        self.missing: frozenset[Channel] = frozenset()
        """Channels that the broker did not have in two passes in a row: no wagon should go on while it lacks one, but
        its events may come back."""
        self.vanished: dict[Channel, int | None] = {}
        """Vanished channels that stayed away: they count as empty. Each with its number of lost events; None: unknown.
        """

    def look(
        self,
        depths: Mapping[Channel, Depth],
        there: Collection[Channel],
        told: Mapping[int, int],
        *,
        now: float,
        ending: Collection[int] = (),
    ) -> None:
        """Take in one pass: the figures of the channels in use, the channels that the broker has (`there`), and the
        losses reported for each wagon so far (`told`). `now` is in seconds of a steady clock. A channel without known
        figures is missing only if it is not `there` either: unknown is not gone. `ending`: wagons that are not looked
        at any more, but are not at their `end` yet."""
        absent = [c for c, depth in depths.items() if depth == Depth() and c not in there]
        self.missing = frozenset(c for c in absent if c in self._missing)
        self._missing = {c: self._missing.get(c, now) for c in absent}
        stuck = {c: self._undeliverable.get(c, now) for c, depth in depths.items() if depth.undeliverable}
        self.undeliverable = {c: now - since >= _SURE for c, since in stuck.items() if c in self._undeliverable}
        self._undeliverable = stuck
        for channel, depth in depths.items():
            if channel not in self._missing:
                self.vanished.pop(channel, None)
            elif channel in self.missing and now - self._missing[channel] >= _SURE and channel not in self.vanished:
                held = self._held.pop(channel, None)
                self.vanished[channel] = None if held is None else held.outstanding
            if depth.published is not None and depth.settled is not None:
                self._see(channel, depth.published, depth.settled, depth.lost)
        for known in (self._held, self._counted, self._fallen, self.vanished):
            for channel in [c for c in known if c not in depths and c.wagon not in ending]:
                del known[channel]
        before = {n: count for n, count in self._before.items() if n in ending}
        self._before = before | {n: self._before.get(n, max(0, lost - self._sum(n))) for n, lost in told.items()}

    def end(self, channel: Channel, depth: Depth, found: int | None, told: int) -> int:
        """Take in the last figures of a channel that is removed with its wagon; returns how many of the wagon are lost,
        as reported or seen. `depth` is what the broker said right before, `found` how many were still there; None:
        unknown. Idempotent."""
        if depth.published is not None and depth.settled is not None:
            self._see(channel, depth.published, depth.settled, depth.lost)
        held = self._held.get(channel)
        if held is not None and found is not None:
            self.vanished[channel] = max(0, held.outstanding - found)
        self._before.setdefault(channel.wagon, max(0, told - self._sum(channel.wagon)))
        return self.of(channel.wagon)

    def _see(self, channel: Channel, published: int, settled: int, lost: int) -> None:
        before = self._held.get(channel)
        taken = published + lost
        if before is not None and taken < before.taken and self._totals:
            fallen = min(before.taken - taken, before.outstanding)  # settled events come again: they are not lost
            self._fallen[channel] = self._fallen.get(channel, 0) + fallen
        self._held[channel] = _Held(taken, settled + lost)
        if lost:
            self._counted[channel] = lost
        else:
            self._counted.pop(channel, None)

    @property
    def held(self) -> Collection[Channel]:
        """The channels with known figures."""
        return self._held.keys()

    def of(self, number: int) -> int:
        """How many events of that wagon are lost, as reported or seen."""
        return self._before.get(number, 0) + self._sum(number)

    def _sum(self, number: int) -> int:
        kinds = (self._counted, self._fallen, self.vanished)
        return sum(count or 0 for kind in kinds for c, count in kind.items() if c.wagon == number)

    def why(self, number: int, removed: str = _REMOVED) -> str:
        """Why they are lost; `removed` is the reason given for those that the driver counts."""
        reasons = [f"{c} has {GONE}" for c in self.vanished if c.wagon == number and self.vanished[c] != 0]
        if any(count for c, count in self._fallen.items() if c.wagon == number):
            reasons.append(_FEWER)
        if any(count for c, count in self._counted.items() if c.wagon == number):
            reasons.append(removed)
        return "; ".join(reasons)

    def without(self, wagons: Collection[int], there: Iterable[Channel]) -> Mapping[int, int]:
        """For wagons other than these, by number: how many events were in channels that are not `there`."""
        standing = set(there)
        lost: dict[int, int] = {}
        for channel, held in self._held.items():
            if channel.wagon not in wagons and channel not in standing and held.outstanding:
                lost[channel.wagon] = lost.get(channel.wagon, 0) + held.outstanding
        return lost


def of_letters(depth: Depth, *, exact: bool, taken: int = 0) -> Depth:
    """The depth of a dead-letter channel, of which `taken` letters were settled by order. More that look settled were
    removed by somebody else if the broker counts exactly, and are otherwise still there."""
    if depth.published is None or depth.settled is None:
        return depth
    settled = min(depth.settled, taken)
    removed = depth.settled - settled if exact else 0
    return msgspec.structs.replace(
        depth, published=depth.published - removed, settled=settled, lost=depth.lost + removed
    )
