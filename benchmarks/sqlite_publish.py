"""What the SQLite broker's publish costs over the bare inserts."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from eventwagon.drivers.sqlite import SQLiteBroker
from eventwagon.event import Channel, Event, new_ids

from .kit import Aim, Benchmark, Line, Run, Stopwatch, in_turn, orders, unused
from .raw import RawSQLite

_AIM = Aim("ratio", least=0.8)


def batches(size: int, count: int) -> list[list[Event]]:
    """`count` batches of `size` events."""
    now = time.time()
    ids = iter(new_ids(size * count, now))
    data = iter(map(msgspec.json.encode, orders(size * count)))
    return [[Event(next(ids), "Order", "/bench", now, next(data)) for _ in range(size)] for _ in range(count)]


async def run(how: Run) -> list[Line]:
    lines = []
    with how.scratch() as directory:
        for size, count in ((10, 300), (100, 120), (1000, 25)):
            lines += await _compare(directory, size, how.pick(count, max(8, count // 4)), how.pick(9, 5))
    return lines


async def _compare(directory: Path, size: int, count: int, rounds: int) -> list[Line]:
    work = batches(size, count)

    async def ours() -> float:
        channel = Channel(unused("bench"), 1)
        async with SQLiteBroker(directory) as broker:
            await broker.create(channel)
            watch = Stopwatch()
            for batch in work:
                await broker.publish(channel, batch)
            return size * count / watch.seconds

    async def raw(stdlib: bool) -> float:
        async with RawSQLite(directory / unused("raw"), stdlib=stdlib) as file:
            watch = Stopwatch()
            for batch in work:
                await file.publish(batch)
            return size * count / watch.seconds

    mine, by_apsw, by_stdlib = await in_turn(rounds, ours, lambda: raw(False), lambda: raw(True))
    return [
        Line(what=f"batches of {size:,}", against=name, unit="events/s", ours=mine, theirs=theirs, aim=_AIM)
        for name, theirs in (("apsw", by_apsw), ("sqlite3", by_stdlib))
    ]


BENCHMARK = Benchmark(
    "sqlite-publish", "SQLiteBroker.publish against a bare group commit of the same batches, WAL, synchronous=FULL", run
)
