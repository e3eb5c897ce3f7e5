"""One event and its handler: decode the payload, call the handler, return the outcome."""

from __future__ import annotations

import asyncio
import inspect
import os
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import CoroutineType, TracebackType
from typing import Any

from ..cloudevents import UNDECODABLE, is_batch, parts
from ..display.text import said
from ..event import UNDO, Event
from .bulkhead import traceback_of
from .context import Context
from .handler import Handler
from .middleware import through
from .outcomes import HANDLED, MEANT, Dead, Emitting, Failed, Handled, Outcome, decided, outcome_of
from .run_state import RunState
from .threads import Threads

_OURS = tuple(f"{Path(__file__).parents[1] / part}{os.sep}" for part in ("runtime", "tracing"))
"""The folders of the code that surrounds handlers."""


def begin(
    handler: Handler, event: Event, context: Context | None, run: RunState, threads: Threads
) -> Outcome | Awaitable[Outcome]:
    """Let the handler work on one event. Returns the outcome, or an awaitable of it if the handler waits. `context` is
    None for a handler that takes none; a batch and middleware need one.

    Whatever the handler raises is an outcome, except KeyboardInterrupt. If the caller cancels (it has set
    `run.because`), the handler is cancelled. One that goes on all the same is no longer run once `run.given_up` is set
    and it is cancelled again. A handler in a thread goes on in any case; `run.thread` says when it has ended.
    """
    if event.extensions:
        if UNDECODABLE in event.extensions:
            return no_payload(event, handler)
        if UNDO in event.extensions and not handler.undoes:
            return to_be_undone(event)
    if context is not None and is_batch(event):
        return _each(handler, event, context, run, threads)
    try:
        payload = handler.decode(event)
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # noqa: BLE001 - whatever a decoder raises, the data does not fit, and never will
        return no_payload(event, handler, e)
    if not (handler.is_plain and handler.is_async):
        return call(handler, context, run, threads, (payload, context) if handler.wants_context else (payload,))
    try:  # the same as `call`, which would cost every event of a plain handler a tenth of a microsecond
        work = handler.call(payload)
    except BaseException as e:  # noqa: BLE001 - what it raises is the outcome
        return outcome_of(e, None)
    return _driven(handler, None, run, work)


def call(
    handler: Handler, context: Emitting | None, run: RunState, threads: Threads, arguments: tuple[object, ...]
) -> Outcome | Awaitable[Outcome]:
    """Call the handler with these arguments, inside of the middleware. See `begin`."""
    if handler.around and context is not None:
        inner = partial(_innermost, handler, run, threads, arguments)
        return _driven(handler, context, run, _surrounded(handler, inner, context))
    if not handler.is_async:
        return _in_thread(handler, context, run, threads, arguments)
    try:
        work = handler.call(*arguments)
    except BaseException as e:  # noqa: BLE001 - what it raises is the outcome
        return outcome_of(e, context)
    return _driven(handler, context, run, work)


async def _surrounded(handler: Handler, inner: Callable[[], Awaitable[None]], context: Emitting) -> object:
    result = await through(handler.around, inner, context)
    return result if issubclass(type(result), MEANT) else None  # what else a middleware returns, nobody gets


async def _innermost(handler: Handler, run: RunState, threads: Threads, arguments: tuple[object, ...]) -> None:
    """Call the handler; whatever it means by its result is raised, so that the middleware sees it."""
    if handler.is_async:
        result = await handler.call(*arguments)
    else:
        result, error = await threads.run(run, handler.call, *arguments)
        if error is not None:
            raise error
        if _is_awaitable(result):
            result = await result
    if issubclass(type(result), MEANT):
        raise result
    if result is not None:
        handler.warn_of(result)


def to_be_undone(event: Event) -> Dead:
    """The outcome of an event for an undo handler that somebody has published to be handled."""
    return Dead(f"it is for undo {event.extensions[UNDO]}, and not to be handled: `eventwagon undo` resumes that")


def no_payload(event: Event, handler: Handler, error: BaseException | None = None) -> Dead:
    """The outcome of an event whose data are no payload for this handler. `error` is what the decoder raised; None: the
    message could not even be read."""
    if error is None:
        return Dead(event.extensions.get("deadbecause", "can't be decoded"), unreadable=True)
    return Dead(f"can't be decoded for handler {handler.name}: {said(error)}", unreadable=True)


async def _each(handler: Handler, batch: Event, context: Context, run: RunState, threads: Threads) -> Outcome:
    """Handle the events of a batch one after the other. The outcome has everything that they emitted and the dead
    letters of those that died. If one fails or is snoozed, the whole batch comes again: it is one message at the
    broker."""
    emitted: list[tuple[str, Event]] = []
    events = parts(batch)
    for event in reversed([*events]) if handler.undoes else events:
        own = context.of(event)
        try:
            await asyncio.sleep(0)  # handlers that never wait must let others run
        except asyncio.CancelledError as e:
            run.strayed = True
            return outcome_of(e, own)
        outcome = begin(handler, event, None if handler.is_plain else own, run, threads)
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        if run.because:
            return Failed(run.because)
        match decided(handler, outcome):
            case Handled(emitted=more):
                emitted += more
            case Dead(because=because):
                emitted.append(own.died(because))
            case _:
                return outcome
    return Handled(emitted) if emitted else HANDLED


def _driven(handler: Handler, context: Emitting | None, run: RunState, work: Any) -> Outcome | Awaitable[Outcome]:
    """Run the awaitable that a handler returned. If it never waits, it ends at once."""
    coroutine = work if type(work) is CoroutineType else _awaiting(work)
    try:
        signal = coroutine.send(None)
    except StopIteration as e:
        return HANDLED if context is None and e.value is None else _returned(handler, context, e.value)
    except BaseException as e:  # noqa: BLE001 - what it raises is the outcome
        return outcome_of(e, context)
    return _Rest(handler, context, run, coroutine, signal)


async def _awaiting(awaitable: Any) -> Any:
    return await awaitable


class _Rest:
    """The rest of an async handler that waits. It is run step by step, so that an error which it raises is not taken
    for one of its worker."""

    __slots__ = ("_context", "_coroutine", "_handler", "_run", "_signal")

    def __init__(
        self,
        handler: Handler,
        context: Emitting | None,
        run: RunState,
        coroutine: Coroutine[Any, Any, Any],
        signal: Any,
    ) -> None:
        self._handler = handler
        self._context = context
        self._run = run
        self._coroutine = coroutine
        self._signal = signal

    def __await__(self) -> Generator[Any, Any, Outcome]:
        coroutine, signal = self._coroutine, self._signal
        me = asyncio.current_task()
        assert me is not None  # noqa: S101 - for the type checker: this runs in a worker
        while True:
            value: Any = None
            thrown: BaseException | None = None
            cancelled = me.cancelling()
            try:
                value = yield signal
            except GeneratorExit:  # the worker itself is thrown away
                coroutine.close()
                raise
            except BaseException as e:  # noqa: BLE001 - it is the handler's to answer
                if self._run.given_up:
                    with suppress(BaseException):  # it ends where it stands, or at least is run no further
                        coroutine.close()
                    return outcome_of(e, self._context)
                thrown = e
                self._run.strayed = self._run.strayed or me.cancelling() > cancelled
            try:
                signal = coroutine.send(value) if thrown is None else coroutine.throw(thrown)
            except StopIteration as e:
                return _returned(self._handler, self._context, e.value)
            except BaseException as e:  # noqa: BLE001 - what it raises is the outcome
                return outcome_of(e, self._context)


async def _in_thread(
    handler: Handler, context: Emitting | None, run: RunState, threads: Threads, arguments: tuple[object, ...]
) -> Outcome:
    try:
        result, error = await threads.run(run, handler.call, *arguments)
    except asyncio.CancelledError as e:
        error, run.strayed = e, True
    if error is not None:
        return outcome_of(error, context)
    if not _is_awaitable(result):
        return _returned(handler, context, result)
    outcome = _driven(handler, context, run, result)
    return outcome if isinstance(outcome, Outcome) else await outcome


def _is_awaitable(result: object) -> bool:
    try:
        return inspect.isawaitable(result)
    except Exception:  # noqa: BLE001 - a user's object may do anything when it is asked what it is
        return False


def _returned(handler: Handler, context: Emitting | None, result: object) -> Outcome:
    if issubclass(type(result), MEANT):
        assert isinstance(result, Exception)  # noqa: S101 - for the type checker
        return outcome_of(result, context)  # it meant to raise it
    if context is not None:
        context.close()
    if result is not None:
        handler.warn_of(result)
    return Handled(context.emitted) if context is not None and context.emitted else HANDLED


def handlers_own(error: BaseException) -> TracebackType | None:
    """The error's traceback from the handler on: the frames before that are eventwagon's."""
    place = traceback_of(error)
    while place is not None and place.tb_frame.f_code.co_filename.startswith(_OURS):
        place = place.tb_next
    return place
