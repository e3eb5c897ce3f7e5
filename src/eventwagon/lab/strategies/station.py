"""One queue and its workers, event by event: the simulation behind every strategy that is not wagons. Pure."""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

from ...contracts.orchestrator import Work
from ..job import REST_MOST, Job, Outcome


class Queue(Protocol):
    """The order in which free workers take the waiting events."""

    def push(self, arrival: int) -> None:
        """Add an arrival, by its index."""
        ...

    def pop(self, now: float) -> int:
        """Remove and return the next arrival to work on. Called only while some wait."""
        ...

    def __len__(self) -> int: ...


class Fifo:
    """The oldest first."""

    def __init__(self, job: Job) -> None:
        self._waiting: deque[int] = deque()

    def push(self, arrival: int) -> None:
        self._waiting.append(arrival)

    def pop(self, now: float) -> int:
        return self._waiting.popleft()

    def __len__(self) -> int:
        return len(self._waiting)


class Lifo(Fifo):
    """The newest first."""

    def pop(self, now: float) -> int:
        return self._waiting.pop()


class Sideline(Fifo):
    """The oldest first; events that have waited for longer than `age` seconds go to a second queue, which is served
    when the first is empty."""

    def __init__(self, job: Job, age: float) -> None:
        super().__init__(job)
        self._job = job
        self._age = age
        self._aside: deque[int] = deque()

    def pop(self, now: float) -> int:
        while self._waiting and now - self._job.arrivals[self._waiting[0]] > self._latest(self._waiting[0]):
            self._aside.append(self._waiting.popleft())
        return self._waiting.popleft() if self._waiting else self._aside.popleft()

    def _latest(self, arrival: int) -> float:
        """The longest that it may have waited to be worked on in its turn."""
        return self._age

    def __len__(self) -> int:
        return len(self._waiting) + len(self._aside)


class InTime(Sideline):
    """The oldest that can still be on time comes first; the others once nothing else waits. It knows how long each
    event takes."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, job.slo)

    def _latest(self, arrival: int) -> float:
        return self._job.slo - self._job.services[arrival]


class ScalerView(NamedTuple):
    """What a scaler sees at a look."""

    arrived: int
    """Events that have arrived so far."""
    waiting: int
    busy: int
    pods: int
    """Pods, including those that are starting."""
    ready: int = 0
    """Pods that have started."""
    work: Work = Work()
    """How long the finished events took."""


class Scaler(Protocol):
    """Decides how many Pods there should be, from the past only."""

    every: float
    """Seconds between two looks."""
    first: float
    """When the first look is, in seconds since the burst began."""

    def wanted(self, now: float, seen: ScalerView) -> int:
        """The number of Pods that should exist. Called at each look, in order."""
        ...


class Station:
    """Serves a job's arrivals with `job.workers` workers from one queue. With a scaler, the workers are in Pods:
    `job.standing` workers, rounded up to whole Pods, are there from the start, and further ones work `start` seconds
    after they were requested. `pause`: for so many seconds after Pods were added or removed, no event is taken (a
    rebalance). `pays_busy`: workers are paid for only while they work."""

    def __init__(
        self,
        job: Job,
        queue: Queue,
        scaler: Scaler | None = None,
        *,
        workers: int | None = None,
        per_pod: int | None = None,
        start: float | None = None,
        pause: float = 0.0,
        pays_busy: bool = False,
    ) -> None:
        self._job = job
        self._queue = queue
        self._scaler = scaler
        self._start = job.start if start is None else start
        self._pause = pause
        self._pays_busy = pays_busy
        if workers is None:
            workers = job.standing if scaler else job.workers
        self._per_pod = (per_pod or job.per_pod) if scaler else 1
        self._standing = math.ceil(workers / self._per_pod)
        """Pods, as all below."""
        self._asked = self._ready = self._standing
        self._coming: deque[tuple[float, int]] = deque()
        self._ends: list[tuple[float, int]] = []
        self._busy = 0
        self._work = Work()
        self._paused_until = 0.0
        self._paid = 0.0
        self._since = 0.0
        self._levels: list[tuple[float, int]] = []
        """The workers that were paid for, from each of these moments on."""

    def run(self, strategy: str = "", note: str = "") -> Outcome:
        """Run until all events are done and only the standing Pods are left."""
        job, arrivals, scaler = self._job, self._job.arrivals, self._scaler
        finished = [math.inf] * len(arrivals)
        arrived, left, until_done = 0, len(arrivals), 0.0
        look = scaler.first if scaler else math.inf
        rest_by = math.inf
        while left or (self._asked > self._standing and not self._pays_busy and self._since < rest_by):
            now = min(
                arrivals[arrived] if arrived < len(arrivals) else math.inf,
                self._ends[0][0] if self._ends else math.inf,
                self._coming[0][0] if self._coming else math.inf,
                look,
                self._paused_until if self._paused_until > self._since and len(self._queue) else math.inf,
            )
            self._pay(now)
            while self._ends and self._ends[0][0] <= now:
                end, who = heappop(self._ends)
                finished[who] = end
                self._count(job.services[who])
                self._busy -= 1
                left -= 1
                until_done = self._paid
                rest_by = now + REST_MOST
            while self._coming and self._coming[0][0] <= now:
                self._resize(self._coming.popleft()[1], now)
            while arrived < len(arrivals) and arrivals[arrived] <= now:
                self._queue.push(arrived)
                arrived += 1
            if scaler is not None and now >= look:
                seen = ScalerView(arrived, len(self._queue), self._busy, self._asked, self._ready, self._work)
                wanted = scaler.wanted(now, seen)
                self._scale(max(self._standing, wanted), now)
                look += scaler.every
            if now >= self._paused_until:
                while len(self._queue) and self._busy < self._ready * self._per_pod:
                    who = self._queue.pop(now)
                    heappush(self._ends, (now + job.services[who], who))
                    self._busy += 1
        return Outcome(
            strategy=strategy,
            finished=finished,
            standing=0 if self._pays_busy else self._standing * self._per_pod,
            until_done=until_done,
            until_rest=self._paid,
            at_rest=self._since,
            workers=self._levels,
            note=note,
        )

    def _count(self, seconds: float) -> None:
        work = self._work
        self._work = Work(
            count=work.count + 1, seconds=work.seconds + seconds, squares=work.squares + seconds * seconds
        )

    def _pay(self, now: float) -> None:
        paid = self._busy if self._pays_busy else max(self._asked * self._per_pod, self._busy)
        self._paid += (now - self._since) * paid
        if now > self._since and (not self._levels or self._levels[-1][1] != paid):
            self._levels.append((self._since, paid))
        self._since = now

    def _scale(self, pods: int, now: float) -> None:
        if pods > self._asked:
            self._coming.append((now + self._start, pods - self._asked))
            self._asked = pods
        while pods < self._asked and self._coming:  # the last that were asked for go first
            at, some = self._coming.pop()
            gone = min(some, self._asked - pods)
            self._asked -= gone
            if some > gone:
                self._coming.append((at, some - gone))
        if pods < self._asked:
            self._asked = pods
            self._resize(pods - self._ready, now)

    def _resize(self, pods: int, now: float) -> None:
        """Add `pods` Pods (or remove, if negative). Busy workers finish; no event is taken until the pause is over."""
        self._ready += pods
        if self._pause:
            self._paused_until = now + self._pause
