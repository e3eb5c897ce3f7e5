"""What a unit of workers costs to have: woken from sleep, started for a wagon, or moved warm from one to the next."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from eventwagon import Train
from eventwagon.contracts.broker import Broker
from eventwagon.contracts.orchestrator import WagonSpec
from eventwagon.drivers.sqlite import SQLiteBroker
from eventwagon.event import DEAD, Channel, Event, new_ids
from eventwagon.limits import Volume
from eventwagon.orchestrators.processes.subprocess import Subprocess
from eventwagon.workers import Workers

from .kit import Aim, Benchmark, Line, Run, in_turn

_TARGET = "benchmarks.units:train"
_HANDLED = "EVENTWAGON_BENCH_HANDLED"
_POLL = 0.002

train = Train("units", limit=Volume(10**9), workers=Workers(each=1), idle_after=0.1, grace=1.0)


@train.on("units")
def handle(payload: dict[str, str]) -> None:
    """Note when."""
    with Path(os.environ[_HANDLED]).open("a") as file:
        file.write(f"{time.time()}\n")


async def run(how: Run) -> list[Line]:
    rounds = how.pick(7, 3)
    woken, bare = await in_turn(rounds, lambda: _wake(how), lambda: _bare(how), warm=False)
    warm, cold = await in_turn(rounds, lambda: _ready(how, warm=True), lambda: _ready(how, warm=False), warm=False)
    started, bare_again = await in_turn(rounds, lambda: _ready(how, warm=False), lambda: _bare(how), warm=False)
    program = "the program started bare, to its first event handled"
    return [
        Line(
            what="a sleeping train, publish to handled",
            against=program,
            unit="ms",
            ours=woken,
            theirs=bare,
            aim=Aim("ratio", most=1.5),
        ),
        Line(
            what="a new unit, ensure to ready",
            against=program,
            unit="ms",
            ours=started,
            theirs=bare_again,
            aim=Aim("ratio", most=1.5),
        ),
        Line(
            what="a warm unit, ensure to ready",
            against="a new unit",
            unit="ms",
            ours=warm,
            theirs=cold,
            aim=Aim("ratio", most=0.5),
        ),
    ]


def _times() -> list[float]:
    path = Path(os.environ[_HANDLED])
    return [float(line) for line in path.read_text().splitlines()] if path.exists() else []


@asynccontextmanager
async def _place(how: Run) -> AsyncIterator[tuple[str, Path]]:
    with how.scratch() as directory:
        os.environ[_HANDLED] = str(directory / "handled")
        yield f"sqlite:///{directory}/trains", directory


async def _handled(count: int) -> float:
    """When the event of that number was handled: seconds since the epoch."""
    async with asyncio.timeout(60):
        while len(times := _times()) < count:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(_POLL)
    return times[count - 1]


async def _wake(how: Run) -> float:
    async with _place(how) as (url, directory):
        orchestrator = Subprocess(_TARGET, url=url, directory=directory / "processes", grace=1.0)
        async with train.connect(url, orchestrator=orchestrator, listeners=()) as c, c.running():
            await c.publish({})
            await _handled(1)
            async with asyncio.timeout(60):
                while c.manifest.wagons[0].asleep_at is None or any(  # noqa: ASYNC110 - as above
                    d.workers for d in (await orchestrator.deployments("units")).values()
                ):
                    await asyncio.sleep(_POLL)
            await asyncio.sleep(1.0)  # until it has ended
            began = time.time()
            await c.publish({})
            return (await _handled(2) - began) * 1000


async def _bare(how: Run) -> float:
    async with _place(how) as (url, directory), SQLiteBroker(directory / "trains") as broker:
        await _spec(broker, 1)
        now = time.time()
        await broker.publish(Channel("units", 1), [Event(new_ids(1, now)[0], "t", "s", now, b"{}")])
        began = time.time()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "benchmarks.units", url, stdin=asyncio.subprocess.PIPE
        )
        try:
            return (await _handled(1) - began) * 1000
        finally:
            await process.communicate(b"")


async def _ready(how: Run, *, warm: bool) -> float:
    """From ensure to ready: of wagon 2, by the workers of wagon 1 or by new ones."""
    async with _place(how) as (url, directory), SQLiteBroker(directory / "trains") as broker:
        processes = directory / "processes"
        async with Subprocess(_TARGET, url=url, directory=processes, grace=1.0) as orchestrator:
            first, second = await _spec(broker, 1), await _spec(broker, 2, unit=1 if warm else 2)
            for spec in (first, second):
                began = time.perf_counter()
                await orchestrator.ensure(spec)
                async with asyncio.timeout(60):
                    while True:
                        found = (await orchestrator.deployments("units")).get(spec.unit)
                        if found is not None and found.ready and found.number == spec.number:
                            break
                        await asyncio.sleep(_POLL)
                took = time.perf_counter() - began
    return took * 1000


async def _spec(broker: Broker, number: int, *, unit: int | None = None) -> WagonSpec:
    ingress, dead = Channel("units", number), Channel("units", number, DEAD)
    for channel in (ingress, dead):
        await broker.create(channel)
    return WagonSpec(
        train="units", number=number, unit=unit or number, channels=(ingress,), dead_letters=dead, workers=1
    )


async def _by_hand(url: str) -> None:
    """The same program without an orchestrator: attach, handle, until stdin ends."""
    spec = WagonSpec(
        train="units",
        number=1,
        unit=1,
        channels=(Channel("units", 1),),
        dead_letters=Channel("units", 1, DEAD),
        workers=1,
    )
    async with train.working(url) as (_, local):
        await local.ensure(spec)
        await asyncio.to_thread(sys.stdin.read)


BENCHMARK = Benchmark("units", "workers woken, started and moved, against the bare start of their program", run)

if __name__ == "__main__":
    asyncio.run(_by_hand(sys.argv[1]))
