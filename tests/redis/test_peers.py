"""What asking who is there costs in a train of many processes."""

from __future__ import annotations

import asyncio
from secrets import token_hex

from eventwagon.contracts.registry import Member, Peer
from eventwagon.drivers.redis.registry import RedisRegistry
from tests.servers.redis import RedisServer

from .support import raw

_MANY = 200


def test_asking_who_is_there_costs_the_same_with_many_processes(redis_server: RedisServer) -> None:
    async def answered(members: int) -> float:
        """Bytes of an answer, while nothing changes."""
        async with (
            RedisRegistry.from_url(f"{redis_server.url}?prefix={token_hex(4)}") as registry,
            raw(redis_server) as client,
        ):
            for n in range(members):
                await registry.check_in("goods", Member(name=f"p{n}", roles=("work",), held=n), ttl=600.0)
            assert len(await registry.peers("goods")) == members
            before = (await client.info("stats"))["total_net_output_bytes"]
            for _ in range(20):
                assert len(await registry.peers("goods")) == members
            after = (await client.info("stats"))["total_net_output_bytes"]
            return float(after - before) / 20

    few, many = asyncio.run(answered(1)), asyncio.run(answered(_MANY))
    assert many < few + 20


def test_a_check_in_that_says_nothing_new_of_its_process_is_no_news(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with RedisRegistry.from_url(f"{redis_server.url}?prefix={token_hex(4)}") as registry:
            await registry.check_in("goods", Member(name="p", roles=("work",)), ttl=600.0)
            found = await registry.peers("goods")
            assert found == (Peer("p", ("work",), ""),)
            await registry.check_in("goods", Member(name="p", roles=("work",), held=3), ttl=600.0)
            assert await registry.peers("goods") is found

    asyncio.run(scenario())


def test_processes_of_a_release_that_lists_no_peers_are_among_them(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        prefix = token_hex(4)
        async with (
            RedisRegistry.from_url(f"{redis_server.url}?prefix={prefix}") as registry,
            raw(redis_server) as client,
        ):
            await registry.check_in("goods", Member(name="new", roles=("work",)), ttl=600.0)
            assert [p.name for p in await registry.peers("goods")] == ["new"]
            keys = f"{prefix}:{{goods}}"
            await client.hset(f"{keys}:members", "old", b'{"name":"old","roles":["work"]}')
            await client.zadd(f"{keys}:alive", {"old": 1e15})
            assert [p.name for p in await registry.peers("goods")] == ["new", "old"]
            await client.delete(f"{keys}:peers")  # evicted
            assert [p.name for p in await registry.peers("goods")] == ["new", "old"]

    asyncio.run(scenario())
