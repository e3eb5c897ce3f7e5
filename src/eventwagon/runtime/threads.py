"""Threads in which plain functions run."""

from __future__ import annotations

import asyncio
import contextvars
import queue
import threading
from collections.abc import Callable
from typing import Any

from .forks import forks, leave
from .run_state import RunState, ThreadCall


class Threads:
    """Threads for sync handlers, reused when free. They are daemon threads: one that hangs blocks neither others nor
    the program's exit."""

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[Callable[[], None] | None]] = []
        self._ended = False

    async def run(
        self, run: RunState, function: Callable[..., Any], *arguments: object
    ) -> tuple[Any, BaseException | None]:
        """Call the function in a thread, in a copy of the caller's context. Returns its result and what it raised.
        Cancelling ends the wait, not the thread; `run.thread` says when that has ended."""
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        try:
            mine = self._idle.pop() if self._idle else self._start()
        except RuntimeError as e:  # the system has no thread left
            run.not_started = e
            return None, e
        run.thread = call = ThreadCall(loop)

        def finish(result: object, error: BaseException | None) -> None:
            if self._ended:
                mine.put(None)
            else:
                self._idle.append(mine)
            call.finish(result, error)

        def job() -> None:
            result, error = None, None
            try:
                result = context.run(function, *arguments)
            except BaseException as e:  # noqa: BLE001 - carried over to the awaiting side, whatever it is
                error = e
            if forks() != run.forks:
                leave(error)
            try:
                loop.call_soon_threadsafe(finish, result, error)
            except RuntimeError:
                mine.put(None)  # the loop is closed: nobody waits any more

        mine.put(job)
        return await call.done

    def _start(self) -> queue.SimpleQueue[Callable[[], None] | None]:
        jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

        def work() -> None:
            while (job := jobs.get()) is not None:
                job()

        threading.Thread(target=work, name="eventwagon-handler", daemon=True).start()
        return jobs

    def end(self) -> None:
        """End the idle threads now, and the busy ones when they have finished."""
        self._ended = True
        for jobs in self._idle:
            jobs.put(None)
        self._idle.clear()
