"""A connection's deadlines, and use that can't be right: told at once, and nothing is done."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from decimal import Decimal
from pathlib import Path

import pytest

from eventwagon import Connection, Train, Volume
from eventwagon.contracts.broker import Depth
from eventwagon.contracts.registry import Snapshot
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import EndedEarly, EventwagonError, PublishError, PublishTimeout, Unavailable, UsageError
from eventwagon.event import Channel
from eventwagon.testing.virtual_time import run
from tests.support import SignUp, World, signups, until

# --- deadlines ----------------------------------------------------------------------------


class Slow(MemoryBroker):
    """Making a channel takes as long as is said, call by call; then no time."""

    def __init__(self, *takes: float) -> None:
        super().__init__()
        self.takes = list(takes)

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        if self.takes:
            await asyncio.sleep(self.takes.pop(0))
        await super().create(channel, capacity=capacity)


def slow(*takes: float) -> World:
    world = World()
    world.broker = Slow(*takes)
    return world


def test_the_first_publish_keeps_its_deadline_and_leaves_no_lock_behind() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with slow(1e6).connect(Train("t")) as c:
            began = loop.time()
            with pytest.raises(PublishTimeout, match="not founded in time, no event was stored"):
                await c.publish(1, timeout=0.3)
            assert loop.time() - began == pytest.approx(0.3, abs=0.01)
            await c.publish(2, timeout=0.3)

    run(main())


def test_publish_many_keeps_its_deadline_too() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with slow(1e6).connect(Train("t")) as c:
            began = loop.time()
            with pytest.raises(PublishTimeout) as caught:
                await c.publish_many([1, 2], timeout=0.3)
            assert caught.value.accepted == 0
            assert loop.time() - began == pytest.approx(0.3, abs=0.01)

    run(main())


def test_a_founder_that_hangs_holds_up_the_others_for_a_moment_only() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with slow(1e6).connect(Train("t")) as c, asyncio.TaskGroup() as tasks:
            hanging = tasks.create_task(_outcome(c.publish(1, timeout=20)))
            await asyncio.sleep(0.01)
            began = loop.time()
            others = [tasks.create_task(_outcome(c.publish(i, timeout=5))) for i in range(5)]
            assert [await each for each in others] == [None] * 5
            assert loop.time() - began < 1.5
            assert isinstance(await hanging, PublishTimeout)

    run(main())


def test_founders_that_hang_are_gone_past_one_by_one_also_by_those_in_a_hurry() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        world = slow(*[1e6] * 3)
        async with world.connect(Train("t")) as c, asyncio.TaskGroup() as tasks:
            hanging = [tasks.create_task(_outcome(c.publish(i, timeout=60))) for i in range(40)]
            await asyncio.sleep(2.5)
            assert len(world.broker.takes) == 0  # type: ignore[attr-defined]
            assert await _outcome(c.publish(1, timeout=0.3)) is None
            began = loop.time()
            assert [await each for each in hanging].count(None) == 37
            assert loop.time() - began < 60

    run(main())


class OfNobody(BaseException):
    """No Exception: what nobody catches by accident."""


@pytest.mark.parametrize(
    "error",
    [
        KeyError("no driver should"),
        asyncio.CancelledError("not ours"),
        SystemExit("no"),
        GeneratorExit("no"),
        OfNobody("no"),
    ],
)
def test_what_no_driver_should_raise_while_founding_is_a_publish_error(error: BaseException) -> None:
    class Odd(MemoryBroker):
        odd = True

        async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
            if self.odd:
                self.odd = False
                raise error
            await super().create(channel, capacity=capacity)

    async def main() -> None:
        world = World()
        world.broker = Odd()
        async with world.connect(Train("t")) as c:
            if not isinstance(error, asyncio.CancelledError):
                with pytest.raises(PublishError, match=f"no event was stored: {type(error).__name__}"):
                    await c.publish(1)
            await c.publish(1)

    run(main())


def test_founding_is_tried_again_while_the_broker_is_away() -> None:
    class Away(MemoryBroker):
        times = 20

        async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
            if self.times:
                self.times -= 1
                raise Unavailable("the broker starts")
            await super().create(channel, capacity=capacity)

    async def main() -> None:
        world = World()
        world.broker = Away()
        async with world.connect(Train("t")) as c:
            with pytest.raises(PublishTimeout, match="the broker starts"):
                await c.publish(1, timeout=0.5)
            await c.publish(1)

    run(main())


@pytest.mark.parametrize(
    "timeout", [0, -1, math.nan, math.inf, -math.inf, True, "3", b"3", Decimal(3), [3], 2**2000, 1e300], ids=repr
)
def test_a_timeout_that_is_none_is_refused(timeout: object) -> None:
    async def main() -> None:
        world = World()
        async with world.connect(Train("t")) as c:
            with pytest.raises(UsageError, match="timeout"):
                await c.publish(1, timeout=timeout)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="timeout"):
                await c.publish_many([1], timeout=timeout)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="timeout"):
                await c.publish_many([], timeout=timeout)  # type: ignore[arg-type]
            assert not world.facts
            await c.publish(1, timeout=1)
            await c.publish(1, timeout=1e6)

    run(main())


class Silent(MemoryRegistry):
    """A registry that stops answering."""

    silent = False

    async def read(self, train: str) -> Snapshot:
        if self.silent:
            await asyncio.get_running_loop().create_future()
        return await super().read(train)


def test_calls_without_a_timeout_end_too() -> None:
    async def main() -> None:
        world = World()
        world.registry = registry = Silent(clock=world.clock)
        train = Train("t", publish_timeout=3.0)
        async with world.connect(train) as c:
            await c.publish(1)
            registry.silent = True
            for call in (c.request_switch, c.request_stop, c.refresh):
                began = asyncio.get_running_loop().time()
                with pytest.raises(Unavailable, match="no answer"):
                    await call()
                assert asyncio.get_running_loop().time() - began == pytest.approx(3.0, abs=0.01)
            with pytest.raises(Unavailable, match="no answer"):
                async with world.connect(train):
                    pass
            registry.silent = False
            assert await c.request_switch() == 1

    run(main())


# --- another loop, thread, process ----------------------------------------------------------


def calls(c: Connection) -> list[Callable[[], Awaitable[object]]]:
    """All public methods."""

    async def journal() -> None:
        async for _ in c.journal():
            pass

    async def dead() -> None:
        async for _ in c.dead_letters():
            pass

    async def running() -> None:
        async with c.running(work=False):
            pass

    return [
        lambda: c.publish(1, timeout=2),
        lambda: c.publish_many([1, 2]),
        c.found,
        running,
        c.stopped,
        lambda: c.released(1),
        c.request_switch,
        c.request_stop,
        lambda: c.wait_switched(1),
        c.wait_answered,
        lambda: c.wait_drained(1),
        c.refresh,
        c.members,
        c.depths,
        journal,
        dead,
    ]


def test_another_loop_is_told_at_once_and_nothing_is_done(tmp_path: Path) -> None:
    async def main() -> None:
        async with Train("t").connect(f"sqlite:///{tmp_path}/trains") as c:
            await c.publish(0)
            before = c.manifest

            def elsewhere() -> list[object]:
                told: list[object] = []
                for call in calls(c):
                    try:
                        asyncio.run(asyncio.wait_for(_awaited(call), 30))
                    except Exception as e:  # noqa: BLE001 - whatever it says is looked at
                        told.append(e)
                    else:
                        told.append(None)
                return told

            told = await asyncio.to_thread(elsewhere)
            assert all(isinstance(e, UsageError) and "another event loop" in str(e) for e in told), told
            with pytest.raises(UsageError, match="another event loop"):
                await asyncio.to_thread(lambda: asyncio.run(c.__aexit__()))
            await c.refresh()
            assert c.manifest == before
            assert (await c.depths())[1][""].published == 1
            await c.publish(1)

    asyncio.run(main())


@pytest.mark.parametrize("when", ["before", "after"])
def test_before_it_is_open_and_once_it_is_closed_it_says_so(when: str) -> None:
    async def main() -> None:
        world = World()
        c = world.connect(Train("t"))
        if when == "after":
            async with c:
                await c.publish(1)
        for call in calls(c):
            with pytest.raises(Unavailable, match="not open" if when == "before" else "is closed"):
                async with asyncio.timeout(1):
                    await call()

    run(main())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_is_told(tmp_path: Path) -> None:
    said = tmp_path / "said"

    async def main() -> None:
        async with Train("t").connect(f"sqlite:///{tmp_path}/trains") as c:
            await c.publish(0)
            child = os.fork()
            if child == 0:
                try:
                    coroutine = c.publish(1)
                    coroutine.send(None)
                except UsageError as e:
                    said.write_text(str(e))
                finally:
                    os._exit(0)
            await asyncio.to_thread(os.waitpid, child, 0)
            assert "open another one after a fork" in said.read_text()
            await c.publish(1)
            assert (await c.depths())[1][""].published == 2

    asyncio.run(main())


# --- twice --------------------------------------------------------------------------------


def test_entering_twice_is_told() -> None:
    async def main() -> None:
        world = World()
        c = world.connect(Train("t"))
        first, second = await asyncio.gather(c.__aenter__(), c.__aenter__(), return_exceptions=True)
        assert first is c
        assert isinstance(second, UsageError)
        with pytest.raises(UsageError, match="entered before"):
            await c.__aenter__()
        await c.publish(1)
        await c.__aexit__()
        with pytest.raises(UsageError, match="entered before"):
            await c.__aenter__()
        await c.__aexit__()

    run(main())


def test_one_that_could_not_be_entered_may_be_entered_again() -> None:
    class Down(MemoryRegistry):
        down = True

        async def read(self, train: str) -> Snapshot:
            if self.down:
                raise Unavailable("down")
            return await super().read(train)

    async def main() -> None:
        world = World()
        world.registry = registry = Down(clock=world.clock)
        c = world.connect(Train("t"))
        with pytest.raises(Unavailable):
            await c.__aenter__()
        registry.down = False
        async with c:
            await c.publish(1)

    run(main())


def test_running_twice_is_told_also_at_once() -> None:
    async def main() -> None:
        world = World()
        handled = list[str]()
        async with world.connect(signups(handled)) as c:

            async def go() -> None:
                async with c.running():
                    await asyncio.sleep(1)

            told = await asyncio.gather(go(), go(), go(), return_exceptions=True)
            assert [type(e) for e in told] == [type(None), UsageError, UsageError]
            async with c.running():
                await c.publish(SignUp("again"))
                await until(lambda: handled == ["again"])

    run(main())


# --- tasks --------------------------------------------------------------------------------


def test_opened_run_used_and_closed_by_different_tasks() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        stack = AsyncExitStack()
        c = world.connect(signups(handled))

        async def enter() -> None:
            await stack.enter_async_context(c)
            await stack.enter_async_context(c.running())

        await asyncio.create_task(enter())
        await asyncio.create_task(c.publish(SignUp("a")))
        await until(lambda: handled == ["a"])
        number = await asyncio.create_task(c.request_switch())
        await asyncio.create_task(c.wait_switched(number))
        await asyncio.create_task(stack.aclose())
        assert len(asyncio.all_tasks()) == 1

    run(main())


@pytest.mark.parametrize("steps", range(0, 60, 3))
def test_cancelled_while_opening_or_closing_it_leaves_nothing_behind(steps: int) -> None:
    async def main() -> None:
        world = World()

        async def use() -> None:
            async with world.connect(signups([])) as c, c.running():
                await c.publish(SignUp("a"))

        task = asyncio.create_task(use())
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task], timeout=100)
        assert task.done()
        assert task.cancelled() or task.exception() is None
        assert len(asyncio.all_tasks()) == 1

    run(main())


def test_an_error_in_the_body_comes_out_as_it_is() -> None:
    async def main() -> None:
        world = World()
        with pytest.raises(KeyError, match="mine"):
            async with world.connect(signups([])) as c, c.running():
                raise KeyError("mine")

    run(main())


class Bad(MemoryBroker):
    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        raise KeyError("no driver should")


def test_observing_and_working_go_on_whatever_they_call() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        world.broker = Bad()
        async with world.connect(signups(handled, limit=Volume(100))) as c, c.running():
            await c.publish(SignUp("a"))
            await until(lambda: handled == ["a"])
            await asyncio.sleep(10)
            await c.publish(SignUp("b"))
            await until(lambda: handled == ["a", "b"])

    run(main())


async def _outcome(call: Awaitable[object]) -> EventwagonError | None:
    try:
        await call
    except EventwagonError as e:
        return e
    return None


async def _awaited(call: Callable[[], Awaitable[object]]) -> object:
    return await call()


# --- tasks that somebody cancels ----------------------------------------------------------------


def cancel_all_others() -> None:
    """As frameworks do that clean up."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


def cancel_one(name: str) -> None:
    for task in asyncio.all_tasks():
        if name in repr(task.get_coro()):
            task.cancel()


@pytest.mark.parametrize("cancel", [cancel_all_others, lambda: cancel_one("InOwnTask"), lambda: cancel_one("kept_up")])
def test_a_body_whose_tasks_were_cancelled_ends_with_a_clear_error(
    cancel: Callable[[], None], caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        world = World()
        me = asyncio.current_task()
        assert me is not None
        after, handled = list[str](), list[str]()
        with pytest.raises(EndedEarly, match="ended before it was left: somebody has cancelled its tasks"):
            async with world.connect(signups(handled)) as c, c.running():
                await c.publish(SignUp("a"))
                cancel()
                await asyncio.sleep(1000)
                after.append("the body went on")
        assert not after
        assert me.cancelling() == 0
        assert asyncio.get_running_loop().time() < 100
        assert asyncio.all_tasks() == {me}
        assert await world.registry.members("signups") == []
        async with world.running(signups(handled)):  # what was not handled is now
            await until(lambda: handled)

    run(main())
    assert any("ended early: somebody has cancelled its tasks" in line for line in caplog.messages)


def test_a_body_that_does_not_wait_is_told_on_leaving() -> None:
    async def main() -> None:
        world = World()
        with pytest.raises(EndedEarly):
            async with world.connect(signups([])) as c, c.running():
                cancel_all_others()
                for _ in range(50):
                    with suppress(asyncio.CancelledError):
                        await asyncio.sleep(0.1)
        await asyncio.sleep(1)

    run(main())


def test_a_body_that_fails_by_itself_raises_that() -> None:
    async def main() -> None:
        world = World()
        with pytest.raises(KeyError, match="own"):
            async with world.connect(signups([])) as c, c.running():
                cancel_all_others()
                try:
                    await asyncio.sleep(1000)
                finally:
                    raise KeyError("own")

    run(main())


def test_a_body_that_is_cancelled_itself_is_cancelled() -> None:
    async def main() -> None:
        world = World()

        async def serve() -> None:
            async with world.running(signups([])):
                await asyncio.sleep(1000)

        task = asyncio.create_task(serve())
        await asyncio.sleep(1)
        for each in asyncio.all_tasks() - {asyncio.current_task()}:
            each.cancel()  # as asyncio.run does in the end: the body's task among them
        with pytest.raises(asyncio.CancelledError):
            await task

    run(main())
