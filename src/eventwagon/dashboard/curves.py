"""A bounded history of a train's figures: its size does not depend on how long somebody looks."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

Point = tuple[float, float | None, float | None, float | None, float | None, float | None, int | None, int | None]
"""The figures at one moment, in the order of `COLUMNS`."""
COLUMNS = ("at", "arrivals", "settled", "wait_new", "wait_backlog", "oldest", "waiting", "in_flight")

_FINE, _COARSE = 2.0, 60.0
"""Seconds between two points of the last hour, and of the last day."""
_HOUR, _DAY = 1800, 1440
"""The most points of each."""


class Curves:
    """The points of an hour, every two seconds, and of a day, every minute."""

    def __init__(self) -> None:
        self._hour: deque[Point] = deque(maxlen=_HOUR)
        self._day: deque[Point] = deque(maxlen=_DAY)

    @property
    def last(self) -> Point | None:
        """The newest point."""
        return self._hour[-1] if self._hour else None

    def add(self, point: Point) -> None:
        """Take in the figures of one look; not each becomes a point."""
        if self._day and point[0] < self._day[-1][0]:  # somebody has set the clock back
            self._day.clear()
            self._hour.clear()
        if not self._day or point[0] - self._day[-1][0] >= _COARSE:
            self._day.append(point)
        # a look comes a little early or late
        if not self._hour or point[0] - self._hour[-1][0] >= _FINE - 0.25:
            self._hour.append(point)

    def __len__(self) -> int:
        return len(self._hour) + len(self._day)

    def as_json(self) -> dict[str, object]:
        """All points, oldest first."""
        return {
            "columns": COLUMNS,
            "hour": {"step": _FINE, "rows": list[Sequence[object]](self._hour)},
            "day": {"step": _COARSE, "rows": list[Sequence[object]](self._day)},
        }
