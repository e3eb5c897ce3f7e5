"""A removed train leaves no key."""

from __future__ import annotations

import asyncio
from secrets import token_hex

import pytest

from tests.redis.support import raw
from tests.removed import lives_and_is_removed
from tests.servers.redis import RedisCluster
from tests.servers.server import Server


def test_a_removed_train_leaves_no_key(redis_server: Server) -> None:
    prefix = token_hex(4)

    async def left() -> list[str]:
        async with raw(redis_server) as client:
            return sorted(key.decode() for key in await client.keys(f"{prefix}:*"))

    asyncio.run(lives_and_is_removed("parcels", f"{redis_server.url}?prefix={prefix}", left))


@pytest.mark.slow
def test_nor_in_a_cluster(redis_cluster: RedisCluster) -> None:
    prefix = token_hex(4)

    async def left() -> list[str]:
        found = list[str]()
        for node in redis_cluster.nodes:
            async with raw(node) as client:
                found += [key.decode() for key in await client.keys(f"*{prefix}*")]
        return sorted(found)

    asyncio.run(lives_and_is_removed("parcels", f"{redis_cluster.url}&prefix={prefix}", left))
