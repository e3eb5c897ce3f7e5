"""How late events for later are published while many others wait for their time, and how fast they are kept."""

from __future__ import annotations

import asyncio
import time
from statistics import median

from eventwagon import Context, Event, Train, Workers
from eventwagon.contracts.timetable import timetable_of
from eventwagon.event import new_ids

from .kit import Aim, Benchmark, Line, Run, Stopwatch, percentile, unused
from .places import place

_DAY = 86_400.0
_BATCH = 1000
_DUE = 2000
_AIM = Aim("ours", most=1.0)


async def run(how: Run) -> list[Line]:
    lines = []
    with how.scratch() as directory:
        for name in ("SQLite", "Redis", "Kafka"):
            async with place(name, directory) as url:
                if url is not None:
                    lines += await _lines(name, url, how.pick(100_000, 20_000), how.pick(3, 1))
    return lines


async def _lines(name: str, url: str, waiting: int, rounds: int) -> list[Line]:
    late, alone, kept = list[float](), list[float](), list[float]()
    for _ in range(rounds):
        rate, lateness = await _late(url, waiting)
        late.append(lateness)
        kept.append(rate)
        alone.append((await _late(url, 0))[1])
    what, unit = f"{name}: {_DUE:,} events due in 10 s, {waiting:,} others wait", "s late, p99"
    note = f"{median(kept):,.0f} events kept a second, 1,000 in a call"
    return [
        Line(what=what, against="the same, no others wait", unit=unit, ours=late, theirs=alone, aim=_AIM, note=note)
    ]


async def _late(url: str, waiting: int) -> tuple[float, float]:
    """Events that were kept a second, and how late 99 of 100 of those that are due were handled at most."""
    train, late, done = Train(unused("later"), workers=Workers(each=8)), list[float](), asyncio.Event()

    @train.on(train.name)
    async def handle(_: int, ctx: Context) -> None:
        late.append(time.time() - ctx.event.time)
        if len(late) == _DUE:
            done.set()

    async with train.connect(url, listeners=()) as c, c.running():
        timetable = timetable_of(c.broker, c.registry)
        assert timetable is not None
        watch = Stopwatch()
        now = time.time()
        for start in range(0, waiting, _BATCH):
            due = now + _DAY + start
            some = [Event(i, "int", "/bench", due, b"1" * 100) for i in new_ids(_BATCH, due)]
            await timetable.add(train.name, some)
        rate = waiting / watch.seconds
        start_at = time.time() + 3.0
        await asyncio.gather(*(c.publish(n, at=start_at + n / 200) for n in range(_DUE)))
        async with asyncio.timeout(60):
            await done.wait()
        await timetable.clear(train.name)
    return rate, percentile(late, 0.99)


BENCHMARK = Benchmark("later", "how late due events are handled while 100,000 others wait for their time", run)
