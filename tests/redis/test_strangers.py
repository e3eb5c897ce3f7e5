"""Messages of others in Redis: bad ones, and those of the official CloudEvents package."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from eventwagon.drivers.redis import RedisBroker
from eventwagon.event import Channel
from tests.redis.support import raw
from tests.servers.server import Server
from tests.strangers import Write, Written, batches_hurt_nobody, both_ways, hurt_nobody


@pytest.fixture
def write(redis_server: Server) -> Write:
    async def write(channel: Channel, written: Sequence[Written]) -> None:
        key = f"eventwagon:{{{channel.train}_v1}}{'.' + channel.name if channel.name else ''}"
        async with raw(redis_server) as redis:
            for one in written:
                await redis.xadd(key, {**one.attributes, "data": one.data})

    return write


def test_messages_of_others_end_no_worker_and_no_removal(redis_server: Server, write: Write) -> None:
    hurt_nobody(redis_server.url, write)


def test_messages_that_hold_several_events(redis_server: Server, write: Write) -> None:
    batches_hurt_nobody(redis_server.url, write)


def test_the_official_package_reads_and_writes_ours(redis_server: Server, write: Write) -> None:
    async def read(channel: Channel) -> tuple[dict[str, bytes], bytes]:
        async with raw(redis_server) as redis:
            ((_, fields),) = await redis.xrange(f"eventwagon:{{{channel}}}")
        data = fields.pop(b"data")
        return {name.decode(): value for name, value in fields.items()}, data

    both_ways(lambda: RedisBroker.from_url(redis_server.url), read, write)
