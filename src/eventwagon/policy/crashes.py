"""Notices workers' processes that end by themselves, as one observer sees them from look to look. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from ..contracts.orchestrator import Deployment
from ..contracts.registry import Member


class Crash(NamedTuple):
    """Processes of one wagon that have ended by themselves since the last look, and why the last one did."""

    number: int
    times: int
    because: str


class Crashes:
    """Compares what the orchestrator counts from look to look. What it had counted before the first is not told."""

    def __init__(self) -> None:
        self._known: dict[int, int] | None = None
        """By unit."""

    def look(self, name: str, deployments: Mapping[int, Deployment], members: Iterable[Member]) -> list[Crash]:
        """Record one look of the observer `name`. Returns the new crashes, except those of wagons that another observer
        reports: of the observers that count crashes of the same wagon, the first by name."""
        before, counted = self._known, {u: d for u, d in deployments.items() if d.crashes is not None}
        self._known = {unit: d.crashes or 0 for unit, d in counted.items()}
        if before is None:
            return []
        anothers = {d.number for m in members if m.name < name for d in m.deployed if d.crashes is not None}
        return [
            Crash(d.number, new, d.crashed_because)
            for unit, d in counted.items()
            if (new := (d.crashes or 0) - before.get(unit, 0)) > 0 and d.number not in anothers
        ]
