"""An orchestrator whose workers follow the manifest, with the manifest written as an observer would: first that, then
the asking."""

from __future__ import annotations

import asyncio
import time
from contextlib import AbstractAsyncContextManager
from typing import Self

from eventwagon import Train
from eventwagon.contracts.broker import Broker
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, changed, opened
from eventwagon.contracts.orchestrator import Orchestrator, WagonSpec
from eventwagon.contracts.registry import Registry
from eventwagon.event import Channel


class Declared:
    """The manifest of one train."""

    def __init__(self, train: Train, broker: Broker, registry: Registry) -> None:
        self._declaration = train.settings.declared(), train.channels
        self._train = train.name
        self._broker = broker
        self._registry = registry
        self._turn = asyncio.Lock()

    async def begin(self) -> None:
        """The train is declared, and has no wagon."""
        declared, channels = self._declaration
        await self._registry.replace(
            self._train, Manifest(train=self._train, declared=declared, channels=channels), expect=0
        )

    async def wagons(self, number: int) -> None:
        """All up to this one stand."""
        async with self._turn:
            snapshot = await self._registry.read(self._train)
            manifest = snapshot.manifest
            while manifest.next_number <= number:
                manifest = opened(manifest, now=time.time(), because="the suite", capacity=None)
                manifest = changed(manifest, manifest.next_number - 1, created_at=time.time())
            if manifest is not snapshot.manifest:
                await self._registry.replace(self._train, manifest, expect=snapshot.version)

    async def asked(self, spec: WagonSpec) -> None:
        """What the spec says stands there. A wagon without channels of its own is one whose channels are gone."""
        if any(c.wagon != spec.number for c in spec.channels):
            await self._broker.delete(Channel(self._train, spec.number))
        async with self._turn:
            snapshot = await self._registry.read(self._train)
            manifest = snapshot.manifest
            for wagon in manifest.wagons:
                if wagon.number == spec.number and wagon.unit != spec.unit:
                    manifest = changed(manifest, wagon.number, reuses=spec.unit)
                elif wagon.number < spec.number and wagon.unit == spec.unit and wagon.state is not State.DRAINED:
                    manifest = changed(manifest, wagon.number, state=State.DRAINED, sealed_at=time.time())
            if manifest is not snapshot.manifest:
                await self._registry.replace(self._train, manifest, expect=snapshot.version)


class Observed(AbstractAsyncContextManager["Observed"]):
    """The orchestrator, told of a wagon after the manifest was."""

    def __init__(self, declared: Declared, real: Orchestrator) -> None:
        self._declared = declared
        self._real = real
        self.deployments, self.remove = real.deployments, real.remove

    async def __aenter__(self) -> Self:
        await self._real.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._real.__aexit__(*exc)

    async def ensure(self, spec: WagonSpec) -> None:
        """See Orchestrator.ensure."""
        await self._declared.asked(spec)
        await self._real.ensure(spec)
