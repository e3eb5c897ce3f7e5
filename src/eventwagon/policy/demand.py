"""What the traffic asks of workers, estimated from an observer's looks: arrival rate and trend, the work of an event,
the time that workers take to be there. Pure, no clock."""

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
"""Seconds over which arrivals are counted, the longest first."""
_SURE = 4.0
"""Standard deviations from which on a count is no chance: one in thirty thousand."""
_ENDED = 10.0
"""So many events would have come since the last one did, if the rate still held: one in twenty thousand."""
_RISING = 3.0
"""The same, for the trend: it adds to a rate that is known already."""
_LOOKS = 3
"""The fewest looks that a window needs."""
_HANDLINGS = 400
"""How many of the last handlings the time of an event is averaged over."""
_FEW = 3
"""The fewest."""
_HANDLINGS_FOR = 60.0
"""Seconds for which they are remembered, where they are fewer."""
_STARTS = 5
"""How many of the last starts count."""
_CALM, _CALM_STARTS, _CALM_MOST = 10.0, 1.5, 50.0
"""The shortest calm in seconds, as a multiple of the time that workers take to come, and the longest."""


class Coming(msgspec.Struct, frozen=True):
    """A wagon is to have so many workers, in so many seconds, as far as can be told."""

    workers: int
    seconds: float


class Demand(msgspec.Struct, frozen=True, kw_only=True):
    """What the traffic asks of workers now. A figure that is not known is None, never a guess. Times in seconds."""

    rate: float | None = None
    """Published events per second: over the longest window in which the rate has not changed."""
    trend: float = 0.0
    """By how much the rate grows per second; 0 while that is not sure."""
    peak: float | None = None
    """The highest rate of the last `calm` seconds; None until they are over."""
    calm: float = 10.0
    """For how long the rate must be low before workers go."""
    service: float | None = None
    """Seconds of a worker's time that one published event takes, in all channels together."""
    spread: float = 1.0
    """The standard deviation of that as a share of it."""
    start: float | None = None
    """Seconds from asking for workers until they are there."""
    coming: Mapping[int, tuple[Coming, ...]] = {}
    """Workers on their way, by the wagon's number, the first to come first."""


class Rate(msgspec.Struct, frozen=True):
    """Events per second, and by how much that grows per second."""

    now: float
    trend: float


def arrival_rate(samples: Sequence[Sample]) -> Rate | None:
    """The rate of arrivals, as fast as it can be told from chance: over the longest window in which it has not changed.
    None until a window is known.

    A single look never makes a rate: events that were held back come all at once, and are a backlog.
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
    """No event comes any more: those of the window came in a part of it, and none for so long since."""
    last = samples[-1]
    quiet = last.at - next(s.at for s in samples if s.published >= last.published)
    return 0 < quiet < window and rate * window * quiet > _ENDED * (window - quiet)


def _trend(samples: Sequence[Sample], window: float) -> float:
    """How much faster events came in the last seconds than in those before, per second; 0 where that may be chance, or
    the rate rises no more. `window`: over which the rate has not changed."""
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
    """By how much the rate of the last `length` seconds is above that of those before, per second, and in standard
    deviations of one count."""
    last = samples[-1].at
    now, before = _counted(samples, last - length, last), _counted(samples, last - 2 * length, last - length)
    if now is None or before is None:
        return None
    rate = before[0] / before[1]
    return (now[0] / now[1] - rate) / length, _apart(now[0], rate * now[1])


def _counted(
    samples: Sequence[Sample], since: float, until: float, *, looks: int = _LOOKS
) -> tuple[float, float] | None:
    """How many events came between the looks nearest to the two times, and in how many seconds. What came between two
    looks counts as no more than all the others together, where there are several."""
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
    """The index of the last sample at that time or before; the first where all are later."""
    low, high = 0, len(samples)
    while low < high:
        middle = (low + high) // 2
        if samples[middle].at <= at + 1e-9:
            low = middle + 1
        else:
            high = middle
    return max(0, low - 1)


def _apart(count: float, expected: float) -> float:
    """By how many standard deviations a count of independent events lies from what was expected (Anscombe)."""
    return 2 * (math.sqrt(count + 0.375) - math.sqrt(max(0.0, expected) + 0.375))


class Works:
    """How much of a worker's time events take: an observer's memory of what workers report. Bounded. Pure, no clock."""

    def __init__(self) -> None:
        self._known: dict[str, Work] = {}
        self._past: deque[tuple[float, Work]] = deque([(-math.inf, Work())])
        """Totals of all workers that ever reported, and when they were so: the oldest first."""

    def add(self, reports: Mapping[str, Work], at: float) -> None:
        """Take what each source of reports has counted so far; a count that fell began anew."""
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
        """Seconds of a handling, and their standard deviation; None until a few are known."""
        first, last = self._past[0][1], self._past[-1][1]
        count = last.count - first.count
        if count < _FEW:
            return None
        mean = (last.seconds - first.seconds) / count
        return mean, math.sqrt(max(0.0, (last.squares - first.squares) / count - mean * mean))


class Starts:
    """How long workers take to be there, and which are on their way: an observer's memory. Bounded. Pure, no clock."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int]] = {}
        """By unit: what was asked for and there at the last look."""
        self._waiting: dict[int, list[_Waiting]] = {}
        """By unit: what it is to have and has not got yet, the fewest workers first."""
        self._took: deque[float] = deque(maxlen=_STARTS)
        self._took_cold: deque[float] = deque(maxlen=_STARTS)
        self._at = 0.0

    def look(self, units: Iterable[tuple[int, int, int]], at: float) -> None:
        """`units`: each unit, how many workers were asked for, and how many are there. Only what is asked for between
        two looks is timed: workers also come and go with a process that is started or ended by hand."""
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
        """Seconds until a unit that runs has more workers: the median of the last few. Until that was seen, those until
        a unit that does not run has any. None before the first."""
        took = self._took or self._took_cold
        return sorted(took)[len(took) // 2] if took else None

    def coming(self, unit: int, start: float) -> tuple[Coming, ...]:
        """The unit's workers that are on their way, the first to come first, if they take `start` seconds."""
        waiting = self._waiting.get(unit, [])
        return tuple(Coming(each.workers, max(0.0, each.since + start - self._at)) for each in waiting)


class _Waiting(NamedTuple):
    """A unit is to have so many workers, and has not got them yet."""

    workers: int
    since: float
    cold: bool
    """It had none when they were asked for."""


class Peak:
    """The highest rate of late: an observer's memory. Bounded. Pure, no clock."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._highest: deque[tuple[float, float]] = deque()
        """Rates that no later one has reached, and when they were."""

    def look(self, rate: float | None, calm: float, at: float) -> float | None:
        """The highest of the last `calm` seconds, this one included; None until so long was looked."""
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
    """For how many seconds the rate must be low before workers go: the longer they take to come, the longer."""
    return min(_CALM_MOST, max(_CALM, _CALM_STARTS * (start or 0.0)))
