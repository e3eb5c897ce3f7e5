"""When the registry counts as out of reach. In virtual time."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from eventwagon.errors import Conflict, Unavailable
from eventwagon.runtime.reach import Reach
from eventwagon.testing.virtual_time import run


def test_nothing_was_asked() -> None:
    assert Reach().trouble == ""


@pytest.mark.parametrize("error", [Unavailable("refused"), TimeoutError("refused")])
def test_calls_that_fail_for_long(error: Exception) -> None:
    async def main() -> None:
        reach = Reach()
        for seconds in range(6):
            with suppress(type(error)), reach.asking():
                raise error
            expected = f"the broker or the registry has not answered for {seconds} s: refused" if seconds >= 3 else ""
            assert reach.trouble == expected
            await asyncio.sleep(1)
        with reach.asking():
            pass
        assert reach.trouble == ""
        await asyncio.sleep(10)
        assert reach.trouble == ""

    run(main())


def test_one_failure_is_not_enough_and_none_counts_for_ever() -> None:
    async def main() -> None:
        reach = Reach()
        for failures in (1, 4):
            for _ in range(failures):
                await asyncio.sleep(1)
                reach.failed("refused")
            for _ in range(100):
                await asyncio.sleep(0.2)
                assert bool(reach.trouble) is (failures > 1)
            await asyncio.sleep(15)
            assert reach.trouble == ""
            reach.answered()

    run(main())


def test_a_call_that_hangs() -> None:
    async def main() -> None:
        over: list[float] = []
        reach = Reach(over.append)

        async def hang() -> None:
            with reach.asking():
                await asyncio.Event().wait()

        async with asyncio.TaskGroup() as tasks:
            hanging = tasks.create_task(hang())
            await asyncio.sleep(2)
            assert reach.trouble == ""
            reach.answered()  # to another call
            await asyncio.sleep(2)
            assert reach.trouble == ""
            await asyncio.sleep(2)
            assert reach.trouble == "the broker or the registry has not answered for 4 s"
            hanging.cancel()
        assert reach.trouble == "the broker or the registry has not answered for 4 s: no answer in time"
        reach.answered()
        assert reach.trouble == ""

        assert over == [4.0]

    run(main())


def test_a_refusal_is_an_answer() -> None:
    async def main() -> None:
        reach = Reach()
        with suppress(Conflict), reach.asking():
            raise Conflict("another was faster")
        reach.failed("refused")
        with suppress(Conflict), reach.asking():
            raise Conflict("another was faster")
        await asyncio.sleep(10)
        assert reach.trouble == ""

    run(main())


def test_the_end_of_an_outage_is_told_once() -> None:
    async def main() -> None:
        over: list[float] = []
        reach = Reach(over.append)
        for seconds in (0, 1, 2):
            await asyncio.sleep(seconds)
            reach.failed("refused")
        reach.answered()
        assert over == [3.0]
        reach.answered()
        assert over == [3.0]
        reach.failed("refused")
        await asyncio.sleep(2)
        reach.answered()
        assert over == [3.0]  # a short one
        reach.failed("refused")
        await asyncio.sleep(100)  # nothing was asked: nobody knows how long it was
        reach.answered()
        assert over == [3.0]

    run(main())
