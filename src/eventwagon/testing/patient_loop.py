"""Virtual time for tests of programs, which may use threads and sockets.

The clock jumps to the next timer as in `virtual_time`, except while a thread works for the loop or a socket, a pipe or
a child process is open: then time passes as it really does. So it does while a program keeps the loop busy and lets no
timer become due: otherwise timeouts would never end it.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import selectors
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, ParamSpec, TypeVar, TypeVarTuple

from ..errors import UsageError
from ..payload import name_of
from ..values import shown
from .virtual_time import JumpingSelector, VirtualLoop

P = ParamSpec("P")
T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_OWN = 1
"""Files that an event loop itself watches: the pipe by which threads wake it."""
_BUSY = 2.0
"""Real seconds for which the loop may be busy while the clock stands; beyond them time passes as it really does."""
_PASS = 0.1
"""The most that one pass of a busy loop counts, in seconds: a debugger may hold it."""


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` like asyncio.run, in virtual time: sleeps, timeouts and the pauses before retries take no time.

    While a thread or a socket is in use, time passes as it really does. Raises what `main` raises, `Deadlock` if
    nothing can happen any more, and UsageError for what is no coroutine and where an event loop runs already.
    """
    given: object = main
    if not inspect.iscoroutine(given):
        raise UsageError(f"testing.run: {shown(main)} is no coroutine: call the async function, testing.run(story())")
    if asyncio._get_running_loop() is not None:
        main.close()
        raise UsageError(
            "testing.run: an event loop runs here already: use `async with testing.running(train)` in it, or make "
            "this a plain function"
        )
    with asyncio.Runner(loop_factory=PatientLoop) as runner:
        return runner.run(main)


def in_virtual_time(test: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    """Decorator: makes an async test a plain one that runs in virtual time, for pytest, unittest or any other runner.
    It keeps the parameters, so fixtures work. See `run`."""

    if not inspect.iscoroutinefunction(test):
        raise UsageError(f"in_virtual_time: {name_of(test)} is no async function")

    @functools.wraps(test)
    def plain(*arguments: P.args, **keywords: P.kwargs) -> T:
        return run(test(*arguments, **keywords))

    return plain


class PatientLoop(VirtualLoop):
    """The event loop of `run`."""

    _selector: selectors.BaseSelector

    def __init__(self) -> None:
        self._threads = 0
        """Calls that run in threads for this loop."""
        self.really_passed = 0.0
        """Seconds in which the clock did not jump."""
        super().__init__()

    def _new_selector(self) -> selectors.BaseSelector:
        return _PatientSelector(self._jump, self._pass, self._has_threads)

    def _has_threads(self) -> bool:
        return self._threads > 0 or any(_works_for(thread, self) for thread in threading.enumerate())

    @property
    def has_sockets(self) -> bool:
        """Whether a socket, a pipe or a child process is open: then the clock does not jump."""
        return len(self._selector.get_map()) > _OWN

    def _pass(self, seconds: float) -> None:
        self._now += seconds
        self.really_passed += seconds

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = asyncio.SelectorEventLoop.run_in_executor(self, executor, func, *args)
        self._threads += 1
        future.add_done_callback(self._thread_ended)
        return future

    def _thread_ended(self, _: object) -> None:
        self._threads -= 1

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        self._threads += 1  # asyncio joins the threads in one more thread
        try:
            await super().shutdown_default_executor()
        finally:
            self._threads -= 1


def _works_for(thread: threading.Thread, loop: PatientLoop) -> bool:
    """Whether it is a thread of anyio (FastAPI, httpx …) with work. anyio starts them past the event loop."""
    return getattr(thread, "loop", None) is loop and thread not in getattr(thread, "idle_workers", (thread,))


class _PatientSelector(JumpingSelector):
    """Waits as long as something outside the loop may happen; otherwise lets the clock jump."""

    def __init__(
        self, jump: Callable[[float | None], None], passed: Callable[[float], None], has_threads: Callable[[], bool]
    ) -> None:
        super().__init__(jump)
        self._passed = passed
        self._has_threads = has_threads
        self._busy = 0.0
        """Real seconds of work by which the clock is behind."""
        self._at = time.monotonic()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if len(self.get_map()) <= _OWN and not self._has_threads():
            if timeout is not None and timeout <= 0:
                self._count_work()
            else:
                self._busy, self._at = max(0.0, self._busy - (timeout or 0.0)), time.monotonic()
            return super().select(timeout)
        began = time.monotonic()
        ready = selectors.SelectSelector.select(self, timeout)
        self._passed(time.monotonic() - began)
        self._busy, self._at = 0.0, time.monotonic()
        return ready

    def _count_work(self) -> None:
        """Something is ready, so the clock does not jump. Let it pass if that has gone on for long."""
        now = time.monotonic()
        took, self._at = min(now - self._at, _PASS), now
        self._busy += took
        if self._busy > _BUSY:
            self._passed(took)
