"""Wagons that come and go on Redis."""

from __future__ import annotations

import asyncio
from secrets import token_hex
from typing import NamedTuple

import pytest

from tests.servers.redis import RedisServer
from tests.wagons_gone import wagons_gone

from .support import raw


class _Held(NamedTuple):
    keys: int
    memory: int
    commands: float
    """Per second, of an idle process."""


async def _held(server: RedisServer) -> _Held:
    async with raw(server) as client:
        await asyncio.sleep(1)  # what was under way when the last wagon went
        before = await client.info()
        await asyncio.sleep(3)
        after = await client.info()
        done = after["total_commands_processed"] - before["total_commands_processed"]
        return _Held(await client.dbsize(), after["used_memory"], done / 3)


@pytest.mark.parametrize(
    ("first", "last"),
    [
        pytest.param(60, 300, marks=pytest.mark.timeout(300)),
        pytest.param(1_000, 10_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_nothing_grows_with_the_wagons_that_were(own_redis: RedisServer, first: int, last: int) -> None:
    url, name = f"{own_redis.url}?prefix={token_hex(4)}", "goods"
    before, after = asyncio.run(wagons_gone(url, name, first=first, last=last, server=lambda: _held(own_redis)))
    print(f"after {first:,} wagons {before}; after {last:,} {after}")
    assert isinstance(before.server, _Held)
    assert isinstance(after.server, _Held)
    assert after.server.keys == before.server.keys
    assert after.server.memory < before.server.memory * 1.1
    assert after.server.commands < before.server.commands * 1.3
    assert after.threads <= before.threads
    assert after.blocks < before.blocks * 1.02
