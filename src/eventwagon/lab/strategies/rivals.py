"""The strategies that are not wagons, configured as their users would. The sources of their figures are beside them."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapreplace
from itertools import accumulate

import msgspec

from ..clairvoyant import cheapest
from ..job import Job, Outcome, figures, over_chances
from ..queueing import oldest_in_time, percentile
from .scalers import FeedForward, Keda, Ramp
from .station import Fifo, Lifo, Sideline, Station

_LOOKS = 10
"""The result is averaged over so many moments of an autoscaler's first look, spread evenly between two looks."""
_STREAM_LENGTH, _LAG_THRESHOLD = 5.0, 10.0
"""Events a Pod: the defaults of KEDA's scalers for Redis Streams (streamLength) and Apache Kafka (lagThreshold)."""
_REBALANCE = 3.0
"""Seconds for which no consumer of a Kafka group receives events after its members changed: an assumption for an eager
rebalance (its delay is 3 s by default, group.initial.rebalance.delay.ms)."""
_RAMP_STEP, _MOST_FUNCTIONS = 5, 1000
"""300 concurrent functions a minute more, up to 1,000: an event-source mapping of Lambda on a standard SQS queue
(https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html)."""
_COLD_START = 0.5


def fifo(job: Job) -> Outcome:
    return Station(job, Fifo(job)).run("fifo", f"one queue, {job.workers} workers")


def fifo_standing(job: Job) -> Outcome:
    note = f"one queue with the {job.standing} workers that wagons with their own keep standing, fixed"
    return Station(job, Fifo(job), workers=job.standing).run("fifo_standing", note)


def keda(job: Job) -> Outcome:
    note = (
        f"one stream, scaled by KEDA from {job.standing} workers: the autoscaler looks every {Keda.every:g} s, "
        "the average over "
        f"{_LOOKS} moments of its first look; Pods work {job.start:g} s after they were asked for"
    )
    return _keda(job, "keda", note, _STREAM_LENGTH, job.most // job.per_pod)


def keda_kafka(job: Job) -> Outcome:
    note = f"the same on one Kafka topic: {_REBALANCE:g} s of rebalance at each change, {job.partitions} partitions"
    most = min(job.most // job.per_pod, job.partitions)
    return _keda(job, "keda_kafka", note, _LAG_THRESHOLD, most, pause=_REBALANCE)


def _keda(job: Job, strategy: str, note: str, target: float, most: int, *, pause: float = 0.0) -> Outcome:
    least = math.ceil(job.standing / job.per_pod)

    def from_look(n: int) -> Outcome:
        scaler = Keda(target, least, max(least, most), Keda.every * (n + 0.5) / _LOOKS)
        return Station(job, Fifo(job), scaler, pause=pause).run(strategy, note)

    return over_chances(job, [from_look(n) for n in range(_LOOKS)])


def feed_forward(job: Job) -> Outcome:
    note = (
        f"one queue, sized by what sizes elastic wagons, from {job.standing} workers up; "
        f"Pods work {job.start:g} s after "
        "they were asked for"
    )
    return Station(job, Fifo(job), FeedForward(job)).run("feed_forward", note)


def ideal_elastic_fifo(job: Job) -> Outcome:
    """A worker for each event at once, paid for only while it works. No platform offers this."""
    return Outcome(
        strategy="ideal_elastic_fifo",
        finished=[at + s for at, s in zip(job.arrivals, job.services, strict=True)],
        standing=0,
        until_done=sum(job.services),
        until_rest=sum(job.services),
        workers=_at_work(job),
        at_rest=max(at + s for at, s in zip(job.arrivals, job.services, strict=True)),
        note="workers without end, at once and without a pause: the honest rival, which nobody has",
    )


def _at_work(job: Job) -> list[tuple[float, int]]:
    """How many events are worked on if each is begun at once, from each moment on."""
    changes = sorted(
        [(at, 1) for at in job.arrivals]
        + [(at + seconds, -1) for at, seconds in zip(job.arrivals, job.services, strict=True)]
    )
    return list(zip((at for at, _ in changes), accumulate(change for _, change in changes), strict=True))


def serverless(job: Job) -> Outcome:
    note = (
        f"a queue and functions: {_RAMP_STEP * 60} a minute more, at most {_MOST_FUNCTIONS}, "
        f"{_COLD_START:g} s of cold start, "
        "paid for while they work"
    )
    ramp = Ramp(_RAMP_STEP, _MOST_FUNCTIONS)
    station = Station(job, Fifo(job), ramp, workers=job.workers, per_pod=1, start=_COLD_START, pays_busy=True)
    return station.run("serverless", note)


def newest_first(job: Job) -> Outcome:
    return Station(job, Lifo(job)).run("newest_first", f"one stack, {job.workers} workers")


def sideline(job: Job) -> Outcome:
    """With equal work the best age is the promise less the work. With unequal work no age is right for all: this is the
    one that does best on this burst, as if its user had tried several."""
    outcome, age = max(
        ((Station(job, Sideline(job, age)).run("sideline"), age) for age in _ages(job)),
        key=lambda tried: figures(job, tried[0]).on_time,
    )
    note = (
        f"what has waited for {age:.3g} s goes to a second queue, worked on when the first is empty; "
        f"{job.workers} workers"
    )
    if not job.same_work:
        note += f"; of the ages {', '.join(f'{each:.3g}' for each in _ages(job))} s the one with most on time"
    return msgspec.structs.replace(outcome, note=note)


def _ages(job: Job) -> list[float]:
    """Of a sideline: those with which most events, or all, can still be on time when they are begun at that age; and
    parts of the promise."""
    if job.same_work:
        return [max(0.0, job.slo - job.services[0])]
    ages = [job.slo - percentile(job.services, share) for share in (1.0, 0.99, 0.9, 0.5)]
    ages += [job.slo * part for part in (0.25, 0.5, 0.75)]
    return sorted({round(age, 6) for age in ages if age > 0})


def optimum(job: Job) -> Outcome:
    """Clairvoyant workers: the oldest event that can still be on time, never one that can't; late ones after all
    others.

    With equal work and equal promises (deadlines in the order of arrival) no order has more on time. With unequal work
    this is a good order, not a bound.
    """
    finished, free = oldest_in_time(job.arrivals, job.services, job.workers, job.slo)
    for i, done in enumerate(finished):
        if math.isinf(done):
            finished[i] = max(free[0], job.arrivals[-1]) + job.services[i]
            heapreplace(free, finished[i])
    note = (
        f"{job.workers} clairvoyant workers: FIFO that skips what can no longer be on time, and does that after "
        "all others"
    )
    note += (
        "; with equal work nothing has more on time"
        if job.same_work
        else "; with unequal work a good order, not a bound"
    )
    end = max(finished)
    paid = job.workers * end
    return Outcome(
        strategy="optimum",
        finished=finished,
        standing=job.workers,
        until_done=paid,
        until_rest=paid,
        at_rest=end,
        workers=[(0.0, job.workers)],
        note=note,
    )


def clairvoyant_scaler(job: Job) -> Outcome:
    """One queue, with a scaler that knows all arrivals: any other scaler can be measured against it."""
    return cheapest(job, "clairvoyant_scaler")


RIVALS: dict[str, Callable[[Job], Outcome]] = {
    rival.__name__: rival
    for rival in (
        fifo,
        fifo_standing,
        keda,
        keda_kafka,
        feed_forward,
        clairvoyant_scaler,
        ideal_elastic_fifo,
        serverless,
        newest_first,
        sideline,
        optimum,
    )
}
