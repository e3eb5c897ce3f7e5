"""A cluster: keys that move while events flow, nodes that go and come back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from redis.crc import key_slot

from eventwagon import Train, Volume, Workers
from eventwagon.drivers.redis import RedisBroker
from eventwagon.errors import PublishUncertain, StorageBroken, Unavailable
from eventwagon.event import Channel
from tests.redis.support import LONG, events, raw
from tests.servers.ports import free_port
from tests.servers.redis import RedisCluster, RedisServer

CHANNEL = Channel("cluster", 1)
STREAM = "eventwagon:{cluster_v1}"


async def owners(cluster: RedisCluster, slot: int) -> tuple[Any, Any]:
    """The node that serves the slot, and another."""
    async with raw(cluster.nodes[0]) as redis:
        shares = await redis.execute_command("CLUSTER", "SLOTS")
    ports = {node.port: node for node in cluster.nodes}
    here = next(ports[share[2][1]] for share in shares if share[0] <= slot <= share[1])
    return here, next(node for node in cluster.nodes if node is not here)


def test_keys_move_while_events_flow(redis_cluster: RedisCluster) -> None:
    """A slot is migrated, back and forth: nobody notices."""

    async def move(slot: int) -> None:
        here, there = await owners(redis_cluster, slot)
        async with raw(here) as source, raw(there) as target:
            ids = {node: (await node.execute_command("CLUSTER", "MYID")).decode() for node in (source, target)}
            await target.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
            await source.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
            await asyncio.sleep(0.05)
            while keys := await source.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 2):
                await source.execute_command("MIGRATE", there.host, there.port, "", 0, 5000, "KEYS", *keys)
                await asyncio.sleep(0.01)
            for node in (target, source):
                await node.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])

    async def main() -> None:
        accepted: set[str] = set()
        handled: list[str] = []
        async with (
            RedisBroker.from_url(redis_cluster.url) as broker,
            RedisBroker.from_url(redis_cluster.url) as other,
        ):
            await broker.create(CHANNEL)

            async def publish() -> None:
                while not moving.done():
                    batch = events(3)
                    try:
                        await broker.publish(CHANNEL, batch)
                        accepted.update(e.id for e in batch)
                    except Unavailable:  # half of the keys were here, half there, for too long
                        await asyncio.sleep(0.01)

            async def consume() -> None:
                async with other.consume(CHANNEL, visibility=2.0) as consumer:
                    while not moving.done() or len(set(handled)) < len(accepted):
                        try:
                            got = await consumer.receive(20, 0.1)
                            await consumer.settle(got)
                            handled.extend(d.event.id for d in got)
                        except Unavailable:
                            await asyncio.sleep(0.01)

            async def several() -> None:
                for _ in range(3):
                    await move(key_slot(STREAM.encode()))

            async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
                moving = tasks.create_task(several())
                tasks.create_task(publish())
                tasks.create_task(consume())
            assert set(handled) == accepted
            (depth,) = await broker.depth([CHANNEL])
            assert depth.published == depth.settled == len(accepted)
            there, _ = await owners(redis_cluster, key_slot(STREAM.encode()))
            async with raw(there) as redis:
                calls = (await redis.info("commandstats")).get("cmdstat_asking", {"calls": 0})["calls"]
                await asyncio.gather(*(broker.depth([CHANNEL]) for _ in range(10)))  # it knows the slot's new place
                assert (await redis.info("commandstats")).get("cmdstat_asking", {"calls": 0})["calls"] == calls
            await broker.delete(CHANNEL)

    asyncio.run(main())


def test_a_node_goes_and_comes_back(redis_cluster: RedisCluster) -> None:
    async def main() -> None:
        node, _ = await owners(redis_cluster, key_slot(STREAM.encode()))
        async with raw(node) as redis:
            await redis.config_set("appendfsync", "always")  # else a busy disk puts writing off, and kill -9 loses it
        async with RedisBroker.from_url(f"{redis_cluster.url}&timeout=1") as broker:
            await broker.create(CHANNEL)
            await broker.publish(CHANNEL, events(5))
            async with broker.consume(CHANNEL, visibility=LONG) as consumer:
                await asyncio.to_thread(node.kill)
                for _ in range(3):
                    with pytest.raises((Unavailable, PublishUncertain)):
                        await broker.publish(CHANNEL, events(1))
                    with pytest.raises(Unavailable):
                        await consumer.receive(1, 0.1)
                await asyncio.to_thread(redis_cluster.heal)
                assert len(await consumer.receive(5, 5.0)) == 5
                await broker.publish(CHANNEL, events(1))
            await broker.delete(CHANNEL)

    asyncio.run(main())


def test_a_train(redis_cluster: RedisCluster) -> None:
    """Wagons lie on all nodes, the manifest on one."""
    train = Train("spread", limit=Volume(50), workers=Workers(total=4), spares=1)
    handled: set[int] = set()

    @train.on("spread")
    async def handle(number: int) -> None:
        handled.add(number)

    async def main() -> None:
        async with train.connect(redis_cluster.url, listeners=()) as connection, connection.running():
            await connection.publish_many(range(500))
            async with asyncio.timeout(60):
                while len(handled) < 500:
                    await asyncio.sleep(0.02)

    asyncio.run(main())


def test_without_saying_so(redis_cluster: RedisCluster) -> None:
    async def main() -> None:
        with pytest.raises(StorageBroken, match="add cluster=true"):
            async with RedisBroker.from_url(redis_cluster.url.partition("?")[0]):
                pass

    asyncio.run(main())


def test_no_node_answers() -> None:
    async def main() -> None:
        port = free_port()
        with pytest.raises(Unavailable, match=f"127.0.0.1:{port}: connecting: the server can't be reached"):
            async with RedisBroker.from_url(f"redis://127.0.0.1:{port}?cluster=true"):
                pass

    asyncio.run(main())


def test_no_slots_yet(tmp_path: Path) -> None:
    lines = ["cluster-enabled yes", f"cluster-port {free_port()}", "cluster-config-file nodes.conf"]
    with RedisServer(tmp_path, config=lines) as node:

        async def main() -> None:
            with pytest.raises(Unavailable, match="serves no slots yet"):
                async with RedisBroker.from_url(f"{node.url}?cluster=true"):
                    pass

        asyncio.run(main())
