"""Messages of others in Redis: bad ones, and those of the official CloudEvents package."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from secrets import token_hex

from eventwagon.brokers.redis import RedisBroker
from eventwagon.event import Channel
from tests.servers.server import Server
from tests.strangers import (
    BINARY_ONES,
    LATIN_1,
    OURS,
    STRUCTURED_ONES,
    Written,
    beside_ours,
    by_package,
    read_by_package,
    same_to_package,
    same_to_us,
)

from .support import raw, standing


def test_messages_of_others_end_no_worker_and_no_removal(redis_server: Server) -> None:
    async def write(channel: Channel, written: Sequence[Written]) -> None:
        async with raw(redis_server) as redis:
            for one in written:
                await redis.xadd(
                    f"eventwagon:{{{channel.train}_v1}}{'.dead' if channel.name else ''}",
                    {**one.attributes, "data": one.data},
                )

    bad = [LATIN_1, BINARY_ONES[3], STRUCTURED_ONES[1]]
    written = [LATIN_1, *BINARY_ONES, *STRUCTURED_ONES]
    asyncio.run(beside_ours(f"t{token_hex(5)}", redis_server.url, write, written, bad))


def test_the_official_package_reads_and_writes_ours(redis_server: Server) -> None:
    async def main() -> None:
        channel = Channel(f"t{token_hex(5)}", 1)
        async with RedisBroker.from_url(redis_server.url) as broker, raw(redis_server) as redis:
            await broker.create(channel)
            key = f"eventwagon:{{{channel}}}"
            await broker.publish(channel, [OURS])
            ((place, fields),) = await redis.xrange(key)
            data = fields.pop(b"data")
            same_to_package(read_by_package({name.decode(): value for name, value in fields.items()}, data))
            await redis.xdel(key, place)
            for structured in (False, True):
                places = [
                    await redis.xadd(key, {**one.attributes, "data": one.data})
                    for one in by_package(structured=structured)
                ]
                same_to_us(await standing(broker, channel))
                await redis.xdel(key, *places)
            await broker.delete(channel)

    asyncio.run(main())
