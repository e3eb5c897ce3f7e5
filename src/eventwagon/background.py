"""Background tasks, each with an owner."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
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
