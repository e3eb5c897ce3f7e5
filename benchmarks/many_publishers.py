"""How soon 1,000 publishers of a train know of a switch, and what they ask of Redis then.

Four processes hold 250 connections each. Their URLs differ, so that they share nothing, as if each were a process. Each
publishes once a second.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from contextlib import AsyncExitStack, suppress
from functools import partial
from itertools import pairwise
from multiprocessing.synchronize import Barrier
from typing import Any

import msgspec
from redis.asyncio import Redis

from eventwagon import Train
from eventwagon.connection import Connection
from eventwagon.limits import Volume
from eventwagon.workers import Workers

from .kit import Aim, Benchmark, Line, Order, Run, in_turn, orders, percentile, unused
from .places import place

_PROCESSES = 4
_EACH = 250
_SECONDS = 3.0  # before and after the switch


class _Told(msgspec.Struct, frozen=True):
    """What one process saw. Times are of the system's monotonic clock."""

    knew: list[float]
    """When each publisher knew the new wagon."""
    calls: list[tuple[float, float]]
    """When each call began, and how long it took."""


class _Found(msgspec.Struct, frozen=True):
    """One switch: seconds until the last publisher knew, what Redis carried out, how long calls took."""

    knew: float
    busiest: int
    """Commands in the busiest tenth of a second of the second after it."""
    calm: float
    """The same before it, on average."""
    after: float
    """The p99 of calls in the second after it, in ms."""
    before: float


async def run(how: Run) -> list[Line]:
    rounds = how.pick(5, 1)
    with how.scratch() as directory:
        async with place("Redis", directory) as url:
            if url is None:
                return []
            [found] = await in_turn(rounds, partial(_switch, url), warm=False)
    ones = [1.0] * rounds
    return [
        Line(
            what=f"the last of {_PROCESSES * _EACH:,} publishers knows",
            against="1 s",
            unit="s",
            ours=[one.knew for one in found],
            theirs=ones,
            aim=Aim("ours", most=1.0),
        ),
        Line(
            what="commands of Redis, busiest 0.1 s after",
            against="0.1 s before",
            unit="",
            ours=[one.busiest for one in found],
            theirs=[one.calm for one in found],
        ),
        Line(
            what="publish p99, the second after",
            against="before",
            unit="ms",
            ours=[one.after for one in found],
            theirs=[one.before for one in found],
        ),
    ]


def _train(name: str) -> Train:
    train = Train(name, limit=Volume(10**9), workers=Workers(total=4), spares=1)

    @train.on(name)
    async def handle(order: Order) -> None:
        pass

    return train


async def _switch(url: str) -> _Found:
    context = multiprocessing.get_context("spawn")
    turn, told = context.Barrier(_PROCESSES + 1), context.SimpleQueue()
    name = unused("many")
    async with _train(name).connect(url, listeners=()) as connection, connection.running():
        await connection.found()
        processes = [
            context.Process(target=_publish, args=(url, name, n * _EACH, turn, told)) for n in range(_PROCESSES)
        ]
        for process in processes:
            process.start()
        try:
            await asyncio.to_thread(turn.wait)
            samples: list[tuple[float, int]] = []
            sampling = asyncio.create_task(_sample(url, samples))
            await asyncio.sleep(_SECONDS)
            asked = time.monotonic()
            await connection.wait_switched(await connection.request_switch())
            await asyncio.to_thread(turn.wait)
            sampling.cancel()
            with suppress(asyncio.CancelledError):
                await sampling
            all_told: list[_Told] = [await asyncio.to_thread(told.get) for _ in processes]
        finally:
            for process in processes:
                await asyncio.to_thread(process.join)
    calls = [call for one in all_told for call in one.calls]
    steps = [(at, now - before) for (at, before), (_, now) in pairwise(samples)]
    calm = [commands for at, commands in steps if at < asked - 0.1]
    after = [commands for at, commands in steps if asked - 0.1 <= at < asked + 1]
    return _Found(
        max(at for one in all_told for at in one.knew) - asked,
        max(after),
        sum(calm) / len(calm),
        1000 * percentile([took for at, took in calls if asked <= at < asked + 1], 0.99),
        1000 * percentile([took for at, took in calls if at < asked], 0.99),
    )


async def _sample(url: str, samples: list[tuple[float, int]]) -> None:
    async with Redis.from_url(url) as redis:
        while True:
            stats: dict[str, Any] = await redis.info("stats")
            samples.append((time.monotonic(), int(stats["total_commands_processed"])))
            await asyncio.sleep(0.1)


def _publish(url: str, name: str, first: int, turn: Barrier, told: Any) -> None:
    """One process: its publishers publish until all of them know of the second wagon, and a while longer."""

    async def publish() -> None:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            train = _train(name)
            calls: list[tuple[float, float]] = []
            knew: list[float] = []
            connections: list[Connection] = []
            for n in range(_EACH):
                own = f"{url}{'&' if '?' in url else '?'}timeout={10 + (first + n) / 1000:.3f}"
                connections.append(await stack.enter_async_context(train.connect(own, listeners=())))
                await connections[-1].publish(orders(1)[0])
            await asyncio.to_thread(turn.wait)
            publishing = [tasks.create_task(_each_second(one, n / _EACH, calls)) for n, one in enumerate(connections)]
            await asyncio.gather(*(_until_known(one, knew) for one in connections))
            await asyncio.sleep(_SECONDS)
            for task in publishing:
                task.cancel()
            await asyncio.to_thread(turn.wait)
            told.put(_Told(knew, calls))

    asyncio.run(publish())


async def _each_second(connection: Connection, offset: float, calls: list[tuple[float, float]]) -> None:
    order = orders(1)[0]
    due = time.monotonic() + offset
    while True:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        await connection.publish(order)
        calls.append((began, time.monotonic() - began))
        due += 1.0


async def _until_known(connection: Connection, knew: list[float]) -> None:
    while connection.manifest.active is None or connection.manifest.active.number < 2:  # noqa: ASYNC110 - as a user would
        await asyncio.sleep(0.02)
    knew.append(time.monotonic())


BENCHMARK = Benchmark("many-publishers", "how soon 1,000 publishers on Redis know of a switch, and what that asks", run)
