"""What an observer asks Redis for at each look."""

from __future__ import annotations

import asyncio
from contextvars import ContextVar
from secrets import token_hex
from typing import Any

import pytest

from eventwagon import Train, Volume, Workers
from eventwagon.drivers.redis.client import Client
from eventwagon.runtime.observer import Observer
from tests.servers.redis import RedisServer

_trips: ContextVar[list[str] | None] = ContextVar("trips", default=None)
"""What the current look has asked for so far."""


def test_a_look_at_many_wagons_takes_as_many_round_trips_as_at_one(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stand still: each holds an event, and is paused."""
    looks: list[int] = []
    look, send = Observer.look, Client._send  # noqa: SLF001

    async def counted_look(self: Observer, tasks: asyncio.TaskGroup) -> None:
        trips: list[str] = []
        _trips.set(trips)
        await look(self, tasks)
        _trips.set(None)
        looks.append(len(trips))

    async def counted_send(self: Client, key: str, *args: Any) -> Any:
        if (trips := _trips.get()) is not None:
            trips.append(key)
        return await send(self, key, *args)

    monkeypatch.setattr(Observer, "look", counted_look)
    monkeypatch.setattr(Client, "_send", counted_send)

    async def trips_with(wagons: int) -> int:
        """The median of the looks at so many live wagons."""
        train = Train(f"looked{wagons}", limit=Volume(10_000), workers=Workers(each=1), wagons=20)
        train.on(train.name)(_nothing)
        train.on("packed")(_nothing)
        url = f"{redis_server.url}?prefix={token_hex(4)}"
        async with asyncio.timeout(60), train.connect(url, listeners=()) as connection, connection.running():
            for number in range(1, wagons + 1):
                while (active := connection.manifest.active) is None or active.number < number:
                    await asyncio.sleep(0.05)
                await connection.pause("it stands still", wagon=number)
                await connection.publish({"wagon": number})
                if number < wagons:
                    await connection.request_switch()
            assert len(connection.manifest.wagons) == wagons
            looks.clear()
            while len(looks) < 12:
                await asyncio.sleep(0.1)
            return sorted(looks)[len(looks) // 2]

    one, many = asyncio.run(trips_with(1)), asyncio.run(trips_with(12))
    print(one, many, "round trips a look")
    assert one > 0
    assert many == one


async def _nothing(_: object) -> None: ...
