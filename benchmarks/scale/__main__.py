"""Measures what processes and live wagons ask of a broker, keeps the figures in docs/scale.json, and writes
docs/scale.md and its picture."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

from tests.servers.install import Missing

from . import page
from .analysis import simulations
from .figures import BROKERS, CHECKED, FIGURES, FITTED, Figures, Found, kept
from .looks import looks
from .measure import EACH, Point, Step, measure
from .replayed import replayed

_LOOKS = "looks"
"""Of the parts that can be measured: the looks at many processes and wagons."""


def main() -> int:
    """Measure what is asked for, and write."""
    arguments = _parser().parse_args()
    found = kept() if FIGURES.exists() else Figures()
    parts = arguments.only or ([] if arguments.page else [*BROKERS, _LOOKS])
    with tempfile.TemporaryDirectory(prefix="eventwagon-scale-") as name:
        directory = Path(name)
        for part in parts:
            try:
                if part == _LOOKS:
                    found.looks = asyncio.run(looks(EACH))
                    found.replayed = asyncio.run(replayed(directory, EACH))
                else:
                    found.brokers[part] = asyncio.run(_measured(part, directory, arguments.seconds))
            except Missing as e:
                print(e, file=sys.stderr)
                return 1
            found.write()  # so that what comes next may fail
    found.simulated = simulations(found)
    found.write()
    page.write(found)
    return 0


async def _measured(name: str, directory: Path, seconds: float) -> Found:
    found = Found()
    for kind, plan in ((found.points, FITTED), (found.checks, CHECKED[name])):
        for processes, observers, steps in plan:
            stepped = [Step(*each) for each in steps]
            async for point in _told(measure(name, processes, observers, stepped, directory, window=seconds)):
                kind.append(point)
    return found


async def _told(points: AsyncIterator[Point]) -> AsyncIterator[Point]:
    async for point in points:
        size = f"{point.processes} processes, {point.observers} observe, {point.wagons} live wagons, {point.rate:g}/s"
        print(f"{time.strftime('%X')} {size}: {point.looks / point.seconds:.0f} looks/s", file=sys.stderr, flush=True)
        yield point


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        choices=[*BROKERS, _LOOKS],
        help="measure only this again; may be given several times",
    )
    parser.add_argument("--page", action="store_true", help="measure nothing: simulate, and write the page")
    parser.add_argument("--seconds", type=float, default=8.0, help="of each measurement (default %(default)g)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
