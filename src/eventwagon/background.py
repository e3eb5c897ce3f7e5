"""Background tasks, each with an owner."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")


class Background:
    """The tasks that an object owns: referenced until they end, and cancelled with the object. For one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run the coroutine in its own task, which goes on if the caller is cancelled."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self) -> None:
        """Cancel all tasks. Idempotent."""
        for task in list(self._tasks):
            task.cancel()

    async def wait(self) -> None:
        """Wait until all tasks have ended, including those started meanwhile. Their exceptions are not raised."""
        while self._tasks:
            await asyncio.wait(self._tasks)


async def in_daemon(work: Callable[[], T], name: str) -> T:
    """Call `work` in a thread of its own, which is called `name`. Unlike with `asyncio.to_thread`, the process can end
    while a call is under way that never returns. Raises what `work` raises."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def finish(result: Callable[[], None]) -> None:
        if not done.done():
            result()

    def run() -> None:
        try:
            value = work()
        except BaseException as e:  # noqa: BLE001 - carried over to the awaiting side, whatever it is
            error = e
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish, lambda: done.set_exception(error))
        else:
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(finish, lambda: done.set_result(value))

    threading.Thread(target=run, name=name, daemon=True).start()
    return await done
