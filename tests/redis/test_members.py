"""What reading the members costs in a train of many processes, and that nothing new is missed."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from secrets import token_hex
from typing import Any

import pytest

from eventwagon.contracts.registry import Member
from eventwagon.drivers.redis.registry import RedisRegistry
from tests.servers.redis import RedisServer

from .support import raw

_MANY = 200


def test_reading_the_members_costs_the_same_with_many_processes(redis_server: RedisServer) -> None:
    async def answered(members: int) -> float:
        """Bytes of an answer, while they say nothing new."""
        async with (
            RedisRegistry.from_url(f"{redis_server.url}?prefix={token_hex(4)}") as registry,
            raw(redis_server) as client,
        ):
            said = [Member(name=f"p{n}", roles=("work",), held=n) for n in range(members)]
            for member in said:
                await registry.check_in("goods", member, ttl=600.0)
            assert len(await registry.members("goods")) == members
            before = (await client.info("stats"))["total_net_output_bytes"]
            for _ in range(20):
                assert len(await registry.members("goods")) == members
            after = (await client.info("stats"))["total_net_output_bytes"]
            for member in said:  # they check in again: that is no news
                await registry.check_in("goods", member, ttl=600.0)
            found = await registry.members("goods")
            assert await registry.members("goods") is found
            return float(after - before) / 20

    few, many = asyncio.run(answered(1)), asyncio.run(answered(_MANY))
    assert many < few + 20


_Act = Callable[[Any, str], Awaitable[Any]]


async def _old_process_joins(client: Any, keys: str) -> None:
    """As an older release checks in, which writes no news."""
    await client.hset(f"{keys}:members", "old", b'{"name":"old","held":1}')
    await client.zadd(f"{keys}:alive", {"old": 1e15})
    await client.hset(f"{keys}:peers", mapping={"old": '["old",[],""]', "": "1.1"})


async def _old_process_says_more(client: Any, keys: str) -> None:
    await client.hset(f"{keys}:members", "old", b'{"name":"old","held":2}')


async def _old_process_takes_the_place_of_a_new_one(client: Any, keys: str) -> None:
    """It removes one that has expired, and knows nothing of its news: there are as many news as members."""
    await client.zrem(f"{keys}:alive", "b")
    await client.hdel(f"{keys}:members", "b")
    await client.hdel(f"{keys}:peers", "b")
    await _old_process_joins(client, keys)


def _evicted(key: str) -> _Act:
    async def act(client: Any, keys: str) -> None:
        await client.delete(f"{keys}:{key}")

    return act


@pytest.mark.parametrize(
    "acts",
    [
        [_old_process_joins, _old_process_says_more],
        [_old_process_takes_the_place_of_a_new_one, _old_process_says_more],
        [_evicted("news")],
        [_evicted("peers")],
        [_evicted("alive")],
    ],
)
def test_who_has_read_before_finds_what_who_reads_first_finds(redis_server: RedisServer, acts: list[_Act]) -> None:
    async def scenario() -> None:
        prefix = token_hex(4)
        url = f"{redis_server.url}?prefix={prefix}"
        async with RedisRegistry.from_url(url) as registry, raw(redis_server) as client:

            async def same() -> None:
                async with RedisRegistry.from_url(url) as new:
                    assert list(await registry.members("goods")) == list(await new.members("goods"))

            for name in ("a", "b", "c"):
                await registry.check_in("goods", Member(name=name), ttl=600.0)
            await same()
            for act in acts:
                await act(client, f"{prefix}:{{goods}}")
                await same()
            for held in (1, 2):
                await registry.check_in("goods", Member(name="a", held=held), ttl=600.0)
                await same()
                assert next(m.held for m in await registry.members("goods") if m.name == "a") == held

    asyncio.run(scenario())


def test_nothing_new_is_missed(redis_server: RedisServer) -> None:
    """Whatever members do, who has read them before finds what was said last."""

    async def scenario(seed: int) -> None:
        rng, said = random.Random(seed), dict[str, Member]()
        url = f"{redis_server.url}?prefix={token_hex(4)}"
        async with RedisRegistry.from_url(url) as registry, RedisRegistry.from_url(url) as other:
            for _ in range(60):
                member = Member(name=rng.choice("abcd"), held=rng.randint(0, 1), roles=rng.choice([(), ("work",)]))
                ttl = rng.choice([0.0, 600.0, 600.0])
                await rng.choice([registry, other]).check_in("goods", member, ttl=ttl)
                said.pop(member.name, None)
                if ttl:
                    said[member.name] = member
                for each in (registry, other):
                    if rng.random() < 0.6:
                        assert list(await each.members("goods")) == [said[name] for name in sorted(said)]

    for seed in range(5):
        asyncio.run(scenario(seed))


def test_who_expires_is_gone_though_nobody_has_said_anything_since(redis_server: RedisServer) -> None:
    async def scenario() -> None:
        async with RedisRegistry.from_url(f"{redis_server.url}?prefix={token_hex(4)}") as registry:
            await registry.check_in("goods", Member(name="a"), ttl=600.0)
            await registry.check_in("goods", Member(name="b"), ttl=0.3)
            assert [m.name for m in await registry.members("goods")] == ["a", "b"]
            async with asyncio.timeout(10):
                while [m.name for m in await registry.members("goods")] != ["a"]:
                    await asyncio.sleep(0.05)
            await registry.check_in("goods", Member(name="b", held=1), ttl=600.0)
            assert [m.held for m in await registry.members("goods")] == [0, 1]

    asyncio.run(scenario())
