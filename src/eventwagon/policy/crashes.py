"""Notices workers' processes that end by themselves, as one observer sees them from look to look. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from ..contracts.orchestrator import Deployment
from ..contracts.registry import Member

_EVERY = 60.0
"""Seconds between two reports about one wagon: a process that crashes again and again must not fill the journal."""


class Crash(NamedTuple):
    """Processes of one wagon that have ended by themselves and are not reported yet, and why the last one did."""

    number: int
    times: int
    because: str


class Crashes:
    """Compares the crashes that the orchestrator has counted from look to look. Those before the first look are not
    reported."""

    def __init__(self) -> None:
        self._known: dict[int, int] | None = None
        """By unit."""
        self._pending: dict[int, Crash] = {}
        """By wagon."""
        self._reported: dict[int, float] = {}
        """By wagon: when."""

    def look(
        self, name: str, deployments: Mapping[int, Deployment], members: Iterable[Member], units: Collection[int]
    ) -> None:
        """Take in one look of the observer `name`, and the units of all wagons. Those that another observer reports are
        left to it: of observers that count for the same wagon, the first by name."""
        before, counted = self._known, {unit: d for unit, d in deployments.items() if d.crashes is not None}
        kept = {unit: n for unit, n in (before or {}).items() if unit in units}
        self._known = kept | {unit: d.crashes or 0 for unit, d in counted.items()}
        if before is None:
            return
        anothers = {d.number for m in members if m.name < name for d in m.deployed if d.crashes is not None}
        for unit, d in counted.items():
            times = (d.crashes or 0) - before.get(unit, 0)
            if times > 0 and d.number not in anothers:
                times += self._pending[d.number].times if d.number in self._pending else 0
                self._pending[d.number] = Crash(d.number, times, d.crashed_because)

    def due(self, now: float) -> Sequence[Crash]:
        """What should be reported now, the first of a wagon at once. `now`: seconds that only grow."""
        return [c for c in self._pending.values() if now >= self._reported.get(c.number, float("-inf")) + _EVERY]

    def reported(self, crashes: Iterable[Crash], now: float) -> None:
        """These were reported."""
        for crash in crashes:
            del self._pending[crash.number]
            self._reported[crash.number] = now
        for number in [n for n, at in self._reported.items() if now > at + _EVERY and n not in self._pending]:
            del self._reported[number]
