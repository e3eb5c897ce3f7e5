"""What each process of an idle train asks Redis for, where many observe and work."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from secrets import token_hex
from typing import Any

import pytest

from eventwagon import Train, Volume, Workers
from eventwagon.drivers.redis.client import Client
from eventwagon.drivers.redis.registry import RedisRegistry
from tests.servers.redis import RedisServer

_MANY = 6
_CALM = 14.0
"""Seconds until a train that has just begun is idle."""
_SPAN = 8.0


async def _nothing(_: object) -> None: ...


@contextlib.asynccontextmanager
async def _processes(url: str, name: str, count: int) -> Any:
    """So many connections to one train, each as a process of its own would have one."""
    async with contextlib.AsyncExitStack() as stack:
        connections = []
        for _ in range(count):
            train = Train(name, limit=Volume(10), workers=Workers(each=1), spares=1)
            train.on(name)(_nothing)
            connection = await stack.enter_async_context(train.connect(url, listeners=()))
            await stack.enter_async_context(connection.running())
            connections.append(connection)
        yield connections


def test_a_process_asks_for_as_much_where_many_are_idle_as_alone(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands are counted, and members that were read."""
    asked, read = Counter[str](), Counter[str]()
    send, members = Client._send, RedisRegistry.members  # noqa: SLF001

    async def counted_send(self: Client, key: str, *args: Any) -> Any:
        asked.update(name for name in ("alone", "many") if name in key)
        return await send(self, key, *args)

    async def counted_members(self: RedisRegistry, train: str) -> Any:
        read[train] += 1
        return await members(self, train)

    monkeypatch.setattr(Client, "_send", counted_send)
    monkeypatch.setattr(RedisRegistry, "members", counted_members)

    async def scenario() -> None:
        url = f"{redis_server.url}?prefix={token_hex(4)}"
        async with asyncio.timeout(90), _processes(url, "alone", 1), _processes(url, "many", _MANY):
            await asyncio.sleep(_CALM)
            asked.clear()
            read.clear()
            await asyncio.sleep(_SPAN)
            alone, many = asked["alone"], asked["many"] / _MANY
            print(f"{alone / _SPAN:.2f} commands a second alone, {many / _SPAN:.2f} each of {_MANY}")
            assert 0 < many <= 1.3 * alone + 3  # pauses differ by up to a fifth
            assert 0 < read["many"] / _MANY <= 1.3 * read["alone"] + 2

    asyncio.run(scenario())


def test_what_comes_to_a_train_at_rest_is_seen_though_it_comes_from_elsewhere(redis_server: RedisServer) -> None:
    """Its publisher is no member; the train switches, and the publisher hears of it."""

    async def scenario() -> None:
        url = f"{redis_server.url}?prefix={token_hex(4)}"
        async with asyncio.timeout(90), _processes(url, "many", _MANY):
            await asyncio.sleep(_CALM)
            async with Train("many").connect(url, listeners=()) as publisher:
                before = publisher.manifest.active
                assert before is not None
                began = asyncio.get_running_loop().time()
                await publisher.publish_many([{"n": n} for n in range(10)])
                while publisher.manifest.active == before or publisher.manifest.active is None:
                    await asyncio.sleep(0.01)
                print(f"switched after {asyncio.get_running_loop().time() - began:.2f} s")

    asyncio.run(scenario())
