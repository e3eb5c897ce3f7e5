"""Whether anything grows with the wagons that ever were."""

from __future__ import annotations

import asyncio
import gc
import resource
import sys
import threading
from pathlib import Path
from typing import NamedTuple

from eventwagon import Train
from eventwagon.limits import Volume
from eventwagon.workers import Workers

from .kit import Aim, Benchmark, Line, Order, Run, orders

_EVENTS = 10
_LIVE = 15
_CALM = 4.0
"""Seconds in which the SQLite broker lets go of the threads and files that it has no use for."""


_RSS = Aim("ratio", most=1.1)
"""The allocator keeps what a moment with many live wagons took; the blocks are the sharper figure."""


class _State(NamedTuple):
    wagons: int
    megabytes: float
    blocks: float
    threads: float
    files: float


async def run(how: Run) -> list[Line]:
    lines = await _come_and_go("memory", "memory://", how.pick(1000, 200), how.pick(100, 50), 0.1, 3)
    with how.scratch() as directory:
        lines += await _come_and_go(
            "SQLite", f"sqlite:///{directory}", how.pick(1000, 90), how.pick(100, 30), _CALM, how.pick(3, 1)
        )
    return lines


async def _come_and_go(name: str, url: str, wagons: int, filled: int, calm: float, later_looks: int) -> list[Line]:
    """From the state after `filled` wagons, when caches, allocator and journal (kept short for that) are filled."""
    train = Train(
        "bench", limit=Volume(_EVENTS), workers=Workers(total=4), spares=1, observe_every=0.01, hold=60.0, keep=100
    )

    @train.on("bench")
    async def handle(order: Order) -> None:
        pass

    work = orders(_EVENTS)
    states, step = [], (wagons - filled) // later_looks
    looks = range(filled, wagons + 1, step)
    async with train.connect(url, listeners=()) as connection, connection.running():
        await connection.found()
        for n in range(1, wagons + 1):
            await connection.publish_many(work)  # wagon n is full now, exactly
            await connection.wait_switched(n)
            await connection.wait_drained(n - _LIVE)  # not so fast that the cap is met
            if n in looks:
                await connection.wait_drained(n)
                await asyncio.sleep(calm)
                states.append(_state(n))
    first, *later = states
    last = later[-1]
    gone = last.wagons - first.wagons
    each = (last.megabytes - first.megabytes) * 2**20 / gone
    blocks = (last.blocks - first.blocks) / gone

    def line(what: str, unit: str, take: int, aim: Aim | None, note: str = "") -> Line:
        return Line(
            what=f"{name}, {what}",
            against=f"after {filled}",
            unit=unit,
            ours=[state[take] for state in later],
            theirs=[first[take]] * len(later),
            aim=aim,
            note=note,
        )

    return [
        line(
            f"RSS after up to {wagons:,} wagons",
            "MB",
            1,
            _RSS,
            f"{each:,.0f} bytes a wagon between the first look and the last",
        ),
        line("Python's memory blocks", "blocks", 2, Aim("ratio", most=1.02), f"{blocks:,.2f} a wagon"),
        line("threads", "threads", 3, Aim("ratio", most=1)),
        line("open files", "files", 4, Aim("ratio", most=1)),
    ]


def _state(wagons: int) -> _State:
    gc.collect()
    return _State(wagons, _rss() / 2**20, sys.getallocatedblocks(), threading.active_count(), _files())


def _rss() -> int:
    """Bytes; where the system doesn't tell, the most there ever were."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _files() -> int:
    return sum(1 for _ in Path("/dev/fd").iterdir())


BENCHMARK = Benchmark("memory-flat", "memory, threads and open files after many wagons that came and went", run)
