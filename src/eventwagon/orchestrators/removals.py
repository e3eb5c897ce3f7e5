"""The race between `remove` and `ensure`, for orchestrators whose removals take some time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from ..contracts.orchestrator import WagonSpec

Unit = tuple[str, int]
"""A train's name and the number of a unit of its workers."""


class UnitRemovals:
    """The units that are being removed. An `ensure` that comes meanwhile is postponed until the last removal has ended:
    done at once, it would be undone by the removal; not done at all, its workers would be missing."""

    def __init__(self) -> None:
        self._under_way: Counter[Unit] = Counter()
        self._postponed: dict[Unit, WagonSpec] = {}

    def __contains__(self, unit: Unit) -> bool:
        return self._under_way[unit] > 0

    def postpone(self, spec: WagonSpec) -> bool:
        """Returns whether the unit of `spec` is being removed; if so, the latest spec is kept for `postponed`."""
        unit = spec.train, spec.unit
        if unit not in self:
            return False
        self._postponed[unit] = spec
        return True

    @contextmanager
    def removing(self, unit: Unit) -> Iterator[None]:
        """Entered while one removal is under way; there may be several. Specs postponed during an earlier removal,
        which failed, are dropped: the caller asks again."""
        if unit not in self:
            self._postponed.pop(unit, None)
        self._under_way[unit] += 1
        try:
            yield
        finally:
            self._under_way[unit] -= 1
            if not self._under_way[unit]:
                del self._under_way[unit]

    def postponed(self, unit: Unit) -> WagonSpec | None:
        """The spec to ensure now that a removal has ended; None if there is none, or another removal is under way."""
        return None if unit in self else self._postponed.pop(unit, None)
