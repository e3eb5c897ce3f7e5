"""Percentiles of many times in little memory, mergeable over processes. Pure.

This is DDSketch (C. Masson, J. E. Rim, H. K. Lee: "DDSketch: A Fast and Fully-Mergeable Quantile Sketch with
Relative-Error Guarantees", PVLDB 12(12), 2019), with bins of a relative error of 2 %. Times are cut to the range from a
microsecond to thirty years, so there are at most some 900 bins, and none are ever merged.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import ceil, log

from ..contracts.ledger import Sketch, Times

ERROR = 0.02
"""The relative error of a percentile."""
_LEAST, _MOST = 1e-6, 1e9
_GAMMA = (1 + ERROR) / (1 - ERROR)
_PER_BIN = 1 / log(_GAMMA)
_FIRST, _LAST = ceil(log(_LEAST) * _PER_BIN), ceil(log(_MOST) * _PER_BIN)
"""The bins of the least and the most of these times."""


class Sketcher:
    """Takes times and gives their sketch."""

    __slots__ = ("_bins", "_least", "_most", "_zeros")

    def __init__(self) -> None:
        self._bins: dict[int, int] = {}
        self._zeros = 0
        self._least = _MOST
        self._most = 0.0

    def add(self, times: Iterable[float]) -> None:
        """Take these, in seconds. Any number may come: one that is no time counts as 0."""
        bins = self._bins
        for each in times:
            if not each > _LEAST:  # not a number, too
                self._zeros += 1
                self._least = 0.0
                continue
            one = min(_MOST, each)
            if one < self._least:
                self._least = one
            if one > self._most:
                self._most = one
            at = ceil(log(one) * _PER_BIN)
            bins[at] = bins.get(at, 0) + 1

    @property
    def sketch(self) -> Sketch:
        """What it has taken."""
        bins = self._bins
        if not bins and not self._zeros:
            return Sketch()
        first, last = (min(bins), max(bins)) if bins else (0, -1)
        return Sketch(
            zeros=self._zeros,
            first=first,
            bins=tuple(bins.get(at, 0) for at in range(first, last + 1)),
            least=self._least,
            most=self._most,
        )


def merged(sketches: Iterable[Sketch]) -> Sketch:
    """The sketch of all times in these. One that this code did not make may have bins for other times, however far off:
    those count in the first or the last bin, so that the result is as small as any."""
    into = Sketcher()
    bins = into._bins
    for each in sketches:
        if not size(each):
            continue
        for at, count in enumerate(each.bins, each.first):
            if count:
                nearest = min(max(at, _FIRST), _LAST)
                bins[nearest] = bins.get(nearest, 0) + count
        into._zeros += each.zeros
        into._least, into._most = min(into._least, each.least), max(into._most, each.most)
    return into.sketch


def size(sketch: Sketch) -> int:
    """How many times it has taken."""
    return sketch.zeros + sum(sketch.bins)


def percentile(sketch: Sketch, share: float) -> float | None:
    """The time that this share of the times does not exceed (0.99: the 99th percentile), to within `ERROR`; None if it
    has none."""
    count = size(sketch)
    if not count:
        return None
    rank = share * (count - 1)
    below = sketch.zeros
    if rank < below:
        return 0.0
    for at, each in enumerate(sketch.bins, sketch.first):
        below += each
        if rank < below:
            value: float = 2 * _GAMMA**at / (_GAMMA + 1)
            return min(max(value, sketch.least), sketch.most)
    return sketch.most


def times_of(sketch: Sketch) -> Times:
    """Its usual percentiles."""
    if not size(sketch):
        return Times()
    return Times(
        count=size(sketch),
        p50=percentile(sketch, 0.5),
        p90=percentile(sketch, 0.9),
        p99=percentile(sketch, 0.99),
        most=sketch.most,
        sketch=sketch,
    )
