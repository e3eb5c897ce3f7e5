"""What the server refuses: passwords, rights, memory, sizes. Each message says where, what was wrong and what to do."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from eventwagon.contracts.broker import Depth
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.registry import Member
from eventwagon.drivers.redis import RedisBroker
from eventwagon.drivers.redis.registry import RedisRegistry
from eventwagon.errors import ChannelGone, EventTooLarge, StorageBroken, Unavailable
from eventwagon.event import Channel
from tests.redis.support import LONG, events, raw, standing, take
from tests.servers.redis import RedisServer

CHANNEL = Channel("refusals", 1)

# What docs/brokers/redis.md says that a user needs.
RIGHTS = (
    "+@connection +@read +@write +@scripting +@pubsub +info +time +wait resetkeys ~eventwagon:* resetchannels "
    "&eventwagon:*"
)


def of(user: str, server: RedisServer) -> str:
    parts = urlsplit(server.url)
    return parts._replace(netloc=f"{user}@{parts.netloc}").geturl()


def test_passwords(tmp_path: Path) -> None:
    with RedisServer(tmp_path, config=["requirepass Redpoll"]) as server:

        async def main() -> None:
            for url in (server.url, of(":Waxwing", server), of("nobody:Redpoll", server)):
                for kind in (RedisBroker, RedisRegistry):
                    with pytest.raises(
                        StorageBroken, match=rf"127.0.0.1:{server.port}/0: .*password is wrong or missing"
                    ):
                        async with kind.from_url(url):
                            pass
            async with RedisBroker.from_url(of(":Redpoll", server)) as broker:
                await broker.create(CHANNEL)
                await broker.publish(CHANNEL, events(1))

        asyncio.run(main())


def test_rights(own_redis: RedisServer) -> None:
    async def main() -> None:
        async with raw(own_redis) as redis:
            await redis.execute_command("ACL", "SETUSER", "enough", "on", ">Siskin", "-@all", *RIGHTS.split())
            url = of("enough:Siskin", own_redis)
            async with RedisBroker.from_url(url) as broker, RedisRegistry.from_url(url) as registry:
                await broker.create(CHANNEL, capacity=10)
                async with broker.consume(CHANNEL, visibility=LONG) as consumer:
                    waiting = asyncio.create_task(consumer.receive(1, 20.0))
                    await asyncio.sleep(0.1)
                    await broker.publish(CHANNEL, events(2))
                    got = [*await waiting, *await take(consumer, 1)]
                    await consumer.extend(got)
                    await consumer.release(got)
                    await consumer.settle(await take(consumer, 2))
                await broker.seal(CHANNEL)
                assert (await broker.depth([CHANNEL]))[0].settled == 2
                await broker.delete(CHANNEL)
                assert await broker.channels("refusals") == []
                await registry.replace("refusals", Manifest(train="refusals"), expect=0)
                await registry.check_in("refusals", Member(name="a"), ttl=10)
                assert len(await registry.members("refusals")) == 1
                assert await registry.trains() == ["refusals"]

            await redis.execute_command("ACL", "SETUSER", "some", "on", ">Siskin", "-@all", *RIGHTS.split())
            async with RedisBroker.from_url(of("some:Siskin", own_redis)) as broker:
                await broker.create(CHANNEL)
                for change in ("-xadd", "resetkeys", "-@scripting"):
                    await redis.execute_command("ACL", "SETUSER", "some", change)
                    with pytest.raises(StorageBroken, match=r"lacks a right.*xadd|lacks a right.*~eventwagon:\*"):
                        await broker.publish(CHANNEL, events(2))
                    await redis.execute_command("ACL", "SETUSER", "some", *RIGHTS.split())
                assert await standing(broker, CHANNEL) == []
                await redis.execute_command("ACL", "SETUSER", "some", "resetchannels")
            async with (
                RedisBroker.from_url(of("some:Siskin", own_redis)) as broker,
                broker.consume(CHANNEL, visibility=LONG) as consumer,
            ):
                waiting = asyncio.create_task(consumer.receive(1, 20.0))
                await asyncio.sleep(0.2)
                await broker.publish(CHANNEL, events(1))  # a ring that is refused fails nothing
                async with asyncio.timeout(15):
                    assert len(await waiting) == 1

    asyncio.run(main())


def test_memory_is_full(own_redis: RedisServer) -> None:
    async def main() -> None:
        async with raw(own_redis) as redis, RedisBroker.from_url(own_redis.url) as broker:
            await broker.create(CHANNEL)
            await redis.config_set("maxmemory", "3mb")
            accepted = 0
            with pytest.raises(Unavailable, match="memory is full: raise its maxmemory"):
                while accepted < 10_000:
                    await broker.publish(CHANNEL, events(1, size=10_000))
                    accepted += 1
            await redis.config_set("maxmemory", "0")
            assert len(await standing(broker, CHANNEL)) == accepted

    asyncio.run(main())


def test_too_large(tmp_path: Path) -> None:
    """Told before anything is sent where the server tells its limit, and by its refusal where not."""
    with RedisServer(tmp_path, config=["proto-max-bulk-len 1mb"]) as server:

        async def main() -> None:
            async with RedisBroker.from_url(server.url) as broker, raw(server) as redis:
                await broker.create(CHANNEL)
                with pytest.raises(EventTooLarge, match="proto-max-bulk-len=1048576"):
                    await broker.publish(CHANNEL, [*events(2), *events(1, size=3_000_000)])
                await redis.execute_command("ACL", "SETUSER", "some", "on", ">Siskin", "-@all", *RIGHTS.split())
                async with RedisBroker.from_url(of("some:Siskin", server)) as other:
                    with pytest.raises(EventTooLarge, match="proto-max-bulk-len"):
                        await other.publish(CHANNEL, events(1, size=3_000_000))
                assert await standing(broker, CHANNEL) == []
                await broker.publish(CHANNEL, events(3, size=900_000))
                assert len(await standing(broker, CHANNEL)) == 3

        asyncio.run(main())


def test_busy(own_redis: RedisServer) -> None:
    """Somebody else's script holds the server up: not stored, told so."""

    async def main() -> None:
        async with RedisBroker.from_url(own_redis.url) as broker, raw(own_redis) as redis:
            await broker.create(CHANNEL)
            await redis.config_set("busy-reply-threshold", "20")
            endless = asyncio.create_task(redis.eval("while true do end", 0))
            try:
                await asyncio.sleep(0.2)
                with pytest.raises(Unavailable, match="not ready: BUSY"):
                    await broker.publish(CHANNEL, events(1))
            finally:
                async with raw(own_redis) as other:
                    await other.script_kill()
                await asyncio.wait([endless])
                assert endless.exception() is not None
            assert await standing(broker, CHANNEL) == []

    asyncio.run(main())


def test_no_cluster_and_a_cluster(own_redis: RedisServer) -> None:
    async def main() -> None:
        with pytest.raises(StorageBroken, match="leave cluster=true out"):
            async with RedisBroker.from_url(f"{own_redis.url}?cluster=true"):
                pass

    asyncio.run(main())


def test_stream_deleted_by_hand(own_redis: RedisServer) -> None:
    """The rest of the channel stands: neither an empty channel nor silence, nor one that is made anew."""

    async def main() -> None:
        async with RedisBroker.from_url(own_redis.url) as broker, raw(own_redis) as redis:
            await broker.create(CHANNEL)
            await broker.publish(CHANNEL, events(3))
            await redis.delete("eventwagon:{refusals_v1}")
            with pytest.raises(ChannelGone, match="maxmemory-policy"):
                await broker.publish(CHANNEL, events(1))
            with pytest.raises(StorageBroken, match="maxmemory-policy"):
                await broker.create(CHANNEL)
            assert list(await broker.depth([CHANNEL])) == [Depth()]
            assert CHANNEL not in await broker.channels(CHANNEL.train)
            await broker.delete(CHANNEL)
            await broker.create(CHANNEL)

    asyncio.run(main())
