"""What each process of an idle train costs, where 4 or 16 observe and work: packets, bytes, CPU time. On Redis."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Any

import msgspec
from redis.asyncio import Redis

from eventwagon import Train

from .kit import Aim, Benchmark, Line, Order, Run, in_turn, unused
from .places import place

_PROCESSES = (1, 4, 16)
_CALM = 14.0
"""Seconds until a train that has just begun is idle."""


class Cost(msgspec.Struct):
    """What one process cost in a second."""

    packets: float
    """How often the server read from it."""
    received: float
    """Bytes that it sent to the server."""
    sent: float
    """Bytes that it got."""
    cpu: float
    """In percent of one core."""


async def run(how: Run) -> list[Line]:
    rounds, seconds = how.pick(3, 1), how.pick(20, 10)
    with how.scratch() as directory:
        async with place("Redis", directory) as url:
            if url is None:
                return []
            one, *many = await in_turn(rounds, *(partial(_cost, url, n, seconds) for n in _PROCESSES), warm=False)
    units = {"packets": "a second", "received": "bytes/s", "sent": "bytes/s", "cpu": "% of a core"}
    names = {"packets": "packets", "received": "bytes to Redis", "sent": "bytes from Redis", "cpu": "CPU time"}
    return [
        Line(
            what=f"{names[field]} of each of {count} processes",
            against="one process",
            unit=unit,
            ours=[getattr(cost, field) for cost in found],
            theirs=[getattr(cost, field) for cost in one],
            aim=Aim("ratio", most=1.1) if count == _PROCESSES[-1] else None,
        )
        for count, found in zip(_PROCESSES[1:], many, strict=True)
        for field, unit in units.items()
    ]


async def _cost(url: str, count: int, seconds: float) -> Cost:
    context = multiprocessing.get_context("spawn")
    turn, spent = context.Barrier(count + 1), context.SimpleQueue()
    name = unused("idle")
    processes = [context.Process(target=_serve, args=(url, name, turn, spent)) for _ in range(count)]
    for process in processes:
        process.start()
    try:
        await asyncio.to_thread(turn.wait)
        await asyncio.sleep(_CALM)
        await asyncio.to_thread(turn.wait)
        before, began = await _server(url), time.monotonic()
        await asyncio.sleep(seconds)
        after, took = await _server(url), time.monotonic() - began
        await asyncio.to_thread(turn.wait)
        cpu = [await asyncio.to_thread(spent.get) for _ in processes]
    finally:
        for process in processes:
            await asyncio.to_thread(process.join)
    packets, received, sent = ((b - a) / took / count for a, b in zip(before, after, strict=True))
    return Cost(packets, received, sent, 100 * sum(cpu) / count)


def _serve(url: str, name: str, turn: Barrier, spent: Any) -> None:
    """One process: it observes and works until the others have been measured, too."""

    async def serve() -> None:
        train = Train(name)

        @train.on(name)
        async def handle(order: Order) -> None:
            pass

        async with train.connect(url, listeners=()) as connection, connection.running():
            await connection.found()
            await asyncio.to_thread(turn.wait)
            await asyncio.to_thread(turn.wait)
            cpu, began = time.process_time(), time.monotonic()
            await asyncio.to_thread(turn.wait)
            spent.put((time.process_time() - cpu) / (time.monotonic() - began))

    asyncio.run(serve())


async def _server(url: str) -> tuple[int, int, int]:
    """How often it has read from clients, and the bytes that it has received and sent."""
    async with Redis.from_url(url) as redis:
        stats: dict[str, Any] = await redis.info("stats")
    return (
        int(stats["total_reads_processed"]),
        int(stats["total_net_input_bytes"]),
        int(stats["total_net_output_bytes"]),
    )


BENCHMARK = Benchmark("idle-processes", "what each process of an idle train costs, of 16 against one", run)
