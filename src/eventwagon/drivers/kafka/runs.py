"""Sets of offsets as runs: sorted lists of (start, stop) that neither overlap nor touch, unless they say otherwise."""

from __future__ import annotations

from collections.abc import Iterable

Span = tuple[int, int]
"""An offset, and the offset after the last one."""


def size(runs: Iterable[Span]) -> int:
    """How many offsets they hold."""
    return sum(stop - start for start, stop in runs)


def within(runs: list[Span], start: int, stop: int) -> list[Span]:
    """The parts of them between `start` and `stop`."""
    return [(max(a, start), min(b, stop)) for a, b in runs if a < stop and start < b]


def cut(runs: list[Span], start: int, stop: int) -> int:
    """Take the offsets between `start` and `stop` out. Returns how many went. The runs may touch."""
    gone, left = 0, list[Span]()
    for a, b in runs:
        if b <= start or stop <= a:
            left.append((a, b))
            continue
        x, y = max(a, start), min(b, stop)
        gone += y - x
        if a < x:
            left.append((a, x))
        if y < b:
            left.append((y, b))
    if gone:
        runs[:] = left
    return gone


def add(runs: list[Span], start: int, stop: int) -> int:
    """Put the offsets between `start` and `stop` in. Returns how many are new."""
    if start >= stop:
        return 0
    before, kept = 0, list[Span]()
    first, last = start, stop
    for a, b in runs:
        if b < start or stop < a:
            kept.append((a, b))
        else:
            before += max(0, min(b, stop) - max(a, start))
            first, last = min(first, a), max(last, b)
    runs[:] = sorted([*kept, (first, last)])
    return stop - start - before
