"""What it brings that concurrent publish() calls share their commits."""

from __future__ import annotations

import asyncio
from pathlib import Path

from eventwagon import Train
from eventwagon.limits import Volume

from .kit import Aim, Benchmark, Line, Run, Stopwatch, in_turn, orders, unused
from .raw import RawSQLite
from .sqlite_publish import batches

_CALLERS = 64


async def run(how: Run) -> list[Line]:
    with how.scratch() as directory:
        rounds = how.pick(7, 5)
        ours, theirs = await in_turn(
            rounds, lambda: _coalesced(directory, how.pick(150, 60)), lambda: _one_each(directory, how.pick(20, 6))
        )
    line = Line(
        what=f"{_CALLERS} callers of publish()",
        against="sqlite3, one transaction each",
        unit="events/s",
        ours=ours,
        theirs=theirs,
        aim=Aim("ratio", least=10),
    )
    return [line]


async def _coalesced(directory: Path, each: int) -> float:
    work = orders(each)
    train = Train("bench", limit=Volume(10**9))
    async with train.connect(f"sqlite:///{directory}/{unused('callers')}", listeners=()) as connection:
        await connection.found()

        async def call() -> None:
            for order in work:
                await connection.publish(order)

        watch = Stopwatch()
        await asyncio.gather(*(call() for _ in range(_CALLERS)))
        return _CALLERS * each / watch.seconds


async def _one_each(directory: Path, each: int) -> float:
    """SQLite has one writer at a time, so one thread for all is the best that can be done for them."""
    work = batches(1, each)
    async with RawSQLite(directory / unused("raw"), stdlib=True) as file:

        async def call() -> None:
            for batch in work:
                await file.publish(batch)

        watch = Stopwatch()
        await asyncio.gather(*(call() for _ in range(_CALLERS)))
        return _CALLERS * each / watch.seconds


BENCHMARK = Benchmark(
    "sqlite-callers", "64 tasks that each await publish() against one transaction for each event, synchronous=FULL", run
)
