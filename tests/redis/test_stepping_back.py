"""A server restarted from an older snapshot, and one that has lost keys: every process goes on, and says what is
lost."""

from __future__ import annotations

import asyncio
import shutil

import pytest

from eventwagon import Connection, Train, Volume, Workers
from eventwagon.contracts.facts import EventsLost, Fact, RegistrySteppedBack
from eventwagon.contracts.manifest import Manifest
from eventwagon.drivers.redis.registry import RedisRegistry
from eventwagon.errors import Conflict
from eventwagon.event import Channel
from tests.servers.redis import RedisServer, ask
from tests.support import journal, until

TRAIN = "restored"


def a_train(handled: list[int], gate: asyncio.Event) -> Train:
    train = Train(TRAIN, limit=Volume(100_000), workers=Workers(total=4))

    @train.on(TRAIN)
    async def handle(event: int) -> None:
        await gate.wait()
        handled.append(event)

    return train


async def active(connection: Connection) -> int:
    wagon = (await connection.refresh()).manifest.active
    return wagon.number if wagon is not None else 0


async def switched(connection: Connection) -> int:
    before = await active(connection)
    await connection.request_switch("by hand")
    async with asyncio.timeout(60):
        while (now := await active(connection)) <= before:
            await asyncio.sleep(0.05)
    return now


@pytest.mark.timeout(180)
def test_restarted_from_an_older_snapshot(own_redis: RedisServer) -> None:
    """Three processes' worth of connections, none restarted; two switches are forgotten, with what was in their
    wagons."""
    own_redis.stop()
    own_redis.config += ["appendonly no"]
    own_redis.start()
    dump, copy = own_redis.directory / "dump.rdb", own_redis.directory / "older.rdb"

    async def main() -> None:
        handled: list[int] = []
        facts: list[Fact] = []
        gate = asyncio.Event()
        gate.set()
        train = a_train(handled, gate)
        url = f"{own_redis.url}?timeout=2"
        async with (
            train.connect(url, listeners=[facts.append]) as observer,
            train.connect(url) as worker,
            train.connect(url) as publisher,
            observer.running(work=False),
            worker.running(observe=False),
        ):
            for n in range(5):
                await publisher.publish(n)
            await until(lambda: len(handled) == 5)
            await asyncio.sleep(0.2)
            ask(own_redis.port, "SAVE", timeout=20)
            shutil.copy(dump, copy)
            used = [await switched(observer), await switched(observer)]
            gate.clear()
            for n in range(10, 17):
                await publisher.publish(n)
            await asyncio.sleep(1.5)  # seen by the observer
            await asyncio.to_thread(own_redis.kill)
            shutil.copy(copy, dump)
            await asyncio.to_thread(own_redis.start)
            gate.set()
            for n in range(20, 25):
                await publisher.publish(n, timeout=20)
            await until(lambda: set(range(20, 25)) <= set(handled), seconds=30)
            await until(lambda: any(isinstance(f, EventsLost) for f in facts), seconds=10)
            assert [f.wagons for f in facts if isinstance(f, RegistrySteppedBack)] == [tuple(used[1:])]
            assert [(f.number, f.count) for f in facts if isinstance(f, EventsLost) and f.number == used[1]] == [
                (used[1], 7)
            ]
            kept = [e.fact for e in await journal(observer)]
            assert {RegistrySteppedBack, EventsLost} <= {type(fact) for fact in kept}
            again = [await switched(observer), await switched(observer)]
            assert min(again) > max(used)
            await publisher.publish(30, timeout=20)
            await until(lambda: 30 in handled, seconds=30)

    asyncio.run(main())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("keys", [[""], [":meta"], ["", ":meta", ":back", ":taken"]], ids=["stream", "meta", "all"])
def test_the_active_wagons_keys_were_evicted(redis_server: RedisServer, keys: list[str]) -> None:
    """Whichever of its keys went: the next wagon takes over, and what was lost is told. Nothing is while the stream
    stands."""

    async def main() -> None:
        handled: list[int] = []
        facts: list[Fact] = []
        gate = asyncio.Event()
        train = a_train(handled, gate)
        prefix = f"evicted{len(keys)}{keys[0].strip(':')}"
        url = f"{redis_server.url}?prefix={prefix}"
        async with train.connect(url, listeners=[facts.append]) as connection, connection.running():
            for n in range(5):
                await connection.publish(n)
            await asyncio.sleep(1.5)  # seen by the observer
            for key in keys:
                ask(redis_server.port, "DEL", f"{prefix}:{{{TRAIN}_v1}}{key}")
            for n in range(10, 15):
                await connection.publish(n, timeout=20)
            gate.set()
            await until(lambda: set(range(10, 15)) <= set(handled), seconds=30)
            assert await active(connection) == 2
            if keys == [":meta"]:
                await until(lambda: set(range(5)) <= set(handled), seconds=30)
            else:
                await until(lambda: any(isinstance(f, EventsLost) for f in facts), seconds=30)
            lost = [(f.number, f.count, f.total) for f in facts if isinstance(f, EventsLost)]
            assert lost == ([] if keys == [":meta"] else [(1, 5, 5)])
            async with asyncio.timeout(60):
                while (await connection.refresh()).manifest.wagon(1) is not None:
                    await asyncio.sleep(0.1)
            assert Channel(TRAIN, 1) not in await connection.broker.channels(TRAIN)
            left = ask(redis_server.port, "KEYS", f"{prefix}:{{{TRAIN}_v1}}*")
            assert left == b"*0\r\n", left

    asyncio.run(main())


def test_a_version_beyond_the_known_one(redis_server: RedisServer) -> None:
    """Compare-and-swap still holds, and who watches hears of it; and of a version that is lower."""

    async def main() -> None:
        prefix, name = "beyond", "beyond"
        url = f"{redis_server.url}?prefix={prefix}"
        async with RedisRegistry.from_url(url) as registry, registry.watch(name) as watching:
            one = await registry.replace(name, Manifest(train=name), expect=0, beyond=2**40)
            assert one.version == 2**40 + 1
            async with asyncio.timeout(10):
                while await anext(watching) != one:
                    pass
            with pytest.raises(Conflict):
                await registry.replace(name, Manifest(train=name), expect=1, beyond=2**41)
            two = await registry.replace(name, Manifest(train=name), expect=one.version, beyond=5)
            assert two.version == one.version + 1
            assert await registry.read(name) == two == await anext(watching)
            ask(redis_server.port, "HSET", f"{prefix}:{{{name}}}:manifest", "revision", 7)
            async with asyncio.timeout(10):
                assert (await anext(watching)).version == 7

    asyncio.run(main())
