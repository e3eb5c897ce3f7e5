"""Virtual time for tests and simulation: an event loop that never sleeps; its clock jumps to the next timer.

    from eventwagon.testing.virtual_time import VirtualClock, run

    async def main():
        await asyncio.sleep(3600)  # takes no time at all

    run(main())

Runs are as deterministic as the program. A program that waits for the real world can't be run: threads are refused, and
waiting only for a socket or a pipe counts as a deadlock.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from contextvars import Context
from pathlib import Path
from typing import Any, Never, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_RESOLUTION = 1e-6
"""Seconds; asyncio runs all timers due within this time at once. Its own resolution, 1e-9, is lost to rounding when the
clock is beyond some months."""


EPOCH = 1_750_000_000.0
"""The wall clock, in seconds since the Unix epoch, when a virtual loop's time() is 0."""


class Deadlock(RuntimeError):
    """Every task waits, and no timer can wake any. The message says where each task waits."""


def run(main: Coroutine[Any, Any, T], *, start: float = 0.0) -> T:
    """Run `main` like asyncio.run, in virtual time; `start` is the loop's initial time() in seconds.

    Raises Deadlock if nothing can happen any more.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(start=start)) as runner:
        return runner.run(main)


class VirtualClock:
    """A wall clock for virtual time: seconds since the Unix epoch, `epoch` + the running loop's time()."""

    def __init__(self, epoch: float = EPOCH) -> None:
        self._epoch = epoch

    def __call__(self) -> float:
        return self._epoch + asyncio.get_running_loop().time()


class VirtualLoop(asyncio.SelectorEventLoop):
    """The event loop of `run`, for programs that need their own loop or policy."""

    def __init__(self, *, start: float = 0.0) -> None:
        self._now = start
        super().__init__(self._new_selector())
        self._clock_resolution = _RESOLUTION

    def _new_selector(self) -> selectors.BaseSelector:
        return JumpingSelector(self._jump)

    def time(self) -> float:
        return self._now

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        # asyncio runs a timer early if it is due within the clock's resolution. Code that then finds it is not quite
        # time and waits again would do so forever, since here time passes only in jumps: so take that small jump now.
        if self._now < when < self._now + 2 * _RESOLUTION:
            self._now = when
        return super().call_at(when, callback, *args, context=context)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts) -> Never:
        raise RuntimeError(f"no threads in virtual time: they run in real time ({func!r} was to run in one)")

    def _jump(self, seconds: float | None) -> None:
        if seconds is None:
            waiting = "; ".join(sorted(_whereabouts(task) for task in asyncio.all_tasks(self)))
            raise Deadlock(f"no timer is due and nothing can wake a task, at {self._now:g} s. Waiting: {waiting}")
        self._now += seconds


class JumpingSelector(selectors.SelectSelector):
    """Checks for I/O without waiting; the clock jumps over the time that it would have waited."""

    def __init__(self, jump: Callable[[float | None], None]) -> None:
        super().__init__()
        self._jump = jump

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and (timeout is None or timeout > 0):
            self._jump(timeout)
        return ready


def _whereabouts(task: asyncio.Task[Any]) -> str:
    """A task's name and the line of its innermost coroutine outside asyncio."""
    where = ""
    coroutine: Any = task.get_coro()
    while frame := getattr(coroutine, "cr_frame", None):
        path = Path(frame.f_code.co_filename)
        if path.parent.name != "asyncio":
            where = f" in {coroutine.__qualname__} ({path.name}:{frame.f_lineno})"
        coroutine = coroutine.cr_await
    return task.get_name() + where
