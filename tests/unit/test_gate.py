"""The gate: one event is handled with nothing else under way."""

from __future__ import annotations

import asyncio

import pytest

from eventwagon.runtime.admission import Gate
from eventwagon.testing.virtual_time import run


def test_one_that_wants_to_be_alone_waits_for_the_others_and_keeps_them_out() -> None:
    async def main() -> None:
        gate, seen = Gate(), list[str]()
        gate.busy = 1

        async def alone(name: str) -> None:
            async with gate.alone() as entered:
                assert entered
                assert not gate.busy
                seen.append(name)
                await asyncio.sleep(1)
                assert gate.closed

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(alone("first"))
            tasks.create_task(alone("second"))
            await asyncio.sleep(0.3)
            assert seen == []
            assert gate.closed
            gate.busy = 0
            gate.left()
            await asyncio.sleep(0.5)
            assert seen == ["first"]
            await gate.opened()
            gate.busy = 1  # it begins between the two
            await asyncio.sleep(0.3)
            assert seen == ["first"]
            gate.busy = 0
            gate.left()
        assert seen == ["first", "second"]
        assert not gate.closed

    run(main())


def test_one_that_is_cancelled_while_it_waits_opens_the_gate() -> None:
    async def main() -> None:
        gate = Gate()
        gate.busy = 1

        async def alone() -> None:
            async with gate.alone():
                raise AssertionError("nobody may be alone here")

        task = asyncio.create_task(alone())
        await asyncio.sleep(0)
        assert gate.closed
        opened = asyncio.create_task(gate.opened())
        await asyncio.sleep(0)
        task.cancel()
        await opened
        assert not gate.closed

    run(main())


def test_a_handler_that_takes_long_holds_up_no_other_until_that_has_gone_on_for_long() -> None:
    async def main() -> None:
        gate = Gate()
        gate.busy = 1
        loop = asyncio.get_running_loop()
        closed, tries = 0.0, 0
        while loop.time() < 29:
            began = loop.time()
            async with gate.alone() as entered:
                assert not entered
                assert not gate.closed
            closed += loop.time() - began
            tries += 1
            await asyncio.sleep(1)
        assert closed <= 3.0
        await asyncio.sleep(5)

        def leave() -> None:
            gate.busy = 0
            gate.left()

        loop.call_later(40, leave)
        async with gate.alone() as entered:
            assert entered
        gate.busy = 1
        async with gate.alone() as entered:
            assert not entered

    run(main())


def test_it_waits_as_long_as_handlers_usually_take_and_then_opens_for_longer() -> None:
    async def main() -> None:
        gate, loop = Gate(), asyncio.get_running_loop()
        gate.usual = 2.0

        def leave() -> None:
            gate.busy = 0
            gate.left()

        for takes, entered in ((3.9, True), (4.1, False)):
            gate.busy = 1
            handle, began = loop.call_later(takes, leave), loop.time()
            async with gate.alone() as alone:
                assert alone is entered
                assert loop.time() - began == pytest.approx(min(takes, 4.0), abs=0.01)
            handle.cancel()
            gate.busy, began = 1, loop.time()
            async with gate.alone() as alone:
                assert not alone
                assert loop.time() - began < 1.0
            await asyncio.sleep(60.0)

    run(main())


def test_who_wanted_to_be_alone_long_ago_shuts_nobody_out_now() -> None:
    async def main() -> None:
        gate, loop = Gate(), asyncio.get_running_loop()
        gate.busy = 1
        async with gate.alone() as entered:
            assert not entered
        await asyncio.sleep(3600)  # what was to be handled alone went to another process
        began = loop.time()
        async with gate.alone() as entered:
            assert not entered
        assert loop.time() - began < 1.0
        assert not gate.closed

    run(main())


def test_others_begin_before_the_first_that_wants_to_be_alone_in_a_process() -> None:
    """It may be what ended the last process: without this each life would handle it first, and then nothing."""

    async def main() -> None:
        gate, at = Gate(others_first_for=0.5), list[float]()
        loop = asyncio.get_running_loop()

        async def alone() -> None:
            async with gate.alone() as entered:
                assert entered
                at.append(loop.time())

        began = loop.time()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(alone())
            await asyncio.sleep(0.4)
            assert not gate.closed
            gate.busy = 1
            gate.busy = 0
            gate.left()
        assert at == [began + 0.5]
        await asyncio.sleep(5)
        await alone()
        assert at[1] == began + 5.5

    run(main())


@pytest.mark.parametrize("others_first_for", [0.0, 0.5])
def test_those_that_want_to_be_alone_get_their_turns_in_order(others_first_for: float) -> None:
    """The first may be what ended the last process. Workers that were alone come again at once, with another event."""

    async def main() -> None:
        gate, order, asked = Gate(others_first_for=others_first_for), list[int](), iter(range(100))

        async def worker() -> None:
            for _ in range(3):
                number = next(asked)
                async with gate.alone() as entered:
                    assert entered
                    order.append(number)
                    await asyncio.sleep(0.3)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(4):
                tasks.create_task(worker())
                await asyncio.sleep(0.1)
        assert order == sorted(order)
        assert len(order) == 12

    run(main())
