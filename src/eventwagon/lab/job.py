"""What every strategy of an experiment is given, and what came of it. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from .queueing import oldest_in_time, percentile


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """The same arrivals, the same work and the same promise for all. Times in seconds, by the number of the arrival."""

    title: str
    arrivals: Sequence[float]
    """Sorted; the first at 0 or later."""
    services: Sequence[float]
    """What a worker needs for each."""
    workers: int
    """The fixed crew; an autoscaled queue begins with as many."""
    slo: float
    """An event is on time when it was finished so soon after its arrival."""
    limit: str
    """When a wagon is full."""
    floor: int = 0
    """Of the fixed crew, for every draining wagon."""
    each: int
    """The crew of each wagon where wagons have their own."""
    spares: int = 1
    wagons: int = 32
    """The cap of live wagons."""
    start: float = 10.0
    """Until a new consumer works that was asked for: a pod, say. Elastic wagons need it too."""
    partitions: int = 32
    """More consumers than this can't share one topic."""

    @property
    def same_work(self) -> bool:
        """Each event takes as long as any other: then the optimum is known."""
        return max(self.services) - min(self.services) < 1e-12

    def behind(self) -> list[int]:
        """The newcomers: the arrivals that one FIFO queue with the fixed crew would serve late. Decided by the job
        alone, so the same for every strategy; all arrivals where that queue is never late."""
        queued, _ = oldest_in_time(self.arrivals, self.services, self.workers)
        waits = _waits(self.arrivals, queued)
        late = [i for i, wait in enumerate(waits) if wait > self.slo]
        return late or list(range(len(waits)))


class Bar(msgspec.Struct, frozen=True):
    """One wagon in the picture."""

    number: int
    opened: float
    closed: float
    drained: float
    events: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a strategy made of a job."""

    strategy: str
    finished: list[float]
    """When each arrival was done; infinite where it never was."""
    worker_seconds: float
    """Paid for: idle workers and spares too, from the start until all was done and what had been added was gone
    again."""
    switches: int = 0
    duplicates: int = 0
    bars: list[Bar] = []
    note: str = ""
    """What it stands for, in a sentence."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table."""

    on_time: float
    """The share of all arrivals."""
    p50_s: float
    p99_s: float
    mean_s: float
    worst_s: float
    newcomers_p50_s: float
    newcomers_p99_s: float
    old_p50_s: float
    old_p99_s: float
    worker_seconds: float
    drain_s: float
    """From the last arrival until all was done."""
    switches: int
    lost: int
    duplicates: int


def figures(job: Job, outcome: Outcome) -> Figures:
    """What an outcome comes to."""
    waits = _waits(job.arrivals, outcome.finished)
    done = [wait for wait in waits if math.isfinite(wait)]
    newcomers = job.behind()
    others = set(newcomers)
    old = [waits[i] for i in range(len(waits)) if i not in others and math.isfinite(waits[i])]
    new = [waits[i] for i in newcomers if math.isfinite(waits[i])]
    last = max((f for f in outcome.finished if math.isfinite(f)), default=0.0)
    return Figures(
        on_time=sum(wait <= job.slo + 1e-9 for wait in done) / len(waits),
        p50_s=percentile(done, 0.5),
        p99_s=percentile(done, 0.99),
        mean_s=sum(done) / max(1, len(done)),
        worst_s=max(done, default=0.0),
        newcomers_p50_s=percentile(new, 0.5),
        newcomers_p99_s=percentile(new, 0.99),
        old_p50_s=percentile(old, 0.5),
        old_p99_s=percentile(old, 0.99),
        worker_seconds=outcome.worker_seconds,
        drain_s=max(0.0, last - job.arrivals[-1]),
        switches=outcome.switches,
        lost=len(waits) - len(done),
        duplicates=outcome.duplicates,
    )


def _waits(arrivals: Sequence[float], finished: Sequence[float]) -> list[float]:
    return [done - at for at, done in zip(arrivals, finished, strict=True)]
