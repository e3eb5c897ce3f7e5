"""The Kubernetes orchestrator against the suite, with real Pods."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Self

import msgspec
import pytest

from eventwagon.drivers import open_drivers
from eventwagon.event import DEAD, Channel, Event, new_ids
from eventwagon.lifecycle import State
from eventwagon.manifest import Manifest, changed, opened
from eventwagon.orchestrator import Orchestrator, WagonSpec
from eventwagon.orchestrators.kubernetes.template import UNIT
from eventwagon.testing.conformance import Check, Harness, Undeclared, orchestrator_checks
from tests.programs.pods import held

from .world import Looking, World


class PodsHarness:
    """`held` in Pods. The manifest is written as an observer would have, since the workers follow it."""

    outlives = True
    warm = True
    idles = False
    revision = ""

    def __init__(self, world: World) -> None:
        self._world = world
        drivers = open_drivers(world.url)
        self._broker, self._registry = drivers.broker, drivers.registry
        self._stack = AsyncExitStack()
        self._turn = asyncio.Lock()
        self._looking: Looking

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._broker)
        await self._stack.enter_async_context(self._registry)
        self._looking = await self._stack.enter_async_context(self._world.looking())
        own = await self._stack.enter_async_context(self._make())
        self.orchestrator: Orchestrator = own
        empty = Manifest(train=held.name, declared=held.settings.declared(), channels=held.channels)
        await self._registry.replace(held.name, empty, expect=0)
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.let_go()
        for unit in await self.orchestrator.deployments(held.name):
            await self.orchestrator.remove(held.name, unit, grace=0.0)
        assert await self._looking.all("pods") == {}
        await self._stack.aclose()

    def _make(self) -> Observed:
        return Observed(self, self._world.orchestrator("pods:held", handler_timeout=held.settings.handler_timeout))

    def another(self) -> AbstractAsyncContextManager[Orchestrator]:
        return self._make()

    async def spec(self, number: int, *, workers: int) -> WagonSpec:
        ingress, dead = Channel(held.name, number), Channel(held.name, number, DEAD)
        for channel in (ingress, dead):
            await self._broker.create(channel)
        snapshot = await self._registry.read(held.name)
        manifest = snapshot.manifest
        while manifest.next_number <= number:
            manifest = opened(manifest, now=time.time(), because="the suite", capacity=None)
            manifest = changed(manifest, manifest.next_number - 1, created_at=time.time())
        await self._registry.replace(held.name, manifest, expect=snapshot.revision)
        return WagonSpec(
            train=held.name, number=number, unit=number, channels=(ingress,), dead_letters=dead, workers=workers
        )

    async def declared(self, spec: WagonSpec) -> None:
        """The workers take a wagon's channels from the manifest: one that has none of them is one whose channels are gone."""
        if any(c.wagon != spec.number for c in spec.channels):
            await self._broker.delete(Channel(held.name, spec.number))
        async with self._turn:
            snapshot = await self._registry.read(held.name)
            manifest = snapshot.manifest
            for wagon in manifest.wagons:
                if wagon.number == spec.number and wagon.unit != spec.unit:
                    manifest = changed(manifest, wagon.number, reuses=spec.unit)
                elif wagon.number < spec.number and wagon.unit == spec.unit and wagon.state is not State.DRAINED:
                    manifest = changed(manifest, wagon.number, state=State.DRAINED, sealed_at=time.time())
            if manifest is not snapshot.manifest:
                await self._registry.replace(held.name, manifest, expect=snapshot.revision)

    async def give(self, spec: WagonSpec, count: int) -> None:
        now = time.time()
        events = [Event(new, "t", "s", now, b"{}") for new in new_ids(count, now)]
        await self._broker.publish(spec.channels[0], events)

    async def _noted(self, name: str, number: int) -> set[tuple[str, ...]]:
        return {tuple(words) for words in await self._looking.notes(f"{name}-{number}")}

    async def _open(self, number: int) -> tuple[int, int]:
        """Handlers that noted no end: whose Pod stands, and whose Pod is gone."""
        begun = await self._noted("began", number)
        begun -= await self._noted("finished", number) | await self._noted("ended", number)
        pods = await self._looking.all("pods")
        return len([pod for pod, _ in begun if pod in pods]), len([pod for pod, _ in begun if pod not in pods])

    async def at_work(self, number: int) -> int:
        return (await self._open(number))[0]

    async def finished(self, number: int) -> int:
        return len(await self._noted("finished", number))

    async def ended(self, number: int) -> int:
        return len(await self._noted("ended", number)) + (await self._open(number))[1]

    async def incarnation(self, unit: int) -> object:
        pods = (await self._looking.all("pods")).values()
        return {p["metadata"]["uid"] for p in pods if p["metadata"]["labels"].get(UNIT) == str(unit)}

    async def let_go(self) -> None:
        await self._looking.let_go()


class Observed:
    """The orchestrator, told of a wagon after the manifest was."""

    def __init__(self, harness: PodsHarness, real: Orchestrator) -> None:
        self._harness = harness
        self._real = real
        self.deployments, self.remove = real.deployments, real.remove

    async def __aenter__(self) -> Self:
        await self._real.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._real.__aexit__(*exc)

    async def ensure(self, spec: WagonSpec) -> None:
        await self._harness.declared(spec)
        await self._real.ensure(spec)


@pytest.mark.parametrize("check", orchestrator_checks(moment=1.0, patience=45.0), ids=str)
def test_kubernetes(check: Check[Harness], world: World) -> None:
    try:
        asyncio.run(check.run(lambda: PodsHarness(world)))
    except Undeclared as undeclared:
        pytest.skip(str(undeclared))


def test_a_unit_goes_to_its_next_wagon_without_a_new_pod(world: World) -> None:
    async def main() -> None:
        async with PodsHarness(world) as harness, world.looking() as looking:
            spec = await harness.spec(1, workers=1)
            await harness.orchestrator.ensure(spec)
            while not (found := (await harness.orchestrator.deployments(held.name))[1]).ready:
                await asyncio.sleep(0.1)
            pods = await looking.all("pods")
            await harness.orchestrator.ensure(msgspec.structs.replace(spec, number=4))
            found = (await harness.orchestrator.deployments(held.name))[1]
            assert found.number == 4
            assert not found.ready, "no worker has said that it is at wagon 4"
            await harness.orchestrator.ensure(spec)  # from an observer that saw an older manifest
            assert (await harness.orchestrator.deployments(held.name))[1].number == 4
            await asyncio.sleep(1.0)
            after = await looking.all("pods")
            assert {n: p["metadata"]["uid"] for n, p in after.items()} == {
                n: p["metadata"]["uid"] for n, p in pods.items()
            }

    asyncio.run(main())
