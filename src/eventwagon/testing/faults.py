"""Handlers of a train under test: they fail when the test wants it, and what they raise is kept."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import inspect
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

from ..display.text import plain, said
from ..errors import Reject, Retry, Snooze
from ..runtime.handler import Handler

P = ParamSpec("P")
T = TypeVar("T")


class Fault:
    """A failure that a test has asked for."""

    def __init__(self, error: BaseException | type[BaseException], times: int | None, *, afterwards: bool) -> None:
        self.error = error
        self.left = times
        """How many more handlings fail; None: all."""
        self.afterwards = afterwards
        """The handler runs first."""

    def happen(self) -> BaseException:
        """What is to be raised."""
        return self.error.with_traceback(None) if isinstance(self.error, BaseException) else self.error()


class Faults:
    """The failures that a test has asked for, by channel, and what handlers have raised. Threads may use it."""

    def __init__(self) -> None:
        self.raised: list[tuple[str, Exception]] = []
        """The channel and what its handler raised, in order, without Reject, Retry and Snooze."""
        self._planned: dict[str, list[Fault]] = {}
        self._lock = threading.Lock()

    def plan(self, channel: str, fault: Fault) -> None:
        """Let the handlings of this channel fail, after those that are to fail already."""
        self._planned.setdefault(channel, []).append(fault)

    def next(self, channel: str) -> Fault | None:
        """The fault of the handling that begins now, if it is to fail."""
        with self._lock:
            planned = self._planned.get(channel)
            if not planned:
                return None
            fault = planned[0]
            if fault.left is not None:
                fault.left -= 1
                if not fault.left:
                    del planned[0]
            return fault

    def note(self, channel: str, error: BaseException) -> None:
        """The channel's handler has raised this."""
        if isinstance(error, Exception) and not isinstance(error, Reject | Retry | Snooze):
            self.raised.append((channel, error))

    def cause(self, channel: str, because: str) -> Exception | None:
        """The latest error of that channel that reads so; an event's failures are told as text."""
        return next((e for c, e in reversed(self.raised) if c == channel and plain(said(e)) == because), None)


class _Around:
    """One handling: fails if it is to, and notes what it raises."""

    def __init__(self, faults: Faults, channel: str) -> None:
        self._faults = faults
        self._channel = channel

    def __enter__(self) -> None:
        self._fault = self._faults.next(self._channel)
        if self._fault is not None and not self._fault.afterwards:
            self._fail(self._fault)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._faults.note(self._channel, error)
        elif self._fault is not None:
            self._fail(self._fault)

    def _fail(self, fault: Fault) -> None:
        error = fault.happen()
        self._faults.note(self._channel, error)
        raise error


class Threads(Executor):
    """A daemon thread for each call: a handler that hangs does not keep the test run from ending."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future = Future[T]()

        def work() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as e:  # noqa: BLE001 - carried over to the awaiting side, whatever it is
                    future.set_exception(e)

        threading.Thread(target=work, name="eventwagon-test-handler", daemon=True).start()
        return future


def watched(handlers: Mapping[str, Handler], faults: Faults, threads: Executor | None) -> dict[str, Handler]:
    """Copies of the handlers that fail as planned and note what they raise. With `threads`, plain functions run there,
    and the loop knows it: in virtual time the clock must not run on meanwhile."""
    return {name: _watched(handler, faults, threads) for name, handler in handlers.items()}


def _watched(handler: Handler, faults: Faults, threads: Executor | None) -> Handler:
    call, channel, own = handler.call, handler.channel, copy.copy(handler)

    async def waits(*given: Any) -> Any:
        with _Around(faults, channel):
            return await call(*given)

    def returns(*given: Any) -> Any:
        with _Around(faults, channel):
            return call(*given)

    async def waits_for_thread(*given: Any) -> Any:
        with _Around(faults, channel):
            result, error = await asyncio.get_running_loop().run_in_executor(threads, _outcome_of(call, given))
            if error is not None:
                raise error
            return await result if inspect.isawaitable(result) else result

    own.call = waits if handler.is_async else returns if threads is None else waits_for_thread
    own.is_async = handler.is_async or threads is not None
    return own


def _outcome_of(call: Callable[..., Any], given: tuple[Any, ...]) -> Callable[[], tuple[Any, BaseException | None]]:
    """The call, in the caller's context, as a function that never raises: some exceptions can't pass a future."""
    context = contextvars.copy_context()

    def outcome() -> tuple[Any, BaseException | None]:
        try:
            return context.run(call, *given), None
        except BaseException as e:  # noqa: BLE001 - carried over to the awaiting side, whatever it is
            return None, e

    return outcome
