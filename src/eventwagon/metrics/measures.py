"""Metrics: the meter of one process. It counts in memory; exporters read from it when they are asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from ..contracts.facts import Fact
from ..contracts.metering import ProcessFigures, TrainFigures
from ..display.text import plain
from ..event import Channel, template_of
from ..runtime.observed import own_version
from . import instruments as i
from .counted import counted
from .instruments import Instrument
from .series import Calls, Histogram

S = TypeVar("S")

_MOST = 1000
"""The most series of one instrument. Names that a program makes up without end must not fill the memory."""
_OTHER = "_OTHER"
"""The label value of everything beyond that, as OpenTelemetry writes it."""
_LONGEST = 100
"""Characters of a label value."""
_TYPES = {
    "publish": "send",
    "receive": "receive",
    "settle": "settle",
    "release": "settle",
    "create": "create",
}

Labels = tuple[str, ...]
Point = tuple[Instrument, Labels, float | Histogram]
"""One series at one moment."""


class Family(NamedTuple):
    """One instrument with its series: by the values of its labels, in their order."""

    instrument: Instrument
    series: Mapping[Labels, float | Histogram]


class Metrics:
    """Measures what this process does for its trains, and the whole trains if its observer is the one that reports on
    them. Give it to `connect(meter=…)`, also to several connections, and export it with
    `eventwagon.metrics.prometheus` or `eventwagon.metrics.opentelemetry`.

    Its figures are totals since it was made. It belongs to one event loop; exporters may read it from any thread.
    `clock` gives seconds since the epoch.
    """

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.since = clock()
        """When it was made, in seconds since the epoch."""
        self._calls: dict[tuple[str, str, str, str], Calls] = {}
        """By operation, train, channel and error."""
        self._handlings: dict[tuple[str, str, str], Histogram] = {}
        """By train, channel and error."""
        self._waits: dict[tuple[str, bool], Histogram] = {}
        """By train, and whether the wagon was cut off."""
        self._counts: dict[Instrument, dict[Labels, float]] = {}
        self._times: dict[Instrument, dict[Labels, Histogram]] = {}
        self._connections: dict[object, tuple[str, str, str, Callable[[], ProcessFigures]]] = {}
        self._systems: dict[str, str] = {}
        """By train."""
        self._trains: dict[str, TrainFigures] = {}
        self._others: dict[object, Callable[[], Iterable[Point]]] = {}

    # --- as a meter ---------------------------------------------------------------------------

    def called(self, operation: str, channel: Channel, events: int, seconds: float, error: str) -> None:
        """See Meter."""
        key = operation, channel.train, channel.name, error
        calls = self._calls.get(key)
        if calls is None:
            calls = _limited(self._calls, key, (operation, channel.train, _OTHER, _OTHER), _new_calls)
        calls.events += events
        calls.add(seconds)

    def handled(
        self, channel: Channel, seconds: Sequence[float], waits: Sequence[float], error: str, late: bool
    ) -> None:
        """See Meter."""
        train, name = channel.train, channel.name
        key = train, name, error
        handlings = self._handlings.get(key)
        if handlings is None:
            handlings = _limited(self._handlings, key, (train, _OTHER, _OTHER), _new_handlings)
        handlings.add_all(seconds)
        if not name and waits:
            waited = self._waits.get((train, late))
            if waited is None:
                waited = _limited(self._waits, (train, late), (_OTHER, late), _new_waits)
            waited.add_all(waits if min(waits) >= 0 else [max(0.0, each) for each in waits])

    def heard(self, fact: Fact) -> None:
        """See Meter."""
        for instrument, labels, value in counted(fact):
            if instrument.kind == "histogram":
                self._histogram(instrument, labels).add(value)
            else:
                self._count(instrument, labels, value)

    def joined(
        self, train: str, system: str, revision: str, figures: Callable[[], ProcessFigures]
    ) -> Callable[[], None]:
        """See Meter."""
        key = object()
        self._systems[train] = system
        self._connections[key] = train, system, revision, figures
        return lambda: self._connections.pop(key, None) and None

    def looked(self, train: str, figures: TrainFigures | None) -> None:
        """See Meter."""
        if figures is None:
            self._trains.pop(train, None)
        else:
            self._trains[train] = figures

    @property
    def now(self) -> float:
        """The present time by its clock, in seconds since the epoch."""
        return self._clock()

    # --- for exporters ------------------------------------------------------------------------

    def collect(self) -> Iterator[Family]:
        """The present figures: every instrument that has any, in the order of the list."""
        found: dict[Instrument, dict[Labels, float | Histogram]] = {each: {} for each in i.INSTRUMENTS}
        for instrument, labels, value in self.own():
            found[instrument][tuple(map(_text, labels))] = value
        for other in list(self._others.values()):
            for instrument, labels, value in other():
                series, key = found[instrument], tuple(map(_text, labels))
                series[key] = _summed(instrument, series.get(key), value)
        for instrument, series in found.items():
            if series:
                yield Family(instrument, series)

    def own(self) -> Iterator[Point]:
        """The present figures, without those of other processes."""
        for gather in (self._of_calls, self._of_handlings, self._of_facts, self._of_process, self._of_trains):
            yield from gather()

    def add(self, other: Callable[[], Iterable[Point]]) -> Callable[[], None]:
        """From now on, add the figures of other processes, which `other` returns, to its own when they are collected;
        call the returned function to end that. `other` is called from any thread."""
        key = object()
        self._others[key] = other
        return lambda: self._others.pop(key, None) and None

    def keep(self, point: Point) -> None:
        """Add a total of a process that has ended to its own; a gauge means nothing any more. Not idempotent."""
        instrument, labels, value = point
        if isinstance(value, Histogram):
            self._histogram(instrument, labels).add_histogram(value)
        elif instrument.kind == "counter":
            self._count(instrument, labels, value)

    # --- counting -----------------------------------------------------------------------------

    def _count(self, instrument: Instrument, labels: Labels, value: float) -> None:
        counts = self._counts.setdefault(instrument, {})
        key = labels if labels in counts or len(counts) < _MOST else _rest(instrument, labels)
        counts[key] = counts.get(key, 0.0) + value

    def _histogram(self, instrument: Instrument, labels: Labels) -> Histogram:
        times = self._times.setdefault(instrument, {})
        return _limited(times, labels, _rest(instrument, labels), partial(Histogram, instrument.bounds))

    # --- reading ------------------------------------------------------------------------------

    def _system(self, train: str) -> str:
        """The broker's kind. A train that only handlers publish to has that of their own train."""
        return self._systems.get(train) or next(iter(self._systems.values()), "")

    def _of_calls(self) -> Iterator[Point]:
        moved: dict[tuple[Instrument, Labels], int] = {}
        for (operation, train, name, error), calls in list(self._calls.items()):
            system, template = self._system(train), template_of(train, name)
            yield (
                i.OPERATION_DURATION,
                (system, operation, _TYPES.get(operation, ""), template, error, train),
                calls,
            )
            counter = {"publish": i.SENT, "receive": i.CONSUMED}.get(operation)
            if counter is not None:
                key = counter, (system, operation, template, train)
                moved[key] = moved.get(key, 0) + calls.events
        for (counter, labels), events in moved.items():
            yield counter, labels, events

    def _of_handlings(self) -> Iterator[Point]:
        for (train, name, error), handlings in list(self._handlings.items()):
            labels = self._system(train), "process", template_of(train, name), error, train
            yield i.PROCESS_DURATION, labels, handlings
        for (train, late), waits in list(self._waits.items()):
            yield i.EVENT_WAIT, (train, "backlog" if late else "new"), waits

    def _of_facts(self) -> Iterator[Point]:
        for instrument, counts in list(self._counts.items()):
            for labels, count in list(counts.items()):
                yield instrument, labels, count
        for instrument, times in list(self._times.items()):
            for labels, histogram in list(times.items()):
                yield instrument, labels, histogram

    def _of_process(self) -> Iterator[Point]:
        sums: dict[tuple[Instrument, Labels], float] = {}
        for train, system, revision, figures in list(self._connections.values()):
            yield i.INFO, (train, system, own_version(), revision), 1
            now = figures()
            values: dict[tuple[Instrument, Labels], float] = {
                (i.WORKERS, (train,)): now.workers,
                (i.BUSY, (train,)): now.busy,
                (i.PUBLISHERS_HELD, (train,)): now.publishers_held,
                **{(i.BUDGET_USED, (train, name)): used for name, (used, _) in now.budgets.items()},
                **{(i.BUDGET_HELD, (train, name)): held for name, (_, held) in now.budgets.items()},
            }
            for key, value in values.items():
                sums[key] = sums.get(key, 0) + value
            if now.look_age is not None:
                age = i.LOOK_AGE, (train,)
                sums[age] = min(sums.get(age, now.look_age), now.look_age)
        for (instrument, labels), value in sums.items():
            yield instrument, labels, value

    def _of_trains(self) -> Iterator[Point]:
        now = self._clock()
        for figures in list(self._trains.values()):
            if abs(now - figures.at) <= figures.lasts:
                yield from of_train(figures)


def of_train(figures: TrainFigures) -> Iterator[tuple[Instrument, Labels, float]]:
    """The gauges of one train."""
    train = figures.train
    for (of, state), count in figures.outstanding.items():
        yield i.OUTSTANDING, (train, of, state), count
    for of, seconds in figures.predicted.items():
        yield i.PREDICTED, (train, of), seconds
    for of, seconds in figures.oldest.items():
        yield i.OLDEST, (train, of), seconds
    for state, count in figures.wagons.items():
        yield i.WAGONS, (train, state), count
    for limit, pressure in figures.pressures.items():
        yield i.PRESSURE, (train, limit), pressure
    for name, is_open in figures.breakers.items():
        yield i.BREAKERS_OPEN, (train, template_of(train, name)), is_open
    for (kind, state), count in figures.replays.items():
        yield i.REPLAYS, (train, kind, state), count
    for kind, count in figures.replay_left.items():
        yield i.REPLAY_LEFT, (train, kind), count
    for role, count in figures.processes.items():
        yield i.PROCESSES, (train, role), count
    single = {
        i.PROMISE: figures.promise,
        i.CAP: figures.cap,
        i.DRAIN_AGE: figures.drain_age,
        i.DEAD_LETTERS: figures.dead_letters,
        i.DUE_LATER: figures.later,
        i.PAUSED: figures.paused,
        i.WAGONS_PAUSED: figures.wagons_paused,
        i.PAUSE_AGE: figures.pause_age,
        i.REFUSING: figures.refusing,
    }
    for instrument, value in single.items():
        if value is not None:
            yield instrument, (train,), value


def _summed(instrument: Instrument, ours: float | Histogram | None, theirs: float | Histogram) -> float | Histogram:
    """The figure of two processes. What tells of the whole train, or what runs, is no sum."""
    if ours is None:
        return theirs
    if isinstance(ours, Histogram) and isinstance(theirs, Histogram):
        both = Histogram(instrument.bounds)
        both.add_histogram(ours)
        both.add_histogram(theirs)
        return both
    if isinstance(ours, Histogram) or isinstance(theirs, Histogram):
        return ours
    return ours if instrument.by == "observer" or instrument in (i.INFO, i.LOOK_AGE) else ours + theirs


def _rest(instrument: Instrument, labels: Labels) -> Labels:
    """The labels of the series that takes what is beyond the limit: the train's name stays."""
    return tuple(value if label == i.TRAIN else _OTHER for label, value in zip(instrument.labels, labels, strict=True))


def _text(label: str) -> str:
    """The label's value in a form that every system accepts."""
    return plain(label, _LONGEST)


def _new_calls() -> Calls:
    return Calls(i.OPERATION_DURATION.bounds)


def _new_handlings() -> Histogram:
    return Histogram(i.PROCESS_DURATION.bounds)


def _new_waits() -> Histogram:
    return Histogram(i.EVENT_WAIT.bounds)


K = TypeVar("K")


def _limited(known: dict[K, S], key: K, rest: K, make: Callable[[], S]) -> S:
    """The series of this key, or that of `rest` if there are too many already."""
    if key not in known:
        if len(known) >= _MOST:
            key = rest
        known.setdefault(key, make())
    return known[key]
