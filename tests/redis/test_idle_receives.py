"""What receives ask of the server while a channel is empty."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from eventwagon.contracts.broker import Subscription
from eventwagon.drivers.redis import RedisBroker, scripts
from eventwagon.drivers.redis.client import Client
from eventwagon.errors import ChannelGone
from eventwagon.event import Channel
from tests.redis.support import LONG, events, raw
from tests.servers.server import Server

CHANNEL = Channel("idle_receives", 1)


@asynccontextmanager
async def attached(server: Server) -> AsyncIterator[tuple[RedisBroker, Subscription]]:
    """A consumer of a new channel."""
    async with RedisBroker.from_url(server.url) as broker:
        await broker.delete(CHANNEL)
        await broker.create(CHANNEL)
        async with broker.consume(CHANNEL, visibility=LONG) as consumer:
            yield broker, consumer
        await broker.delete(CHANNEL)


class Asked:
    """Counts the claims."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count, pair = 0, Client.pair

        async def counted(client: Client, what: str, *arguments: object) -> object:
            self.count += what.startswith("receiving")
            return await pair(client, what, *arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(Client, "pair", counted)


def test_the_next_receive_goes_on_waiting(redis_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten receives of a tenth of a second ask no more often than one of a second; none of them misses anything."""

    async def main() -> None:
        async with attached(redis_server) as (broker, consumer):
            assert await consumer.receive(10, 1.0) == []  # asks for a notification, once these can come
            asked = Asked(monkeypatch)
            for _ in range(9):
                assert await consumer.receive(10, 0.1) == []
            assert asked.count <= 3
            await broker.publish(CHANNEL, events(1))
            (got,) = await consumer.receive(10, 5.0)
            assert await consumer.receive(10, 0.1) == []
            await consumer.release([got], delay=0.3)
            (again,) = await consumer.receive(10, 0.5)
            assert again.attempt == 2

    asyncio.run(main())


def test_a_short_receive_asks_at_once(redis_server: Server) -> None:
    """It may come before the notification of what was just published."""

    async def main() -> None:
        async with attached(redis_server) as (broker, consumer):
            for _ in range(20):
                assert await consumer.receive(1, 0.1) == []
                await broker.publish(CHANNEL, events(1))
                (got,) = await consumer.receive(1, 0.0)
                await consumer.settle([got])

    asyncio.run(main())


@pytest.mark.parametrize("timeout", [0.02, 0.09])
def test_a_short_receive_waits_for_a_notification(
    redis_server: Server, monkeypatch: pytest.MonkeyPatch, timeout: float
) -> None:
    """Asked again and again until its time was over, the server did little else."""

    async def main() -> None:
        async with attached(redis_server) as (_, consumer):
            assert await consumer.receive(1, 0.1) == []
            asked = Asked(monkeypatch)
            for _ in range(5):
                assert await consumer.receive(1, timeout) == []
            assert asked.count <= 10

    asyncio.run(main())


def test_a_destroyed_group_is_noticed_at_once(redis_server: Server) -> None:
    """The consumer attaches again then, which makes the group anew."""

    async def main() -> None:
        async with attached(redis_server) as (broker, consumer):
            assert await consumer.receive(1, 0.1) == []
            async with raw(redis_server) as client:
                assert await client.xgroup_destroy(broker.name_of(CHANNEL), scripts.GROUP) == 1
            await broker.publish(CHANNEL, events(1))
            with pytest.raises(ChannelGone, match="lacks its consumer group"):
                await consumer.receive(1, 5.0)
            async with broker.consume(CHANNEL, visibility=LONG) as another:
                assert len(await another.receive(1, 5.0)) == 1

    asyncio.run(main())
