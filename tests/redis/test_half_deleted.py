"""A crash between the two steps of a delete: the channel is gone and still listed. And keys of others in the place of a
train's own."""

from __future__ import annotations

import asyncio
from secrets import token_hex

import pytest

from eventwagon.contracts.broker import Depth
from eventwagon.contracts.facts import Entry, StopRequested
from eventwagon.contracts.manifest import Manifest
from eventwagon.drivers.redis import RedisBroker
from eventwagon.drivers.redis.registry import RedisRegistry
from eventwagon.errors import StorageBroken
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


@pytest.mark.parametrize("part", ["manifest", "journal", "members", "alive", "news"])
def test_a_key_in_the_place_of_a_train_s_own_is_never_deleted(
    redis_server: Server, caplog: pytest.LogCaptureFixture, part: str
) -> None:
    """What would need it is refused whole: a manifest is not stored without its entries."""

    async def main(prefix: str) -> None:
        entries = [Entry(0.0, "me", StopRequested(train="t", because=""))]
        async with RedisRegistry.from_url(f"{redis_server.url}?prefix={prefix}") as registry:
            stored = await registry.replace("t", Manifest(train="t"), expect=0, entries=entries)
            key = f"{prefix}:{{t}}:{part}"
            ask(redis_server.port, "DEL", key)
            ask(redis_server.port, "SET", key, "theirs")
            if part in ("manifest", "journal"):
                with pytest.raises(StorageBroken, match="holds something else"):
                    await registry.replace("t", Manifest(train="t", stops=1), expect=stored.version, entries=entries)
            if part == "journal":
                assert await registry.read("t") == stored
            await registry.delete("t")
        assert ask(redis_server.port, "GET", key) == b"$6\r\ntheirs\r\n"
        assert f"the key {key} (a string) is left alone" in caplog.text
        assert ask(redis_server.port, "KEYS", f"{prefix}:{{t}}:*").startswith(b"*1\r\n")

    asyncio.run(main(f"p{token_hex(4)}"))
