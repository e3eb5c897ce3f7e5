"""Many trains of one process on one Redis: they share its connections, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from eventwagon import Connection, Train
from tests.redis.support import raw
from tests.servers.redis import RedisServer
from tests.servers.server import Server
from tests.support import until

_MOST = 6
"""Connections for any number of trains: three for events, and as many for manifests and members."""


@asynccontextmanager
async def running(url: str, name: str, handled: list[str]) -> AsyncIterator[Connection]:
    train = Train(name, publish_timeout=20.0)

    @train.on(name)
    async def handle(payload: str) -> None:
        handled.append(f"{name} {payload}")

    async with train.connect(url, listeners=()) as connection, connection.running():
        await connection.found()
        yield connection


async def connections(server: Server, own: str) -> int:
    """How many there are of that name."""
    async with raw(server) as client:
        return sum(each["name"] == own for each in await client.client_list())


def url_of(server: Server, own: str) -> str:
    return f"{server.url}?prefix={own}&client_name={own}"


def test_forty_idle_trains_share_their_connections_and_leave_none(redis_server: Server) -> None:
    async def main() -> None:
        url, handled = url_of(redis_server, "many"), list[str]()
        before = asyncio.all_tasks()
        async with AsyncExitStack() as stack:
            trains = [await stack.enter_async_context(running(url, f"many{n}", handled)) for n in range(40)]
            await asyncio.sleep(2.0)
            assert 0 < await connections(redis_server, "many") <= _MOST
            await asyncio.gather(*(train.publish("x") for train in trains))
            await until(lambda: len(handled) == 40)
            assert await connections(redis_server, "many") <= _MOST
        assert await connections(redis_server, "many") == 0
        assert asyncio.all_tasks() == before

    asyncio.run(main())


def test_a_train_that_closes_takes_nothing_from_the_others(redis_server: Server) -> None:
    async def main() -> None:
        url, handled = url_of(redis_server, "closing"), list[str]()
        async with running(url, "stays", handled) as stays:
            for turn in range(3):
                async with running(url, f"goes{turn}", handled) as goes:
                    await goes.publish("x")
                    publishing = [asyncio.create_task(stays.publish(f"{turn} {n}")) for n in range(200)]
                await asyncio.gather(*publishing)
            await until(lambda: sum(each.startswith("stays") for each in handled) == 600)

    asyncio.run(main())


def test_a_train_whose_keys_hold_something_else_harms_no_other(redis_server: Server) -> None:
    async def main() -> None:
        url, handled = url_of(redis_server, "harmed"), list[str]()
        async with running(url, "harmed", handled), running(url, "whole", handled) as whole:
            async with raw(redis_server) as client:
                await client.set("harmed:{harmed_v1}", "not a stream")
                await client.set("harmed:{harmed}:manifest", "not a hash")
            await whole.publish("x")
            await until(lambda: handled == ["whole x"])
            async with raw(redis_server) as client:
                await client.delete("harmed:{harmed_v1}", "harmed:{harmed}:manifest")

    asyncio.run(main())


def test_all_trains_go_on_after_the_server_was_restarted(own_redis: RedisServer) -> None:
    async def main() -> None:
        url, handled = url_of(own_redis, "anew"), list[str]()
        async with AsyncExitStack() as stack:
            names = [f"anew{n}" for n in range(6)]
            trains = [await stack.enter_async_context(running(url, name, handled)) for name in names]
            await asyncio.gather(*(train.publish("before") for train in trains))
            await until(lambda: len(handled) == 6)
            await asyncio.sleep(1.5)  # what was accepted is on the disk
            await asyncio.to_thread(own_redis.kill)
            publishing = [asyncio.create_task(train.publish("after")) for train in trains]
            await asyncio.sleep(0.5)
            await asyncio.to_thread(own_redis.start)
            await asyncio.gather(*publishing)
            await until(lambda: {f"{name} after" for name in names} <= {*handled})
            assert await connections(own_redis, "anew") <= _MOST

    asyncio.run(main())


def test_somebody_cancels_all_tasks_that_are_not_his(redis_server: Server) -> None:
    """The connections are opened again for those that come after."""

    async def main() -> None:
        url, handled = url_of(redis_server, "cancelled"), list[str]()
        async with running(url, "cancelled", handled) as train:
            for task in asyncio.all_tasks():
                if task.get_name().startswith(("wire to", "notifier")):
                    task.cancel()
            await train.publish("x")
            await until(lambda: handled == ["cancelled x"])

    asyncio.run(main())
