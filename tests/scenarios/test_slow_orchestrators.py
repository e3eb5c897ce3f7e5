"""An orchestrator that hangs, refuses or can't be asked: what does not need it goes on. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from eventwagon import Connection, Train, Volume, Workers
from eventwagon.contracts.facts import StepFailed
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.orchestrator import Deployment, WagonSpec
from eventwagon.errors import Unavailable
from eventwagon.runtime.in_process import InProcess, Start
from eventwagon.runtime.local_workers import LocalWorkers
from eventwagon.testing.virtual_time import run
from tests.support import World, runtime_of, signups, until


class Troubled(InProcess):
    """The in-process orchestrator, in what trouble a test puts it."""

    def __init__(self, start: Start) -> None:
        super().__init__(start)
        self.hangs: set[int] = set()
        """Wagons for which `ensure` does not return."""
        self.away = False
        self.keeps: set[int] = set()
        """Units that are still listed when they are removed."""
        self.removals = 0

    async def ensure(self, spec: WagonSpec) -> None:
        while spec.number in self.hangs:
            await asyncio.sleep(0.1)
        await super().ensure(spec)

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        if self.away:
            raise Unavailable("the control plane is away")
        listed = {unit: Deployment(number=unit, ready=False) for unit in self.keeps}
        return {**listed, **await super().deployments(train)}

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        self.removals += 1
        await super().remove(train, unit, grace=grace)


@asynccontextmanager
async def troubled(train: Train, world: World) -> AsyncIterator[tuple[Connection, Troubled]]:
    runtime = runtime_of(train, world.broker, clock=world.clock, tell=print)
    async with LocalWorkers(runtime, shared=None) as workers:
        orchestrator = Troubled(workers.serve)
        async with world.connect(train, orchestrator=orchestrator) as c, c.running():
            yield c, orchestrator


def played(scene: Callable[[Connection, Troubled, World, list[str]], object]) -> None:
    async def scenario() -> None:
        world, handled = World(), list[str]()
        train = signups(handled, limit=Volume(50), workers=Workers(each=2), spares=1)
        async with troubled(train, world) as (c, orchestrator):
            await until(lambda: c.manifest.ready)
            await scene(c, orchestrator, world, handled)  # type: ignore[misc]

    run(scenario())


def test_while_one_wagons_workers_take_long_to_ask_for_the_others_are_looked_after() -> None:
    async def scene(c: Connection, orchestrator: Troubled, world: World, handled: list[str]) -> None:
        orchestrator.hangs = {3}
        await c.publish_many({"email": f"{n}@x"} for n in range(50))
        await until(lambda: c.manifest.wagon(1) is None, seconds=10)  # sealed, drained, removed
        assert [w.number for w in c.manifest.wagons] == [2, 3]
        assert c.manifest.wagons[1].state is State.PROVISIONING
        await c.publish_many({"email": f"{n}@y"} for n in range(20))
        await until(lambda: len(handled) == 70, seconds=10)
        orchestrator.hangs = set()
        await until(lambda: c.manifest.ready, seconds=10)

    played(scene)


def test_an_orchestrator_that_cant_be_asked_keeps_nobody_from_switching_to_a_spare() -> None:
    """What the manifest says stands; it is told once that it can't be asked."""

    async def scene(c: Connection, orchestrator: Troubled, world: World, handled: list[str]) -> None:
        orchestrator.away = True
        await c.publish_many({"email": f"{n}@x"} for n in range(50))
        assert await c.wait_switched(1) == 2
        await until(lambda: c.manifest.wagon(1) is None, seconds=10)
        await asyncio.sleep(30)
        assert not c.manifest.ready  # for wagon 3 nobody can say so
        told = [f.because for f in world.of(StepFailed) if f.step == "asking the orchestrator"]
        assert told == ["the control plane is away"]
        orchestrator.away = False
        await until(lambda: c.manifest.ready, seconds=10)

    played(scene)


def test_a_unit_that_is_listed_after_it_was_removed_is_removed_at_each_look_and_no_oftener() -> None:
    async def scene(c: Connection, orchestrator: Troubled, world: World, handled: list[str]) -> None:
        orchestrator.keeps = {1}
        await c.publish_many({"email": f"{n}@x"} for n in range(50))
        await until(lambda: c.manifest.wagon(1) is None, seconds=10)
        before = orchestrator.removals
        await asyncio.sleep(10)
        assert 50 < orchestrator.removals - before <= 10 / c.train.settings.observe_every + 2

    played(scene)
