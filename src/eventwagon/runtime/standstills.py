"""Tells a process that stood still as a whole (SIGSTOP, a frozen machine) from one whose event loop was held."""

from __future__ import annotations

import threading
import time
from collections import deque

_TICK = 1.0  # s between two signs of life of the thread
_SLACK = 1.0  # s by which one may be late on a busy machine
_IDLE = 0.1  # of a second: more CPU time than that in each second was used by somebody who ran
_KEPT = 8


class Standstills:
    """A thread that looks at the clock once a second. Whatever a handler does to the event loop, the thread goes on:
    if it has not looked for long, and the process used no CPU time, nobody in the process ran."""

    def __init__(self) -> None:
        self._looked = self._marks()
        self._known: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        """Beginning and end, on the monotonic clock."""
        self._end = threading.Event()
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the thread. If the system has none left, no standstill is seen."""
        try:
            threading.Thread(target=self._work, name="eventwagon clock", daemon=True).start()
        except RuntimeError:
            self._end.set()

    def end(self) -> None:
        """End the thread. Idempotent."""
        self._end.set()

    def since(self, seconds: float) -> float:
        """For how many of the last `seconds` the process stood still."""
        now = time.monotonic()
        if not self._end.is_set():
            self._look()
        return sum(max(0.0, min(now, end) - max(now - seconds, begin)) for begin, end in list(self._known))

    def _work(self) -> None:
        while not self._end.wait(_TICK):
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
