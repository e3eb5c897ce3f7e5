"""How the latest handlings of each wagon ended, from the totals that processes report. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ..contracts.lifecycle import State
from ..contracts.manifest import Manifest, Wagon
from ..contracts.orchestrator import Deployment
from ..contracts.registry import Member
from ..pause_on import PauseOn


class Outcomes(NamedTuple):
    """How the latest handlings of a wagon ended. Events that nobody could decode are left out."""

    handled: int
    failed: int


_Source = tuple[str, int]
"""A process and the wagon that it serves; without a name, workers of an orchestrator, by unit."""


class LatestOutcomes:
    """The latest handlings of each wagon: one observer's memory. Pure, no clock.

    Processes report totals. What a process had counted when this observer saw it first is left out, and so is what a
    wagon handled before and during a pause.
    """

    def __init__(self) -> None:
        self._totals: dict[_Source, Outcomes] = {}
        self._latest: dict[int, deque[Outcomes]] = {}
        """By wagon: what was new at each look, the latest last."""

    def look(
        self,
        rule: PauseOn | None,
        manifest: Manifest,
        deployments: Mapping[int, Deployment],
        members: Sequence[Member],
    ) -> Mapping[int, Outcomes]:
        """Take in one look; returns the latest handlings by wagon: at least `rule.of` if there are so many. Nothing is
        kept without a rule."""
        if rule is None:
            self._totals, self._latest = {}, {}
            return {}
        before, self._totals = self._totals, {}
        latest = {w.number: self._latest.get(w.number, deque()) for w in manifest.wagons if is_judged(manifest, w)}
        for source, number, total in _reports(deployments, members):
            self._totals[source] = total
            known = before.get(source, total)
            new = Outcomes(total.handled - known.handled, total.failed - known.failed)
            if number in latest and min(new) >= 0 and any(new):  # less than before: some of its workers began anew
                latest[number].append(new)
        for each in latest.values():
            _cut(each, rule.of)
        self._latest = latest
        return {number: _sum(each) for number, each in latest.items() if each}


def is_judged(manifest: Manifest, wagon: Wagon) -> bool:
    """Whether the rule may pause this wagon: it works, is not paused, and nobody has ended a pause of it."""
    working = wagon.state in (State.ACTIVE, State.DRAINING)
    return working and manifest.pause_of(wagon) is None and wagon.resumed_at is None


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
    return Outcomes(found.handled, found.failed - found.unreadable)


def _cut(latest: deque[Outcomes], of: int) -> None:
    """Forget the oldest, as long as enough are left."""
    left = sum(map(sum, latest))
    while latest and left - sum(latest[0]) >= of:
        left -= sum(latest.popleft())


def _sum(latest: deque[Outcomes]) -> Outcomes:
    return Outcomes(sum(each.handled for each in latest), sum(each.failed for each in latest))
