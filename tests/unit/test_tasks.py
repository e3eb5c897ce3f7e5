"""Long tasks: whose they are, and that they go on."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from eventwagon.display.text import said as in_words
from eventwagon.errors import EndedEarly
from eventwagon.runtime.bulkhead import Bulkhead, is_cancelled
from eventwagon.runtime.tasks import InOwnTask, kept_up, to_the_end
from eventwagon.testing.virtual_time import run


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_task_group_is_entered_in_one_task_and_left_in_another() -> None:
    async def main() -> None:
        done = list[int]()

        async def work() -> None:
            await asyncio.sleep(1)
            done.append(1)

        stack = AsyncExitStack()

        async def enter() -> None:
            tasks = await stack.enter_async_context(InOwnTask(asyncio.TaskGroup(), "this"))
            tasks.create_task(work())

        await asyncio.create_task(enter())
        await asyncio.create_task(stack.aclose())
        assert done == [1]
        assert len(asyncio.all_tasks()) == 1

    run(main())


@pytest.mark.parametrize("at", ["enter", "leave"])
def test_what_the_manager_raises_is_raised(at: str) -> None:
    @asynccontextmanager
    async def manager() -> AsyncIterator[None]:
        if at == "enter":
            raise KeyError(at)
        yield
        raise KeyError(at)

    async def main() -> None:
        with pytest.raises(KeyError, match=at):
            async with InOwnTask(manager(), "this"):
                assert at == "leave"
        assert len(asyncio.all_tasks()) == 1

    run(main())


@pytest.mark.parametrize("at", ["enter", "leave"])
def test_cancelled_while_entering_or_leaving_the_manager_ends_first(at: str) -> None:
    async def main() -> None:
        said = list[str]()

        @asynccontextmanager
        async def manager() -> AsyncIterator[None]:
            try:
                if at == "enter":
                    await asyncio.sleep(100)
                yield
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(1)
                said.append("cleaned")

        async def use() -> None:
            async with InOwnTask(manager(), "this"):
                pass

        task = asyncio.create_task(use())
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert said == ["cleaned"]
        assert asyncio.get_running_loop().time() < 5
        assert len(asyncio.all_tasks()) == 1

    run(main())


def test_a_manager_that_was_ended_from_outside_ends_its_body_and_leaves_no_cancellation_behind() -> None:
    async def main() -> None:
        me = asyncio.current_task()
        assert me is not None
        with pytest.raises(EndedEarly, match="this ended before it was left"):
            async with InOwnTask(asyncio.TaskGroup(), "this"):
                for task in asyncio.all_tasks() - {me}:
                    task.cancel()
                await asyncio.sleep(100)
        assert asyncio.get_running_loop().time() < 1
        assert me.cancelling() == 0
        await asyncio.sleep(0.1)

    run(main())


def test_a_manager_entered_by_another_task_than_the_one_that_leaves_it_ends_early_too() -> None:
    async def main() -> None:
        held = InOwnTask(asyncio.TaskGroup(), "this")
        await asyncio.create_task(held.__aenter__())
        held.end()
        await asyncio.sleep(0.1)
        with pytest.raises(EndedEarly):
            await held.__aexit__(None, None, None)

    run(main())


def test_a_failed_child_is_told_at_once_and_raised_on_leaving(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async def fail() -> None:
            raise KeyError("child")

        with pytest.raises(ExceptionGroup):
            async with InOwnTask(asyncio.TaskGroup(), "this") as tasks:
                tasks.create_task(fail())
                with pytest.raises(asyncio.CancelledError):
                    await asyncio.sleep(100)
                assert "ended early" in caplog.text
                assert "KeyError" in caplog.text

    with caplog.at_level(logging.ERROR):
        run(main())


def foreign() -> None:
    raise asyncio.CancelledError("of somebody else")


def group() -> None:
    raise BaseExceptionGroup("several", [asyncio.CancelledError()])


def unprintable() -> None:
    raise Unprintable


@pytest.mark.parametrize("fail", [foreign, group, unprintable])
def test_a_long_task_goes_on_after_whatever_it_calls(
    fail: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        bulkhead, began = Bulkhead("train t"), list[int]()

        async def work() -> None:
            began.append(1)
            if len(began) < 4:
                fail()
            await asyncio.sleep(1000)

        task = asyncio.create_task(kept_up(work, "doing this", bulkhead))
        await asyncio.sleep(30)
        assert len(began) == 4
        assert bulkhead.caught == 3
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with caplog.at_level(logging.ERROR):
        run(main())
    assert caplog.text.count("doing this") == 1
    assert "Traceback" in caplog.text


def test_a_long_task_that_fails_while_it_ends_has_ended() -> None:
    async def main() -> None:
        bulkhead = Bulkhead("train t")

        async def work() -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                raise KeyError

        task = asyncio.create_task(kept_up(work, "this", bulkhead))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert bulkhead.caught == 1

    run(main())


@pytest.mark.parametrize(("takes", "ends_at", "done"), [(3.0, 3.0, True), (30.0, 6.0, False)])
def test_what_has_begun_may_end_when_its_task_is_cancelled(takes: float, ends_at: float, done: bool) -> None:
    async def main() -> None:
        ended = list[bool]()

        async def work() -> None:
            try:
                await asyncio.sleep(takes)
            except asyncio.CancelledError:
                ended.append(False)
                raise
            ended.append(True)

        began = asyncio.get_running_loop().time()
        task = asyncio.create_task(to_the_end(work, 5.0))
        await asyncio.sleep(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [done]
        assert asyncio.get_running_loop().time() == began + ends_at

    run(main())


def test_a_second_cancellation_ends_it_at_once() -> None:
    async def main() -> None:
        began, ended = asyncio.get_running_loop().time(), list[bool]()

        async def work() -> None:
            try:
                await asyncio.sleep(30)
            finally:
                ended.append(True)

        task = asyncio.create_task(to_the_end(work, 5.0))
        for _ in range(2):
            await asyncio.sleep(1)
            task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]
        assert asyncio.get_running_loop().time() == began + 2

    run(main())


def test_what_it_raises_or_returns_comes_out() -> None:
    async def main() -> None:
        async def work(error: BaseException | None) -> int:
            if error is not None:
                raise error
            return 7

        assert await to_the_end(lambda: work(None), 5.0) == 7
        with pytest.raises(KeyError):
            await to_the_end(lambda: work(KeyError()), 5.0)
        with pytest.raises(SystemExit):
            await to_the_end(lambda: work(SystemExit(3)), 5.0)

    run(main())


def test_each_kind_is_logged_once_a_minute_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        bulkhead = Bulkhead("train t", clock=asyncio.get_running_loop().time)
        for _ in range(130):
            bulkhead.report("this", KeyError(1))
            await asyncio.sleep(1)
        assert bulkhead.caught == 130

    with caplog.at_level(logging.ERROR):
        run(main())
    assert caplog.text.count("train t: this raised KeyError: 1") == 3


def test_a_long_task_that_is_closed_without_a_loop_tells_nothing() -> None:
    bulkhead = Bulkhead("t")

    async def work() -> None:
        try:
            await asyncio.sleep(1000)
        finally:
            asyncio.get_running_loop()

    async def main() -> object:
        coroutine = kept_up(work, "this", bulkhead)
        coroutine.send(None)
        return coroutine

    coroutine: Any = asyncio.run(main())
    with pytest.raises(RuntimeError):
        coroutine.close()
    assert bulkhead.caught == 0


def test_a_listener_can_not_hurt() -> None:
    async def main() -> None:
        bulkhead = Bulkhead("train t")
        for error in (SystemExit(3), GeneratorExit(), asyncio.CancelledError(), Unprintable()):

            def listener(error: BaseException = error) -> None:
                raise error

            bulkhead.call("a listener", listener)
        assert bulkhead.caught == 4
        assert not is_cancelled()

    run(main())


def test_any_exception_can_be_told() -> None:
    assert in_words(Unprintable()) == "Unprintable: its text can't be had"
    assert in_words(ValueError("\ud800")) == "ValueError: \\ud800"
    assert in_words(KeyError()) == "KeyError"
