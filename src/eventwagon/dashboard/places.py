"""Where the dashboard's trains are: at a URL, or at connections of the program that mounts it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from ..connection import Connection
from ..display.redaction import shown
from ..drivers.opening import open_drivers
from ..errors import UnknownTrain, UsageError
from ..event import check_train_name
from ..values import is_a, items
from ..views.following import follower
from ..views.source import Outside


class Opened(Protocol):
    """The trains of a place that is open."""

    async def names(self) -> Sequence[str]:
        """The names of all trains there. Raises Unavailable and StorageBroken."""
        ...

    def source(self, name: str) -> Outside:
        """Where this train is read."""
        ...


class AtUrl:
    """All trains at a URL, or those of them with these names."""

    def __init__(self, url: str, names: Iterable[str] = ()) -> None:
        open_drivers(url)  # to refuse a mistake here
        self.url = url
        self.shown = shown(url)
        self._only = frozenset(check_train_name(name) for name in names)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Opened]:
        """Connect to read. Raises Unavailable and StorageBroken."""
        broker, registry = open_drivers(self.url)
        only = self._only

        class Reading:
            async def names(self) -> Sequence[str]:
                return [name for name in await registry.trains() if not only or name in only]

            def source(self, name: str) -> Outside:
                return Outside(name, broker, registry)

        async with broker, registry:
            yield Reading()

    @asynccontextmanager
    async def connection(self, name: str) -> AsyncIterator[Connection]:
        """Connect to steer this train. Raises UnknownTrain, Unavailable and StorageBroken."""
        async with open_drivers(self.url).registry as registry:
            snapshot = await registry.read(name)
        if not snapshot.version:
            raise UnknownTrain(f"there is no train {name!r} any more")
        async with follower(name, dict(snapshot.manifest.declared)).connect(self.url, listeners=()) as c:
            yield c


class AtConnections:
    """The trains of connections that the program has opened, and leaves open meanwhile."""

    def __init__(self, connections: Sequence[Connection]) -> None:
        self._of = {c.train.name: c for c in connections}
        if len(self._of) < len(connections):
            raise UsageError("dashboard: give one connection for each train")
        self.shown = ", ".join(sorted({type(c.broker).__name__ for c in connections}))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Opened]:
        """Nothing is opened: the connections are."""
        of = self._of

        class Reading:
            async def names(self) -> Sequence[str]:
                return sorted(of)

            def source(self, name: str) -> Outside:
                return Outside(name, of[name].broker, of[name].registry)

        yield Reading()

    @asynccontextmanager
    async def connection(self, name: str) -> AsyncIterator[Connection]:
        """The connection itself."""
        yield self._of[name]


Place = AtUrl | AtConnections


def place_of(where: object, names: Iterable[str] = ()) -> Place:
    """The place that a user names: a URL, a connection, or several of them. Raises UsageError."""
    if is_a(where, str):
        return AtUrl(str(where), names)
    found = items("dashboard: connections", where) if is_a(where, list, tuple) else (where,)
    connections = [c for c in found if is_a(c, Connection)]
    if not connections or len(connections) < len(found):
        raise UsageError("dashboard: give a URL, say 'redis://localhost:6379', or a Connection, or a list of these")
    return AtConnections(connections)
