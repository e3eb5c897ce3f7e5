"""Units of workers in real processes: warm ones go on to the next wagon, idle ones sleep, new code is switched to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from eventwagon import Connection, Train, Volume, Workers
from eventwagon._processes.records import UnitFiles, kill
from eventwagon.crew import Crew
from eventwagon.event import Channel
from eventwagon.facts import (
    FellAsleep,
    OrphanRemoved,
    Switched,
    SwitchGivenUp,
    WagonOpened,
    WentBack,
    WokenUp,
    sentence,
)
from eventwagon.lifecycle import State
from eventwagon.orchestrators.in_process import InProcess, Start
from eventwagon.orchestrators.subprocess import Subprocess
from eventwagon.testing.virtual_time import run
from tests.support import World, journal, signups, until

PATIENCE = 150.0


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
    """Six full wagons one after another: the processes of the first ones serve the others too."""

    async def scenario() -> int:
        async with place.running("tests.programs.versions:orders", orders(spares=1, reuse=True, keep_warm=30.0)) as (
            c,
            orchestrator,
        ):
            for number in range(6):
                await settled(lambda: c.manifest.in_state(State.READY))
                full = c.manifest.active
                assert full is not None
                await c.publish_many(f"{number}-{n}" for n in range(20))
                await c.wait_drained(await c.wait_switched(full.number) - 1)
            opened = [e.fact for e in await journal(c) if isinstance(e.fact, WagonOpened)]
            taken_over = [f.unit for f in opened if f.unit is not None]
            assert len(taken_over) >= 3
            while sorted(await orchestrator.deployments("orders")) != sorted(w.unit for w in c.manifest.wagons):
                await asyncio.sleep(0.02)
            return len(opened) - len(taken_over)

    cold = asyncio.run(scenario())
    lines = place.lines()
    assert sorted(line.number for line in lines) == sorted(f"{k}-{n}" for k in range(6) for n in range(20))
    assert len({line.wagon for line in lines}) == 6
    assert len({line.pid for line in lines}) <= cold
    assert list(place.processes.iterdir()) == []


def test_killed_units_and_a_leaving_observer_lose_nothing(place: Place) -> None:
    """A burst with reuse, two observers with orchestrators of their own, one of which leaves half-way; after each wagon's
    worth of events one of the processes is killed. All is handled, and no workers are left over."""

    async def scenario() -> None:
        settings = {"spares": 1, "reuse": True, "keep_warm": 3.0, "visibility": 2.0}
        first = place.running("tests.programs.versions:orders", orders(**settings))
        second = place.running("tests.programs.versions:orders", orders(**settings))
        async with first as (c, orchestrator):
            async with second:
                for number in range(3):
                    await publish_and_kill(c, number)
            for number in range(3, 6):
                await publish_and_kill(c, number)
            while {line.number for line in place.lines()} != {f"{k}-{n}" for k in range(6) for n in range(20)}:
                await asyncio.sleep(0.05)
            while [w.state for w in c.manifest.wagons] != [State.ACTIVE, State.READY]:
                await asyncio.sleep(0.05)
            while sorted(await orchestrator.deployments("orders")) != sorted(w.unit for w in c.manifest.wagons):
                await asyncio.sleep(0.05)

    async def publish_and_kill(c: Connection, number: int) -> None:
        await c.publish_many(f"{number}-{n}" for n in range(20))
        await asyncio.sleep(0.3)
        states = [UnitFiles(place.processes, "orders", w.unit).state() for w in c.manifest.wagons]
        alive = [state for state in states if state is not None and state.begun]
        if alive:
            kill(alive[number % len(alive)])
        await asyncio.sleep(0.3)

    asyncio.run(scenario())
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


def versions(directory: Path) -> str:
    """Two versions of a program, and one that fails, each in a folder of its own; the target that names all of them."""
    for version, fails in (("v1", ""), ("v2", ""), ("v3", "raise ValueError('v3 fails')"), ("v4", "import nowhere")):
        folder = directory / f"app-{version}"
        folder.mkdir()
        at_import, in_handler = (fails, "pass") if fails.startswith("import") else ("pass", fails or "pass")
        (folder / "app.py").write_text(
            f"""
import os
from pathlib import Path
from eventwagon import Train, Volume, Workers
{at_import}

VERSION = "{version}"
orders = Train(
    "orders", limit=Volume(1000), workers=Workers(each=2), grace=5.0, attempts=3, backoff=0.01, member_ttl=2.0
)

@orders.on("orders")
async def handle(number, ctx):
    {in_handler}
    with (Path(os.environ["HANDLED"]) / str(os.getpid())).open("a") as file:
        file.write(f"{{os.getpid()}} {{ctx.wagon}} {{VERSION}}/{{orders.revision}} {{number}}\\n")
"""
        )
    return f"{directory}/app-{{revision}}/app.py:orders"


def test_the_next_wagon_runs_the_new_code_and_the_old_one_drains_with_the_old(place: Place, tmp_path: Path) -> None:
    async def scenario() -> None:
        train = orders(limit=Volume(1000), revision="v1", spares=1)
        async with place.running(versions(tmp_path), train) as (c, orchestrator):
            await settled(lambda: c.manifest.ready)
            await c.publish_many(f"old-{n}" for n in range(30))
            old = await c.request_switch("the new release", revision="v2")
            new = await c.wait_answered()
            assert new != old
            await c.publish_many(f"new-{n}" for n in range(30))
            await c.wait_drained(old)
            await settled(lambda: len(place.lines()) == 60)
            active = c.manifest.active
            assert active is not None
            assert active.revision == c.manifest.revision == "v2"
            await settled(lambda: [w.revision for w in c.manifest.wagons] == ["v2", "v2"])
            running = await orchestrator.deployments("orders")
            assert {d.revision for d in running.values()} == {"v2"}
            told = [sentence(e.fact) for e in await journal(c)]
            assert any("to wagon_3 (revision v2)" in line and "the new release" in line for line in told)
            assert any(line.startswith("wagon_2 discarded: it has revision v1, v2 is wanted now") for line in told)

            back = await c.request_switch("it was not that good", revision="v1")
            assert await c.wait_answered() != back
            await c.publish("again")
            await settled(lambda: len(place.lines()) == 61)

    asyncio.run(scenario())
    lines = place.lines()
    assert {line.revision for line in lines if line.number.startswith("old")} == {"v1/v1"}
    assert {line.revision for line in lines if line.number.startswith("new")} == {"v2/v2"}
    assert [line.revision for line in lines if line.number == "again"] == ["v1/v1"]


def test_a_failing_version_goes_back_by_itself(place: Place, tmp_path: Path) -> None:
    """Under watch: v3 fails on every event, so the train goes back to v1; what v3 could not handle is in the dead letters."""

    async def scenario() -> None:
        train = orders(limit=Volume(1000), revision="v1", attempts=3, backoff=0.01)
        async with place.running(versions(tmp_path), train) as (c, _):
            await c.publish_many(f"old-{n}" for n in range(30))
            await c.request_switch("a bad release", revision="v3", watch_errors=0.02)
            bad = await c.wait_answered()
            assert c.manifest.watch is not None
            await c.publish_many(f"lost-{n}" for n in range(15))
            after = await c.wait_switched(bad)
            wagon = c.manifest.wagon(after)
            assert wagon is not None
            assert wagon.revision == c.manifest.revision == "v1"
            await c.publish_many(f"new-{n}" for n in range(30))
            await c.wait_drained(bad)
            await settled(lambda: len(place.lines()) == 60)
            (fact,) = [e.fact for e in await journal(c) if isinstance(e.fact, WentBack)]
            assert (fact.number, fact.revision, fact.back, fact.handled) == (bad, "v3", "v1", 0)
            assert fact.failed >= 20
            assert "more than the 0.02 allowed" in sentence(fact)
            assert len({letter.id async for letter in c.dead_letters()}) == 15
            assert c.manifest.watch is None

    asyncio.run(scenario())
    assert {line.revision for line in place.lines()} == {"v1/v1"}


def test_a_version_that_does_not_start_is_never_switched_to(place: Place, tmp_path: Path) -> None:
    async def scenario() -> None:
        train = orders(limit=Volume(1000), revision="v1", provision_timeout=3.0, provision_attempts=2)
        async with place.running(versions(tmp_path), train) as (c, _):
            await c.publish_many(f"{n}" for n in range(30))
            old = await c.request_switch("a broken release", revision="v4", watch_errors=0.5)
            assert await c.wait_answered() == old
            assert (c.manifest.revision, c.manifest.watch) == ("v1", None)
            (fact,) = [e.fact for e in await journal(c) if isinstance(e.fact, SwitchGivenUp)]
            assert (fact.revision, fact.back) == ("v4", "v1")
            assert "No module named 'nowhere'" in fact.because
            assert not any(isinstance(e.fact, Switched) and e.fact.revision == "v4" for e in await journal(c))
            await c.request_switch("as ever")
            assert await c.wait_answered() != old

    asyncio.run(scenario())
    assert {line.revision for line in place.lines()} == {"v1/v1"}


def test_an_idle_train_sleeps_and_the_first_event_wakes_it(place: Place) -> None:
    """No process runs, publishing goes on at once, and what is published is handled."""

    async def scenario() -> None:
        async with place.running("tests.programs.versions:orders", orders(idle_after=0.5)) as (c, orchestrator):
            for number in ("1", "2"):
                await c.publish(number)
                while len(place.lines()) < int(number):
                    await asyncio.sleep(0.02)
                await settled(lambda: c.manifest.wagons[0].asleep_at is not None)
                while any(d.workers or d.ready for d in (await orchestrator.deployments("orders")).values()):
                    await asyncio.sleep(0.02)
                assert UnitFiles(place.processes, "orders", 1).state() is None
            facts = [type(e.fact) for e in await journal(c)]
            assert facts.count(FellAsleep) == 2
            assert facts.count(WokenUp) == 1
            assert len(c.manifest.wagons) == 1

    asyncio.run(scenario())
    assert len({line.pid for line in place.lines()}) == 2
    assert {line.wagon for line in place.lines()} == {"1"}


def test_processes_of_two_versions_beside_each_other() -> None:
    """Without an orchestrator: a process serves only wagons of its own revision. Blue and green, then the switch."""

    async def scenario() -> None:
        world, by_blue, by_green = World(), list[str](), list[str]()
        settings: dict[str, Any] = {"limit": Volume(1000), "workers": Workers(each=4), "spares": 0}
        blue, green = signups(by_blue, **settings), signups(by_green, **settings)
        blue.revision, green.revision = "blue", "green"
        async with world.running(blue) as c, world.running(green, observe=False) as other:
            await c.publish_many({"email": f"{n}@x"} for n in range(20))
            await until(lambda: len(by_blue) == 20)
            assert by_green == []
            (member,) = [m for m in await c.members() if m.name == other.name]
            assert (
                "this program has revision green, and the wagon is for revision blue" in member.attachments[0].trouble
            )
            (member,) = [m for m in await c.members() if m.name == c.name]
            assert member.attachments[0].workers == 4  # those who can't serve it have no share of it
            await c.request_switch("the release", revision="green")
            await c.wait_answered()
            await c.publish_many({"email": f"{n}@y"} for n in range(20))
            await until(lambda: len(by_green) == 20)
            assert len(by_blue) == 20

    run(scenario())


class Ended(InProcess):
    """The in-process orchestrator, and which units it was told to end."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.told: list[int] = []

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        self.told.append(unit)
        await super().remove(train, unit, grace=grace)


def test_nobody_ends_the_workers_of_a_live_wagon_whatever_is_removed() -> None:
    """With an orchestrator: neither the removal of the wagon that they served first, nor the sweep of a channel of that
    number that rose again; and in the end, when nothing is to be done, all go but the active wagon's."""

    async def scenario() -> None:
        world, handled = World(), list[str]()
        train = signups(handled, limit=Volume(50), workers=Workers(each=2), spares=0, reuse=True, idle_after=60.0)
        async with Crew(
            "signups",
            train.handlers,
            train.settings,
            world.broker,
            slo=None,
            shared=None,
            clock=world.clock,
            tell=print,
        ) as crew:
            orchestrator = Ended(crew.serve)
            async with world.connect(train, orchestrator=orchestrator) as c, c.running():
                for number in range(3):
                    await c.publish_many({"email": f"{number}-{n}@x"} for n in range(50))
                    await c.wait_switched(number + 1)
                    await asyncio.sleep(2)
                last = c.manifest.active
                assert last is not None
                assert (last.number, last.unit) == (4, 2)
                assert orchestrator.told == []  # two units have done it all
                await world.broker.create(Channel("signups", 2, "risen"))
                await until(lambda: world.of(OrphanRemoved))
                assert orchestrator.told == []
                assert Channel("signups", 2, "risen") not in await world.broker.channels("signups")
                await c.publish({"email": "late@x"})
                await until(lambda: len(handled) == 151)
                await until(lambda: [w.number for w in c.manifest.wagons] == [4], seconds=120)  # the spare was put away
                assert orchestrator.told == [1]
                await until(lambda: c.manifest.wagons[0].asleep_at is not None, seconds=120)
                await asyncio.sleep(1)
                assert not any(d.ready for d in (await orchestrator.deployments("signups")).values())
                await c.publish({"email": "wake@x"})
                await until(lambda: len(handled) == 152)

    run(scenario())
