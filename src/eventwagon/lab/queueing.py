"""How one FIFO queue would have served the same arrivals: calculated exactly, event by event. Pure."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from heapq import heappop, heappush, heapreplace
from itertools import accumulate


def one_queue(arrivals: Sequence[float], steps: Sequence[float], workers: int) -> list[float]:
    """When each arrival has passed all its steps, if `workers` workers serve one queue, the oldest event first.

    `arrivals` are sorted; `steps` are the seconds that each step takes. The event of the next step is queued when a
    step ends, as in a train. Returns the time of completion of each arrival.
    """
    done = [0.0] * len(arrivals)
    waiting = 0  # arrivals that were not taken yet: their times are the queue's
    queued: list[tuple[float, int, int]] = []  # further steps: queued at, arrival, step
    ends: list[tuple[float, int, int]] = []  # under way: ends at, arrival, step
    free = workers
    now = 0.0
    while waiting < len(arrivals) or queued or ends:
        if free and queued and (waiting == len(arrivals) or queued[0][0] <= arrivals[waiting]):
            _, who, step = heappop(queued)
        elif (
            free
            and waiting < len(arrivals)
            and (arrivals[waiting] <= now or not ends or arrivals[waiting] <= ends[0][0])
        ):
            now = max(now, arrivals[waiting])
            who, step = waiting, 0
            waiting += 1
        else:
            now, who, step = heappop(ends)
            free += 1
            if step + 1 < len(steps):
                heappush(queued, (now, who, step + 1))
            else:
                done[who] = now
            continue
        free -= 1
        heappush(ends, (now + steps[step], who, step))
    return done


def most_on_time(arrivals: Sequence[float], service: float, workers: int, slo: float) -> int:
    """The most arrivals that any order of work could finish within `slo` seconds of their arrival.

    With equal work and equal promises the best order takes the oldest event that can still be on time, and never one
    that can't. This is an upper bound, since it treats the steps of each arrival as one piece of work that nothing
    interrupts.
    """
    done, _ = oldest_in_time(arrivals, [service] * len(arrivals), workers, slo)
    return sum(math.isfinite(at) for at in done)


def at_most_on_time(arrivals: Sequence[float], services: Sequence[float], workers: int, slo: float) -> int:
    """No order of work has more of the arrivals on time, whatever work each takes; the best may have fewer.

    Those that are on time are worked on between the first arrival and the last one's deadline. Of any run of arrivals
    this leaves at most as many as the shortest that fit; the run is halved where its halves allow fewer.
    """
    able = [(at, work) for at, work in zip(arrivals, services, strict=True) if work <= slo + 1e-9]
    return _most_that_fit(able, workers, slo) if able else 0


def _most_that_fit(run: Sequence[tuple[float, float]], workers: int, slo: float) -> int:
    room = workers * (run[-1][0] - run[0][0] + slo)
    fit = bisect_right(list(accumulate(sorted(work for _, work in run))), room + 1e-9 * len(run))
    if len(run) == 1:
        return fit
    half = len(run) // 2
    return min(fit, _most_that_fit(run[:half], workers, slo) + _most_that_fit(run[half:], workers, slo))


def oldest_in_time(
    arrivals: Sequence[float], services: Sequence[float], workers: int, slo: float = math.inf
) -> tuple[list[float], list[float]]:
    """Serve the oldest event first, but leave out those that can't be finished within `slo` of their arrival any more;
    without `slo` this is one FIFO queue. Returns when each arrival is done (infinite if left out), and when each worker
    is free, as a heap."""
    free = [0.0] * workers
    done = [math.inf] * len(arrivals)
    for i, at in enumerate(arrivals):
        end = max(at, free[0]) + services[i]
        if end <= at + slo + 1e-9:
            heapreplace(free, end)
            done[i] = end
    return done, free


def newcomers(arrivals: Sequence[float], services: Sequence[float], workers: int, slo: float) -> list[int]:
    """The newcomers, by the number of the arrival: those that one FIFO queue with the first wagon's `workers` would
    serve later than the promise `slo`; all arrivals where that queue is never late.

    Decided by the job alone, so they are the same for every strategy. Demo, lab and benchmarks mean this set.
    """
    done, _ = oldest_in_time(arrivals, services, workers)
    late = [i for i, at in enumerate(arrivals) if is_late(done[i] - at, slo)]
    return late or list(range(len(arrivals)))


def is_late(wait: float, slo: float) -> bool:
    """Is a wait longer than the promise? By more than the rounding of two times."""
    return wait > slo + 1e-9


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of the values do not exceed; 0 if there are none. `values` need not be sorted."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
