"""`once=` on Redis: processes that are killed, keys of others."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from eventwagon.contracts.once import Standing
from eventwagon.drivers.redis import RedisBroker
from eventwagon.errors import StorageBroken
from tests.redis.support import raw
from tests.scenarios.test_once_processes import a_late_record_is_not_a_later_trains, each_is_handled_once
from tests.servers.server import Server


def test_each_is_handled_once(redis_server: Server, tmp_path: Path) -> None:
    (handled := tmp_path / "handled").mkdir()
    asyncio.run(each_is_handled_once(f"{redis_server.url}?prefix=once", handled))


def test_a_late_record_is_not_a_later_trains(
    redis_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (handled := tmp_path / "handled").mkdir()
    monkeypatch.setenv("HANDLED", str(handled))
    asyncio.run(a_late_record_is_not_a_later_trains(f"{redis_server.url}?prefix=late", handled))


def test_a_key_of_others_is_left_alone(redis_server: Server) -> None:
    async def main() -> None:
        async with RedisBroker.from_url(f"{redis_server.url}?prefix=strange") as broker, raw(redis_server) as r:
            await r.set("strange:{t}:once", "mine")
            with pytest.raises(StorageBroken, match=r"strange:\{t\}:once holds a string"):
                await broker.once.claim("t", [b"k" * 16], holder="one", lease=5.0)
            await broker.once.clear("t")
            assert await r.get("strange:{t}:once") == b"mine"
            await r.delete("strange:{t}:once")
            found = await broker.once.claim("t", [b"k" * 16], holder="one", lease=5.0)
            assert list(found) == [Standing.OURS]
            await broker.once.clear("t")
            assert not await r.keys("strange:{t}:*")

    asyncio.run(main())


def test_a_record_that_nobody_writes_to_ends_with_its_window(redis_server: Server) -> None:
    async def main() -> None:
        async with RedisBroker.from_url(f"{redis_server.url}?prefix=ends") as broker, raw(redis_server) as r:
            keys = [f"ends:{{t}}:once{part}" for part in ("", ":claimed", ":holders")]
            await broker.once.claim("t", [b"k" * 16, b"l" * 16], holder="one", lease=50.0)
            await broker.once.record("t", [b"k" * 16], window=100.0)
            await broker.once.record("t", [b"m" * 16], window=20.0)  # the longer window counts
            for key, seconds in zip(keys, (100, 50, 50), strict=True):
                assert seconds - 10 < await r.ttl(key) <= seconds + 2
            await broker.once.clear("t")

    asyncio.run(main())
