"""The strategies that are not wagons, as their users set them up. Sources of the figures stand with them."""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapreplace

from ..job import Job, Outcome
from ..queueing import oldest_in_time
from .station import Fifo, Lifo, Scaling, Sideline, Station

_KEDA_POLL, _KEDA_COOLDOWN = 30.0, 300.0
"""KEDA's defaults: pollingInterval and cooldownPeriod (https://keda.sh/docs/latest/reference/scaledobject-spec/)."""
_KEDA_LAG = 10.0
"""Its Apache Kafka scaler's default lagThreshold (https://keda.sh/docs/latest/scalers/apache-kafka/)."""
_REBALANCE, _SHORT_REBALANCE = 3.0, 0.2
"""Seconds in which no consumer of a group takes anything: an assumption for an eager rebalance (its delay is 3 s by
default, group.initial.rebalance.delay.ms), and what a move took here in a group of the new protocol with quick
heartbeats."""
_RAMP_EVERY, _RAMP_STEP, _MOST_FUNCTIONS = 1.0, 5, 1000
"""300 concurrent functions a minute more, up to 1,000: an event-source mapping of Lambda on a standard SQS queue
(https://docs.aws.amazon.com/lambda/latest/dg/services-sqs-scaling.html)."""
_COLD_START = 0.5


def fifo(job: Job) -> Outcome:
    return Station(job, Fifo(job)).run("fifo", "one queue, a fixed crew")


def autoscaled_fifo(job: Job) -> Outcome:
    note = (
        f"one topic, consumers by lag as KEDA has it: a look every {_KEDA_POLL:g} s, {job.start:g} s until a consumer runs, "
        f"{_REBALANCE:g} s of rebalance, {job.partitions} partitions"
    )
    return Station(job, Fifo(job), _keda(job, _REBALANCE)).run("autoscaled_fifo", note)


def autoscaled_fifo_short_pause(job: Job) -> Outcome:
    note = f"the same with {_SHORT_REBALANCE:g} s of rebalance: Kafka's new group protocol"
    return Station(job, Fifo(job), _keda(job, _SHORT_REBALANCE)).run("autoscaled_fifo_short_pause", note)


def _keda(job: Job, pause: float) -> Scaling:
    return Scaling(_KEDA_POLL, _KEDA_LAG, max(job.workers, job.partitions), job.start, pause, _KEDA_COOLDOWN)


def ideal_elastic_fifo(job: Job) -> Outcome:
    """Nobody has it: a worker for each event at once, and paid for while it works only."""
    return Outcome(
        strategy="ideal_elastic_fifo",
        finished=[at + s for at, s in zip(job.arrivals, job.services, strict=True)],
        worker_seconds=sum(job.services),
        note="workers without end, at once and without a pause: the honest rival, which nobody has",
    )


def serverless(job: Job) -> Outcome:
    note = (
        f"a queue and functions: {_RAMP_STEP * 60} a minute more, at most {_MOST_FUNCTIONS}, {_COLD_START:g} s of cold start, "
        "paid for while they work"
    )
    scaling = Scaling(_RAMP_EVERY, 1.0, _MOST_FUNCTIONS, _COLD_START, 0.0, math.inf, _RAMP_STEP, pay_busy=True)
    return Station(job, Fifo(job), scaling).run("serverless", note)


def newest_first(job: Job) -> Outcome:
    return Station(job, Lifo(job)).run("newest_first", "one stack, a fixed crew")


def sideline(job: Job) -> Outcome:
    age = max(0.0, job.slo - max(job.services))
    note = f"what has waited for {age:g} s goes to a second queue, worked on when the first is empty; a fixed crew"
    return Station(job, Sideline(job, age)).run("sideline", note)


def optimum(job: Job) -> Outcome:
    """A clairvoyant crew: the oldest event that can still be on time, never one that can't; those after all others.

    With equal work and equal promises (deadlines in the order of arrival) no order has more on time. With unequal work
    this is a good order and no bound."""
    finished, free = oldest_in_time(job.arrivals, job.services, job.workers, job.slo)
    for i, done in enumerate(finished):
        if math.isinf(done):
            finished[i] = max(free[0], job.arrivals[-1]) + job.services[i]
            heapreplace(free, finished[i])
    note = "a clairvoyant crew: FIFO that skips what can no longer be on time, and does that after all others"
    note += (
        "; with equal work nothing has more on time"
        if job.same_work
        else "; with unequal work a good order, not a bound"
    )
    return Outcome(strategy="optimum", finished=finished, worker_seconds=job.workers * max(finished), note=note)


RIVALS: dict[str, Callable[[Job], Outcome]] = {
    rival.__name__: rival
    for rival in (
        fifo,
        autoscaled_fifo,
        autoscaled_fifo_short_pause,
        ideal_elastic_fifo,
        serverless,
        newest_first,
        sideline,
        optimum,
    )
}
