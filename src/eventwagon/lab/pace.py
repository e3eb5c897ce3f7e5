"""Compressed time: an event loop and a wall clock that run `speed` times as fast as real ones.

Arrivals, service times, promises and the train's own timers are all compressed alike. The machine is not: the processor
time that the code takes counts `speed` times as much as in real time.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable
from typing import Any


class _Selector(selectors.DefaultSelector):
    """Divides each timeout by `speed`."""

    speed = 1.0

    def select(self, timeout: float | None = None) -> Any:
        return super().select(timeout if timeout is None or timeout <= 0 else timeout / self.speed)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, speed: float) -> None:
        self._speed = speed
        selector = _Selector()
        selector.speed = speed
        super().__init__(selector)
        self._clock_resolution: float = time.get_clock_info("monotonic").resolution * speed

    def time(self) -> float:
        return super().time() * self._speed


def loop_factory(speed: float) -> Callable[[], asyncio.AbstractEventLoop]:
    """For `asyncio.Runner(loop_factory=…)`: a loop whose seconds last 1/`speed` s."""
    return lambda: _Loop(speed)


def fast_clock(speed: float) -> Callable[[], float]:
    """A wall clock (seconds since the epoch) that shows the right time now and from here on runs `speed` times as
    fast."""
    wall, began = time.time(), time.monotonic()
    return lambda: wall + (time.monotonic() - began) * speed


_LATE_MOST = 0.02
"""Real seconds."""


class TimedWork:
    """Work that takes time: waits for the given seconds, exactly on average.

    Timers fire a millisecond late, on a busy machine some more, which in compressed time would be a large part of the
    work. So each wait is shortened by the delay of the one before. Delays beyond `_LATE_MOST` are not compensated.
    """

    def __init__(self, speed: float) -> None:
        self._most = _LATE_MOST * speed
        self._late = 0.0

    async def take(self, seconds: float) -> None:
        """Return after `seconds`."""
        loop = asyncio.get_running_loop()
        began, asked = loop.time(), max(0.0, seconds - self._late)
        self._late -= seconds - asked
        await asyncio.sleep(asked)
        self._late += min(self._most, loop.time() - began - asked)
