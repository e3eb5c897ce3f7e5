"""Where a server is found: by Sentinels, among several hosts, at a Unix socket; and what it calls our connections."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eventwagon import Train
from eventwagon.drivers.redis import RedisBroker
from eventwagon.drivers.redis.client import Client
from eventwagon.drivers.redis.registry import RedisRegistry
from eventwagon.drivers.redis.server import Server as Named
from eventwagon.drivers.redis.server import leave
from eventwagon.errors import BrokerError, StorageBroken, Unavailable
from eventwagon.event import Channel
from tests import doctors
from tests.redis.support import events, standing
from tests.servers.redis import RedisServer, SentinelGroup, ask
from tests.support import until

CHANNEL = Channel("found", 1)


@pytest.fixture(scope="module", params=["redis", "valkey"])
def group(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SentinelGroup]:
    with SentinelGroup(tmp_path_factory.getbasetemp(), valkey=request.param == "valkey") as group:
        yield group


async def until_promoted(group: SentinelGroup, before: RedisServer) -> None:
    def is_promoted() -> bool:
        now = group.primary
        return now is not before and b"role:master" in ask(now.port, "INFO", "replication")

    async with asyncio.timeout(90):
        while not await asyncio.to_thread(is_promoted):
            await asyncio.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["hands over", "is killed"])
def test_a_train_survives_the_failover_of_its_primary(group: SentinelGroup, how: str) -> None:
    """Publishers, workers and observers go on at the promoted replica; all that was accepted is handled, and the next
    switch succeeds. With wait=1 an accepted event is at a replica, and Sentinel promotes the one that has more."""
    name = f"sentinel-{how.replace(' ', '-')}"
    handled, accepted = set[int](), list[int]()
    train = Train(name, observe_every=0.2, member_ttl=5.0, visibility=3.0)

    @train.on(name)
    async def handle(number: int) -> None:
        handled.add(number)

    async def main() -> None:
        # a call waits half of its timeout for a replica, which may be busy with a full sync
        url = f"{group.url}?timeout=10&wait=1&prefix={name}"
        before = group.primary
        await asyncio.to_thread(group.await_replicated, before)
        over = asyncio.Event()
        async with train.connect(url) as worker, worker.running(), Train(name).connect(url) as publisher:

            async def publish() -> None:
                number = 0
                while not over.is_set():
                    number += 1
                    try:
                        await publisher.publish(number, timeout=60.0)
                    except BrokerError:  # unknown: not counted
                        continue
                    accepted.append(number)
                    await asyncio.sleep(0.01)

            async with asyncio.timeout(150), asyncio.TaskGroup() as tasks:
                tasks.create_task(publish())
                await until(lambda: len(handled) >= 20)
                if how == "is killed":
                    await asyncio.to_thread(before.kill)
                else:
                    sentinel = group.sentinels[0].port
                    assert await asyncio.to_thread(ask, sentinel, "SENTINEL", "FAILOVER", group.NAME) == b"+OK\r\n"
                await until_promoted(group, before)
                flowed = len(accepted)
                await until(lambda: len(accepted) >= flowed + 20)
                await publisher.request_switch("after the failover")
                over.set()
            async with asyncio.timeout(60):
                while not handled >= set(accepted):
                    await asyncio.sleep(0.1)
                while (active := (await worker.refresh()).manifest.active) is None or active.number < 2:
                    await asyncio.sleep(0.1)

    try:
        asyncio.run(main())
    finally:
        for server in group.servers:
            server.start()


@pytest.mark.slow
def test_sentinels_that_are_away_or_know_no_such_primary(group: SentinelGroup) -> None:
    async def main() -> None:
        first = group.sentinels[0]
        first.pause()
        try:
            async with asyncio.timeout(20), RedisBroker.from_url(f"{group.url}?timeout=2") as broker:
                await broker.create(CHANNEL)
                await broker.publish(CHANNEL, events(1))
                assert len(await standing(broker, CHANNEL)) == 1
                await broker.delete(CHANNEL)
        finally:
            first.resume()
        unknown = group.url.replace("/mymaster", "/hismaster")
        with pytest.raises(StorageBroken, match="knows no primary of the name 'hismaster'"):
            async with RedisBroker.from_url(unknown):
                pass
        nobody = "redis+sentinel://127.0.0.1:1,127.0.0.1:2/mymaster?timeout=1"
        with pytest.raises(Unavailable, match=r"Redis mymaster of the Sentinels at 127\.0\.0\.1:1,127\.0\.0\.1:2"):
            async with RedisRegistry.from_url(nobody):
                pass

    asyncio.run(main())
    assert not [s for each in doctors.look(group.url).values() for s in each.steps if s.problem]


def test_a_sentinel_taken_for_a_server_and_the_other_way_round(group: SentinelGroup) -> None:
    async def check() -> None:
        sentinel, server = group.sentinels[0], group.primary
        with pytest.raises(StorageBroken, match=r"redis\+sentinel://host:26379/NAME"):
            async with RedisBroker.from_url(f"redis://127.0.0.1:{sentinel.port}?timeout=2") as broker:
                await broker.create(Channel("mixed", 1))
        at = f"127.0.0.1:{server.port}"
        with pytest.raises(
            BrokerError, match=rf"{at} is a server and no Sentinel: take '\+sentinel' and '/{group.NAME}' out"
        ):
            async with RedisBroker.from_url(f"redis+sentinel://{at}/{group.NAME}?timeout=2") as broker:
                await broker.create(Channel("mixed", 1))

    asyncio.run(check())


def test_no_cancellation_is_lost_while_the_primary_is_looked_for(group: SentinelGroup) -> None:
    """redis-py loses some where a connection has a `socket_timeout`; who closes then would wait for ever."""

    async def main() -> None:
        server = Named.from_url(group.url)
        for turns in range(200):
            connection: Any = server.connection()
            task = asyncio.create_task(connection.connect())
            for _ in range(turns % 100):
                await asyncio.sleep(0)
            was_cancelled = task.cancel()
            await asyncio.wait([task])
            assert task.cancelled() == was_cancelled, turns
            await leave(connection)

    asyncio.run(main())


def test_of_several_hosts_the_primary_is_taken(group: SentinelGroup) -> None:
    """Replicas, and hosts at which nobody listens, are passed over."""

    async def main() -> None:
        places = ",".join(f"127.0.0.1:{server.port}" for server in group.servers)
        async with RedisBroker.from_url(f"redis://127.0.0.1:1,{places}/3") as broker:
            await broker.create(CHANNEL)
            await broker.delete(CHANNEL)
        replicas = ",".join(f"127.0.0.1:{s.port}" for s in group.servers if s is not group.primary)
        with pytest.raises(Unavailable, match="is a replica, which takes no writes"):
            async with RedisBroker.from_url(f"redis://{replicas}"):
                pass

    asyncio.run(main())


def test_a_unix_socket_and_the_name_of_connections(tmp_path: Path) -> None:
    socket = str(tmp_path / "s")
    with RedisServer(tmp_path, config=[f"unixsocket {socket}", "requirepass hunter2-unix"]) as server:

        async def main() -> None:
            url = f"redis+unix://:hunter2-unix@{socket}?db=2"
            async with (
                RedisBroker.from_url(url) as broker,
                RedisRegistry.from_url(f"{url}&client_name=mine") as registry,
            ):
                assert "hunter2" not in broker.server.where
                await broker.create(CHANNEL)
                await registry.trains()
                async with broker.consume(CHANNEL, visibility=60.0):
                    found = await names(url)
                    own = f"eventwagon/{os.uname().nodename}-{os.getpid()}"
                    assert {"mine", own} <= found
                await broker.delete(CHANNEL)

        asyncio.run(main())
        valkey = doctors.look(f"valkey+unix://:hunter2-unix@{socket}")
        assert not [step for each in valkey.values() for step in each.steps if step.problem]
        assert ask(server.port, "PING").startswith(b"-NOAUTH")


async def names(url: str) -> set[str]:
    """The names of the server's connections."""
    async with Client(Named.from_url(url)) as client:
        answer = await client.command("asking", "", "CLIENT", "LIST")
    return {part.partition("=")[2] for part in answer.decode().split() if part.startswith("name=")}
