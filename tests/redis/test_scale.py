"""The scale model's measurement, once, with one process."""

from __future__ import annotations

import asyncio
from pathlib import Path

from benchmarks.scale.measure import MEASURES, Point, Step, measure


def test_one_process_is_measured(tmp_path: Path) -> None:
    """Idle, at work, and with a second live wagon. What is counted on the way is what the server has counted, or it
    raises Miscounted."""

    async def main() -> list[Point]:
        steps = (Step(1), Step(1, 20.0), Step(2))
        return [point async for point in measure("Redis", 1, 1, steps, tmp_path, window=1.0, settled=0.5)]

    idle, busy, two = asyncio.run(main())
    assert all(point.per_second(measure) > 0 for point in (idle, busy, two) for measure in MEASURES)
    assert idle.events == two.events == 0
    assert busy.events > 5
    assert busy.requests["script publish"] >= busy.events - 3
    assert busy.per_second("requests") > idle.per_second("requests") + 20
    assert idle.requests["script members"] <= idle.looks + 2
