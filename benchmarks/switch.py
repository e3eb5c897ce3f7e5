"""Whether publishers notice a switch, with a spare ready."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from eventwagon import Train
from eventwagon.connection import Connection
from eventwagon.contracts.facts import Fact, Switched
from eventwagon.limits import Volume
from eventwagon.workers import Workers

from .kit import Aim, Benchmark, Line, Order, Run, orders, percentile
from .places import place

_CALLERS = 32
_EVERY = 0.02  # seconds between two calls of one caller: 1,600 events/s in all, far below what the machine can do
_SECOND = 1.0


async def run(how: Run) -> list[Line]:
    lines = []
    switches = how.pick(9, 3)
    with how.scratch() as directory:
        for name in ("memory", "SQLite", "Redis", "Kafka", "Pulsar"):
            async with place(name, directory) as url:
                if url is not None:
                    lines += await _measure(name, url, switches)
    return lines


async def _measure(name: str, url: str, switches: int) -> list[Line]:
    train = Train("bench", limit=Volume(10**9), workers=Workers(total=8), spares=1)

    @train.on("bench")
    async def handle(order: Order) -> None:
        pass

    load, moments = _Load(), []

    def listen(fact: Fact) -> None:
        if isinstance(fact, Switched) and fact.old is not None:
            moments.append(time.perf_counter())

    asked = []
    async with train.connect(url, listeners=(listen,)) as connection, connection.running():
        await connection.found()
        async with asyncio.TaskGroup() as tasks:
            callers = [tasks.create_task(load.call(connection, n / _CALLERS * _EVERY)) for n in range(_CALLERS)]
            for _ in range(switches):
                await asyncio.sleep(2 * _SECOND + 0.2)
                asked.append(time.perf_counter())
                await connection.wait_switched(await connection.request_switch())
                await asyncio.sleep(_SECOND + 0.2)
            for caller in callers:
                caller.cancel()
    earlier = [load.between(at - 2 * _SECOND, at - _SECOND) for at in asked]
    before = [load.between(at - _SECOND, at) for at in asked]
    after = [load.between(at, at + _SECOND) for at in moments]
    across = [load.across(at, switched) for at, switched in zip(asked, moments, strict=True)]
    calm, against = _p99s(before), "the second before"
    typical = f"p50 {median(percentile(b, 0.5) for b in before):.2f} ms in the second before"
    return [
        Line(
            what=f"{name}, p99 in the second after",
            against=against,
            unit="ms",
            ours=_p99s(after),
            theirs=calm,
            aim=Aim("ratio", most=1.5),
            note=typical,
        ),
        Line(
            what=f"{name}, longest call across",
            against="p99, " + against,
            unit="ms",
            ours=list(map(max, across)),
            theirs=calm,
        ),
        Line(
            what=f"{name}, no switch: noise",
            against=against,
            unit="ms",
            ours=_p99s(earlier),
            theirs=calm,
            note="two calm seconds against each other: so much is the machine's",
        ),
    ]


def _p99s(rounds: list[list[float]]) -> list[float]:
    return [percentile(calls, 0.99) for calls in rounds]


class _Load:
    """Callers that publish at a steady pace, and how long each call took."""

    def __init__(self) -> None:
        self._calls: list[tuple[float, float]] = []
        """When it began and when it returned."""

    async def call(self, connection: Connection, offset: float) -> None:
        """Publish every so often until cancelled. A call that is late because the one before took long counts from
        when it was due: what a stall does to those behind it is part of the figure."""
        order = orders(1)[0]
        due = time.perf_counter() + offset
        returned = 0.0
        while True:
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            began = due if returned > due else time.perf_counter()
            await connection.publish(order)
            returned = time.perf_counter()
            self._calls.append((began, returned))
            due += _EVERY

    def between(self, start: float, end: float) -> list[float]:
        """Milliseconds of the calls begun in this time."""
        return [(b - a) * 1000 for a, b in self._calls if start <= a < end]

    def across(self, start: float, end: float) -> list[float]:
        """Milliseconds of the calls under way at any time in this one, which holds the switch."""
        return [(b - a) * 1000 for a, b in self._calls if a <= end and b >= start]


BENCHMARK = Benchmark(
    "switch", "publish latency (p99) around a switch with a spare ready, against the second before", run
)
