"""The infrastructure of a simulated train: a control plane that gives each unit of workers its processes, and how the
processes that observe reach it."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextvars import Context
from functools import partial
from typing import Any

import msgspec

from eventwagon.contracts.orchestrator import Deployment, WagonSpec, together

from .gate import AlwaysOpen, Gate
from .process import TRAIN, Slot
from .scenario import Program, unit_process
from .world import World

_TO_START = 1.5
"""Seconds that a process takes at most until it begins, as an image that is pulled does."""


class Unit:
    """What a unit of workers should be, and its processes."""

    def __init__(self, spec: WagonSpec) -> None:
        self.spec = spec
        self.supervisors: dict[Slot, asyncio.Task[None]] = {}
        """The places of its processes, and what keeps a process in each."""
        self.ending: asyncio.Task[None] | None = None
        self.again: WagonSpec | None = None
        """Asked for while it was being removed."""


class Cluster:
    """One for a run. What it is told stands, whatever becomes of who told it; processes that die are started again."""

    def __init__(self, world: World, *, keep: Callable[[Slot], Awaitable[None]]) -> None:
        self._world = world
        self._keep_up = keep
        self._rng = random.Random(f"{world.scenario.seed} cluster")
        self.units: dict[int, Unit] = {}
        self._count: Counter[int] = Counter()
        """The processes that each unit ever had, whatever became of them."""

    def slots(self) -> list[Slot]:
        """The places of all processes that it keeps or ends."""
        return [slot for unit in self.units.values() for slot in unit.supervisors]

    async def ensure(self, spec: WagonSpec) -> None:
        """See Orchestrator.ensure."""
        unit = self.units.get(spec.unit)
        if unit is None:
            unit = self.units[spec.unit] = Unit(spec)
        elif unit.ending is not None:
            unit.again = spec
            return
        elif spec.number < unit.spec.number:
            return
        unit.spec = spec
        each = self._world.scenario.per_process
        self._scale(unit, -(-(spec.workers or 0) // each))

    def _scale(self, unit: Unit, count: int) -> None:
        keeping = [slot for slot in unit.supervisors if not slot.closed]
        for slot in keeping[count:]:
            slot.close()
        for _ in range(count - len(keeping)):
            slot = self._slot(unit.spec)
            unit.supervisors[slot] = self._begin(self._keep(unit, slot, self._rng.random() * _TO_START))

    def _slot(self, spec: WagonSpec) -> Slot:
        scenario = self._world.scenario
        name = unit_process(spec.unit, self._count[spec.unit])
        self._count[spec.unit] += 1
        slot = Slot(Program(name, ("serve",), self._rng.choice([0.0, 0.3]), spec.revision), scenario)
        slot.unit = spec.unit
        slot.version = int(scenario.grows_at is not None and scenario.grows_at <= self._world.loop.time())
        return slot

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """In the simulation's own name: it is no process's."""
        return Context().run(asyncio.get_running_loop().create_task, work)

    async def _keep(self, unit: Unit, slot: Slot, wait: float) -> None:
        await asyncio.sleep(wait)
        await self._keep_up(slot)
        del unit.supervisors[slot]

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """See Orchestrator.deployments. Ready: a process says so, and none is at another wagon still."""
        said: dict[str, list[Deployment]] = {}
        for member in await self._world.registry.members(train):
            said.setdefault(member.name.rsplit("-", 2)[0], []).extend(member.attachments)
        return {number: self._deployment(unit, said) for number, unit in self.units.items()}

    def _deployment(self, unit: Unit, said: Mapping[str, list[Deployment]]) -> Deployment:
        living = [slot.now.name for slot in unit.supervisors if slot.now is not None]
        attached = [a for name in living for a in said.get(name, ())]
        here = [a for a in attached if a.number == unit.spec.number]
        there = [a.number for a in attached if a.number != unit.spec.number]
        trouble = "; ".join(a.trouble for a in here if a.trouble)
        if there:
            trouble = f"a process is at wagon {there[0]} still"
        checked_in = together(here) if here else Deployment(number=unit.spec.number, ready=False)
        return msgspec.structs.replace(
            checked_in,
            ready=unit.ending is None and not there and checked_in.ready,
            revision=unit.spec.revision,
            trouble=trouble,
        )

    async def remove(self, train: str, number: int, *, grace: float) -> None:
        """See Orchestrator.remove. The first grace counts."""
        unit = self.units.get(number)
        if unit is None:
            return
        if unit.ending is None:
            unit.ending = self._begin(self._end(unit, grace))
        await asyncio.shield(unit.ending)

    async def _end(self, unit: Unit, grace: float) -> None:
        for slot in unit.supervisors:
            slot.close()
        if unit.supervisors:
            await asyncio.wait(unit.supervisors.values(), timeout=grace + 1.0)
        for slot in unit.supervisors:
            if slot.now is not None:
                slot.now.crash(0.0)
        if unit.supervisors:
            await asyncio.wait(unit.supervisors.values())
        del self.units[unit.spec.unit]
        if unit.again is not None:
            await self.ensure(unit.again)

    async def finished(self) -> None:
        """Return when nothing of it goes on, once the run ends."""
        for unit in list(self.units.values()):
            if unit.supervisors:
                await asyncio.wait(unit.supervisors.values())

    def left_over(self) -> list[str]:
        """What runs for no wagon of the manifest."""
        known = {w.unit for w in self._world.registry.newest(TRAIN).manifest.wagons}
        return [f"unit {number} of workers is left over" for number in self.units if number not in known]


class GatedOrchestrator(AlwaysOpen):
    """The control plane as one process reaches it."""

    def __init__(self, gate: Gate, cluster: Cluster) -> None:
        self._gate = gate
        self._truth = cluster

    async def ensure(self, spec: WagonSpec) -> None:
        await self._gate.call("ensure", partial(self._truth.ensure, spec))

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        return await self._gate.call("deployments", partial(self._truth.deployments, train))

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        await self._gate.call("remove", partial(self._truth.remove, train, unit, grace=grace))
