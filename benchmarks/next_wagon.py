"""How long it takes from a full wagon to the first event in the next one."""

from __future__ import annotations

import asyncio
import time

from eventwagon import Train
from eventwagon.limits import Volume
from eventwagon.runtime.context import Context
from eventwagon.workers import Workers

from .kit import Aim, Benchmark, Line, Order, Run, orders
from .places import place

_VOLUME = 300
_EVERY = 0.002
"""Seconds between two events."""


async def run(how: Run) -> list[Line]:
    lines = []
    wagons = how.pick(12, 5)
    with how.scratch() as directory:
        for name in ("SQLite", "Redis", "Kafka", "Pulsar"):
            async with place(name, directory) as url:
                if url is None:
                    continue
                ready = await _measure(url, wagons, spares=1)
                cold = await _measure(url, wagons, spares=0)
                lines.append(
                    Line(
                        what=f"{name}, with a spare",
                        against="without",
                        unit="ms",
                        ours=ready,
                        theirs=cold,
                        aim=Aim("ours", most=100.0),
                        note=f"from the acknowledgement of event {_VOLUME} to that of the first in the next wagon, "
                        f"one event every {_EVERY * 1000:g} ms; the next wagon is not begun before (prepare=1)",
                    )
                )
    return lines


async def _measure(url: str, wagons: int, *, spares: int) -> list[float]:
    """Milliseconds for each wagon after the first."""
    train = Train(
        f"bench-next-{spares}",
        limit=Volume(_VOLUME),
        workers=Workers(total=4),
        spares=spares,
        prepare=1.0,
        cooldown=0.0,
    )
    wagon_of: dict[int, int] = {}
    acknowledged: dict[int, float] = {}

    @train.on(train.name)
    async def handle(order: Order, ctx: Context) -> None:
        wagon_of[order.number] = ctx.wagon

    async def publish(order: Order) -> None:
        await connection.publish(order)
        acknowledged[order.number] = time.perf_counter()

    async with train.connect(url, listeners=()) as connection, connection.running(), asyncio.TaskGroup() as tasks:
        number = 0
        while max(wagon_of.values(), default=0) <= wagons:
            tasks.create_task(publish(orders(1, number)[0]))
            number += 1
            await asyncio.sleep(_EVERY)
    return [_between(n, wagon_of, acknowledged) for n in range(2, wagons + 1)]


def _between(wagon: int, wagon_of: dict[int, int], acknowledged: dict[int, float]) -> float:
    """From the moment in which the wagon before held its volume to the first acknowledgement in this one."""

    def times(of: int) -> list[float]:
        return sorted(acknowledged[n] for n, w in wagon_of.items() if w == of and n in acknowledged)

    before = times(wagon - 1)
    return (times(wagon)[0] - before[min(_VOLUME, len(before)) - 1]) * 1000


BENCHMARK = Benchmark(
    "next-wagon", "time from a full wagon to the first event in the next, with a spare and without", run
)
