"""A registry whose driver refuses every change: a defect that is told, and no loop or recursion without end."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import Any

import pytest

from eventwagon import Connection
from eventwagon.contracts.facts import DefectFound, RegistrySteppedBack
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.registry import Snapshot
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import Conflict, Defect, PublishError
from eventwagon.testing.virtual_time import run
from tests.support import SignUp, World, journal, signups, until


class Broken(MemoryRegistry):
    """While it `breaks`, it takes every version for an old one. `drifts`: what it reads gets another version each
    time."""

    breaks = False
    drifts = False
    reads = 0

    async def read(self, train: str) -> Snapshot:
        self.reads += 1
        found = await super().read(train)
        return Snapshot(found.manifest, found.version + self.reads) if self.breaks and self.drifts else found

    async def replace(self, train: str, manifest: Manifest, *, expect: int, **given: Any) -> Snapshot:
        if self.breaks:
            raise Conflict("out of date")
        return await super().replace(train, manifest, expect=expect, **given)


def broken_world(*, drifts: bool = False) -> tuple[World, Broken]:
    world = World()
    world.registry = registry = Broken(clock=world.clock)
    registry.drifts = drifts
    return world, registry


@pytest.mark.parametrize("drifts", [False, True])
def test_founding_ends_with_a_defect_that_names_the_driver(*, drifts: bool) -> None:
    async def main() -> None:
        world, registry = broken_world(drifts=drifts)
        registry.breaks = True
        async with world.connect(signups([])) as c:
            with pytest.raises(
                PublishError, match=r"the compare-and-swap of its driver \(Broken\) is broken"
            ) as failed:
                await c.publish(SignUp("a"), timeout=60)
            assert isinstance(failed.value.__cause__, Defect)
            assert "Defect" in c.trouble or "defect" in c.trouble
            assert registry.reads < 100

    run(main())


@pytest.mark.parametrize("steps_back", [False, True])
def test_a_running_train_tells_it_and_goes_on_once_it_is_mended(*, steps_back: bool) -> None:
    """Also where the registry has stepped back, and the older manifest can't be stored anew."""

    async def main() -> None:
        world, registry = broken_world()
        handled = list[str]()
        async with world.running(signups(handled)) as c:
            await c.publish(SignUp("a"))
            await until(lambda: handled == ["a"] and c.manifest.ready)
            older = await registry.read("signups")
            await c.request_switch()
            await c.wait_switched(1)
            registry.breaks = True
            if steps_back:
                registry.step_back("signups", older)
            with pytest.raises(Defect):
                await asyncio.wait_for(c.request_switch(), 60)
            await until(lambda: world.of(DefectFound))
            before = registry.reads
            await c.publish(SignUp("b"))
            await asyncio.sleep(60)
            assert registry.reads - before < 2_000, "looked at in the usual pace"
            assert "compare-and-swap" in c.trouble
            steps = [e.fact.step for e in await journal(c) if isinstance(e.fact, DefectFound)]
            assert "a look" in steps
            assert len(steps) == len(set(steps)), "each told once"
            registry.breaks = False
            await until(lambda: "b" in handled)
            number = await c.request_switch()
            await c.wait_switched(number)
            assert bool(world.of(RegistrySteppedBack)) is steps_back

    run(main())


def test_many_writers_that_are_faster_are_no_defect() -> None:
    """Even where they bring back the manifest that a refused change was made on."""

    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled)) as c, AsyncExitStack() as stack:
            await c.publish(SignUp("a"))
            others = [await stack.enter_async_context(world.connect(signups([]))) for _ in range(30)]

            async def toggle(other: Connection) -> None:
                for _ in range(10):
                    await other.pause()
                    await other.resume()

            await asyncio.gather(*map(toggle, others))
            assert not any(each.trouble for each in (c, *others))
        assert not world.of(DefectFound)

    run(main())
