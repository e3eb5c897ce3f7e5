"""The cost model: what a train asks of its broker in a second, as a sum of costs times how often each arises. Pure.

    cost = a · 1 + b · processes + c · consumers + looks · (d + e · wagons + …) + … + z · events

`TERMS` has all of them, and each broker has those that its drivers give a reason for. A look is one pass of an
observer. `consumers` are the pairs of a process and a live wagon that it works for. Looks are counted and not assumed,
so that a machine on which a look takes long changes no cost. The coefficients are fitted by least squares of the
relative errors; none is negative.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeAlias

import msgspec
import numpy

_Row: TypeAlias = tuple[float, ...]
_TINY = 1e-12


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """A train of so many processes, in one second."""

    processes: int
    wagons: int
    """Live ones."""
    each: int
    """Workers of each wagon: at most so many processes work for it."""
    looks: float
    """Of all observers together, a second."""
    events: float = 0.0
    """A second."""

    @property
    def consumers(self) -> int:
        """Pairs of a process and a live wagon that it works for."""
        return min(self.processes, self.each) * self.wagons


TERMS: Mapping[str, Callable[[Shape], float]] = {
    "fixed": lambda _: 1.0,
    "process": lambda s: s.processes,
    "consumer": lambda s: s.consumers,
    "look": lambda s: s.looks,
    "look × wagon": lambda s: s.looks * s.wagons,
    "look × wagon²": lambda s: s.looks * s.wagons**2,
    "look × process": lambda s: s.looks * s.processes,
    "look × process × wagon": lambda s: s.looks * s.processes * s.wagons,
    "process²": lambda s: s.processes**2,
    "process² × wagon": lambda s: s.processes**2 * s.wagons,
    "event": lambda s: s.events,
    "event × process": lambda s: s.events * s.processes,
}
"""How often each cost arises in a second."""


class Cost(msgspec.Struct, frozen=True):
    """One measure (requests, bytes, CPU seconds): what each term costs."""

    terms: dict[str, float]
    """By name, as in TERMS; those that cost nothing may be missing."""
    worst: float = 0.0
    """The largest relative error at the points that it was fitted to."""

    def of(self, shape: Shape) -> float:
        """In a second."""
        return math.fsum(c * TERMS[name](shape) for name, c in self.terms.items())

    def of_look(self, shape: Shape) -> float:
        """Of one look at a train of this shape."""
        one = msgspec.structs.replace(shape, looks=1.0)
        return math.fsum(c * TERMS[name](one) for name, c in self.terms.items() if name.startswith("look"))


def fit(points: Iterable[tuple[Shape, float]], terms: Sequence[str]) -> Cost:
    """The cost of these terms whose relative errors at these points have the least sum of squares, without negative
    coefficients. Points at which nothing was counted say nothing. Raises ValueError if none is left."""
    rows = [(shape, value) for shape, value in points if value > 0]
    if not rows:
        raise ValueError("nothing was counted at any point: the counting is broken, or nothing ran")
    scaled = [tuple(TERMS[name](shape) / value for name in terms) for shape, value in rows]
    found = _non_negative(scaled, len(terms))
    errors = [abs(math.fsum(c * x for c, x in zip(found, row, strict=True)) - 1) for row in scaled]
    return Cost({name: value for name, value in zip(terms, found, strict=True) if value}, max(errors))


def _non_negative(rows: Sequence[_Row], width: int) -> _Row:
    """Least squares of rows · x = 1 with x ≥ 0, by the method of Lawson and Hanson (1974, chapter 23)."""
    norms = [math.sqrt(math.fsum(row[i] ** 2 for row in rows)) or 1.0 for i in range(width)]
    rows = [tuple(x / norm for x, norm in zip(row, norms, strict=True)) for row in rows]
    x, chosen = [0.0] * width, set[int]()
    for _ in range(10 * width):
        left = [1 - math.fsum(a * b for a, b in zip(row, x, strict=True)) for row in rows]
        slopes = {
            i: math.fsum(row[i] * r for row, r in zip(rows, left, strict=True)) for i in range(width) if i not in chosen
        }
        best = max(slopes, key=lambda i: slopes[i], default=None)
        if best is None or slopes[best] <= 1e-9:
            break
        chosen.add(best)
        while True:
            trial = _least_squares(rows, sorted(chosen), width)
            if all(trial[i] > 0 for i in chosen):
                x = trial
                break
            step = min(x[i] / (x[i] - trial[i]) if x[i] > trial[i] else 1.0 for i in chosen if trial[i] <= 0)
            x = [a + step * (b - a) for a, b in zip(x, trial, strict=True)]
            chosen = {i for i in chosen if x[i] > _TINY}
            x = [value if i in chosen else 0.0 for i, value in enumerate(x)]
    return tuple(value / norm for value, norm in zip(x, norms, strict=True))


def _least_squares(rows: Sequence[_Row], columns: Sequence[int], width: int) -> list[float]:
    """Of rows · x = 1 in these columns; the other x are 0. Columns may be alike at the points measured."""
    found = numpy.zeros(width)
    found[columns] = numpy.linalg.lstsq(numpy.array(rows)[:, columns], numpy.ones(len(rows)), rcond=None)[0]
    return list(map(float, found))


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """What one resource has in a second."""

    what: str
    measure: str
    """The name of the cost that it bounds."""
    most: float
    per_process: bool = False
    """It is each process's own: the cost is divided by their number."""


def use(limit: Limit, costs: Mapping[str, Cost], shape: Shape) -> float:
    """The part of the limit that the train uses; above 1 there is no such train."""
    cost = costs[limit.measure].of(shape)
    return cost / (shape.processes if limit.per_process else 1) / limit.most


class Bend(msgspec.Struct, frozen=True):
    """Where the first limit is reached."""

    processes: int
    """The fewest with which it is."""
    what: str


def bend(
    costs: Mapping[str, Cost], limits: Sequence[Limit], shape: Callable[[int], Shape], most: int = 1_000_000
) -> Bend | None:
    """The fewest processes with which any limit is reached; None: not with `most` either. `shape` gives the train of so
    many processes; what it costs must not fall as they grow."""
    firsts = []
    for limit in limits:
        if use(limit, costs, shape(most)) < 1:
            continue
        low, high = 0, most  # not reached with `low`, reached with `high`
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if use(limit, costs, shape(middle)) >= 1 else (middle, high)
        firsts.append(Bend(high, limit.what))
    return min(firsts, key=lambda found: found.processes, default=None)
