"""Middleware: functions around the handlers of a train, and around its publishing."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

from ..contracts.timetable import CHANNEL
from ..errors import UsageError
from ..event import Event, checked
from ..payload import name_of
from ..values import is_a

Middleware = Callable[..., Awaitable[Any]]
"""An async function of two arguments: what passes through, and a `Next`, which it awaits to go on."""


def check_middleware(function: object, example: str) -> None:
    """Raise UsageError if it is no async function of two arguments. `example` shows one."""
    where = f"middleware {name_of(function)!r}"
    if not callable(function) or isinstance(function, type):
        raise UsageError(f"{where} is no function: {example}")
    if not (inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)):
        raise UsageError(f"{where} is not async: {example}")
    try:
        inspect.signature(function).bind(None, None)
    except (TypeError, ValueError) as e:
        raise UsageError(f"{where} takes other arguments ({e}): {example}") from e


class Next:
    """What a middleware awaits to go on: the middleware inside of it and, in the end, what all of them surround."""

    __slots__ = ("_call", "_coroutine", "_has_ended", "_name", "_takes")

    def __init__(self, of: Middleware, call: Callable[..., Awaitable[Any]], takes: str) -> None:
        self._name = name_of(of)
        self._call = call
        self._takes = takes
        """The argument that it takes; empty: none."""
        self._coroutine: Coroutine[Any, Any, Any] | None = None
        self._has_ended = False

    def __call__(self, *passed_on: Any) -> Coroutine[Any, Any, Any]:
        if self._coroutine is not None:
            raise UsageError(f"middleware {self._name!r} called call_next twice: what it surrounds runs once")
        if len(passed_on) != bool(self._takes):
            takes = f"one argument, {self._takes}" if self._takes else "no argument"
            raise UsageError(f"middleware {self._name!r}: call_next takes {takes}, not {len(passed_on)}")
        self._coroutine = self._go_on(*passed_on)
        return self._coroutine

    async def _go_on(self, *passed_on: Any) -> Any:
        try:
            return await self._call(*passed_on)
        finally:
            self._has_ended = True

    def check(self) -> None:
        """The middleware has returned. Raises UsageError if it has called next and not waited for its end."""
        if self._coroutine is None or self._has_ended:
            return
        if inspect.getcoroutinestate(self._coroutine) == inspect.CORO_CREATED:
            self._coroutine.close()  # it was never awaited
        example = f"await call_next({self._takes})"
        raise UsageError(f"middleware {self._name!r} called call_next and did not wait for it: write `{example}`")


async def through(
    around: Sequence[Middleware], inner: Callable[..., Awaitable[object]], subject: object, *, takes: str = ""
) -> object:
    """Call `inner` inside of the middleware, of which the first is the outermost. Returns what the outermost returns.
    If `takes` names the subject, each passes one on, which may be another; else all get this one, and `inner` none."""

    around = tuple(around)  # more may be registered meanwhile

    async def enter(place: int, subject: object) -> Any:
        if place == len(around):
            return await (inner(subject) if takes else inner())
        within = partial(enter, place + 1)
        following = Next(around[place], within if takes else partial(within, subject), takes)
        result = await around[place](subject, following)
        following.check()
        return result

    return await enter(0, subject)


class Surrounded(list[Event]):
    """The events that middleware surrounds; each may have `most` bytes."""

    def __init__(self, events: Sequence[Event], most: int) -> None:
        super().__init__(events)
        self.most = most


async def publish_through(
    around: Sequence[Middleware],
    store: Callable[[Sequence[Event]], Awaitable[None]],
    events: Sequence[Event],
    most: int,
) -> None:
    """Store the events, inside of the middleware, which may pass on others with the same ids, of at most `most` bytes
    each. Exceptions say in `accepted` how many were stored, whoever has raised them. Raises UsageError and
    EventTooLarge for what can't be passed on."""
    accepted = 0

    async def inner(passed_on: object) -> None:
        nonlocal accepted
        made = _same(events, passed_on, most)
        try:
            await store(made)
        except BaseException as e:
            accepted = getattr(e, "accepted", 0)
            raise
        accepted = len(made)

    try:
        await through(around, inner, Surrounded(events, most), takes="events")
    except BaseException as e:
        with suppress(Exception):  # one of a class of its own
            e.accepted = accepted  # type: ignore[attr-defined]
        raise


def _same(events: Sequence[Event], passed_on: object, most: int) -> list[Event]:
    """What was passed on, checked: other events with the same ids."""
    if not is_a(passed_on, list, tuple) or not all(is_a(each, Event) for each in passed_on):
        raise UsageError("middleware: pass on a list of events: `await call_next(events)`")
    made = [checked(each, most) for each in passed_on]
    if [each.id for each in made] != [each.id for each in events]:
        raise UsageError("middleware: pass on the same events in the same order; their ids may not change")
    if any(e.extensions.get(CHANNEL) != o.extensions.get(CHANNEL) for e, o in zip(made, events, strict=True)):
        raise UsageError(
            f"middleware: the extension attribute {CHANNEL} is taken: it says for which channel an event waits, so it "
            "may not be added or changed"
        )
    return made
