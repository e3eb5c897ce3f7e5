"""Long tasks: held open by a task of their own, and kept up whatever they call."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Generic, TypeVar

from .bulkhead import Bulkhead, is_cancelled, is_ours, shown

_logger = logging.getLogger("eventwagon")

T = TypeVar("T")

_PAUSE = 0.5
"""Seconds before a long task that failed begins anew."""


class InOwnTask(Generic[T]):
    """An asynchronous context manager that is entered and left in a task of its own. Enter it once.

    Cancel scopes (`asyncio.TaskGroup`, `asyncio.timeout`, anyio's) belong to the task that enters them. Wrapped in
    this, a manager that holds such scopes may be entered in one task and left in another: `async with
    InOwnTask(TaskGroup())`.

    Entering and leaving raise what the manager raises there. Cancelling either of them cancels the manager where it
    waits, and the cancellation is raised once the manager has ended. The manager is not told of an exception in the
    body. When the manager fails before it is left (a task of its TaskGroup raised) that is logged at once and raised on
    leaving.
    """

    def __init__(self, manager: AbstractAsyncContextManager[T]) -> None:
        self._manager = manager
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> T:
        loop = asyncio.get_running_loop()
        entered: asyncio.Future[T] = loop.create_future()
        self._task = loop.create_task(self._hold(entered))
        try:
            await asyncio.wait((self._task, entered), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._task.cancel()
            await self._ended(self._task, cancelled=True)
            raise
        if not entered.done():
            entered.cancel()
            self._task.result()
            raise RuntimeError(f"{self._manager!r} let go before it was entered")
        self._task.add_done_callback(self._look)
        return entered.result()

    async def __aexit__(self, *exc: object) -> None:
        self._leave.set()
        if self._task is not None:
            await self._ended(self._task)

    async def _hold(self, entered: asyncio.Future[T]) -> None:
        async with self._manager as value:
            if not entered.done():
                entered.set_result(value)
            await self._leave.wait()

    def _look(self, task: asyncio.Task[None]) -> None:
        if self._leave.is_set():
            return
        if task.cancelled():
            _logger.warning("%s ended early: somebody has cancelled its task", self._manager)
        elif error := task.exception():
            _logger.error("%s ended early", self._manager, exc_info=shown(error))

    async def _ended(self, task: asyncio.Task[None], *, cancelled: bool = False) -> None:
        """Wait for its end; each cancellation meanwhile is handed on."""
        while not task.done():
            try:
                await asyncio.wait((task,))
            except asyncio.CancelledError:
                cancelled = True
                task.cancel()
        if not task.cancelled():
            task.result()
        if cancelled:
            raise asyncio.CancelledError


async def kept_up(work: Callable[[], Awaitable[object]], what: str, bulkhead: Bulkhead) -> None:
    """Run `work`, and anew after each exception that it ends with, until it returns or this task is cancelled.

    The outermost bulkhead of a long task. A CancelledError that nobody sent to this task counts as an exception.
    """
    while True:
        try:
            await work()
            return
        except BaseException as e:  # a bulkhead: the task goes on
            if is_ours(e):
                raise
            bulkhead.report(what, e)
            if is_cancelled():  # it failed while it ended
                raise asyncio.CancelledError from e
        await asyncio.sleep(_PAUSE)


async def all_of(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """What they return. They run at once, one alone without a task; when all have ended, raises what the first of those
    raised that failed."""
    if len(calls) == 1:
        return [await calls[0]()]
    outcomes = await asyncio.gather(*map(outcome_of, calls))
    for _, error in outcomes:
        if error is not None:
            raise error
    return [result for results, _ in outcomes for result in results]


async def outcome_of(call: Callable[[], Awaitable[T]]) -> tuple[list[T], BaseException | None]:
    """What it returns, or what it raises, for a task that somebody waits for: asyncio ends the loop at a SystemExit that
    a task raises."""
    try:
        return [await call()], None
    except BaseException as e:
        if is_ours(e):
            raise
        return [], e
