"""Where the state of a train is read: a connection, or the drivers themselves for readers that change nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from ..connection import Declaration
from ..contracts.broker import Broker, Depth
from ..contracts.facts import Entry
from ..contracts.manifest import Manifest
from ..contracts.registry import Member, Registry, Snapshot
from ..contracts.timetable import Timetable, Waiting, timetable_of
from ..errors import Unavailable, UsageError
from ..event import Event
from ..runtime.dead_letters import kept
from ..runtime.depths import depths_of
from .following import follower


class Source(Protocol):
    """What is read of a train; a `Connection` is one. See there for its methods."""

    @property
    def train(self) -> Declaration: ...

    @property
    def broker(self) -> Broker: ...

    @property
    def registry(self) -> Registry: ...

    async def refresh(self) -> Snapshot: ...

    async def members(self) -> Sequence[Member]: ...

    async def depths(self) -> Mapping[int, Mapping[str, Depth]]: ...

    async def later(self) -> Waiting: ...

    async def ticks(self) -> Mapping[str, float]: ...

    def journal(self, *, last: int | None = None) -> AsyncIterator[Entry]: ...


class Outside:
    """Reads a train from drivers that somebody else has entered. It follows nothing and keeps nothing open: it costs
    the registry and the broker only what is asked. All methods raise Unavailable after `timeout` seconds."""

    def __init__(self, name: str, broker: Broker, registry: Registry, *, timeout: float = 5.0) -> None:
        self.broker = broker
        self.registry = registry
        self.train: Declaration = follower(name, {})
        """As its manifest declares it, once that was read."""
        self.every_member: Sequence[Member] = ()
        """All check-ins of the last reading, those on budgets included."""
        self._name = name
        self._timeout = timeout
        self._manifest = Manifest(train=name)

    async def refresh(self) -> Snapshot:
        async with self._answering():
            snapshot = await self.registry.read(self._name)
        if snapshot.manifest.declared != self._manifest.declared:
            self.train = follower(self._name, dict(snapshot.manifest.declared))
        self._manifest = snapshot.manifest
        return snapshot

    async def members(self) -> Sequence[Member]:
        async with self._answering():
            self.every_member = await self.registry.members(self._name)
        return [m for m in self.every_member if m.is_process]

    async def depths(self) -> Mapping[int, Mapping[str, Depth]]:
        async with self._answering():
            return await depths_of(self.broker, self._manifest)

    async def later(self) -> Waiting:
        async with self._answering():
            return await self._timetable.waiting(self._name)

    async def ticks(self) -> Mapping[str, float]:
        async with self._answering():
            return await self._timetable.latest_of_all(self._name)

    def journal(self, *, last: int | None = None) -> AsyncIterator[Entry]:
        return self.registry.entries(self._name, last=last)

    def dead_letters(self) -> AsyncIterator[Event]:
        return kept(self.broker, self._manifest)

    @property
    def _timetable(self) -> Timetable:
        found = timetable_of(self.broker, self.registry)
        if found is None:
            raise UsageError(f"train {self._name}: nothing keeps events for later")
        return found

    @asynccontextmanager
    async def _answering(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._timeout) as limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            raise Unavailable(
                f"train {self._name}: no answer from the broker or the registry within {self._timeout:g} s"
            ) from None
