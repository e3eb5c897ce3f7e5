"""The Kubernetes orchestrator against the suite, with real Pods."""

from __future__ import annotations

import asyncio
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Self

import msgspec
import pytest

from eventwagon.contracts.orchestrator import Orchestrator, WagonSpec
from eventwagon.drivers.opening import open_drivers
from eventwagon.orchestrators.kubernetes.errors import is_ending, is_ready
from eventwagon.orchestrators.kubernetes.names import COST, UNIT
from eventwagon.testing.conformance import Check, Harness, Undeclared, orchestrator_checks
from tests.held import a_wagon, given
from tests.kubernetes.world import Looking, World, until
from tests.observed import Declared, Observed
from tests.programs.pods import held


class PodsHarness:
    """`held` in Pods. The manifest is written as an observer would have, since the workers follow it."""

    outlives = True
    warm = True
    idles = False
    ends = True
    revision = ""

    def __init__(self, world: World) -> None:
        self._world = world
        drivers = open_drivers(world.url)
        self._broker, self._registry = drivers.broker, drivers.registry
        self._stack = AsyncExitStack()
        self._declared = Declared(held, self._broker, self._registry)
        self._looking: Looking

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._broker)
        await self._stack.enter_async_context(self._registry)
        self._looking = await self._stack.enter_async_context(self._world.looking())
        own = await self._stack.enter_async_context(self._make())
        self.orchestrator: Orchestrator = own
        await self._declared.begin()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.let_go()
        for unit in await self.orchestrator.deployments(held.name):
            await self.orchestrator.remove(held.name, unit, grace=0.0)
        assert await self._looking.all("pods") == {}
        await self._stack.aclose()

    def _make(self) -> Observed:
        real = self._world.orchestrator("pods:held", handler_timeout=held.settings.handler_timeout)
        return Observed(self._declared, real)

    def another(self) -> AbstractAsyncContextManager[Orchestrator]:
        return self._make()

    async def spec(self, number: int, *, workers: int) -> WagonSpec:
        await self._declared.wagons(number)
        return await a_wagon(self._broker, held.name, number, workers=workers)

    async def give(self, spec: WagonSpec, count: int) -> None:
        await given(self._broker, spec, count)

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
            assert found.channels is not None, "the worker checks in with the channels that it is attached to"
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


def test_idle_pods_go_first(world: World) -> None:
    """Two of four Pods have an event in hand; those two are left. By chance that would be one case of six.

    Kubernetes deletes unready Pods first, whatever their deletion cost, so the test waits until all four are ready."""

    async def main() -> None:
        async with PodsHarness(world) as harness, world.looking() as looking:
            spec = await harness.spec(1, workers=4)
            registry = open_drivers(world.url).registry

            async def attached() -> bool:
                return (await harness.orchestrator.deployments(held.name))[1].attached == 4

            async def in_hand() -> bool:
                return sum(a.in_hand for m in await registry.members(held.name) for a in m.attachments) == 2

            async def ready() -> bool:
                return sum(is_ready(pod) for pod in (await looking.all("pods")).values()) == 4

            async def stay() -> set[str]:
                pods = await looking.all("pods")
                staying = {name for name, pod in pods.items() if not is_ending(pod)}
                return staying if len(staying) == 2 else set()

            async with registry:
                await harness.orchestrator.ensure(spec)
                await until("four are attached", attached)
                await harness.give(spec, 2)
                await until("two have checked in with an event", in_hand)
                await until("four are ready", ready)
                busy = {pod for pod, _ in await looking.notes("began-1")}
                await harness.orchestrator.ensure(msgspec.structs.replace(spec, workers=2))
                staying = await until("two go", stay)
                pods = await looking.all("pods")
                marked = {name for name, pod in pods.items() if pod["metadata"].get("annotations", {}).get(COST) == "1"}
                assert marked == busy
                assert staying == busy, pods
                assert await harness.ended(1) == 0

    asyncio.run(main())
