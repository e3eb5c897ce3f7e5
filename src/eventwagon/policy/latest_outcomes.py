"""How the latest handlings of each wagon ended, from the totals that processes report. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..contracts.orchestrator import Deployment
from ..contracts.registry import Member


class Outcomes(NamedTuple):
    """How the latest handlings of a wagon ended."""

    handled: int
    failed: int
    """Without those that the rule does not count, see `Deployment.uncounted`."""


class _Look(NamedTuple):
    """What was new at one look."""

    at: float
    new: Outcomes


_Source = tuple[str, int]
"""A process and the wagon that it serves; without a name, workers of an orchestrator, by unit."""


class LatestOutcomes:
    """The latest handlings of each wagon: one observer's memory. Pure, no clock.

    Processes report totals, at different times, those with failures more often. So all looks of the latest `span`
    seconds count, in which each process has reported, and more of them until there are enough handlings. What a process
    had counted when this observer saw it first is left out, and so is what a wagon handled before and during a pause.
    """

    def __init__(self) -> None:
        self._totals: dict[_Source, Outcomes] = {}
        self._latest: dict[int, deque[_Look]] = {}
        """By wagon: the looks with something new, the latest last."""
        self._since: dict[int, float] = {}
        """By wagon: the first look."""

    def look(
        self,
        wagons: Collection[int],
        deployments: Mapping[int, Deployment],
        members: Sequence[Member],
        *,
        enough: int,
        now: float,
        span: float,
    ) -> Mapping[int, Outcomes]:
        """Take in one look at these wagons; the others are forgotten. Returns the latest handlings by wagon: those of
        the latest `span` seconds, and `enough` of them if there are so many. A wagon that has been looked at for a
        shorter time is left out: some of its processes may not have reported yet."""
        before, self._totals = self._totals, {}
        latest = {number: self._latest.get(number, deque()) for number in wagons}
        self._since = {number: self._since.get(number, now) for number in wagons}
        news = dict.fromkeys(wagons, Outcomes(0, 0))
        for source, number, total in _reports(deployments, members) if wagons else ():
            self._totals[source] = total
            known = before.get(source, total)
            new = Outcomes(total.handled - known.handled, total.failed - known.failed)
            if number in news and min(new) >= 0:  # less than before: some of its workers began anew
                news[number] = _sum((news[number], new))
        for number, each in latest.items():
            if any(news[number]):
                each.append(_Look(now, news[number]))
            _cut(each, enough, now - span)
        self._latest = latest
        return {n: _sum(k.new for k in each) for n, each in latest.items() if each and now - self._since[n] >= span}


def _reports(
    deployments: Mapping[int, Deployment], members: Sequence[Member]
) -> Iterator[tuple[_Source, int, Outcomes]]:
    """The totals that were reported: by each process that checks in; by an orchestrator for wagons without these."""
    checked_in = set[int]()
    for member in members:
        for each in member.attachments:
            checked_in.add(each.number)
            yield (member.name, each.number), each.number, _totals(each)
    for unit, each in deployments.items():
        if each.number not in checked_in:
            yield ("", unit), each.number, _totals(each)


def _totals(found: Deployment) -> Outcomes:
    return Outcomes(found.handled, found.failed - found.uncounted)


def _cut(latest: deque[_Look], enough: int, until: float) -> None:
    """Forget the oldest looks of before `until`, as long as enough handlings are left."""
    left = sum(sum(look.new) for look in latest)
    while latest and latest[0].at <= until and left - sum(latest[0].new) >= enough:
        left -= sum(latest.popleft().new)


def _sum(found: Iterable[Outcomes]) -> Outcomes:
    handled, failed = zip(*found, strict=True)
    return Outcomes(sum(handled), sum(failed))
