"""Units of workers in real processes: warm ones go on to the next wagon, idle ones sleep, new code is switched to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eventwagon import Connection, Train, Volume, Workers
from eventwagon.facts import WagonOpened
from eventwagon.lifecycle import State
from eventwagon.orchestrators.subprocess import Subprocess
from eventwagon.testing.virtual_time import run
from tests.support import World, journal, signups, until

PATIENCE = 60.0


class Line(NamedTuple):
    """One event handled: by which process, in which wagon, by which revision of the code."""

    pid: str
    wagon: str
    revision: str
    number: str


class Place:
    """Where a train of real processes runs."""

    def __init__(self, directory: Path) -> None:
        self.url = f"sqlite:///{directory}/trains"
        self.processes = directory / "processes"
        self.handled = directory / "handled"
        self.handled.mkdir()

    def lines(self) -> list[Line]:
        found = sorted(self.handled.iterdir())
        return [Line(*line.split()) for file in found for line in file.read_text().splitlines()]

    @asynccontextmanager
    async def running(self, target: str, train: Train) -> AsyncIterator[tuple[Connection, Subprocess]]:
        orchestrator = Subprocess(target, url=self.url, directory=self.processes, grace=5.0)
        connection = train.connect(self.url, orchestrator=orchestrator, listeners=())
        async with asyncio.timeout(PATIENCE), connection as c, c.running():
            yield c, orchestrator


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    there = Place(tmp_path)
    monkeypatch.setenv("HANDLED", str(there.handled))
    return there


def orders(**settings: Any) -> Train:
    """The train of `tests.programs.versions` as its own processes declare it, with other settings of the observer's."""
    defaults: dict[str, Any] = {
        "limit": Volume(20),
        "workers": Workers(each=2),
        "observe_every": 0.05,
        "member_ttl": 2.0,
    }
    train = Train("orders", **{**defaults, "keep_warm": 1.0, "idle_after": 0.0, "grace": 5.0, **settings})

    @train.on("orders")
    async def handle(number: str) -> None:
        raise AssertionError("handled in the observer's process")

    return train


async def settled(true: Callable[[], object]) -> None:
    while not true():
        await asyncio.sleep(0.02)


def test_in_a_burst_warm_processes_go_on_from_wagon_to_wagon(place: Place) -> None:
    """Six wagons one after another: the processes of the first two serve all of them, and one is left in the end."""

    async def scenario() -> None:
        async with place.running("tests.programs.versions:orders", orders(spares=1, reuse=True)) as (c, orchestrator):
            for number in range(6):
                await settled(lambda: c.manifest.in_state(State.READY))
                full = c.manifest.active
                assert full is not None
                await c.publish_many(f"{number}-{n}" for n in range(20))
                await c.wait_drained(await c.wait_switched(full.number) - 1)
            opened = [e.fact for e in await journal(c) if isinstance(e.fact, WagonOpened)]
            taken_over = [f.unit for f in opened if f.unit is not None]
            assert len(taken_over) >= 3
            await settled(lambda: len(c.manifest.in_state(State.READY)) == 1 and len(c.manifest.wagons) == 2)
            assert len(await orchestrator.deployments("orders")) == 2

    asyncio.run(scenario())
    lines = place.lines()
    assert sorted(line.number for line in lines) == sorted(f"{k}-{n}" for k in range(6) for n in range(20))
    assert {line.wagon for line in lines} >= {"1", "2", "3", "4"}
    assert len({line.pid for line in lines}) <= 3
    assert list(place.processes.iterdir()) == []


def test_a_process_posted_at_a_unit_follows_it_to_the_next_wagon() -> None:
    """`eventwagon work --wagon 1`: when wagon 1 is drained and its workers are another's by now, the process goes there; it
    is released when no live wagon has the unit."""

    async def scenario() -> None:
        world, handled = World(), list[str]()
        train = signups(handled, limit=Volume(50), workers=Workers(each=2), spares=1, reuse=True, keep_warm=5.0)
        async with world.running(train, work=False) as c, AsyncExitStack() as posts:
            names = []
            for unit in (1, 2, 3):
                one = await posts.enter_async_context(world.connect(train))
                await posts.enter_async_context(one.running(observe=False, wagon=unit, workers=2))
                names.append(one)
            first = names[0]
            released = asyncio.create_task(first.released(1))
            await until(lambda: c.manifest.ready)
            await c.publish_many({"email": f"{n}@x"} for n in range(50))
            await until(lambda: c.manifest.wagon(1) is None)
            assert [(w.number, w.unit) for w in c.manifest.wagons] == [(2, 2), (3, 3), (4, 1)]
            await until(lambda: [w.number for w in c.manifest.ready] == [3, 4])
            assert not released.done()
            for number in (2, 3):
                await c.publish_many({"email": f"{n}@{number}"} for n in range(50))
                await c.wait_switched(number)
            await c.publish_many({"email": f"{n}@z"} for n in range(10))
            await until(lambda: len(handled) == 160)
            await asyncio.sleep(4)  # until each has checked in again
            serving = {m.name: [(a.number, a.handled, a.failed) for a in m.attachments] for m in await c.members()}
            assert serving[first.name] == [(4, 20, 0)]
            assert not released.done()
            number = await c.request_switch()
            await c.wait_switched(number)
            await until(released.done)  # its unit was kept warm for a while, and then put away
            assert all(w.unit != 1 or w.state is State.DRAINED for w in c.manifest.wagons)

    run(scenario())
