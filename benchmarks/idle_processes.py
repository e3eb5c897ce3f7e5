"""What each process of an idle train costs, where 4 or 16 observe and work: packets, bytes, CPU time."""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from functools import partial
from multiprocessing.synchronize import Barrier
from typing import Any

import msgspec

from eventwagon import Train

from .kit import Aim, Benchmark, Line, Order, Run, in_turn, unused
from .places import place
from .sockets import moved

_PROCESSES = (1, 4, 16)
_CALM = 14.0
"""Seconds until a train that has just begun is idle."""


class Cost(msgspec.Struct):
    """What one process cost in a second."""

    packets: float
    """Sent and received by TCP, acknowledgements included."""
    bytes: float
    cpu: float
    """In percent of one core."""


_MEASURES = {"packets": "a second", "bytes": "bytes/s", "cpu": "% of a core"}


async def run(how: Run) -> list[Line]:
    lines = []
    rounds, seconds = how.pick(3, 1), how.pick(20, 10)
    for name in ("Redis", "Kafka"):
        with how.scratch() as directory:
            async with place(name, directory) as url:
                if url is None:
                    continue
                one, *many = await in_turn(rounds, *(partial(_cost, url, n, seconds) for n in _PROCESSES), warm=False)
        lines += [
            Line(
                what=f"{name}: {field} of each of {count} processes",
                against="one process",
                unit=unit,
                ours=[getattr(cost, field) for cost in found],
                theirs=[getattr(cost, field) for cost in one],
                aim=Aim("ratio", most=1.1) if count == _PROCESSES[-1] else None,
            )
            for count, found in zip(_PROCESSES[1:], many, strict=True)
            for field, unit in _MEASURES.items()
        ]
    return lines


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
        await asyncio.sleep(seconds)
        await asyncio.to_thread(turn.wait)
        costs: list[Cost] = [await asyncio.to_thread(spent.get) for _ in processes]
    finally:
        for process in processes:
            await asyncio.to_thread(process.join)
    return Cost(*(sum(getattr(cost, field) for cost in costs) / count for field in _MEASURES))


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
            cpu, began, before = time.process_time(), time.monotonic(), moved()
            await asyncio.to_thread(turn.wait)
            took, found = time.monotonic() - began, moved().since(before)
            spent.put(Cost(found.packets / took, found.bytes / took, 100 * (time.process_time() - cpu) / took))

    asyncio.run(serve())


BENCHMARK = Benchmark("idle-processes", "what each process of an idle train costs, of 16 against one", run)
