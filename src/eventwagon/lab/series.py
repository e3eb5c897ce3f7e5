"""What the pictures of an experiment show: figures by time of arrival, workers over time, colours. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .job import Job, Outcome
from .queueing import percentile

COLOURS = {
    "fifo": "#7a8594",
    "fifo_standing": "#a9b2bd",
    "keda": "#d1495b",
    "keda_kafka": "#e58a8f",
    "feed_forward": "#8a5cc2",
    "clairvoyant_scaler": "#2a9d5c",
    "ideal_elastic_fifo": "#4d5b66",
    "serverless": "#a0673c",
    "newest_first": "#c98bb0",
    "sideline": "#6b5b95",
    "wagons": "#0f9d8f",
    "wagons_no_spare": "#74c8be",
    "wagons_each": "#f08c00",
    "wagons_each_no_spare": "#f5bd6a",
    "wagons_elastic": "#1d6fe8",
    "wagons_elastic_no_spare": "#86b4f7",
    "optimum": "#c2a214",
}
"""One for each strategy, in every picture."""
DASHED = ("clairvoyant_scaler", "optimum", "ideal_elastic_fifo")
"""Nobody can have them."""
SHOWN = ("fifo", "keda", "wagons", "wagons_each", "wagons_elastic")
"""Those that a page shows at first."""
_BINS = 150


class Waits(NamedTuple):
    """How long the events of one bin waited until they were done, in seconds."""

    p10: float
    p50: float
    p90: float
    p99: float


class Bins(NamedTuple):
    """The arrivals in spans of equal length."""

    width: float
    """Seconds; one where the burst is not too long or too short for it."""
    arrivals: Sequence[Sequence[int]]
    """Their numbers."""

    def middle(self, i: int) -> float:
        """The moment at which one is drawn."""
        return (i + 0.5) * self.width


def bins_of(job: Job) -> Bins:
    """At most 150, of a length that is easily said."""
    span = max(job.arrivals[-1], 1e-3)
    width = 1.0 if _BINS / 5 <= span <= _BINS else _easy(span / _BINS)
    found: list[list[int]] = [[] for _ in range(int(span / width) + 1)]
    for i, at in enumerate(job.arrivals):
        found[int(at / width)].append(i)
    return Bins(width, found)


def _easy(at_least: float) -> float:
    """1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(at_least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= at_least * (1 - 1e-9))


def ticks(most: float, count: int = 4) -> list[float]:
    """Easily said values from 0 to `most`."""
    step = _easy(max(most, 1e-9) / count)
    return [step * i for i in range(int(most / step + 1e-9) + 1)]


AROUND = 2
"""Bins on either side whose events count too, where shares are shown: wagons that live about as long as a bin would
make a saw of the line."""


def on_time(job: Job, outcome: Outcome, bins: Bins, around: int = AROUND) -> list[float | None]:
    """The share that was on time of the events of each bin and those around it; None where none arrived in the bin."""
    good = [sum(outcome.finished[i] - job.arrivals[i] <= job.slo + 1e-9 for i in some) for some in bins.arrivals]
    shares: list[float | None] = []
    for i, some in enumerate(bins.arrivals):
        near = slice(max(0, i - around), i + around + 1)
        shares.append(sum(good[near]) / sum(map(len, bins.arrivals[near])) if some else None)
    return shares


def waits(job: Job, outcome: Outcome, bins: Bins) -> list[Waits | None]:
    """The waits of each bin's events; None where none arrived."""
    found: list[Waits | None] = []
    for some in bins.arrivals:
        values = sorted(outcome.finished[i] - job.arrivals[i] for i in some)
        found.append(Waits(*(percentile(values, share) for share in (0.1, 0.5, 0.9, 0.99))) if values else None)
    return found


def runs(values: Sequence[object]) -> list[range]:
    """Where values stand side by side without a None between them."""
    found: list[range] = []
    for i, value in enumerate(values):
        if value is not None:
            start = found.pop().start if found and found[-1].stop == i else i
            found.append(range(start, i + 1))
    return found


def end_of(job: Job, outcomes: Mapping[str, Outcome]) -> float:
    """Until when workers and wagons are shown: until all is at rest, but no longer than three times the burst."""
    last = max(outcome.at_rest for outcome in outcomes.values())
    return min(max(job.arrivals[-1], last, 1e-3), 3 * max(job.arrivals[-1], 1.0))


def end_of_wagons(job: Job, outcomes: Mapping[str, Outcome]) -> float:
    """Until when wagons are shown: until the last is drained."""
    drained = [bar.drained for outcome in outcomes.values() for bar in outcome.bars]
    return min(end_of(job, outcomes), max([job.arrivals[-1], 1e-3, *drained]))


def workers(outcome: Outcome, end: float, steps: int = 600) -> list[tuple[float, int]]:
    """The workers that were paid for, from each of these moments on until `end`: in each of `steps` spans the most."""
    changes = [*outcome.workers, (outcome.at_rest, outcome.standing)]
    found: list[tuple[float, int]] = []
    level = i = 0
    for step in range(steps):
        while i < len(changes) and changes[i][0] <= step * end / steps:
            level = changes[i][1]
            i += 1
        most = level
        while i < len(changes) and changes[i][0] < (step + 1) * end / steps:
            level = changes[i][1]
            most = max(most, level)
            i += 1
        if not found or found[-1][1] != most:
            found.append((step * end / steps, most))
    return found
