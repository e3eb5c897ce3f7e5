"""What decides how many Pods serve one queue: KEDA, functions, and a feed-forward scaler. Pure."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence

from ..job import Job
from .sizing import workers_for
from .station import Seen


class Keda:
    """KEDA with at least one replica, and the horizontal autoscaler behind it as it comes.

    With at least one replica KEDA's `pollingInterval` and `cooldownPeriod` play no part: they only wake and end the
    last one. The horizontal autoscaler reads the metric itself every 15 s
    (`--horizontal-pod-autoscaler-sync-period`). Without a `behavior` one look goes to max(4, 2 × the Pods there) at
    most; it leaves a deviation of 10 % alone, and before it goes down it waits until the highest of the last
    300 s of recommendations is lower.
    """

    every = 15.0
    tolerance = 0.1

    def __init__(self, target: float, least: int, most: int, first: float, *, down: float = 300.0) -> None:
        self.first = first
        self._target = target
        """Events for which there should be a Pod."""
        self._least = least
        self._most = most
        self._down = down
        self._recommended: deque[tuple[float, int]] = deque()

    def wanted(self, now: float, seen: Seen) -> int:
        """Pods after this look."""
        lag = seen.waiting + seen.busy  # what is claimed and not settled is still in the stream, or not committed
        near = abs(lag / (self._target * seen.pods) - 1) <= self.tolerance
        recommended = seen.pods if near else math.ceil(lag / self._target)
        recommended = max(self._least, min(self._most, recommended))
        while self._recommended and self._recommended[0][0] <= now - self._down:
            self._recommended.popleft()
        self._recommended.append((now, recommended))
        highest = max(pods for _, pods in self._recommended)
        if recommended > seen.pods:
            return min(recommended, max(4, 2 * seen.pods))
        return min(highest, seen.pods)


class Ramp:
    """Functions: as many as there are events, `step` more a second at most; those that idle cost nothing."""

    every = first = 1.0

    def __init__(self, step: int, most: int) -> None:
        self._step = step
        self._most = most

    def wanted(self, now: float, seen: Seen) -> int:
        """Functions that may run at a time."""
        return max(seen.pods, min(seen.waiting + seen.busy, seen.pods + self._step, self._most))


class FeedForward:
    """Sized by the arrival rate, before lag shows: what elastic wagons know, on one queue."""

    every = first = 0.1
    window = 1.0
    """Seconds over which the arrival rate is measured."""
    rise = 2.0
    """A rate that climbs is expected to go on until further Pods are ready, to so many times the present one at most."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._service = _mean(job.services)
        self._calm = max(10.0, 2 * job.start)
        """Pods go once none of the last so many seconds wanted them."""
        self._arrived: deque[tuple[float, int]] = deque([(0.0, 0)])
        self._wanted: deque[tuple[float, int]] = deque()
        """Falling: the highest of the last seconds first."""

    def wanted(self, now: float, seen: Seen) -> int:
        """Pods after this look."""
        job = self._job
        workers = workers_for(
            rate=self._rate(now, seen.arrived), service=self._service, backlog=seen.waiting + seen.busy,
            promise=job.slo, start_up=job.start, present=seen.pods * job.per_pod,
        )  # fmt: skip
        pods = min(math.ceil(workers / job.per_pod), job.most // job.per_pod)
        while self._wanted and self._wanted[0][0] <= now - self._calm:
            self._wanted.popleft()
        while self._wanted and self._wanted[-1][1] <= pods:
            self._wanted.pop()
        self._wanted.append((now, pods))
        return max(pods, min(seen.pods, self._wanted[0][1]))

    def _rate(self, now: float, arrived: int) -> float:
        """Arrivals a second to be expected when further Pods are ready."""
        self._arrived.append((now, arrived))
        while len(self._arrived) > 1 and self._arrived[1][0] <= now - 2 * self.window:
            self._arrived.popleft()
        middle = next(past for past in self._arrived if past[0] > now - self.window - self.every / 2)
        latest = (arrived - middle[1]) / max(self.window, now - middle[0])
        before = (middle[1] - self._arrived[0][1]) / max(self.window, middle[0] - self._arrived[0][0])
        climb = latest - before
        if climb < 2.5 * math.sqrt(max(1.0, (latest + before) / self.window)):  # no more than independent arrivals vary
            return latest
        return min(self.rise * latest, latest + climb / self.window * self._job.start)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
