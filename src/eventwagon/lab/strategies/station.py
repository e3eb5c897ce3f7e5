"""One queue and its workers, event by event: the simulation behind every strategy that is not wagons. Pure."""

from __future__ import annotations

import math
from collections import deque
from heapq import heappop, heappush
from typing import NamedTuple, Protocol

from ..job import Job, Outcome


class Queue(Protocol):
    """Which of the waiting events a free worker takes."""

    def push(self, arrival: int) -> None:
        """It has arrived."""
        ...

    def pop(self, now: float) -> int:
        """The next to be worked on; asked only while some wait."""
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
    """The oldest first; what has waited for longer than `age` seconds goes to a second queue, worked on when the first
    is empty."""

    def __init__(self, job: Job, age: float) -> None:
        super().__init__(job)
        self._job = job
        self._age = age
        self._aside: deque[int] = deque()

    def pop(self, now: float) -> int:
        while self._waiting and now - self._job.arrivals[self._waiting[0]] > self._age:
            self._aside.append(self._waiting.popleft())
        return self._waiting.popleft() if self._waiting else self._aside.popleft()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._aside)


class Scaling(NamedTuple):
    """How the number of workers follows the lag. Seconds."""

    poll: float
    """Between two looks."""
    lag_each: float
    """Waiting events for which there should be one worker."""
    most: int
    start: float
    """Until a worker that was asked for works."""
    pause: float
    """For which nobody takes anything after the number of workers changed: a rebalance."""
    cooldown: float
    """For which there must have been too many before some go."""
    step: int = 1_000_000
    """More at one look at most."""
    pay_busy: bool = False
    """Paid for while at work only."""


class Station:
    """Serves a job's arrivals with `job.workers` workers, or with as many as the scaling says."""

    def __init__(self, job: Job, queue: Queue, scaling: Scaling | None = None) -> None:
        self._job = job
        self._queue = queue
        self._scaling = scaling
        self._ends: list[tuple[float, int]] = []
        self._coming: list[tuple[float, int]] = []
        self._workers = job.workers
        self._busy = 0
        self._asked = job.workers
        """With those on their way."""
        self._paused_until = 0.0
        self._few_since: float | None = None
        self._pays_busy = scaling is not None and scaling.pay_busy
        self._paid = 0.0
        self._since = 0.0

    def run(self, strategy: str = "", note: str = "") -> Outcome:
        """All of it, until all is done and as many workers are left as there were at first: what is still there is paid
        for."""
        job, arrivals = self._job, self._job.arrivals
        finished = [math.inf] * len(arrivals)
        next_arrival, left = 0, len(arrivals)
        poll = self._scaling.poll if self._scaling else math.inf
        while left or (self._workers > job.workers and poll < math.inf and not self._pays_busy):
            now = min(
                arrivals[next_arrival] if next_arrival < len(arrivals) else math.inf,
                self._ends[0][0] if self._ends else math.inf,
                self._coming[0][0] if self._coming else math.inf,
                poll,
                self._paused_until if self._paused_until > self._since and len(self._queue) else math.inf,
            )
            self._pay(now)
            while self._ends and self._ends[0][0] <= now:
                end, who = heappop(self._ends)
                finished[who] = end
                self._busy -= 1
                left -= 1
            while self._coming and self._coming[0][0] <= now:
                self._resize(self._workers + heappop(self._coming)[1], now)
            while next_arrival < len(arrivals) and arrivals[next_arrival] <= now:
                self._queue.push(next_arrival)
                next_arrival += 1
            if now >= poll and self._scaling is not None:
                self._look(self._scaling, now)
                poll += self._scaling.poll
            if now >= self._paused_until:
                while len(self._queue) and self._busy < self._workers:
                    who = self._queue.pop(now)
                    heappush(self._ends, (now + job.services[who], who))
                    self._busy += 1
        return Outcome(strategy=strategy, finished=finished, worker_seconds=self._paid, note=note)

    def _pay(self, now: float) -> None:
        self._paid += (now - self._since) * (self._busy if self._pays_busy else max(self._workers, self._busy))
        self._since = now

    def _look(self, scaling: Scaling, now: float) -> None:
        lag = len(self._queue) + self._busy
        wanted = max(self._job.workers, min(scaling.most, math.ceil(lag / scaling.lag_each)))
        if wanted > self._asked:
            more = min(wanted - self._asked, scaling.step)
            self._asked += more
            heappush(self._coming, (now + scaling.start, more))
        if wanted >= self._asked:
            self._few_since = None
        elif self._few_since is None:
            self._few_since = now
        elif now - self._few_since >= scaling.cooldown and not self._coming:
            self._asked, self._few_since = wanted, None
            self._resize(wanted, now)

    def _resize(self, workers: int, now: float) -> None:
        """A change of the group: those at work finish, nobody takes anything until the pause is over."""
        self._workers = workers
        if self._scaling is not None and self._scaling.pause:
            self._paused_until = now + self._scaling.pause
