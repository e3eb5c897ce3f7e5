"""Long tasks: managers that stay entered in a task of their own, and tasks that go on after any error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from typing import Generic, TypeVar

from ..errors import EndedEarly, EventwagonError
from .bulkhead import Bulkhead, is_cancelled, is_ours, shown

_logger = logging.getLogger("eventwagon")

T = TypeVar("T")

_PAUSE = 0.5
"""Seconds before a long task that failed begins anew."""


class InOwnTask(Generic[T]):
    """An asynchronous context manager that is entered and left in a task of its own. Enter it once.

    Cancel scopes (`asyncio.TaskGroup`, `asyncio.timeout`, anyio's) belong to the task that enters them. Wrapped in
    this, a manager that has such scopes may be entered in one task and left in another: `async with
    InOwnTask(TaskGroup())`.

    Entering and leaving raise what the manager raises there. Cancelling either of them cancels the manager where it
    waits, and the cancellation is raised once the manager has ended. The manager does not learn of an exception in the
    body.

    If the manager ends before it is left (a task of its TaskGroup raised, or somebody cancelled its own task), that is
    logged at once, and the task that entered it is cancelled, since its body relies on the manager. Leaving then raises
    what the manager raised, or EndedEarly, instead of that cancellation. `what` names the manager there.
    """

    def __init__(self, manager: AbstractAsyncContextManager[T], what: str) -> None:
        self._manager = manager
        self._what = what
        self._leave = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._entered_by: asyncio.Task[object] | None = None
        self._cancelling = 0
        """How many cancellations were pending for the task that entered it, at that time."""
        self._has_cancelled = False

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
        self._entered_by = asyncio.current_task()
        self._cancelling = self._entered_by.cancelling() if self._entered_by is not None else 0
        self._task.add_done_callback(self._look)
        return entered.result()

    async def __aexit__(self, kind: type[BaseException] | None = None, *exc: object) -> None:
        ended_early = self._task is not None and self._task.done()
        is_plain = kind is None or issubclass(kind, asyncio.CancelledError)
        self._leave.set()
        is_cancelled = await self._taken_back(kind)
        if self._task is not None:
            await self._ended(self._task, cancelled=is_cancelled and is_plain)
        if ended_early and is_plain:
            raise EndedEarly(
                f"{self._what} ended before it was left: somebody has cancelled its tasks (asyncio.all_tasks() lists "
                "them too, and whoever cancels all of them cancels these)"
            ) from None

    def end(self, _: object = None) -> None:
        """End it early, unless it is being left: it can't go on."""
        if self._task is not None and not self._leave.is_set():
            self._task.cancel()

    async def _taken_back(self, kind: type[BaseException] | None) -> bool:
        """Take back our cancellation of the task that entered this. Returns whether somebody else has cancelled it."""
        me = asyncio.current_task()
        if not self._has_cancelled or me is None or me is not self._entered_by:
            return False
        is_cancelled = me.uncancel() > self._cancelling
        if kind is None:
            with suppress(asyncio.CancelledError):  # it may still be on its way
                await asyncio.sleep(0)
        return is_cancelled

    async def _hold(self, entered: asyncio.Future[T]) -> None:
        async with self._manager as value:
            if not entered.done():
                entered.set_result(value)
            await self._leave.wait()

    def _look(self, task: asyncio.Task[None]) -> None:
        if self._leave.is_set():
            return
        if task.cancelled():
            _logger.warning("%s ended early: somebody has cancelled its tasks", self._what)
        elif error := task.exception():
            _logger.error("%s ended early", self._what, exc_info=shown(error))
        if self._entered_by is not None and not self._entered_by.done():
            self._has_cancelled = True
            self._entered_by.cancel(f"{self._what} ended early")

    async def _ended(self, task: asyncio.Task[None], *, cancelled: bool = False) -> None:
        """Wait for its end; pass on each cancellation meanwhile."""
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
    """Run `work`, again after each exception, until it returns or this task is cancelled.

    It is the outermost bulkhead of a long task. A CancelledError that nobody sent to this task counts as an exception.
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
    """Run them concurrently (a single one without a task) and return their results. When all have ended, raises the
    error of the first one that failed."""
    if len(calls) == 1:
        return [await calls[0]()]
    outcomes = await asyncio.gather(*map(outcome_of, calls))
    for _, error in outcomes:
        if error is not None:
            raise error
    return [result for results, _ in outcomes for result in results]


async def to_the_end(call: Callable[[], Awaitable[T]], within: float) -> T:
    """What it returns or raises. If this task is cancelled meanwhile, the call may go on for `within` seconds before it
    is cancelled too; then the cancellation is raised, and what the call raised is logged."""
    task = asyncio.create_task(outcome_of(call))
    try:
        results, error = await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task], timeout=within)
        if task.done() and not task.cancelled() and (error := task.result()[1]) is not None:
            level = logging.INFO if isinstance(error, EventwagonError) else logging.ERROR  # others do it anew
            _logger.log(level, "what had begun when it was cancelled failed", exc_info=shown(error))
        raise
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
    if error is not None:
        raise error
    return results[0]


async def outcome_of(call: Callable[[], Awaitable[T]]) -> tuple[list[T], BaseException | None]:
    """What it returns, or what it raises, for a task that somebody waits for: asyncio ends the loop at a SystemExit
    that a task raises."""
    try:
        return [await call()], None
    except BaseException as e:
        if is_ours(e):
            raise
        return [], e
