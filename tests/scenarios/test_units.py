"""Units of workers in real processes: warm ones go on to the next wagon, idle ones sleep."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from eventwagon import Connection, Volume, Workers
from eventwagon.contracts.facts import FellAsleep, OrphanRemoved, WagonOpened, WokenUp
from eventwagon.contracts.lifecycle import State
from eventwagon.event import Channel
from eventwagon.orchestrators.processes.records import UnitFiles, kill
from eventwagon.runtime.in_process import InProcess, Start
from eventwagon.runtime.local_workers import LocalWorkers
from eventwagon.testing.virtual_time import run
from tests.orders import Place, orders, settled
from tests.support import World, journal, runtime_of, signups, until


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
                await c.wait_switched(full.number)  # not always to the next number
                await c.wait_drained(full.number)
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
    """A burst with reuse, two observers with orchestrators of their own, one of which leaves half-way; after each
    wagon's worth of events one of the processes is killed. All is handled, and no workers are left over."""

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
            while sorted(w.state for w in c.manifest.wagons) != sorted([State.ACTIVE, State.READY]):
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
    """`eventwagon work --wagon 1`: when wagon 1 is drained and its workers are another's by now, the process goes
    there; it is released when no live wagon has the unit."""

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
        runtime = runtime_of(train, world.broker, clock=world.clock, tell=print)
        async with LocalWorkers(runtime, shared=None) as workers:
            orchestrator = Ended(workers.serve)
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
