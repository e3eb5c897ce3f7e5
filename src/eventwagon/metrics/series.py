"""The figures behind the instruments: counts and histograms, kept in a few Python objects. Adding to one costs a
fraction of a microsecond; how they are exported is decided elsewhere."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from math import inf


class Histogram:
    """Counts values by buckets. `bounds` are the buckets' inclusive upper bounds, ascending; one more takes the
    rest."""

    __slots__ = ("bounds", "counts", "high", "low", "sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        self.low, self.high = inf, -inf
        """The smallest value and the largest."""

    def add(self, value: float) -> None:
        """Count a value. Not idempotent."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value
        if value < self.low:
            self.low = value
        if value > self.high:
            self.high = value

    def add_all(self, values: Sequence[float]) -> None:
        """Count several at once, which costs less. Not idempotent."""
        if not values:
            return
        low, high = min(values), max(values)
        self.sum += sum(values)
        self.low, self.high = min(self.low, low), max(self.high, high)
        first = bisect_left(self.bounds, low)
        if first == bisect_left(self.bounds, high):  # as for the many handlings of a fast handler
            self.counts[first] += len(values)
            return
        ascending, at = sorted(values), 0
        for place in range(first, len(self.bounds)):
            upto = bisect_right(ascending, self.bounds[place], at)
            self.counts[place] += upto - at
            at = upto
            if at == len(ascending):
                return
        self.counts[-1] += len(ascending) - at

    def add_histogram(self, other: Histogram) -> None:
        """Count what another one with the same bounds has counted. Not idempotent."""
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]
        self.sum += other.sum
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


class Calls(Histogram):
    """The durations of calls, and how many events they moved."""

    __slots__ = ("events",)

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__(bounds)
        self.events = 0
