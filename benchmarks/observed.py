"""What measuring costs: the whole path with a meter and without one, in pairs, by the CPU time of the process."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from functools import partial

from eventwagon.metrics import Metrics

from .kit import Aim, Benchmark, Line, Run, in_turn, unused
from .path import whole


async def measured(cost: Callable[[Metrics | None], Awaitable[float]]) -> float:
    """The cost with a meter of its own."""
    return await cost(Metrics())


async def run(how: Run) -> list[Line]:
    rounds = how.pick(10, 3)
    lines = []
    with how.scratch() as directory:
        for what, count, url in (
            ("memory", how.pick(60_000, 20_000), lambda: "memory://"),
            ("SQLite, FULL", how.pick(24_000, 8_000), lambda: f"sqlite:///{directory}/{unused('observed')}"),
        ):

            async def cost(meter: Metrics | None, count: int = count, url: Callable[[], str] = url) -> float:
                before = time.process_time()
                await whole(url(), count, meter=meter)
                return (time.process_time() - before) / count * 1e6

            on, off = await in_turn(rounds, partial(measured, cost), partial(cost, None))
            lines.append(
                Line(
                    what=f"{what}: measured",
                    against="not measured",
                    unit="CPU µs/event",
                    ours=on,
                    theirs=off,
                    aim=Aim("ratio", most=1.05),
                )
            )
    return lines


BENCHMARK = Benchmark("observed", "what metrics cost an event, in CPU time", run)
