"""When events arrive: synthetic bursts and recorded traces. Times are in seconds since the first arrival, sorted. Pure,
except that traces are read from files."""

from __future__ import annotations

import csv
import math
import random
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from ..errors import UsageError

_BLACK_FRIDAY = (
    (0.0, 0.3),
    (0.04, 0.3),
    (0.1, 2.2),
    (0.18, 2.2),
    (0.35, 1.0),
    (0.5, 0.9),
    (0.6, 1.5),
    (0.8, 0.7),
    (1.0, 0.3),
)
"""The rate over the burst, as (time, rate): both relative to the whole burst. Quiet, the doors open, the rush, a second
wave, the rest."""


MOST = 2_000_000
"""The most events of a burst or a trace: they fit into memory several times."""


def uniform(events: int, seconds: float, *, seed: int = 0) -> list[float]:
    """`events` arrivals over `seconds` at a steady rate, with exponential gaps, as for independent people. Raises
    UsageError."""
    return shaped(((0.0, 1.0), (1.0, 1.0)), events, seconds, seed=seed)


def black_friday(events: int, seconds: float, *, seed: int = 0) -> list[float]:
    """`events` arrivals over `seconds`: quiet, then the doors open, a rush at about twice the mean rate, a second wave,
    the rest. Raises UsageError."""
    return shaped(_BLACK_FRIDAY, events, seconds, seed=seed)


def shaped(shape: Sequence[tuple[float, float]], events: int, seconds: float, *, seed: int) -> list[float]:
    """Independent arrivals whose density is the piecewise linear `shape`: points (time, rate), with times from 0 to 1.
    Raises UsageError."""
    if events < 1:
        raise UsageError(f"a burst needs at least one event, not {events}")
    _few_enough("the burst", events)
    if not seconds > 0 or not math.isfinite(seconds):
        raise UsageError(f"a burst lasts more than 0 seconds, not {seconds:g}")
    rng = random.Random(seed)
    areas = list(accumulate((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in pairwise(shape)))
    arrivals = []
    for drawn in sorted(rng.random() * areas[-1] for _ in range(events)):
        i = next(i for i, area in enumerate(areas) if drawn <= area)
        (x0, y0), (x1, y1) = shape[i], shape[i + 1]
        rest = drawn - (areas[i - 1] if i else 0.0)
        slope = (y1 - y0) / (x1 - x0)
        # solve y0·d + slope·d²/2 = rest, in the form that stays exact for a small slope
        d = 2 * rest / (y0 + math.sqrt(max(0.0, y0 * y0 + 2 * slope * rest)))
        arrivals.append((x0 + d) * seconds)
    return arrivals


def load_trace(path: str | Path, *, speed: float = 1.0, seed: int = 0) -> list[float]:
    """Read the arrivals from a CSV file with a header: `arrival_s` (a row per event) or `interval_start_s,count`.

    The events of an interval are spread over it at random, by a generator seeded with `seed`; the last interval is as
    long as the one before. Other columns are ignored. `speed` compresses time. Raises UsageError with the file and the
    line.
    """
    if not speed > 0 or not math.isfinite(speed):
        raise UsageError(f"speed must be a number above 0, not {speed:g}")
    path = Path(path)
    header, rows = _table(path)
    if "arrival_s" in header:
        arrivals = _events(path, rows, header.index("arrival_s"))
    elif "interval_start_s" in header and "count" in header:
        arrivals = _counts(path, rows, header.index("interval_start_s"), header.index("count"), random.Random(seed))
    else:
        raise UsageError(
            f"{path}:1: the first line must name the columns: `arrival_s`, or `interval_start_s,count`; it has "
            f"{', '.join(header) or 'nothing'}"
        )
    if not arrivals:
        raise UsageError(f"trace {path} holds no events")
    return [(a - arrivals[0]) / speed for a in arrivals]


def load_sizes(path: str | Path) -> list[float] | None:
    """Read the column `size` of such a file, a number for each event; None if it has no such column. Raises
    UsageError."""
    path = Path(path)
    header, rows = _table(path)
    if "size" not in header or "arrival_s" not in header:
        return None
    column = header.index("size")
    sizes = [_number(path, line, row, column, "size") for line, row in _filled(rows)]
    if any(size < 0 for size in sizes):
        raise UsageError(f"trace {path}: a size is below 0")
    return sizes


def _table(path: Path) -> tuple[list[str], Iterator[list[str]]]:
    """The header and the rows below it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as e:
        raise UsageError(f"trace {path} is not text in UTF-8: {e}") from None
    except OSError as e:
        raise UsageError(f"trace {path} can't be read: {e.strerror or e}") from None
    rows = csv.reader(text.splitlines())
    return [name.strip() for name in next(rows, [])], rows


def _events(path: Path, rows: Iterator[list[str]], column: int) -> list[float]:
    arrivals: list[float] = []
    for line, row in _filled(rows):
        at = _number(path, line, row, column, "arrival_s")
        if arrivals and at < arrivals[-1]:
            raise UsageError(f"{path}:{line}: arrival_s goes back from {arrivals[-1]:g} to {at:g}; sort the rows")
        arrivals.append(at)
    _few_enough(f"trace {path}", len(arrivals))
    return arrivals


def _counts(path: Path, rows: Iterator[list[str]], start: int, count: int, rng: random.Random) -> list[float]:
    starts: list[float] = []
    counts: list[int] = []
    total = 0
    for line, row in _filled(rows):
        at = _number(path, line, row, start, "interval_start_s")
        if starts and at <= starts[-1]:
            raise UsageError(f"{path}:{line}: interval_start_s {at:g} is not after the one before, {starts[-1]:g}")
        n = _number(path, line, row, count, "count")
        if n < 0 or n != int(n):
            raise UsageError(f"{path}:{line}: count must be a whole number, 0 or more, not {row[count]!r}")
        starts.append(at)
        counts.append(int(n))
        _few_enough(f"trace {path}", total + int(n))
        total += int(n)
    if len(starts) == 1:
        raise UsageError(f"trace {path} has one interval only: how long it is can't be known")
    ends = [*starts[1:], *(2 * b - a for a, b in [starts[-2:]] if starts)] if starts else []
    return [
        at
        for begin, end, n in zip(starts, ends, counts, strict=True)
        for at in sorted(rng.uniform(begin, end) for _ in range(n))
    ]


def _few_enough(what: str, events: int) -> None:
    if events > MOST:
        raise UsageError(f"{what} has {events:,} events; the lab takes up to {MOST:,}")


def _filled(rows: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """The rows with their line numbers, without empty lines."""
    for line, row in enumerate(rows, start=2):
        if any(cell.strip() for cell in row):
            yield line, row


def _number(path: Path, line: int, row: list[str], column: int, name: str) -> float:
    if column >= len(row):
        raise UsageError(f"{path}:{line}: {name} is missing in {','.join(row)!r}")
    try:
        value = float(row[column])
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UsageError(f"{path}:{line}: {name} must be a number, not {row[column]!r}")
    return value
