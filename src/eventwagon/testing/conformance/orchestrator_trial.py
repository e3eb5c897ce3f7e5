"""An orchestrator under trial, and the harness through which its checks drive it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from ...contracts.orchestrator import Deployment, Orchestrator, WagonSpec
from .check import CheckFailed


class Harness(Protocol):
    """Provided by a driver's tests: an orchestrator whose workers run handlers that the checks can hold and watch.

    An asynchronous context manager: entering it enters the orchestrator, and after leaving it nothing runs. Handlers
    run until `let_go` is called; from then on every handler ends at once.
    """

    outlives: bool
    """True: deployments go on when the orchestrator's object is closed (Kubernetes). False: they end with it
    (in-process)."""

    warm: bool = False
    """A unit's running workers move to another wagon, and nothing is started for it: `incarnation` stays the same."""

    idles: bool = False
    """Workers can be ready and take nothing (`WagonSpec.idle`)."""

    ends: bool = True
    """A handler in flight is ended when its grace is over. False: each ends by its own timeout (Lambda)."""

    revision: str = ""
    """A revision of the code for which workers can be requested; empty: the driver knows no revisions."""

    @property
    def orchestrator(self) -> Orchestrator:
        """The driver, entered."""
        ...

    def another(self) -> AbstractAsyncContextManager[Orchestrator]:
        """Another object of the driver for the same deployments; used only with `outlives`."""
        ...

    async def spec(self, number: int, *, workers: int) -> WagonSpec:
        """The spec of a wagon of the harness's one train; its channels have been created."""
        ...

    async def give(self, spec: WagonSpec, count: int) -> None:
        """Publish `count` events to the wagon."""
        ...

    async def at_work(self, number: int) -> int:
        """How many of the wagon's handlers are in flight now."""
        ...

    async def finished(self, number: int) -> int:
        """How many of the wagon's handlers ran to completion."""
        ...

    async def ended(self, number: int) -> int:
        """How many of the wagon's handlers were ended before completion."""
        ...

    async def incarnation(self, unit: int) -> object:
        """An identity that tells the unit's workers from others started in their place; used only with `warm`."""
        ...

    async def let_go(self) -> None:
        """Let all handlers end, including those that begin later."""
        ...


class OrchestratorTrial:
    """An orchestrator under trial, and the steps that checks share."""

    def __init__(self, harness: Harness, moment: float, patience: float) -> None:
        self.harness = harness
        self.orchestrator = harness.orchestrator
        self.moment = moment
        self.patience = patience

    async def deployment(self, spec: WagonSpec) -> Deployment | None:
        """The deployment of the wagon's unit."""
        return (await self.orchestrator.deployments(spec.train)).get(spec.unit)

    async def until(self, what: str, true: Callable[[], Awaitable[object]]) -> None:
        """Wait until `true` holds. Raises CheckFailed after `patience` seconds."""
        try:
            async with asyncio.timeout(self.patience):
                while not await true():  # noqa: ASYNC110 - it may change in another process
                    await asyncio.sleep(self.moment / 10)
        except TimeoutError:
            raise CheckFailed(f"{what}: not within {self.patience:g} s") from None

    async def ready(self, number: int = 1, *, workers: int = 2, held: int = 0) -> WagonSpec:
        """A wagon whose workers are ready, `held` of them handling an event."""
        spec = await self.harness.spec(number, workers=workers)
        await self.orchestrator.ensure(spec)
        await self.until_ready(spec)
        if held:
            await self.harness.give(spec, held)
            await self.until_at_work(number, held)
        return spec

    async def until_ready(self, spec: WagonSpec) -> None:
        async def ready() -> bool:
            found = await self.deployment(spec)
            is_there = found is not None and found.ready and found.number == spec.number
            return is_there and found is not None and found.workers == spec.workers_now

        await self.until(f"wagon {spec.number} ready with {spec.workers_now} workers", ready)

    async def moved(self, spec: WagonSpec, number: int) -> WagonSpec:
        """The spec of wagon `number`, served by the unit of `spec`: requested, but not yet ready."""
        assert spec.workers is not None  # noqa: S101 - the checks name a number
        after = msgspec.structs.replace(await self.harness.spec(number, workers=spec.workers), unit=spec.unit)
        await self.orchestrator.ensure(after)
        return after

    async def until_at_work(self, number: int, count: int) -> None:
        async def at_work() -> bool:
            return await self.harness.at_work(number) == count

        await self.until(f"{count} handlers of wagon {number} in flight", at_work)

    async def until_finished(self, number: int, count: int) -> None:
        async def finished() -> bool:
            return await self.harness.finished(number) >= count

        await self.until(f"{count} handlers of wagon {number} finished", finished)
