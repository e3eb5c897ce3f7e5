"""Tells a process that stood still as a whole (SIGSTOP, a frozen machine) from one whose event loop was held."""

from __future__ import annotations

import os
import threading
import time
from collections import deque

_TICK = 1.0  # s between two signs of life of the thread
_SLACK = 1.0  # s by which one may be late on a busy machine
_IDLE = 0.1  # of a second: more CPU time than that in each second was used by somebody who ran
_KEPT = 8


class Standstills:
    """What a thread that looks at the clock once a second has seen. Whatever a handler does to the event loop, the
    thread goes on: if it has not looked for long, and the process used no CPU time, nobody in the process ran. There is
    one thread for the process, while anybody has started it."""

    def __init__(self) -> None:
        self._clock: _Clock | None = None

    def start(self) -> None:
        """Start the thread, unless it runs. If the system has none left, no standstill is seen."""
        self._clock = _started()

    def end(self) -> None:
        """End the thread, if nobody else needs it. Idempotent."""
        clock, self._clock = self._clock, None
        if clock is not None:
            _left(clock)

    def since(self, seconds: float) -> float:
        """For how many of the last `seconds` the process stood still, as far as it was watched."""
        return 0.0 if self._clock is None else self._clock.stood_still(seconds)


class _Clock:
    """The thread, and what it has seen."""

    def __init__(self) -> None:
        self.process = os.getpid()
        self.users = 0
        self.end = threading.Event()
        self._looked = self._marks()
        self._known: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        """Beginning and end, on the monotonic clock."""
        self._lock = threading.Lock()
        threading.Thread(target=self._work, name="eventwagon clock", daemon=True).start()

    def stood_still(self, seconds: float) -> float:
        """As `Standstills.since`."""
        now = time.monotonic()
        self._look()
        return sum(max(0.0, min(now, end) - max(now - seconds, begin)) for begin, end in list(self._known))

    def _work(self) -> None:
        while not self.end.wait(_TICK):
            self._look()

    def _look(self) -> None:
        with self._lock:
            (at, used), (now, using) = self._looked, self._marks()
            if now - at > _TICK + _SLACK and using - used < _IDLE * (now - at):
                self._known.append((at, now))
            self._looked = (now, using)

    @staticmethod
    def _marks() -> tuple[float, float]:
        return time.monotonic(), time.process_time()


_lock = threading.Lock()
_running: _Clock | None = None


def _started() -> _Clock | None:
    global _running
    with _lock:
        if _running is None or _running.process != os.getpid():  # a forked process has no thread of its parent's
            try:
                _running = _Clock()
            except RuntimeError:
                return None
        _running.users += 1
        return _running


def _left(clock: _Clock) -> None:
    global _running
    with _lock:
        clock.users -= 1
        if not clock.users:
            clock.end.set()
            if _running is clock:
                _running = None
