"""What the tests of the dashboard need: trains in memory whose readings are counted, a browser's requests, a server."""

from __future__ import annotations

import asyncio
import json
import socket
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import httpx

from eventwagon import Train, Volume, Workers
from eventwagon.cli.http import server as http_server  # the one that the command runs
from eventwagon.contracts.broker import Depth
from eventwagon.contracts.facts import Entry
from eventwagon.contracts.registry import Member, Snapshot
from eventwagon.dashboard import Dashboard
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import Unavailable
from eventwagon.event import Channel

TOKEN = "a token of the tests, long enough"  # noqa: S105
CONNECTIONS = 1000
OURS = {"X-Eventwagon": "dashboard"}


class CountedRegistry(MemoryRegistry):
    """Counts what is read of each train; reading some of them may fail."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.failing: set[str] = set()

    def _count(self, what: str, train: str) -> None:
        self.calls[what] += 1
        if train in self.failing:
            raise Unavailable(f"the shelf of {train} is out of reach")

    async def read(self, train: str) -> Snapshot:
        self._count("read", train)
        return await super().read(train)

    async def members(self, train: str) -> Sequence[Member]:
        self._count("members", train)
        return await super().members(train)

    async def entries(self, train: str, *, last: int | None = None) -> AsyncIterator[Entry]:
        self._count("entries", train)
        async for entry in super().entries(train, last=last):
            yield entry


class CountedBroker(MemoryBroker):
    """Counts the questions for depths."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        self.calls["depth"] += 1
        return await super().depth(channels)


def a_train(name: str = "orders", **settings: Any) -> Train:
    """A train whose handler refuses numbers below 0."""
    given: dict[str, Any] = {"limit": Volume(1000), "workers": Workers(total=2), "keep_drained": 0.1, **settings}
    train = Train(name, observe_every=0.1, attempts=1, **given)

    @train.on(name)
    async def handle(n: int) -> None:
        if n < 0:
            raise ValueError(f"<script>alert({n})</script> is below 0")

    return train


@asynccontextmanager
async def browser(app: Dashboard, **headers: str) -> AsyncIterator[httpx.AsyncClient]:
    """Requests of a browser to the app itself, without a socket; it is closed at the end."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    async with app, httpx.AsyncClient(transport=transport, base_url="http://localhost/", headers=headers) as client:
        yield client


@asynccontextmanager
async def logged_in(app: Dashboard) -> AsyncIterator[httpx.AsyncClient]:
    """The same, with our page's header, after the token was given."""
    async with browser(app, **OURS) as client:
        answer = await client.post("api/login", json={"token": TOKEN})
        assert answer.status_code == 200, answer.text
        yield client


@contextmanager
def _port() -> Any:
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listening:
        yield listening


@asynccontextmanager
async def serving(app: Any) -> AsyncIterator[str]:
    """Serve it on a real port, as the command does. Yields its address."""
    with _port() as listening:
        server = http_server(app, connections=CONNECTIONS)
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
        finally:
            if isinstance(app, Dashboard):
                await app.close()
            server.should_exit = True
            await task


async def messages(lines: AsyncIterator[str]) -> AsyncIterator[tuple[str, Any]]:
    """The server-sent events of a stream, by name, with their data."""
    name = ""
    async for line in lines:
        kind, _, value = line.partition(": ")
        if kind == "event":
            name = value
        elif kind == "data":
            yield name, json.loads(value)


async def done(client: httpx.AsyncClient, job: str) -> dict[str, Any]:
    """The job of this id, once it has ended."""
    async with asyncio.timeout(30):
        while True:
            found: dict[str, Any] = next(
                each for each in (await client.get("api/jobs")).json()["jobs"] if each["id"] == job
            )
            if found["state"] != "running":
                return found
            await asyncio.sleep(0.05)
