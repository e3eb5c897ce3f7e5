"""Handlers with dependencies by annotation, resolved by fast-depends."""

from __future__ import annotations

import asyncio
import functools
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pytest
from fast_depends import Depends as TheirDepends

from eventwagon import Context, Reject, Train, testing
from eventwagon.depends import Depends, injected, provider
from eventwagon.errors import UsageError

Run = Callable[[Coroutine[Any, Any, None]], None]
in_any_loop = pytest.mark.parametrize("run", [testing.run, asyncio.run], ids=["virtual", "real"])
steps: list[str] = []


@pytest.fixture(autouse=True)
def _no_steps() -> None:
    steps.clear()


@dataclass(frozen=True)
class Order:
    id: int


async def state_of(ctx: Context) -> str:
    steps.append("state")
    return str(ctx.state)


async def session(pool: Annotated[str, Depends(state_of)], order: Order) -> AsyncIterator[str]:
    steps.append(f"open {order.id}")
    try:
        yield f"session of {pool}"
        steps.append("commit")
    except ValueError:
        steps.append("roll back")
        raise
    finally:
        steps.append("close")


def now() -> float:
    time.sleep(0.2)
    return threading.get_ident()


Session = Annotated[str, Depends(session)]


def shop() -> Train:
    train = Train("orders")

    @train.on("orders")
    @injected
    async def ship(
        order: Order, ctx: Context, database: Session, pool: Annotated[str, Depends(state_of)], note: str = "note"
    ) -> None:
        steps.append(f"ship {order.id} with {database}, {pool}, {note}")
        await ctx.emit("mail", f"order {order.id}")
        if order.id == 13:
            raise ValueError("no such order")

    @train.on("mail")
    @injected
    async def mail(text: str, thread: Annotated[float, Depends(now)]) -> None:
        assert thread != threading.get_ident(), "plain ones run in threads"
        steps.append(text)

    return train


@in_any_loop
def test_they_are_resolved_for_each_event(run: Run) -> None:
    async def story() -> None:
        async with testing.running(shop(), state="pool", handler_timeout=1.0) as t:
            await t.publish(Order(7))
            await t.idle()
            assert (t.handled(), t.handled("mail")) == ([Order(7)], ["order 7"])

    run(story())
    shipped = "ship 7 with session of pool, pool, note"
    assert steps == ["state", "open 7", shipped, "commit", "close", "order 7"], "each once, closed after the handler"


@in_any_loop
def test_what_they_raise_and_what_the_handler_raises(run: Run) -> None:
    async def refuses() -> str:
        raise Reject("closed on Sundays")

    async def story() -> None:
        async with testing.running(shop(), attempts=2, dead="keep") as t:
            await t.publish(Order(13))
            await t.idle()
            assert steps.count("roll back") == steps.count("close") == 2
            assert t.dead[0].because == "ValueError: no such order"
            with provider.scope(state_of, refuses):
                await t.publish(Order(14))
                await t.idle()
            assert t.dead[1].because == "rejected: closed on Sundays"
            await t.publish(Order(15))
            await t.idle()
            assert t.handled() == [Order(15)]

    run(story())


@in_any_loop
def test_plain_handlers(run: Run) -> None:
    train = Train("t")

    def connection() -> Iterator[str]:
        yield "open"
        steps.append("closed")

    @train.on("t")
    @injected
    def handle(number: int, connection: Annotated[str, Depends(connection)]) -> None:
        steps.append(f"{number} {connection}")

    async def story() -> None:
        async with testing.running(train) as t:
            await t.publish(7)
            await t.idle()

    run(story())
    assert steps == ["7 open", "closed"]


def test_called_like_any_function() -> None:
    @injected
    async def handle(number: int, context: Context, pool: Annotated[str, Depends(state_of)]) -> None:
        await context.emit("next", [number, pool])

    ctx = Context.fake(state="fake")
    asyncio.run(handle(7, ctx))
    assert ctx.emitted == [("next", [7, "fake"])]


def test_methods() -> None:
    class Thing:
        async def handle(self, number: int, pool: Annotated[str, Depends(state_of)]) -> None:
            steps.append(f"{number} {pool}")

    train = Train("t")
    train.on("t")(injected(Thing().handle))

    async def story() -> None:
        async with testing.running(train, state="pool") as t:
            await t.publish(7)
            await t.idle()

    testing.run(story())
    assert steps == ["state", "7 pool"]
    with pytest.raises(UsageError, match="can't be sent as int"):
        train.handlers[""].encode("no number")
    with pytest.raises(UsageError, match="its dependencies can't be resolved"):
        injected(functools.partial(Thing().handle))  # its annotations are text, and a partial has no module


def test_an_override_ends_with_its_block() -> None:
    async def one(ctx: Context) -> str:
        return "one"

    async def two() -> str:
        return "two"

    @injected
    async def handle(number: int, ctx: Context, pool: Annotated[str, Depends(state_of)]) -> None:
        ctx.emit("pool", pool)

    def pool() -> Any:
        ctx = Context.fake(state="own")
        asyncio.run(handle(1, ctx))
        return ctx.emitted[0][1]

    with pytest.raises(KeyError), provider.scope(state_of, one):
        assert pool() == "one"
        with provider.scope(state_of, two):
            assert pool() == "two"
        assert pool() == "one"
        raise KeyError
    assert pool() == "own"


def test_the_payload_keeps_its_type() -> None:
    train = shop()
    with pytest.raises(UsageError, match="can't be sent as Order"):
        train.handlers[""].encode("no order")
    assert (train.handlers[""].wants_context, train.handlers[""].is_async, train.handlers[""].name) == (
        True,
        True,
        "shop.<locals>.ship",
    )


def test_what_makes_no_sense_is_refused_when_it_is_declared() -> None:
    async def later() -> str:
        return ""

    def plain(order: int, pool: Annotated[str, Depends(later)]) -> None: ...

    async def lacks(order: int, ctx: Context, other: str, pool: Annotated[str, Depends(later)]) -> None: ...

    async def asks(what: str) -> str:
        return what

    async def unknown(order: int, pool: Annotated[str, Depends(asks)]) -> None: ...

    async def only(pool: Annotated[str, Depends(later)]) -> None: ...

    async def none(order: int, ctx: Context) -> None: ...

    async def named(order: int, ctx: Annotated[str, Depends(later)]) -> None: ...

    async def first(ctx: int, pool: Annotated[str, Depends(later)]) -> None: ...

    async def stars(order: int, *more: int, pool: Annotated[str, Depends(later)]) -> None: ...

    async def misspelt(
        order: int,
        pool: Annotated[Nothing, Depends(later)],  # type: ignore[name-defined]  # noqa: F821
    ) -> None: ...

    for function, said in (
        (plain, "async dependency `later`"),
        (lacks, "nothing provides 'other'"),
        (unknown, "nothing provides 'what'"),
        (only, "its first parameter is the payload"),
        (none, "has no dependency"),
        (named, "the name 'ctx' is the context's"),
        (first, "the name 'ctx' is the context's"),
        (stars, r"without \* and \*\*"),
        (misspelt, "its dependencies can't be resolved"),
        (Order, "is no function"),
        (7, "is no function"),
    ):
        with pytest.raises(UsageError, match=said):
            injected(function)  # type: ignore[arg-type]


def test_without_the_decorator_they_are_refused() -> None:
    train = Train("t")

    async def one(order: int, pool: Annotated[str, Depends(state_of)]) -> None: ...

    async def two(order: int, ctx: Context, pool: Annotated[str, Depends(state_of)]) -> None: ...

    async def default(order: int, ctx: Context, pool: str = TheirDepends(state_of)) -> None: ...

    for function in (one, two, default):
        with pytest.raises(UsageError, match=r"@injected \(of eventwagon.depends\) below @train.on"):
            train.on("t")(function)  # type: ignore[type-var]


def test_what_to_install_is_said(tmp_path: Path) -> None:
    code = """
import sys
sys.modules["fast_depends"] = None
import eventwagon, eventwagon.testing
try:
    import eventwagon.depends
except eventwagon.UsageError as e:
    print(e)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    said = "eventwagon.depends needs fast_depends, which is not installed: pip install 'eventwagon[depends]'\n"
    assert done.stdout == said, done.stderr


def test_the_core_does_not_import_it(tmp_path: Path) -> None:
    code = "import sys, eventwagon, eventwagon.testing; print('fast_depends' in sys.modules, 'anyio' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout == "False False\n", done.stderr
