"""What the tests of the Redis drivers share."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

from redis.asyncio import Redis

from eventwagon.contracts.broker import Broker, Delivery, Subscription
from eventwagon.event import Channel, Event, new_ids
from tests.servers.server import Server

LONG = 600.0


def events(count: int, *, size: int = 10, first: int = 0) -> list[Event]:
    now = 1_700_000_000.5
    return [
        Event(name, "happened", "/tests", now, b"%d" % (first + n) + b" " * (size - 10))
        for n, name in enumerate(new_ids(count, now))
    ]


def through(server: Server, port: int, options: str = "") -> str:
    """The URL of the server by way of a proxy at that port."""
    parts = urlsplit(server.url)
    return f"{parts.scheme}://127.0.0.1:{port}{parts.path}?{options}"


@contextlib.asynccontextmanager
async def raw(server: Server) -> AsyncIterator[Any]:
    """A plain client of the server."""
    async with Redis(host=server.host, port=server.port) as client:
        yield client


async def standing(broker: Broker, channel: Channel) -> list[Event]:
    return [event async for event in broker.read(channel)]


async def take(consumer: Subscription, count: int) -> list[Delivery]:
    got: list[Delivery] = []
    async with asyncio.timeout(20):
        while len(got) < count:
            got += await consumer.receive(count - len(got), 5.0)
    return got
