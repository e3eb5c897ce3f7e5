"""What every strategy of an experiment is given, and what came of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from .queueing import oldest_in_time, percentile

REST_MOST = 600.0
"""For so many seconds after the last event is done the lab waits until the standing workers alone are left. Then what
there is counts as rest."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The same arrivals, the same work and the same promise for all. Times in seconds, by the number of the arrival."""

    title: str
    arrivals: Sequence[float]
    """Sorted; the first at 0 or later."""
    services: Sequence[float]
    """What a worker needs for each."""
    workers: int
    """The fixed workers: of one queue, or shared between wagons."""
    slo: float
    """An event is on time when it was finished so soon after its arrival."""
    limit: str
    """When a wagon is full."""
    floor: int = 0
    """Of the fixed workers, for every draining wagon."""
    each: int
    """The workers of each wagon where wagons have their own; if these follow the traffic, the least."""
    spares: int = 1
    wagons: int = 32
    """The cap of live wagons."""
    start: float = 2.0
    """From asking for a Pod until its workers work. The same for every strategy that asks for Pods."""
    per_pod: int = 1
    """Workers of a Pod: the step in which workers come and go."""
    most: int = 64
    """The ceiling: workers at a time of every strategy that asks for Pods."""
    partitions: int = 32
    """More Pods than this can't share one Kafka topic."""
    on_time: float = 0.99
    """The share that the clairvoyant scaler is asked for."""

    @property
    def standing(self) -> int:
        """The workers that stand before the burst and after it, where Pods are asked for: those of the active wagon and
        its spares. An autoscaled queue keeps as many."""
        return self.each * (1 + self.spares)

    @property
    def same_work(self) -> bool:
        """Each event takes as long as any other: then the optimum is known."""
        return max(self.services) - min(self.services) < 1e-12

    def behind(self) -> list[int]:
        """The newcomers: the arrivals that one FIFO queue with the fixed workers would serve late. Decided by the job
        alone, so the same for every strategy; all arrivals where that queue is never late."""
        queued, _ = oldest_in_time(self.arrivals, self.services, self.workers)
        waits = _waits(self.arrivals, queued)
        late = [i for i, wait in enumerate(waits) if wait > self.slo]
        return late or list(range(len(waits)))


class Bar(msgspec.Struct, frozen=True):
    """One wagon in the picture."""

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
    """The share of all arrivals."""
    on_time_least: float
    on_time_most: float
    """The worst and the best of several runs; the same as `on_time` where there is one."""
    p50_s: float
    p99_s: float
    mean_s: float
    worst_s: float
    newcomers_p50_s: float
    newcomers_p99_s: float
    old_p50_s: float
    old_p99_s: float
    standing: int
    """Workers before the burst and after it."""
    worker_seconds: float
    """Paid for until the standing workers alone are left."""
    worker_seconds_done: float
    """Paid for until the last event is done."""
    worker_seconds_extra: float
    """Paid for beyond the standing workers. It does not depend on how long anybody looks."""
    drain_s: float
    """From the last arrival until all was done."""
    switches: int
    lost: int
    duplicates: int
    peak: int = 0
    """Most workers that were paid for at a time."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a strategy made of a job."""

    strategy: str
    finished: list[float]
    """When each arrival was done; infinite where it never was."""
    standing: int
    """Workers that stand before the burst and after it."""
    until_done: float
    """Worker-seconds from the start until the last event was done; idle workers and spares too. A worker is paid for
    from the moment it is asked for until it is gone."""
    until_rest: float
    """The same until the standing workers alone were left."""
    at_rest: float
    """When that was."""
    switches: int = 0
    duplicates: int = 0
    bars: list[Bar] = []
    workers: list[tuple[float, int]] = []
    """The workers that were paid for, from each of these moments on."""
    note: str = ""
    """What it stands for, in a sentence."""
    chances: list[Figures] = []
    """The figures of several runs, where they depend on what nobody chooses: the moment of an autoscaler's first look.
    The outcome itself is the run in the middle."""


def figures(job: Job, outcome: Outcome) -> Figures:
    """What an outcome comes to; the average where it stands for several runs."""
    return _average(outcome.chances) if outcome.chances else _of_one(job, outcome, job.behind())


def over_chances(job: Job, runs: Sequence[Outcome]) -> Outcome:
    """One outcome for several runs of the same strategy: the one in the middle, with the figures of all."""
    newcomers = job.behind()
    rows = [_of_one(job, run, newcomers) for run in runs]
    middle = sorted(range(len(runs)), key=lambda i: rows[i].on_time)[len(runs) // 2]
    return msgspec.structs.replace(runs[middle], chances=rows)


def _of_one(job: Job, outcome: Outcome, newcomers: Sequence[int]) -> Figures:
    waits = _waits(job.arrivals, outcome.finished)
    done = [wait for wait in waits if math.isfinite(wait)]
    others = set(newcomers)
    old = [waits[i] for i in range(len(waits)) if i not in others and math.isfinite(waits[i])]
    new = [waits[i] for i in newcomers if math.isfinite(waits[i])]
    last = max((f for f in outcome.finished if math.isfinite(f)), default=0.0)
    on_time = sum(wait <= job.slo + 1e-9 for wait in done) / len(waits)
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
