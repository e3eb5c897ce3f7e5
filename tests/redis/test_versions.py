"""The manifest's version in Redis is a field (`revision`) that others may write."""

from __future__ import annotations

import asyncio
from secrets import token_hex

import pytest

from eventwagon.contracts.manifest import Manifest
from eventwagon.drivers.redis.registry import RedisRegistry
from eventwagon.errors import StorageBroken
from tests.redis.support import raw
from tests.servers.server import Server


@pytest.mark.parametrize("revision", ["", "abc", "-5", "1.5", "9" * 25, "nan", b"\xff", "1e3"])
def test_what_is_no_revision_is_told_and_nothing_is_written(redis_server: Server, revision: str | bytes) -> None:
    prefix = token_hex(4)

    async def main() -> None:
        async with (
            RedisRegistry.from_url(f"{redis_server.url}?prefix={prefix}") as registry,
            raw(redis_server) as client,
        ):
            await registry.replace("t", Manifest(train="t"), expect=0)
            key = f"{prefix}:{{t}}:manifest"
            await client.hset(key, "revision", revision)
            before = await client.hgetall(key)
            with pytest.raises(StorageBroken, match="revision of the manifest is no version"):
                await registry.read("t")
            for expect in (0, 1):
                with pytest.raises(StorageBroken, match="revision of the manifest is no version"):
                    await registry.replace("t", Manifest(train="t"), expect=expect)
            assert await client.hgetall(key) == before

    asyncio.run(main())
