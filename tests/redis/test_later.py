"""Events for later on Redis: processes that are killed, a server that is away, full, or restarted, keys of others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eventwagon.drivers.redis import RedisBroker
from eventwagon.errors import StorageBroken, Unavailable
from eventwagon.event import Event
from tests.redis.support import raw
from tests.scenarios.test_later_processes import handled_in, nothing_is_lost_by_kills
from tests.servers.redis import RedisServer
from tests.servers.server import Server


def test_nothing_is_lost_by_kills(redis_server: Server, tmp_path: Path) -> None:
    asyncio.run(nothing_is_lost_by_kills(f"{redis_server.url}?prefix=kills", handled_in(tmp_path)))


def test_what_is_kept_survives_the_server(own_redis: RedisServer) -> None:
    async def main() -> None:
        async with RedisBroker.from_url(own_redis.url) as broker:
            now = await broker.timetable.now("t")
            event = Event("one", "happened", "/t", now - 1.0, b"1")
            await broker.timetable.add("t", [event])
            await asyncio.to_thread(own_redis.kill)
            with pytest.raises(Unavailable):
                await broker.timetable.claim("t", limit=5, most_bytes=1000, lease=5.0)
            await asyncio.to_thread(own_redis.start)
            due = await broker.timetable.claim("t", limit=5, most_bytes=1000, lease=5.0)
            assert list(due.events) == [event]

    asyncio.run(main())


def test_entries_and_keys_of_others(redis_server: Server) -> None:
    """An entry that can't be read goes on as one that can't be decoded; a key of another kind is left alone."""

    async def main() -> None:
        async with RedisBroker.from_url(f"{redis_server.url}?prefix=others") as broker, raw(redis_server) as client:
            base = "others:{t}:later"
            await client.zadd(base, {b" strange": 5, b"mail \xff": 6, b" gone": 7})
            await client.hset(f"{base}:events", mapping={b" strange": b"\x00junk", b"mail \xff": b""})
            due = await broker.timetable.claim("t", limit=5, most_bytes=1000, lease=5.0)
            assert [(e.id, e.data, e.extensions.get("laterchannel")) for e in due.events] == [
                ("strange", b"\x00junk", None),
                ("\ufffd", b"", "mail"),
            ]
            assert all("undecodable" in event.extensions for event in due.events)
            assert (await broker.timetable.waiting("t")).count == 2
            await broker.timetable.remove("t", due.keys, until=due.until)
            assert (await broker.timetable.waiting("t")).count == 0
            await client.hset(f"{base}:series", mapping={b"s": b"5.5", b"\xff": b"7", b"t": b"junk", b"u": b"nan"})
            assert await broker.timetable.latest_of_all("t") == {"s": 5.5, "\\xff": 7.0}
            await client.set("others:{u}:later", "a string")
            for call in (
                broker.timetable.add("u", [Event("one", "happened", "/t", 5.0, b"1")]),
                broker.timetable.claim("u", limit=5, most_bytes=1000, lease=5.0),
            ):
                with pytest.raises(StorageBroken, match=r"others:\{u\}:later holds a string"):
                    await call
            assert await client.get("others:{u}:later") == b"a string"

    asyncio.run(main())
