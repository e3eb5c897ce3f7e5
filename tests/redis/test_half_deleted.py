"""A crash between the two steps of a delete: the channel is gone and still listed."""

from __future__ import annotations

import asyncio

from eventwagon.contracts.broker import Depth
from eventwagon.drivers.redis import RedisBroker
from eventwagon.event import Channel
from tests.servers.redis import ask
from tests.servers.server import Server


def test_a_channel_that_is_only_listed_does_not_count(redis_server: Server) -> None:
    async def main() -> None:
        gone, stands = Channel("halfway", 5, "confirm"), Channel("halfway", 5, "dead")
        async with RedisBroker.from_url(f"{redis_server.url}?prefix=half") as broker:
            await broker.create(gone)
            await broker.create(stands)
            for key in ("", ":meta", ":back", ":taken"):
                ask(redis_server.port, "DEL", f"half:{{halfway_v5}}.confirm{key}")
            assert list(await broker.depth([gone])) == [Depth()]
            assert await broker.channels("halfway") == [stands]
            await broker.delete(gone)
            await broker.delete(stands)
            assert await broker.channels("halfway") == []
            assert ask(redis_server.port, "EXISTS", "half:{halfway}:channels") == b":0\r\n"

    asyncio.run(main())
