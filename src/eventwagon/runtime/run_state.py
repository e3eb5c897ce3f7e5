"""One handler call under way: how it is cut short, and the thread in which it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from .forks import forks


class RunState:
    """One worker's current handler call, and how it is cut short. A worker uses one object for all its calls."""

    __slots__ = ("because", "forks", "given_up", "not_started", "strayed", "thread")

    def __init__(self) -> None:
        self.because = ""
        """Why it was cut short; empty while it was not."""
        self.forks = forks()
        self.given_up = False
        """It was cut short, went on all the same, and is no longer run."""
        self.strayed = False
        """While the handler waited, somebody else cancelled the task that it runs in."""
        self.not_started: BaseException | None = None
        """Why there was no thread to run it in."""
        self.thread: ThreadCall | None = None
        """The call that runs in a thread."""


class ThreadCall:
    """A function's call in a thread. `done` gets its result, unless nobody waits for it any more."""

    __slots__ = ("_ended", "done", "on_end", "over")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        self.over = False
        self.on_end: Callable[[], object] = lambda: None
        """Called when the function has returned or raised."""
        self._ended: asyncio.Future[None] | None = None

    def finish(self, result: object, error: BaseException | None) -> None:
        """The function has returned or raised."""
        self.over = True
        self.on_end()
        if not self.done.done():
            self.done.set_result((result, error))
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def ended(self) -> None:
        """Wait until the function has returned or raised."""
        if not self.over:
            self._ended = asyncio.get_running_loop().create_future()
            await self._ended
