"""The input of a strategy, a `Job`, and its result, an `Outcome`. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from .queueing import is_late, newcomers, percentile

REST_MOST = 600.0
"""After the last event is done, the lab waits at most so many seconds until only the standing workers are left. Then it
takes the state reached by then as the final one."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The same arrivals, work and promise for every strategy. Times in seconds; `arrivals` and `services` by the index
    of the arrival."""

    title: str
    arrivals: Sequence[float]
    """Sorted; the first is at 0 or later."""
    services: Sequence[float]
    """Seconds of work for each event."""
    workers: int
    """The first wagon's: the number of fixed workers of one queue, or shared between wagons."""
    slo: float
    """The promise: an event is on time if it is done so soon after its arrival."""
    limit: str
    """The limit that says when a wagon is full, as text."""
    floor: int = 0
    """How many of the fixed workers each draining wagon keeps."""
    each: int
    """Workers of each wagon where wagons have their own; the minimum if they are elastic."""
    spares: int = 1
    wagons: int = 32
    """The cap: the most live wagons."""
    start: float = 2.0
    """Seconds from requesting a Pod until its workers work, the same for every strategy that requests Pods."""
    per_pod: int = 1
    """Workers per Pod: the step in which workers are added and removed."""
    most: int = 64
    """The most workers at a time, for every strategy that requests Pods."""
    partitions: int = 32
    """Partitions of the Kafka topic: no more Pods than this can share it."""
    on_time: float = 0.99
    """The share of events that the clairvoyant scaler must have on time."""

    @property
    def standing(self) -> int:
        """The workers before and after the burst where Pods are requested: those of the active wagon and its spares. An
        autoscaled queue keeps as many."""
        return self.each * (1 + self.spares)

    @property
    def same_work(self) -> bool:
        """True if each event takes equally long: then the optimum is known."""
        return max(self.services) - min(self.services) < 1e-12

    def cap(self, own: int | None, spares: int) -> int:
        """The most live wagons of a train with so many spares whose wagons have `own` workers each; None: they share
        theirs. No more than `most` workers allow, but always the active wagon, its spares and one that drains."""
        cap = self.wagons if own is None else min(self.wagons, self.most // own)
        return max(cap, spares + 2)

    def behind(self) -> list[int]:
        """The newcomers: see `queueing.newcomers`."""
        return newcomers(self.arrivals, self.services, self.workers, self.slo)


class Bar(msgspec.Struct, frozen=True):
    """One wagon in the picture. Times in seconds since the burst began."""

    number: int
    opened: float
    active: float
    """From here on it takes new events; at its end if it never did."""
    closed: float
    drained: float
    events: int


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table."""

    on_time: float
    """The share of all arrivals that was on time."""
    on_time_least: float
    on_time_most: float
    """The worst and the best of several runs; equal to `on_time` if there is only one."""
    p50_s: float
    p99_s: float
    mean_s: float
    worst_s: float
    newcomers_p50_s: float
    newcomers_p99_s: float
    old_p50_s: float
    old_p99_s: float
    standing: int
    """Workers before and after the burst."""
    worker_seconds: float
    """Paid for until only the standing workers are left."""
    worker_seconds_done: float
    """Paid for until the last event is done."""
    worker_seconds_extra: float
    """Paid for beyond the standing workers. It does not depend on how long the run is observed."""
    drain_s: float
    """Seconds from the last arrival until all events were done."""
    switches: int
    lost: int
    duplicates: int
    peak: int = 0
    """Most workers that were paid for at a time."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one strategy. Times in seconds since the burst began."""

    strategy: str
    finished: list[float]
    """When each arrival was done; infinite if it never was."""
    standing: int
    """Workers before and after the burst."""
    until_done: float
    """Worker-seconds paid from the start until the last event was done, including idle workers and spares. A worker is
    paid for from the moment it is requested until it is gone."""
    until_rest: float
    """The same until only the standing workers were left."""
    at_rest: float
    """When only the standing workers were left."""
    switches: int = 0
    duplicates: int = 0
    bars: list[Bar] = []
    workers: list[tuple[float, int]] = []
    """The workers that were paid for, from each of these moments on."""
    note: str = ""
    """What the strategy stands for, in a sentence."""
    chances: list[Figures] = []
    """The figures of several runs, if the result depends on chance: on the moment of an autoscaler's first look. The
    outcome itself is the median run."""


def figures(job: Job, outcome: Outcome) -> Figures:
    """The figures of an outcome; their average if it stands for several runs."""
    return _average(outcome.chances) if outcome.chances else _of_one(job, outcome, job.behind())


def over_chances(job: Job, runs: Sequence[Outcome]) -> Outcome:
    """Join several runs of the same strategy into one outcome: the median run, with the figures of all."""
    behind = job.behind()
    rows = [_of_one(job, run, behind) for run in runs]
    middle = sorted(range(len(runs)), key=lambda i: rows[i].on_time)[len(runs) // 2]
    return msgspec.structs.replace(runs[middle], chances=rows)


def _of_one(job: Job, outcome: Outcome, behind: Sequence[int]) -> Figures:
    waits = _waits(job.arrivals, outcome.finished)
    done = [wait for wait in waits if math.isfinite(wait)]
    others = set(behind)
    old = [waits[i] for i in range(len(waits)) if i not in others and math.isfinite(waits[i])]
    new = [waits[i] for i in behind if math.isfinite(waits[i])]
    last = max((f for f in outcome.finished if math.isfinite(f)), default=0.0)
    on_time = sum(not is_late(wait, job.slo) for wait in done) / len(waits)
    return Figures(
        on_time=on_time,
        on_time_least=on_time,
        on_time_most=on_time,
        p50_s=percentile(done, 0.5),
        p99_s=percentile(done, 0.99),
        mean_s=sum(done) / max(1, len(done)),
        worst_s=max(done, default=0.0),
        newcomers_p50_s=percentile(new, 0.5),
        newcomers_p99_s=percentile(new, 0.99),
        old_p50_s=percentile(old, 0.5),
        old_p99_s=percentile(old, 0.99),
        standing=outcome.standing,
        worker_seconds=outcome.until_rest,
        worker_seconds_done=outcome.until_done,
        worker_seconds_extra=outcome.until_rest - outcome.standing * outcome.at_rest,
        drain_s=max(0.0, last - job.arrivals[-1]),
        switches=outcome.switches,
        lost=len(waits) - len(done),
        duplicates=outcome.duplicates,
        peak=max((workers for _, workers in outcome.workers), default=outcome.standing),
    )


def _average(rows: Sequence[Figures]) -> Figures:
    averages: dict[str, float] = {}
    for name in Figures.__struct_fields__:
        values = [getattr(row, name) for row in rows]
        averages[name] = sum(values) / len(values) if isinstance(values[0], float) else max(values)
    averages["on_time_least"] = min(row.on_time for row in rows)
    averages["on_time_most"] = max(row.on_time for row in rows)
    return msgspec.convert(averages, Figures)


def _waits(arrivals: Sequence[float], finished: Sequence[float]) -> list[float]:
    return [done - at for at, done in zip(arrivals, finished, strict=True)]
