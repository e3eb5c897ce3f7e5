"""Estimates the demand for workers from an observer's looks: arrival rate and trend, work per event, and how long
workers take to start. Pure, no clock."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from ..contracts.orchestrator import Work
from ..contracts.reading import Sample

LONGEST = 8.0
_WINDOWS = (LONGEST, 4.0, 2.0, 1.0, 0.5)
"""Windows in which arrivals are counted, in seconds, longest first."""
_SURE = 4.0
"""A count this many standard deviations off is not chance: the odds are one in thirty thousand."""
_ENDED = 10.0
"""Arrivals have ended if this many more would have come at the old rate: the odds are one in twenty thousand."""
_RISING = 3.0
"""Like `_SURE`, for the trend: lower, because the trend only adds to a known rate."""
_LOOKS = 3
"""The fewest looks in a window."""
_HANDLINGS = 400
"""The time per event is averaged over this many of the last handlings."""
FEW = 3
"""The fewest handlings that give an average."""
_HANDLINGS_FOR = 60.0
"""Seconds for which handlings are remembered, if there are fewer than `_HANDLINGS`."""
_STARTS = 5
"""How many of the last starts count."""
_CALM, _CALM_STARTS, _CALM_MOST = 10.0, 1.5, 50.0
"""The calm: at least this many seconds, this multiple of the workers' start-up time, and at most this many seconds."""


class Coming(msgspec.Struct, frozen=True):
    """A wagon is expected to have this many workers in this many seconds."""

    workers: int
    seconds: float


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """The demand for workers now. An unknown figure is None, never a guess. Times in seconds."""

    rate: float | None = None
    """Published events per second, over the longest window in which the rate has not changed."""
    trend: float = 0.0
    """Growth of the rate per second; 0 while it is uncertain."""
    peak: float | None = None
    """The highest rate of the last `calm` seconds; None until the observer has looked for that long."""
    calm: float = 10.0
    """How long the rate must be low before workers are released."""
    service: float | None = None
    """Seconds of worker time per published event, summed over all channels."""
    spread: float = 1.0
    """The standard deviation of `service`, as a share of it."""
    start: float | None = None
    """Seconds from asking for workers until they are attached."""
    coming: Mapping[int, tuple[Coming, ...]] = {}
    """Workers that are starting, by wagon number, earliest first."""


class Rate(msgspec.Struct, frozen=True):
    """Events per second, and its growth per second."""

    now: float
    trend: float


def arrival_rate(samples: Sequence[Sample]) -> Rate | None:
    """The arrival rate, over the longest window in which it has not changed. A change counts as soon as it can be told
    from chance. None until there are enough looks for a window.

    A single look never makes a rate: events that were held back and then arrive all at once are a backlog.
    """
    if len(samples) < 2:
        return None
    last = samples[-1]
    found: tuple[float, float] | None = None
    for window in _WINDOWS:
        counted = _counted(samples, last.at - window, last.at)
        if counted is None:
            continue
        count, span = counted
        if found is None or abs(_apart(count, found[0] * span)) > _SURE:
            found = count / span, span
    if found is None:
        return None
    if _ended(samples, *found):
        return Rate(0.0, 0.0)
    return Rate(found[0], _trend(samples, found[1]))


def _ended(samples: Sequence[Sample], rate: float, window: float) -> bool:
    """Whether arrivals have ended: the window's events came in its first part, and none for too long since."""
    last = samples[-1]
    quiet = last.at - next(s.at for s in samples if s.published >= last.published)
    return 0 < quiet < window and rate * window * quiet > _ENDED * (window - quiet)


def _trend(samples: Sequence[Sample], window: float) -> float:
    """Growth of the rate per second, from the last seconds and those before them; 0 if that may be chance or the rate
    has stopped rising. `window`: seconds in which the rate has not changed."""
    if window > 0.9 * LONGEST:
        return 0.0
    for length in (2.0, 4.0):
        if length > max(2.0, window):
            break
        long, short = _rise(samples, length), _rise(samples, length / 2)
        if long is not None and short is not None and long[1] > _RISING * math.sqrt(2):
            return max(0.0, min(long[0], short[0]))
    return 0.0


def _rise(samples: Sequence[Sample], length: float) -> tuple[float, float] | None:
    """How far the rate of the last `length` seconds is above that of the `length` seconds before: as growth per second,
    and in standard deviations of one count."""
    last = samples[-1].at
    now, before = _counted(samples, last - length, last), _counted(samples, last - 2 * length, last - length)
    if now is None or before is None:
        return None
    rate = before[0] / before[1]
    return (now[0] / now[1] - rate) / length, _apart(now[0], rate * now[1])


def _counted(
    samples: Sequence[Sample], since: float, until: float, *, looks: int = _LOOKS
) -> tuple[float, float] | None:
    """Events between the looks nearest to the two times, and the seconds between those looks. With `looks` > 1, no
    single interval counts for more than all the others together."""
    first, last = _before(samples, since), _before(samples, until)
    if last - first < looks or samples[first].at > since + 0.1 * (until - since):
        return None
    span = samples[last].at - samples[first].at
    if span <= 0:
        return None
    count = samples[last].published - samples[first].published
    if looks > 1:
        most = max(samples[i + 1].published - samples[i].published for i in range(first, last))
        count = min(count, 2 * (count - most))
    return float(max(0, count)), span


def _before(samples: Sequence[Sample], at: float) -> int:
    """The index of the last sample at or before that time; 0 if all are later."""
    low, high = 0, len(samples)
    while low < high:
        middle = (low + high) // 2
        if samples[middle].at <= at + 1e-9:
            low = middle + 1
        else:
            high = middle
    return max(0, low - 1)


def _apart(count: float, expected: float) -> float:
    """How many standard deviations a count of independent events is off the expected count (Anscombe)."""
    return 2 * (math.sqrt(count + 0.375) - math.sqrt(max(0.0, expected) + 0.375))


class Works:
    """Worker time per event: an observer's memory of what workers report. Bounded. Pure, no clock."""

    def __init__(self) -> None:
        self._known: dict[str, Work] = {}
        self._past: deque[tuple[float, Work]] = deque([(-math.inf, Work())])
        """Totals over all workers that ever reported, with the time of each: oldest first."""

    def add(self, reports: Mapping[str, Work], at: float) -> None:
        """Take in what each source has counted so far. A count that fell was restarted from 0."""
        count, seconds, squares = self._past[-1][1].count, self._past[-1][1].seconds, self._past[-1][1].squares
        for source, work in reports.items():
            before = self._known.get(source, Work())
            if work.count < before.count:
                before = Work()
            count += work.count - before.count
            seconds += max(0.0, work.seconds - before.seconds)
            squares += max(0.0, work.squares - before.squares)
        self._known = dict(reports)
        total = Work(count=count, seconds=seconds, squares=squares)
        if total.count > self._past[-1][1].count:
            self._past.append((at, total))
        while len(self._past) > 2 and (
            self._past[1][0] < at - _HANDLINGS_FOR or total.count - self._past[1][1].count >= _HANDLINGS
        ):
            self._past.popleft()

    @property
    def mean(self) -> tuple[float, float] | None:
        """Mean seconds per handling, and the standard deviation; None until a few are known."""
        first, last = self._past[0][1], self._past[-1][1]
        count = last.count - first.count
        if count < FEW:
            return None
        mean = (last.seconds - first.seconds) / count
        return mean, math.sqrt(max(0.0, (last.squares - first.squares) / count - mean * mean))


class Starts:
    """How long workers take to start, and which are starting: an observer's memory. Bounded. Pure, no clock."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}
        """By unit: workers asked for and workers attached at the last look."""
        self._waiting: dict[int, list[_Waiting]] = {}
        """By unit: the worker counts that it has not reached yet, lowest first."""
        self._took: deque[float] = deque(maxlen=_STARTS)
        self._took_cold: deque[float] = deque(maxlen=_STARTS)
        self._at = 0.0

    def look(self, units: Iterable[tuple[int, int, int]], at: float) -> None:
        """Take in one look. `units`: each unit, the workers asked for, and the workers attached. Only workers that were
        asked for between two looks are timed: others come and go with processes started or ended by hand."""
        waiting: dict[int, list[_Waiting]] = {}
        standing = dict[int, tuple[int, int]]()
        for unit, asked, present in units:
            standing[unit] = asked, present
            before = self._known.get(unit, (0, 0))
            if unit not in self._known and present:
                before = asked, present  # nobody knows when they were asked for
            known = self._waiting.get(unit, []) if present >= before[1] else []
            for each in known:
                if each.workers <= present:
                    (self._took_cold if each.cold else self._took).append(at - each.since)
            left = [each for each in known if present < each.workers <= asked]
            if asked > max(present, before[0]):
                left.append(_Waiting(asked, at, cold=not present))
            if left:
                waiting[unit] = left
        self._known, self._waiting, self._at = standing, waiting, at

    @property
    def usual(self) -> float | None:
        """Seconds until a running unit has more workers: the median of the last few starts. Until one was seen, the
        median for units that had no workers. None before the first start."""
        took = self._took or self._took_cold
        return sorted(took)[len(took) // 2] if took else None

    def coming(self, unit: int, start: float) -> tuple[Coming, ...]:
        """The unit's workers that are starting, earliest first, if a start takes `start` seconds."""
        waiting = self._waiting.get(unit, [])
        return tuple(Coming(each.workers, max(0.0, each.since + start - self._at)) for each in waiting)


class _Waiting(NamedTuple):
    """A unit was asked to have this many workers and does not have them yet."""

    workers: int
    since: float
    cold: bool
    """The unit had no workers when these were asked for."""


class Peak:
    """The highest recent rate: an observer's memory. Bounded. Pure, no clock."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._highest: deque[tuple[float, float]] = deque()
        """Rates that no later rate has reached, each after its time."""

    def look(self, rate: float | None, calm: float, at: float) -> float | None:
        """The highest rate of the last `calm` seconds, including this one; None until that much time is covered."""
        if rate is None or (self._highest and at < self._highest[-1][0]):
            self._since = None
            self._highest.clear()
            return None
        self._since = at if self._since is None else self._since
        while self._highest and self._highest[-1][1] <= rate:
            self._highest.pop()
        self._highest.append((at, rate))
        while self._highest[0][0] < at - calm:
            self._highest.popleft()
        return self._highest[0][1] if at - self._since >= calm else None


def calm_for(start: float | None) -> float:
    """Seconds for which the rate must be low before workers are released: longer if they take longer to start."""
    return min(_CALM_MOST, max(_CALM, _CALM_STARTS * (start or 0.0)))
