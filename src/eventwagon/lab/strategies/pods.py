"""An orchestrator that simulates Pods: each starts some seconds after it was requested. Its workers are tasks of this
process."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Self

import msgspec

from ...contracts.broker import Broker
from ...contracts.orchestrator import Deployment, WagonSpec
from ...runtime.bulkhead import Bulkhead
from ...runtime.membership import wagon_workers
from ...runtime.publish_settings import PublishSettings
from ...runtime.runtime import Runtime
from ...train import Train


class SimulatedPods:
    """An `Orchestrator` for the train's wagons on `broker`. Pods of `step` workers start `start` seconds after they
    were requested, and count as gone as soon as they are given up, although a handler in flight still finishes."""

    def __init__(self, train: Train, broker: Broker, clock: Callable[[], float], *, start: float, step: int) -> None:
        self.step = step
        self.on_change: Callable[[], None] = lambda: None
        """Called when the number of Pods has changed."""
        self._train = train
        self._broker = broker
        self._clock = clock
        self._start = start
        self._specs: dict[int, WagonSpec] = {}
        self._there_at: dict[int, list[float]] = {}
        """By unit: when each of its Pods starts, in the loop's time."""
        self._paid = 0.0
        self._since = 0.0
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        train = self._train
        runtime = Runtime(
            train=train.name,
            settings=train.settings,
            publishing=PublishSettings(train.settings),
            broker=self._broker,
            clock=self._clock,
            tell=lambda _: None,
            bulkhead=Bulkhead(train.name),
            handlers=train.handlers,
        )
        async with AsyncExitStack() as stack:
            _, self._local = await stack.enter_async_context(wagon_workers(runtime, shared=False))
            self._tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    @property
    def workers(self) -> int:
        """The workers that are paid for now: started or starting."""
        return self.step * sum(map(len, self._there_at.values()))

    @property
    def there(self) -> int:
        """Workers whose Pods have started."""
        return sum(map(self._there, self._there_at))

    def paid(self) -> float:
        """Worker-seconds so far. Each worker counts from when its Pod was requested until it was gone."""
        now = asyncio.get_running_loop().time()
        self._paid += self.workers * (now - self._since)
        self._since = now
        return self._paid

    async def ensure(self, spec: WagonSpec) -> None:
        """See Orchestrator.ensure."""
        known = self._specs.get(spec.unit)
        if known is not None and spec.is_behind(known.number):
            return
        self.paid()
        self._specs[spec.unit] = spec
        pods = self._there_at.setdefault(spec.unit, [])
        wanted = math.ceil((spec.workers or 0) / self.step)
        if len(pods) < wanted:
            pods += [asyncio.get_running_loop().time() + self._start] * (wanted - len(pods))
            self._tasks.create_task(self._later(spec.unit))
        del pods[wanted:]  # the last that were asked for go first
        self.on_change()
        await self._apply(spec.unit)

    async def _later(self, unit: int) -> None:
        await asyncio.sleep(self._start)
        if unit in self._specs:
            await self._apply(unit)

    async def _apply(self, unit: int) -> None:
        spec, there = self._specs[unit], self._there(unit)
        if there or spec.workers == 0:
            await self._local.ensure(msgspec.structs.replace(spec, workers=there))

    def _there(self, unit: int) -> int:
        """Workers of the unit whose Pods have started."""
        now = asyncio.get_running_loop().time()
        return self.step * sum(at <= now + 1e-6 for at in self._there_at[unit])

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """See Orchestrator.deployments."""
        local = await self._local.deployments(train)
        return {unit: self._deployment(unit, local.get(unit)) for unit in self._specs}

    def _deployment(self, unit: int, local: Deployment | None) -> Deployment:
        spec, asked = self._specs[unit], self.step * len(self._there_at[unit])
        if local is None:
            return Deployment(number=spec.number, ready=False, workers=asked, attached=0, trouble="its Pods start")
        there = self._there(unit)
        enough = there >= min(asked, asked if spec.enough is None else spec.enough)
        return msgspec.structs.replace(local, ready=local.ready and enough, workers=asked, attached=there)

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        """See Orchestrator.remove."""
        await self._local.remove(train, unit, grace=grace)
        self.paid()
        self._specs.pop(unit, None)
        self._there_at.pop(unit, None)
        self.on_change()
