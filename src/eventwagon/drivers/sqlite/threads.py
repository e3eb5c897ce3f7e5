"""A few threads for the SQLite files that this process has open, however many these are.

A file's work is never done by two threads at a time. A thread that is held up, by a slow disk or by the lock of another
process, is replaced meanwhile: one file never stops the others for long.
"""

from __future__ import annotations

import heapq
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from queue import Empty, SimpleQueue

from ...sharing import Shared

_FEW = 5
"""Threads that are not held up."""
_MOST = 64
_LOOK = 0.05
"""Seconds between two looks of the clock while work waits for a thread."""
_HELD_UP = 10
"""Looks that find a thread at the same piece of work, after which it counts as held up. Looks and no seconds: a machine
that is overloaded holds up the clock as well, and more threads would not help it."""
_IDLE = 3.0
"""Seconds without work, after which a thread ends."""
_GRID = 0.01
_COARSE = 0.05
"""Work that comes again after at least this many seconds is done together with other such work: at multiples of
`_GRID`, so that the process wakes up less often."""


class Work:
    """One file's work. `step` does what there is to do, and returns the seconds after which it is to be called again
    without a `wake`; None: never again."""

    __slots__ = ("_again", "_due", "_is_over", "_is_running", "_since", "_step", "_threads")

    def __init__(self, threads: Threads, step: Callable[[], float | None]) -> None:
        self._threads = threads
        self._step = step
        self._is_running = False
        self._is_over = False
        self._again = False
        """It was woken while it ran."""
        self._due: float | None = None
        """When the clock wakes it."""
        self._since: float | None = None
        """Since when it has waited for a thread."""

    def wake(self) -> None:
        """Call `step` soon, and once more if it runs now. From any thread."""
        self._threads.wake(self)


class _Worker:
    def __init__(self) -> None:
        self.inbox: SimpleQueue[Work | None] = SimpleQueue()
        self.thread: threading.Thread | None = None
        self.looks = 0
        """How many have found it at its present work."""


class Threads:
    """The threads of one event loop's files. They start with the first work and end with the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tick = threading.Condition(self._lock)
        """What the clock waits for."""
        self._works = 0
        self._ready: deque[Work] = deque()
        self._timed: list[tuple[float, int, Work]] = []
        self._numbers = count()
        self._workers: set[_Worker] = set()
        self._idle: list[_Worker] = []
        """The one that became idle last comes first again: so those that are not needed end."""
        self._clock: threading.Thread | None = None
        self._next = 0.0
        """Until when the clock waits."""

    def begin(self, step: Callable[[], float | None]) -> Work:
        """Work to do from now on; it is not woken yet."""
        with self._lock:
            self._works += 1
        return Work(self, step)

    async def close(self) -> None:
        """Wait for the threads to end. All work has ended before."""
        with self._lock:
            threads = [worker.thread for worker in self._workers] + [self._clock]
            self._end_if_done()
        for thread in threads:
            if thread is not None:
                thread.join()

    def wake(self, work: Work) -> None:
        """See Work.wake."""
        with self._lock:
            if work._is_running:
                work._again = True
            elif work._since is None and not work._is_over:
                self._hand_out(work)

    # --- with the lock held -------------------------------------------------------------------

    def _hand_out(self, work: Work) -> None:
        work._due, work._since = None, time.monotonic()
        if self._idle:
            self._idle.pop().inbox.put(work)
        elif self._wants_more():
            self._start_worker(work)
        else:
            self._ready.append(work)
            self._wind(work._since + _LOOK)

    def _wants_more(self) -> bool:
        held_up = sum(worker.looks >= _HELD_UP for worker in self._workers)
        return len(self._workers) < min(_MOST, _FEW + held_up)

    def _start_worker(self, work: Work) -> None:
        worker = _Worker()
        worker.inbox.put(work)
        worker.thread = threading.Thread(target=self._work, args=(worker,), name="eventwagon sqlite", daemon=True)
        self._workers.add(worker)
        worker.thread.start()

    def _wind(self, due: float) -> None:
        """Have the clock look at that time."""
        if self._clock is None:
            self._next = due
            self._clock = threading.Thread(target=self._watch, name="eventwagon sqlite clock", daemon=True)
            self._clock.start()
        elif due < self._next:
            self._next = due
            self._tick.notify()

    def _end_if_done(self) -> None:
        if not self._works:
            while self._idle:
                self._idle.pop().inbox.put(None)
            self._tick.notify()

    # --- in the threads -----------------------------------------------------------------------

    def _work(self, me: _Worker) -> None:
        while (work := self._taken(me)) is not None:
            pause = work._step()
            with self._lock:
                work._is_running = False
                if pause is None:
                    work._is_over = True
                    self._works -= 1
                    self._end_if_done()
                elif work._again:
                    work._since = time.monotonic()
                    self._ready.append(work)
                else:
                    due = time.monotonic() + pause
                    if pause >= _COARSE:
                        due += _GRID - due % _GRID
                    work._due = due
                    heapq.heappush(self._timed, (due, next(self._numbers), work))
                    self._wind(due)

    def _taken(self, me: _Worker) -> Work | None:
        """The next work, as running; None: end."""
        work: Work | None = None
        with self._lock:
            if self._ready and me.inbox.empty():
                work = self._ready.popleft()
                self._begun(me, work)
                return work
            if me.inbox.empty():
                if not self._works:
                    self._workers.discard(me)
                    return None
                me.looks = 0
                self._idle.append(me)
        try:
            work = me.inbox.get(timeout=_IDLE)
        except Empty:
            with self._lock:
                if me in self._idle:
                    self._idle.remove(me)
                    self._workers.discard(me)
                    return None
            work = me.inbox.get()  # it was given some in that moment
        with self._lock:
            if work is None:
                self._workers.discard(me)
            else:
                self._begun(me, work)
        return work

    def _begun(self, me: _Worker, work: Work) -> None:
        me.looks = 0
        work._is_running, work._again, work._since, work._due = True, False, None, None

    def _watch(self) -> None:
        """The clock: wake work that is due, and start threads for work that waits too long."""
        looked = 0.0
        with self._lock:
            while self._works:
                now = time.monotonic()
                self._wake_due(now)
                if self._ready and now - looked >= _LOOK:
                    looked = now
                    for worker in self._workers.difference(self._idle):
                        worker.looks += 1
                    if self._idle:
                        self._idle.pop().inbox.put(self._ready.popleft())
                    elif self._wants_more():
                        self._start_worker(self._ready.popleft())
                upcoming = [self._timed[0][0]] if self._timed else []
                if self._ready:
                    upcoming.append(now + _LOOK)
                self._next = min(upcoming, default=now + _IDLE)
                self._tick.wait(max(0.0, self._next - now))
            self._timed.clear()
            self._clock = None

    def _wake_due(self, now: float) -> None:
        """One idle thread for all of it: it takes only a moment, mostly."""
        found: list[Work] = []
        while self._timed and self._timed[0][0] <= now:
            due, _, work = heapq.heappop(self._timed)
            if work._due == due:  # else it was woken meanwhile
                work._due = None  # it may be there twice, for the same time
                found.append(work)
        for work in found[1:]:
            work._since = now
            self._ready.append(work)
        if found:
            self._hand_out(found[0])


_threads: Shared[Threads] = Shared()


@asynccontextmanager
async def threads_here() -> AsyncIterator[Threads]:
    """The threads of this event loop's files."""
    async with _threads.use("sqlite", Threads) as threads:
        yield threads
