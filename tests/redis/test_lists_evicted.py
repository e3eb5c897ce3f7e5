"""The lists of channels and of trains are keys like others: a server may evict them, and a hand may delete them."""

from __future__ import annotations

import asyncio
from secrets import token_hex
from typing import Any

import pytest

from eventwagon import Train, Workers
from eventwagon.drivers.redis import RedisBroker, scripts
from eventwagon.drivers.redis.client import Client, Script
from eventwagon.errors import RemovalRefused
from eventwagon.event import Channel
from tests.redis.support import events, raw
from tests.servers.redis import ask
from tests.servers.server import Server
from tests.support import until

TRAIN = "unlisted"


def test_a_train_that_runs_restores_its_lists(redis_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    prefix = token_hex(4)
    train = Train(TRAIN, workers=Workers(total=1))

    @train.on(TRAIN)
    async def handle(event: int) -> None: ...

    async def main() -> None:
        async with train.connect(f"{redis_server.url}?prefix={prefix}", listeners=()) as c, c.running():
            await c.publish(1)
            before = set(await c.broker.channels(TRAIN))
            assert Channel(TRAIN, 1) in before
            assert ask(redis_server.port, "DEL", f"{prefix}:{{{TRAIN}}}:channels", f"{prefix}:trains") == b":2\r\n"
            async with asyncio.timeout(30):
                while Channel(TRAIN, 1) not in await c.broker.channels(TRAIN) or TRAIN not in await c.registry.trains():
                    await asyncio.sleep(0.05)
            await until(lambda: "channel unlisted_v1 existed and was not listed" in caplog.text)

    asyncio.run(main())


@pytest.mark.timeout(60)
def test_a_list_that_holds_something_else_keeps_no_wagon_from_being_looked_at(
    redis_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Figures are read and the train switches; once the key is deleted, the list is made again and all goes on."""
    prefix, handled = token_hex(4), list[int]()
    key = f"{prefix}:{{{TRAIN}}}:channels"
    train = Train(TRAIN, workers=Workers(total=1), spares=1, grace=0.2, observe_every=0.05)

    @train.on(TRAIN)
    async def handle(event: int) -> None:
        handled.append(event)

    async def main() -> None:
        async with train.connect(f"{redis_server.url}?prefix={prefix}", listeners=()) as c, c.running():
            await c.publish(1)
            await until(lambda: bool(c.manifest.ready))
            ask(redis_server.port, "DEL", key)
            ask(redis_server.port, "SET", key, "theirs")
            assert (await c.broker.depth([Channel(TRAIN, 1)]))[0].published == 1
            await c.request_switch()
            async with asyncio.timeout(20):
                await c.wait_switched(1)
            await c.publish(2)
            await until(lambda: handled == [1, 2])
            assert "no wagon can be made or removed" in caplog.text
            assert key in caplog.text
            assert ask(redis_server.port, "DEL", key) == b":1\r\n"
            await until(lambda: c.manifest.wagon(1) is None and bool(c.manifest.ready), seconds=30)

    asyncio.run(main())


def test_no_event_is_removed_since_its_channel_is_not_listed(redis_server: Server) -> None:
    """`remove` refuses, and says what is left; with force it leaves no key."""
    prefix = token_hex(4)
    url = f"{redis_server.url}?prefix={prefix}"

    async def main() -> None:
        async with Train(TRAIN).connect(url, listeners=()) as c:
            await c.publish_many(range(3))
        assert ask(redis_server.port, "DEL", f"{prefix}:{{{TRAIN}}}:channels", f"{prefix}:trains") == b":2\r\n"
        async with Train(TRAIN).connect(url, listeners=()) as c:
            with pytest.raises(RemovalRefused, match="3 events in unlisted_v1"):
                await c.remove()
            assert (await c.broker.depth([Channel(TRAIN, 1)]))[0].waiting == 3
            await c.remove(force=True)
        async with raw(redis_server) as client:
            assert await client.keys(f"{prefix}:*") == [f"{prefix}:{{0removed}}:journal".encode()]

    asyncio.run(main())


def test_what_is_deleted_meanwhile_is_not_listed_again(redis_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    prefix = token_hex(4)
    channel = Channel(TRAIN, 1)
    listing = f"{prefix}:{{{TRAIN}}}:channels"

    async def main() -> None:
        async with RedisBroker.from_url(f"{redis_server.url}?prefix={prefix}") as broker:
            await broker.create(channel)
            await broker.publish(channel, events(1))
            ask(redis_server.port, "DEL", listing)
            run = Client.run

            async def slow(self: Client, what: str, script: Script, *arguments: Any) -> Any:
                answer = await run(self, what, script, *arguments)
                if script is scripts.DEPTH:
                    await broker.delete(channel)
                return answer

            monkeypatch.setattr(Client, "run", slow)
            await broker.depth([channel])
            monkeypatch.undo()
            assert ask(redis_server.port, "EXISTS", listing) == b":0\r\n"

    asyncio.run(main())


def test_a_list_that_goes_again_and_again_is_not_told_each_time(
    redis_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    prefix, channel = token_hex(4), Channel(TRAIN, 1)

    async def main() -> None:
        async with RedisBroker.from_url(f"{redis_server.url}?prefix={prefix}") as broker:
            await broker.create(channel)
            for _ in range(50):
                assert ask(redis_server.port, "DEL", f"{prefix}:{{{TRAIN}}}:channels") == b":1\r\n"
                await broker.depth([channel])
                assert await broker.channels(TRAIN) == [channel]
            await broker.delete(channel)

    asyncio.run(main())
    assert sum("existed and was not listed" in message for message in caplog.messages) == 20
