"""Scalers, which decide how many Pods serve one queue: KEDA, functions, and the one for elastic wagons. Pure."""

from __future__ import annotations

import math
from collections import deque

from ...contracts.lifecycle import State
from ...contracts.manifest import Manifest, Wagon, changed
from ...contracts.orchestrator import Deployment
from ...contracts.reading import History, Reading, Sample, busy_rate
from ...policy.elastic import size
from ...policy.sizing import DemandMeter, elastic_wagons
from ...settings import make_settings
from ...workers import Elastic, Workers
from ..job import Job
from .station import ScalerView


class Keda:
    """KEDA with at least one replica, and the horizontal autoscaler behind it with its default settings.

    With at least one replica, KEDA's `pollingInterval` and `cooldownPeriod` play no part: they only start and stop the
    last one. The horizontal autoscaler reads the metric itself every 15 s (`--horizontal-pod-autoscaler-sync-period`).
    Without a `behavior`, one look scales up to at most max(4, 2 × the present Pods). Deviations of up to 10 % are
    ignored. It scales down to the highest of the recommendations of the last 300 s.
    """

    every = 15.0
    tolerance = 0.1

    def __init__(self, target: float, least: int, most: int, first: float, *, down: float = 300.0) -> None:
        self.first = first
        self._target = target
        """Events per Pod."""
        self._least = least
        self._most = most
        self._down = down
        self._recommended: deque[tuple[float, int]] = deque()

    def wanted(self, now: float, seen: ScalerView) -> int:
        """The number of Pods after this look."""
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
    """Functions: as many as there are events, but at most `step` more each second. Idle ones cost nothing."""

    every = first = 1.0

    def __init__(self, step: int, most: int) -> None:
        self._step = step
        self._most = most

    def wanted(self, now: float, seen: ScalerView) -> int:
        """How many functions may run at a time."""
        return max(seen.pods, min(seen.waiting + seen.busy, seen.pods + self._step, self._most))


STOOD = 20.0
"""Seconds before the first event during which a scaler that follows the arrival rate sees the standing Pods; it sees
their start before that. The same for one queue and for wagons."""


class FeedForward:
    """The scaler of elastic wagons, on one queue: a single active wagon that is never cut off."""

    every = first = 0.1

    def __init__(self, job: Job) -> None:
        self._per_pod = job.per_pod
        least = math.ceil(job.standing / job.per_pod) * job.per_pod
        self._promise = job.slo
        self._most = max(job.most, least) // job.per_pod
        self._elastic = Elastic(least, max(job.most, 2 * least), promise=job.slo)
        self._settings = make_settings(workers=Workers(each=self._elastic))
        self._meter = DemandMeter()
        self._history = History()
        wagon = Wagon(number=1, state=State.ACTIVE, opened_at=0.0, active_at=0.0, workers=least)
        self._manifest = Manifest(train="queue", wagons=(wagon,))
        pods = least // job.per_pod
        for look in range(-math.ceil((STOOD + job.start) / self.every), 0):
            at = look * self.every
            self.wanted(at, ScalerView(0, 0, 0, pods, pods if at >= -STOOD else 0))

    def wanted(self, now: float, seen: ScalerView) -> int:
        """The number of Pods after this look."""
        settled = seen.arrived - seen.waiting - seen.busy
        self._history.add_all({1: Sample(now, seen.arrived, settled, seen.waiting)}, now)
        samples = self._history.of(1)
        reading = Reading(
            number=1,
            at=now,
            age=now,
            published=seen.arrived,
            settled=settled,
            waiting=seen.waiting,
            in_flight=seen.busy,
            settle_rate=busy_rate(samples),
            outstanding_in_all=seen.waiting + seen.busy,
            samples=samples,
        )
        workers = Deployment(
            number=1,
            ready=seen.ready > 0,
            workers=seen.pods * self._per_pod,
            attached=seen.ready * self._per_pod,
            work=seen.work,
        )
        deployments = {1: workers}
        demand, readings = self._meter.look(
            self._settings, self._manifest, {1: reading}, deployments, self._history.of(0), now=now, steady=now
        )
        found = elastic_wagons(self._settings.workers, self._manifest, readings, deployments, now)
        sizing = size(self._elastic, demand, found, promise=self._promise, step=self._per_pod, cuts=False)
        wanted = min(sizing.workers[1], self._most * self._per_pod)
        grown = {"grown_at": now} if wanted > seen.pods * self._per_pod else {}
        self._manifest = changed(self._manifest, 1, workers=wanted, **grown)
        return wanted // self._per_pod
