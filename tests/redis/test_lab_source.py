"""A live stream looked at by the lab: all of its entries, and nothing changes there."""

from __future__ import annotations

import asyncio
import time
from secrets import token_hex
from typing import Any

import pytest
from redis.asyncio import Redis

from eventwagon.errors import StorageBroken, UsageError
from eventwagon.lab.sources.reading import read, source_at
from eventwagon.lab.sources.recorded import Recorded
from tests.servers.server import Server


async def look(url: str, last: float = 3600.0, rate: int = 10**9) -> Recorded:
    return await read(source_at(url, field=""), last=last, rate=rate, say=lambda _: None)


def test_a_live_stream_is_only_read(redis_server: Server) -> None:
    async def main() -> None:
        name = f"orders-{token_hex(4)}"
        async with Redis.from_url(redis_server.url) as redis:
            now = time.time()
            for number in range(2500):
                await redis.xadd(name, {"data": "x" * 10, "n": "1"}, id=f"{int((now - 5000) * 1000) + number * 1000}-0")
            await redis.xgroup_create(name, "workers", "0")
            before: Any = await redis.xinfo_stream(name, full=True)
            found = await look(redis_server.url.rpartition("/")[0] + f"/{name}")
            assert await redis.xinfo_stream(name, full=True) == before
            assert 1090 <= len(found) <= 1110  # the last hour of them
            assert set(found.sizes) == {16.0}
            assert found.arrivals[:3] == pytest.approx([0.0, 1.0, 2.0], abs=1e-6)

    asyncio.run(main())


def test_it_reads_no_faster_than_asked(redis_server: Server) -> None:
    async def main() -> None:
        name = f"orders-{token_hex(4)}"
        async with Redis.from_url(redis_server.url) as redis:
            for _ in range(3):
                await redis.xadd(name, {"a": "b"})
        began = time.monotonic()
        assert len(await look(redis_server.url.rpartition("/")[0] + f"/{name}", rate=10)) == 3
        assert time.monotonic() - began >= 0.3

    asyncio.run(main())


def test_no_stream_and_no_such_stream(redis_server: Server) -> None:
    async def main() -> None:
        name = f"text-{token_hex(4)}"
        base = redis_server.url.rpartition("/")[0]
        async with Redis.from_url(redis_server.url) as redis:
            await redis.set(name, "x")
        with pytest.raises(StorageBroken, match=f"stream {name}: .*wrong kind"):
            await look(f"{base}/{name}")
        with pytest.raises(UsageError, match="has no records in the last 3,600 s"):
            await look(f"{base}/nothing-{name}")

    asyncio.run(main())
