"""What idle trains of one process cost: connections, threads, calls of the server, CPU time."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, NamedTuple

from redis.asyncio import Redis

from eventwagon import Train

from .kit import Aim, Benchmark, Line, Order, Run, Stopwatch, unused
from .places import place

_MANY = 40
_CALM = 12.0
"""Seconds until trains that have just begun are idle."""


class Cost(NamedTuple):
    """What the trains of this process cost."""

    connections: float
    threads: float
    """Those of SQLite files."""
    reads: float
    """What the server has read from all its clients, in a second."""
    cpu: float
    """The process's CPU time, in percent of one core."""


async def run(how: Run) -> list[Line]:
    lines = []
    for name in ("Redis", "SQLite"):
        with how.scratch() as directory:
            async with place(name, directory) as url:
                if url is None:
                    continue
                rounds = how.pick(3, 1)
                many = await _costs(url, _MANY, rounds, how.pick(10, 5))
                one = await _costs(url, 1, rounds, how.pick(10, 5))
        measures = {"CPU time": ("% of a core", 3)}
        if name == "Redis":
            measures = {"connections": ("connections", 0), "the server's reads": ("a second", 2)} | measures
        else:
            measures = {"threads": ("threads", 1)} | measures
        aims = {0: Aim("ours", most=20), 1: Aim("ours", most=8), 3: Aim("ours", most=4.5 if name == "Redis" else 10.5)}
        lines += [
            Line(
                what=f"{name}, {_MANY} idle trains: {what}",
                against="one idle train",
                unit=unit,
                ours=[cost[field] for cost in many],
                theirs=[cost[field] for cost in one],
                aim=aims.get(field),
            )
            for what, (unit, field) in measures.items()
        ]
    return lines


async def _costs(url: str, count: int, rounds: int, seconds: float) -> list[Cost]:
    async with idle(url, count):
        return [await cost(url, seconds) for _ in range(rounds)]


@asynccontextmanager
async def idle(url: str, count: int) -> AsyncIterator[None]:
    """So many trains of this process that have nothing to do."""
    async with AsyncExitStack() as stack:
        for _ in range(count):
            train = Train(unused("idle"))

            @train.on(train.name)
            async def handle(order: Order) -> None:
                pass

            connection = await stack.enter_async_context(train.connect(url, listeners=()))
            await stack.enter_async_context(connection.running())
            await connection.found()
        await asyncio.sleep(_CALM)
        yield


async def cost(url: str, seconds: float) -> Cost:
    """What the process costs in these seconds."""
    before, watch = await _server(url), Stopwatch()
    threads = 0
    for _ in range(10):
        await asyncio.sleep(seconds / 10)
        threads = max(threads, sum(thread.name.startswith("eventwagon") for thread in threading.enumerate()))
    took, cpu = watch.seconds, watch.cpu_seconds
    after = await _server(url)
    return Cost(after[0], threads, (after[1] - before[1]) / took, 100 * cpu / took)


async def _server(url: str) -> tuple[int, int]:
    """Its connections but this one, and how often it has read from any."""
    if not url.startswith("redis:"):
        return 0, 0
    async with Redis.from_url(url) as redis:
        clients: list[Any] = await redis.client_list()
        stats: dict[str, Any] = await redis.info("stats")
        return len(clients) - 1, int(stats.get("total_reads_processed", 0))


BENCHMARK = Benchmark("trains", "what 40 idle trains of one process cost against one", run)
