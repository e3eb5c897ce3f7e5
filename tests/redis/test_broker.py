"""What only this broker has: foreign clients, bounds over processes, few connections, bounded answers, waking."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import UTC, datetime

import pytest

from eventwagon import Context, Train, Volume, Workers
from eventwagon.contracts.broker import Depth
from eventwagon.drivers.redis import RedisBroker
from eventwagon.errors import ChannelFull, ChannelGone
from eventwagon.event import Channel, Event
from tests.redis.support import LONG, events, raw, standing, take
from tests.servers.redis import RedisServer
from tests.servers.server import Server


def cli(server: Server, *words: str) -> str:
    """What `redis-cli` answers."""
    command = ["redis-cli", "-h", server.host, "-p", str(server.port), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout


def test_foreign_clients(own_redis: RedisServer) -> None:
    """`redis-cli` writes an event that a wagon handles, and reads what was published."""
    train = Train("orders", limit=Volume(5), workers=Workers(total=2))
    seen: list[Event] = []

    @train.on("orders")
    async def handle(event: Event, ctx: Context) -> None:
        seen.append(event)

    async def main() -> None:
        async with train.connect(own_redis.url, listeners=()) as connection:
            await connection.found()
            await connection.publish({"n": 1}, event_type="Order", subject="k")
            stored = await asyncio.to_thread(cli, own_redis, "--json", "XRANGE", "eventwagon:{orders_v1}", "-", "+")
            fields = json.loads(stored)[0][1]
            found = dict(zip(fields[::2], fields[1::2], strict=True))
            assert found.keys() == {"specversion", "id", "source", "type", "time", "datacontenttype", "subject", "data"}
            assert (found["specversion"], found["type"], found["subject"]) == ("1.0", "Order", "k")
            assert (found["data"], found["datacontenttype"]) == ('{"n":1}', "application/json")
            assert abs(datetime.fromisoformat(found["time"]).timestamp() - datetime.now(UTC).timestamp()) < 60
            full = (
                "specversion",
                "1.0",
                "id",
                "a-1",
                "source",
                "/shop",
                "type",
                "Order",
                "time",
                "2026-01-31T23:59:59.5+01:00",
                "tenant",
                "t1",
                "data",
                "{}",
            )
            for entry in (full, ("data", "bare"), ("hello", "world")):
                command = ("XADD", "eventwagon:{orders_v1}", "NOMKSTREAM", "*", *entry)
                assert "-" in await asyncio.to_thread(cli, own_redis, *command)
            async with connection.running():
                async with asyncio.timeout(20):
                    while len(seen) < 4:
                        await asyncio.sleep(0.01)
        mine, complete, bare, odd = seen
        assert (mine.type, mine.subject) == ("Order", "k")
        assert (complete.id, complete.source, complete.type) == ("a-1", "/shop", "Order")
        assert (complete.time, dict(complete.extensions)) == (1769900399.5, {"tenant": "t1"})
        assert (bare.data, bare.type, bare.content_type) == (b"bare", "unknown", "application/json")
        assert bare.id.startswith("orders_v1/")
        assert abs(bare.time - datetime.now(UTC).timestamp()) < 60
        assert (odd.data, dict(odd.extensions)) == (b"", {"hello": "world"})

    asyncio.run(main())


def test_foreign_writes_count(redis_server: Server) -> None:
    """What others write, delete or trim is in the totals, and in the bound; on Redis and Valkey alike (conformance)."""

    async def main() -> None:
        channel = Channel("foreign", 1)
        async with RedisBroker.from_url(redis_server.url) as broker, raw(redis_server) as redis:
            await broker.delete(channel)
            await broker.create(channel, capacity=4)
            await broker.publish(channel, events(1))
            ids = [await redis.xadd("eventwagon:{foreign_v1}", {"data": "x"}) for _ in range(2)]
            with pytest.raises(ChannelFull, match="holds its 4 events: 1 of 3"):
                await broker.publish(channel, events(3))
            await redis.xdel("eventwagon:{foreign_v1}", ids[0])
            (depth,) = await broker.depth([channel])
            assert (depth.published, depth.settled, depth.waiting) == (4, 1, 3)
            async with broker.consume(channel, visibility=LONG) as consumer:
                got = await take(consumer, 3)
                await redis.xdel("eventwagon:{foreign_v1}", got[0].token[0])
                await consumer.release(got)
                got = await take(consumer, 2)  # the one that others deleted does not come back
                await consumer.settle(got)
            (depth,) = await broker.depth([channel])
            assert (depth.published, depth.settled, depth.waiting, depth.in_flight) == (4, 4, 0, 0)
            await broker.delete(channel)

    asyncio.run(main())


def test_a_foreign_write_to_a_deleted_channel(redis_server: Server) -> None:
    """A plain XADD makes the stream anew, not the channel: publishers, consumers and figures say that it is gone."""

    async def main() -> None:
        channel = Channel("stale", 1)
        async with RedisBroker.from_url(redis_server.url) as broker, raw(redis_server) as redis:
            await broker.create(channel)
            await broker.publish(channel, events(1))
            await broker.delete(channel)
            await redis.xadd("eventwagon:{stale_v1}", {"data": "x"})
            with pytest.raises(ChannelGone):
                await broker.publish(channel, events(1))
            with pytest.raises(ChannelGone):
                async with broker.consume(channel, visibility=LONG):
                    pass
            assert await broker.depth([channel]) == [Depth()]
            assert await broker.channels("stale") == []
            await broker.delete(channel)
            assert await redis.keys("eventwagon:{stale*") == []

    asyncio.run(main())


def test_bound_over_processes(redis_server: Server) -> None:
    """Three processes of five publishers each fill a wagon with exactly its 10,000 events."""

    async def main() -> None:
        channel = Channel("bound", 1)
        async with RedisBroker.from_url(redis_server.url) as broker:
            await broker.delete(channel)
            await broker.create(channel, capacity=10_000)
            command = [sys.executable, "-m", "tests.redis.publisher", redis_server.url]
            processes = [
                await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE) for _ in range(3)
            ]
            said = [(await process.communicate())[0] for process in processes]
            assert sum(map(int, said)) == 10_000
            (depth,) = await broker.depth([channel])
            assert (depth.published, depth.waiting) == (10_000, 10_000)
            assert len({e.id for e in await standing(broker, channel)}) == 10_000
            await broker.delete(channel)

    asyncio.run(main())


def test_answers_are_bounded(redis_server: Server) -> None:
    """However many are asked for, an answer holds a few MB of events."""

    async def main() -> None:
        channel = Channel("large", 1)
        async with RedisBroker.from_url(redis_server.url) as broker:
            await broker.delete(channel)
            await broker.create(channel)
            await broker.publish(channel, events(200, size=200_000))
            async with broker.consume(channel, visibility=LONG) as consumer:
                got = list(await consumer.receive(200, 5.0))
                assert sum(len(d.event.data) for d in got) < 16 << 20
                await consumer.release(got)
                again = await consumer.receive(200, 5.0)
                assert sum(len(d.event.data) for d in again) < 16 << 20
                assert {d.attempt for d in again} <= {1, 2}
            await broker.delete(channel)

    asyncio.run(main())


def test_many_wait_on_few_connections(own_redis: RedisServer) -> None:
    """A hundred channels are waited at with three connections, and each is woken by a publish from elsewhere."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        channels = [Channel("many", n) for n in range(1, 101)]
        async with RedisBroker.from_url(own_redis.url) as broker, RedisBroker.from_url(own_redis.url) as other:

            async def wait(channel: Channel) -> float:
                async with other.consume(channel, visibility=LONG) as consumer:
                    got = await consumer.receive(1, 30.0)
                    assert len(got) == 1
                    return loop.time()

            for channel in channels:
                await broker.create(channel)
            waiting = [asyncio.create_task(wait(channel)) for channel in channels]
            await asyncio.sleep(0.7)
            async with raw(own_redis) as redis:
                clients = await redis.client_list()
                assert len(clients) <= 3 + 3 + 1
                calls = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
                await asyncio.sleep(0.5)
                asked = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] - calls
                assert asked <= 110  # about once a second each, to be safe
            published = []
            for channel in channels:
                published.append(loop.time())
                await broker.publish(channel, events(1))
            late = [await woken - at for woken, at in zip(waiting, published, strict=True)]
            assert sorted(late)[50] < 0.3
        assert own_redis.running

    asyncio.run(main())


def test_returning_events_do_not_starve_new_ones(redis_server: Server) -> None:
    """With many that come back at once, both kinds are in each batch."""

    async def main() -> None:
        channel = Channel("starve", 1)
        async with RedisBroker.from_url(redis_server.url) as broker:
            await broker.delete(channel)
            await broker.create(channel)
            await broker.publish(channel, events(100))
            async with broker.consume(channel, visibility=LONG) as consumer:
                held = await take(consumer, 50)
                await consumer.release(held)
                got = await consumer.receive(10, 1.0)
                assert sorted(d.attempt for d in got) == [1] * 5 + [2] * 5
                singles = [(await consumer.receive(1, 1.0))[0].attempt for _ in range(12)]
                assert set(singles) == {1, 2}
                rest = await take(consumer, 78)
                assert len({d.event.id for d in (*got, *rest)}) == 88
            await broker.delete(channel)

    asyncio.run(main())


def test_a_train_leaves_nothing_behind(own_redis: RedisServer) -> None:
    """A whole train: wagons are switched at their bound, drained and removed; of their channels no key stays."""
    train = Train("signups", limit=Volume(100), workers=Workers(total=4), spares=1)
    handled: set[int] = set()

    @train.on("signups")
    async def register(number: int, ctx: Context) -> None:
        await ctx.emit("welcome", number)

    @train.on("welcome")
    async def welcome(number: int) -> None:
        handled.add(number)

    async def main() -> None:
        async with train.connect(own_redis.url, listeners=()) as connection, connection.running():
            await connection.publish_many(range(1000))
            async with asyncio.timeout(60), raw(own_redis) as redis:
                while len(handled) < 1000:
                    await asyncio.sleep(0.02)
                while await redis.keys("eventwagon:{signups_v[1-9]}*"):
                    await asyncio.sleep(0.05)

    asyncio.run(main())
