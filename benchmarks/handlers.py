"""What eventwagon costs where handlers wait or run in threads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from eventwagon import Train
from eventwagon.limits import Volume
from eventwagon.workers import Workers

from .kit import Benchmark, Line, Order, Run, Stopwatch, in_turn, orders

_WORKERS = 64
_WAIT = 0.001


async def _wait(order: Order) -> None:
    await asyncio.sleep(_WAIT)


def _block(order: Order) -> None:
    time.sleep(_WAIT)


def _nothing(order: Order) -> None:
    pass


async def run(how: Run) -> list[Line]:
    rounds = how.pick(5, 3)
    lines = []
    cases: list[tuple[str, str, Callable[[Order], Any], Callable[[int], Awaitable[float]], int]] = [
        ("async, waits 1 ms", "semaphore and gather", _wait, _semaphore, how.pick(12_000, 4_000)),
        ("sync, blocks 1 ms", "thread pool and gather", _block, partial(_pool, _block), how.pick(6_000, 2_000)),
        ("sync, empty", "thread pool and gather", _nothing, partial(_pool, _nothing), how.pick(6_000, 2_000)),
    ]
    for what, against, function, bare, count in cases:
        ours, theirs = await in_turn(rounds, partial(_handled, function, count), partial(bare, count))
        lines.append(
            Line(what=f"{what}, {_WORKERS} workers", against=against, unit="events/s", ours=ours, theirs=theirs)
        )
    return lines


async def _handled(function: Callable[[Order], Any], count: int) -> float:
    """Events/s from the first handler's start to the last one's end; the events wait on the memory broker."""
    train = Train("bench", limit=Volume(10**9), workers=Workers(total=_WORKERS))
    loop, over = asyncio.get_running_loop(), asyncio.Event()
    starts: list[float] = []
    left = count

    def ended() -> None:
        nonlocal left
        left -= 1
        if not left:
            over.set()

    if asyncio.iscoroutinefunction(function):

        @train.on("bench")
        async def wait(order: Order) -> None:
            if not starts:
                starts.append(time.perf_counter())
            await function(order)
            ended()
    else:

        @train.on("bench")
        def block(order: Order) -> None:
            if not starts:
                starts.append(time.perf_counter())
            function(order)
            loop.call_soon_threadsafe(ended)

    async with train.connect("memory://", listeners=()) as connection:
        await connection.publish_many(orders(count))
        async with connection.running():
            await over.wait()
            return count / (time.perf_counter() - starts[0])


async def _semaphore(count: int) -> float:
    free = asyncio.Semaphore(_WORKERS)

    async def one(order: Order) -> None:
        async with free:
            await _wait(order)

    return await _all(one, count)


async def _pool(function: Callable[[Order], None], count: int) -> float:
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(_WORKERS) as pool:

        async def one(order: Order) -> None:
            await loop.run_in_executor(pool, function, order)

        return await _all(one, count)


async def _all(one: Callable[[Order], Awaitable[None]], count: int) -> float:
    work = orders(count)
    watch = Stopwatch()
    await asyncio.gather(*map(one, work))
    return count / watch.seconds


BENCHMARK = Benchmark("handlers", "64 workers whose handlers wait or run in threads, against the bare pools", run)
