"""What a CPU-bound handler in wagon 1 does to new events in wagon 2: wagons in one process, and in a process each
(I8)."""

from __future__ import annotations

import asyncio
import os
import struct
import time
from pathlib import Path

from eventwagon import Train
from eventwagon.connection import Connection
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.orchestrator import Orchestrator
from eventwagon.event import Channel
from eventwagon.limits import Volume
from eventwagon.orchestrators.processes.subprocess import Subprocess
from eventwagon.runtime.context import Context
from eventwagon.workers import Workers

from .kit import Aim, Benchmark, Line, Run, in_turn, percentile

_TARGET = "benchmarks.isolation:train"
_TIMES = "EVENTWAGON_BENCH_TIMES"
_POISON = 0.05  # seconds that wagon 1's handler spins
_EVERY = 0.01  # seconds between two new events

train = Train("isolation", limit=Volume(10**9), workers=Workers(each=2), spares=1, grace=1.0)


@train.on("isolation")
def handle(payload: dict[str, float], ctx: Context) -> None:
    """In wagon 1: hold the interpreter, or sleep as long. Later: note how long the new event has waited."""
    if "spin" in payload:
        until = time.perf_counter() + payload["spin"]
        while time.perf_counter() < until:
            pass
    elif "sleep" in payload:
        time.sleep(payload["sleep"])
    else:
        with Path(os.environ[_TIMES]).open("ab") as file:
            file.write(struct.pack("d", time.time() - payload["at"]))


async def run(how: Run) -> list[Line]:
    rounds = how.pick(5, 2)
    fresh = how.pick(400, 200)
    lines = []
    for name, isolated, aim in (
        ("wagons in one process", False, None),
        ("a process per wagon", True, Aim("ratio", most=1.5)),
    ):

        async def side(kind: str, isolated: bool = isolated) -> float:
            return await _p99(how, kind, fresh, isolated=isolated)

        poisoned, calm = await in_turn(rounds, lambda: side("spin"), lambda: side("sleep"), warm=False)
        lines.append(
            Line(
                what=f"{name}: new events' p99",
                against="wagon 1's handler sleeps instead of spinning",
                unit="ms",
                ours=poisoned,
                theirs=calm,
                aim=aim,
                note=f"from publish to handled, {1 / _EVERY:.0f} new events/s; two workers spin "
                f"{_POISON * 1000:.0f} ms at a time; {os.cpu_count()} cores",
            )
        )
    return lines


async def _p99(how: Run, kind: str, fresh: int, *, isolated: bool) -> float:
    """Milliseconds from publish to handled that 99 in 100 new events do not exceed, while wagon 1 is at it."""
    with how.scratch() as directory:
        os.environ[_TIMES] = str(directory / "times")
        url = f"sqlite:///{directory}/trains"
        orchestrator: Orchestrator | None = None
        if isolated:
            orchestrator = Subprocess(_TARGET, url=url, directory=directory / "processes", grace=1.0)
        connection = train.connect(url, orchestrator=orchestrator, listeners=())
        async with connection, connection.running():
            busy = int(2 * (fresh * _EVERY + 10.0) / _POISON)  # more than they get done meanwhile
            await connection.publish_many([{kind: _POISON}] * busy)
            await connection.wait_switched(await connection.request_switch())
            await _working(connection, 1)
            await _spare_ready(connection)
            for _ in range(fresh):
                await connection.publish({"at": time.time()})
                await asyncio.sleep(_EVERY)
            await _working(connection, fresh, wagon=2)
        times = [seconds * 1000 for (seconds,) in struct.iter_unpack("d", (directory / "times").read_bytes())]
    return percentile(times, 0.99)


async def _working(connection: Connection, settled: int, wagon: int = 1) -> None:
    """Return when so many of the wagon's events are settled."""
    async with asyncio.timeout(60):
        while True:
            (depth,) = await connection.broker.depth([Channel(train.name, wagon)])
            if (depth.settled or 0) >= settled:
                return
            await asyncio.sleep(0.05)


async def _spare_ready(connection: Connection) -> None:
    """Return when the next wagon stands ready: opening it has its price, which is another figure."""
    async with asyncio.timeout(60):
        while True:
            if connection.manifest.in_state(State.READY):
                return
            await asyncio.sleep(0.05)


BENCHMARK = Benchmark(
    "isolation", "new events' p99 while wagon 1's handler holds the CPU, wagons in one process and in one each", run
)
