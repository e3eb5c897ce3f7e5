"""What can be a handler: everything that can be called with (payload) or (payload, ctx), and nothing else."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import Callable
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from eventwagon import Context, Event, Train
from eventwagon.errors import UsageError
from eventwagon.payload import shape
from eventwagon.runtime.handling import begin
from eventwagon.runtime.outcomes import Dead, Failed, Handled, Snoozed
from eventwagon.runtime.run_state import RunState
from eventwagon.runtime.threads import Threads

SEEN: list[object] = []


def _name(value: object) -> str:
    """The same in each process: without addresses."""
    return re.sub(r"0x\w+|id='\d+'|datetime.*", "", ascii(value)[:300])[:40]


def plain(n: int) -> None:
    SEEN.append(n)


def with_context(n: int, ctx: Context) -> None:
    SEEN.append((n, ctx.attempt))


async def in_the_loop(n: int, ctx: Context) -> None:
    asyncio.get_running_loop()
    SEEN.append((n, ctx.attempt))


def positional(n: int, /) -> None:
    SEEN.append(n)


def with_defaults(n: int, ctx: Context | None = None, *, more: int = 0) -> None:
    SEEN.append((n, ctx is not None))


def of_three(database: str, n: int, ctx: Context) -> None:
    SEEN.append((database, n, ctx.attempt))


def passes_on(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    return wrapper


def async_around(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        asyncio.get_running_loop()
        return function(*args, **kwargs)

    return wrapper


def runs(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return asyncio.run(function(*args, **kwargs))

    return wrapper


def injects(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(n: int, ctx: Context) -> Any:
        return function("db", n, ctx)

    wrapper.__annotations__ = {"n": int, "ctx": Context}
    return wrapper


class Thing:
    def method(self, n: int, ctx: Context) -> None:
        SEEN.append((n, ctx.attempt))

    @staticmethod
    def static(n: int) -> None:
        SEEN.append(n)

    @classmethod
    def of_class(cls, n: int) -> None:
        SEEN.append(n)

    def alone(self) -> None: ...


class CalledObject:
    func = None
    """As a partial has one."""

    def __call__(self, n: int) -> None:
        SEEN.append(n)


class AsyncCallable:
    async def __call__(self, n: int, ctx: Context) -> None:
        asyncio.get_running_loop()
        SEEN.append((n, ctx.attempt))


class Generates:
    def __call__(self, n: int) -> Any:
        yield n


WITHOUT, WITH = 7, (7, 1)


@pytest.mark.parametrize(
    ("handler", "seen"),
    [
        (plain, WITHOUT),
        (with_context, WITH),
        (in_the_loop, WITH),
        (positional, WITHOUT),
        (with_defaults, (7, True)),
        (SEEN.append, 7),
        (functools.partial(of_three, "db"), ("db", 7, 1)),
        (functools.partial(functools.partial(of_three), "db"), ("db", 7, 1)),
        (functools.partial(in_the_loop), WITH),
        (functools.partial(with_defaults, more=5), (7, True)),
        (passes_on(with_context), WITH),
        (passes_on(in_the_loop), WITH),
        (async_around(with_context), WITH),
        (injects(of_three), ("db", 7, 1)),
        (Thing().method, WITH),
        (Thing.static, WITHOUT),
        (Thing.of_class, WITHOUT),
        (staticmethod(plain), WITHOUT),
        (passes_on(Thing().method), WITH),
        (CalledObject(), WITHOUT),
        (AsyncCallable(), WITH),
        (functools.partial(AsyncCallable()), WITH),
        (lambda n: SEEN.append(n), WITHOUT),
        (lambda n, ctx: SEEN.append((n, ctx.attempt)), WITH),
    ],
    ids=_name,
)
def test_what_can_be_called_is_called(handler: Callable[..., Any], seen: object) -> None:
    async def main() -> None:  # in real time: threads don't fit virtual time
        SEEN.clear()
        train, threads = Train("t"), Threads()
        train.on("t")(handler)
        event = Event("1", "int", "/s", 0.0, b"7")
        context = Context(event, 1, "t", 1, "", train.handlers, 1024, lambda: 0.0)
        ours = train.handlers[""]
        outcome = begin(ours, event, context if ours.wants_context else None, RunState(), threads)
        assert (outcome if isinstance(outcome, Handled | Dead | Failed | Snoozed) else await outcome) == Handled(())
        threads.end()
        assert [seen] == SEEN

    asyncio.run(main())


def test_a_decorator_that_runs_a_coroutine_by_itself_is_called_in_a_thread() -> None:
    async def work(n: int) -> None:
        SEEN.append(n)

    test_what_can_be_called_is_called(runs(work), WITHOUT)


def bound_payload(payload: int, ctx: Context) -> None: ...
def three(a: int, b: int, c: int) -> None: ...
def keywords(n: int, *, database: str) -> None: ...
def only_keywords(*, n: int) -> None: ...
def anything(*args: Any, **kwargs: Any) -> None: ...
def unknown(n: Undefined) -> None: ...  # type: ignore[name-defined]  # noqa: F821
def broken(n: int.nothing) -> None: ...  # type: ignore[name-defined]
def unreadable(n: object) -> None: ...


unreadable.__annotations__["n"] = "1 +"


def fixed(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper(n: int) -> Any: ...

    wrapper.__annotations__ = {"n": int}
    return wrapper


def takes_none(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def wrapper() -> Any: ...

    return wrapper


@pytest.mark.parametrize(
    "handler",
    [
        three,
        keywords,
        only_keywords,
        anything,
        unknown,
        broken,
        unreadable,
        lambda: None,
        Thing,
        Thing.method,
        Thing().alone,
        Thing.alone,
        int,
        dict,
        print,
        min,
        Generates(),
        functools.partial(plain, 1),
        functools.partial(plain, n=1),
        functools.partial(three, 1, 2, 3),
        functools.partial(bound_payload, 1),
        functools.partial(bound_payload, payload=1),
        vars(Thing)["of_class"],
        Mock(),
        AsyncMock(),
        takes_none(plain),
        functools.partial(Thing),
        None,
        5,
        "plain",
        [plain],
        object(),
    ],
    ids=_name,
)
def test_what_could_never_be_called_is_refused_when_declared(handler: Any) -> None:
    train = Train("t")
    with pytest.raises(UsageError):
        train.on("t")(handler)
    assert train.handlers == {}


def test_the_outermost_of_decorators_counts() -> None:
    assert not shape(fixed(with_context)).wants_context
    assert shape(async_around(plain)).is_async
    assert not shape(passes_on(in_the_loop)).is_async
    assert shape(passes_on(with_context)).payload is int


def test_a_channel_is_named_by_text() -> None:
    train = Train("t")
    for bad in (plain, None, 5, b"t", "", "T", "a" * 49, "\ud800", "dead"):
        with pytest.raises(UsageError):
            train.on(bad)  # type: ignore[arg-type]


def test_a_handlers_name_shows_no_bound_arguments() -> None:
    train = Train("t")
    train.on("t")(functools.partial(of_three, "canary"))
    assert train.handlers[""].name == "of_three"
    train.on("inner")(AsyncCallable())
    assert train.handlers["inner"].name == "AsyncCallable"
    with pytest.raises(UsageError, match="wraps") as error:
        Train("t").on("t")(functools.partial(anything, "canary"))
    assert "canary" not in str(error.value)


def test_a_decorator_without_a_channel_says_how_to_write_it() -> None:
    with pytest.raises(UsageError, match=r"name the handler's channel: @train\.on\('orders'\)"):
        Train("orders").on(plain)  # type: ignore[arg-type]
