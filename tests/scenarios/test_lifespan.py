"""What a program opens before its workers handle anything: once a process that works, closed after the last handler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from eventwagon import Context, Train, Volume, Workers
from eventwagon.errors import UsageError
from eventwagon.orchestrators.processes.subprocess import Subprocess
from eventwagon.testing.virtual_time import run
from tests.programs.pools import pools
from tests.support import World, until


def test_it_is_entered_before_and_left_after_all_handlers() -> None:
    steps = list[str]()

    async def scenario() -> None:
        train, world = Train("t", limit=Volume(10), workers=Workers(each=2)), World()

        @train.lifespan
        async def opened() -> AsyncIterator[list[str]]:
            steps.append("opened")
            yield steps
            steps.append("closed")

        @train.on("t")
        async def handle(number: int, ctx: Context) -> None:
            await asyncio.sleep(1)
            await ctx.emit("mail", number)
            ctx.state.append(f"handled {number}")

        @train.on("mail")
        def mail(number: int, ctx: Context) -> None:
            ctx.state.append(f"mailed {number}")

        async with world.connect(train) as publisher:
            await publisher.publish(0)
            assert steps == []
            async with world.connect(train) as c, c.running():
                await publisher.publish_many(range(1, 25))  # three wagons
                await until(lambda: len(steps) == 1 + 2 * 25)
                await publisher.publish(25)
                await asyncio.sleep(0.5)  # its handler has begun
        assert steps[0] == "opened"
        assert steps.count("opened") == steps.count("closed") == 1
        assert steps[-2:] == ["handled 25", "closed"]

    run(scenario())


def test_processes_that_do_not_work_do_not_enter_it() -> None:
    entered = list[int]()

    async def scenario() -> None:
        train, world = Train("t"), World()

        @train.lifespan
        async def opened() -> AsyncIterator[None]:
            entered.append(1)
            yield

        @train.on("t")
        def handle(number: int) -> None:
            pass

        async with world.connect(train) as c, c.running(work=False):
            await c.publish(1)
            await asyncio.sleep(10)
        assert entered == []

    run(scenario())


def test_while_it_fails_nothing_is_handled_and_it_is_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        train, world, tries, handled = Train("t"), World(), list[int](), list[Any]()

        @train.lifespan
        async def opened() -> AsyncIterator[str]:
            tries.append(1)
            if len(tries) < 5:
                raise ConnectionRefusedError("the database is away")
            yield "pool"

        @train.on("t")
        def handle(number: int, ctx: Context) -> None:
            handled.append((number, ctx.state, ctx.attempt))

        async with world.connect(train) as c, c.running():
            await c.publish(1)
            await until(lambda: handled)
        assert handled == [(1, "pool", 1)]
        assert len(tries) == 5

    with caplog.at_level(logging.ERROR, "eventwagon"):
        run(scenario())
    assert caplog.text.count("the database is away") >= 1
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("how", ["fails", "hangs"])
def test_a_process_whose_lifespan_is_not_open_is_seen_and_does_not_count_as_working(
    how: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        train, world, handled, may_open = Train("t"), World(), list[int](), asyncio.Event()

        @train.lifespan
        async def opened() -> AsyncIterator[None]:
            if how == "hangs":
                await may_open.wait()
            elif not may_open.is_set():
                raise ConnectionRefusedError("the database is away")
            yield

        @train.on("t")
        def handle(number: int) -> None:
            handled.append(number)

        async with world.connect(train) as c, c.running():
            await c.publish(1)
            await asyncio.sleep(20)
            (me,) = await c.members()
            assert me.roles == ("observe",)
            says = "not open yet" if how == "hangs" else "its lifespan can't be opened: ConnectionRefusedError"
            assert says in me.trouble
            assert says in c.trouble
            assert handled == []
            may_open.set()
            await until(lambda: handled == [1])
            await asyncio.sleep(5)
            (me,) = await c.members()
            assert (set(me.roles), me.trouble, c.trouble) == ({"observe", "work"}, "", "")

    with caplog.at_level(logging.WARNING, "eventwagon"):
        run(scenario())
    assert ("its lifespan has been opening for 5 s" in caplog.text) == (how == "hangs")


def test_what_it_raises_while_closing_is_logged_and_hurts_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        train, world, handled = Train("t"), World(), list[int]()

        @train.lifespan
        async def opened() -> AsyncIterator[None]:
            yield
            raise OSError("it can't be closed")

        @train.on("t")
        def handle(number: int) -> None:
            handled.append(number)

        async with world.connect(train) as c:
            async with c.running():
                await c.publish(1)
                await until(lambda: handled)
            assert await c.members() == []

    with caplog.at_level(logging.ERROR, "eventwagon"):
        run(scenario())
    assert "it can't be closed" in caplog.text


def test_each_process_of_a_wagon_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each note: the pid that opened the state, and the pid that handled."""
    monkeypatch.setenv("POOLS", str(tmp_path / "notes"))
    url = f"sqlite:///{tmp_path}/trains"

    async def scenario() -> None:
        orchestrator = Subprocess("tests.programs.pools:pools", url=url, directory=tmp_path / "run", grace=5.0)
        async with asyncio.timeout(60), pools.connect(url, orchestrator=orchestrator) as c, c.running():
            await c.publish_many(range(12))
            while not (tmp_path / "notes").exists() or len((tmp_path / "notes").read_text().splitlines()) < 12:
                await asyncio.sleep(0.05)

    asyncio.run(scenario())
    notes = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    assert len(notes) == 12
    assert all(opened == handled for opened, handled in notes)


def one(argument: int) -> None: ...


async def no_generator() -> None: ...


def gives_a_number() -> int:
    return 1


def test_a_function_that_gives_something_else_is_named() -> None:
    train = Train("t")
    train.lifespan(gives_a_number)
    assert train.opening is not None
    with pytest.raises(UsageError, match="gives_a_number returned 1: it must be an async generator"):
        train.opening()


class Opener:
    async def __call__(self) -> AsyncIterator[int]:
        yield 7


async def generated() -> AsyncIterator[int]:
    yield 7


@pytest.mark.parametrize("given", [generated, Opener(), lambda: generated(), asynccontextmanager(generated)])
def test_each_kind_of_function_opens(given: Any) -> None:
    async def main() -> None:
        train = Train("t")
        train.lifespan(given)
        assert train.opening is not None
        async with train.opening() as state:
            assert state == 7

    asyncio.run(main())


@pytest.mark.parametrize("wrong", [None, 7, one, no_generator])
def test_another_kind_of_function_is_refused(wrong: Any) -> None:
    with pytest.raises(UsageError, match="lifespan"):
        Train("t").lifespan(wrong)


def test_there_is_one() -> None:
    async def opened() -> AsyncIterator[None]:
        yield

    train = Train("t")
    train.lifespan(opened)
    with pytest.raises(UsageError, match="already"):
        train.lifespan(opened)
