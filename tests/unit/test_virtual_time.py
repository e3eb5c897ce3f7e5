"""Virtual time: exact, quick, repeatable, and clear where a program does not fit."""

from __future__ import annotations

import asyncio
import random
import threading

import pytest

from eventwagon.testing.virtual_time import Deadlock, VirtualClock, run


def test_a_year_passes_at_once() -> None:
    async def main() -> tuple[float, float]:
        for _ in range(365):
            await asyncio.sleep(86400)
            await asyncio.sleep(0)
        return asyncio.get_running_loop().time(), VirtualClock(epoch=1e9)()

    assert run(main(), start=5.0) == (365 * 86400 + 5.0, 1e9 + 365 * 86400 + 5.0)


def test_sleeps_end_in_the_order_of_their_times() -> None:
    order: list[float] = []

    async def sleep(seconds: float) -> None:
        await asyncio.sleep(seconds)
        order.append(asyncio.get_running_loop().time())

    async def main() -> None:
        rng = random.Random(1)
        async with asyncio.TaskGroup() as group:
            for _ in range(1000):
                group.create_task(sleep(rng.uniform(0, 1e6)))

    run(main())
    assert len(order) == 1000
    assert order == sorted(order)


def test_timeouts_end() -> None:
    async def main() -> None:
        async with asyncio.timeout(10):
            await asyncio.Event().wait()

    with pytest.raises(TimeoutError):
        run(main())


def test_waiting_for_the_exact_time_ends() -> None:
    """A timer may fire within the clock's resolution before its time: who then waits for the rest must not spin."""

    async def main() -> int:
        loop = asyncio.get_running_loop()
        rounds = 0
        for i in range(200):
            deadline = loop.time() + 0.1 + i * 1e-8
            loop.call_later(0.1, lambda: None)
            while loop.time() < deadline:
                rounds += 1
                await asyncio.sleep(deadline - loop.time())
        return rounds

    for start in (0.0, 1e6 / 3, 1e9 / 3, 4e9 / 3):
        assert run(main(), start=start) < 1000


def test_a_deadlock_is_told_with_the_lines_that_wait() -> None:
    async def stuck() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(stuck(), name="the stuck one")

    with pytest.raises(Deadlock, match=r"the stuck one in .*stuck \(test_virtual_time.py:\d+\)"):
        run(main())


def test_threads_are_refused() -> None:
    async def main() -> None:
        await asyncio.to_thread(threading.get_ident)

    with pytest.raises(RuntimeError, match="no threads in virtual time"):
        run(main())


def test_runs_are_repeatable() -> None:
    async def main() -> list[int]:
        order: list[int] = []

        async def work(number: int) -> None:
            rng = random.Random(number)
            for _ in range(20):
                await asyncio.sleep(rng.choice([0, 0.1, 0.2]))
                order.append(number)

        async with asyncio.TaskGroup() as group:
            for number in range(10):
                group.create_task(work(number))
        return order

    assert run(main()) == run(main())
