"""Entries that a stranger took out of the consumer group's reach: neither new, nor claimed, nor to come back."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from secrets import token_hex
from typing import Any

import pytest

from eventwagon import Train, Volume, Workers
from eventwagon.contracts.broker import Delivery, Subscription
from eventwagon.contracts.facts import ChannelThreatened, EventsLost
from eventwagon.drivers.redis import RedisBroker, scripts
from eventwagon.event import Channel
from eventwagon.views.train import look
from tests.redis.support import LONG, events, raw, take
from tests.servers.server import Server
from tests.support import journal, until

CHANNEL = Channel("t", 1)
GROUP = scripts.GROUP


async def read(redis: Any, key: str, **options: Any) -> list[bytes]:
    ((_, entries),) = await redis.xreadgroup(GROUP, "gui", {key: ">"}, count=10_000, **options)
    return [name for name, _ in entries]


async def moved(redis: Any, key: str) -> None:
    await redis.execute_command("XGROUP", "SETID", key, GROUP, "$")


async def not_acknowledged(redis: Any, key: str) -> None:
    await read(redis, key, noack=True)


async def consumer_deleted(redis: Any, key: str) -> None:
    await read(redis, key)
    await redis.xgroup_delconsumer(key, GROUP, "gui")


async def acknowledged(redis: Any, key: str) -> None:
    await redis.xack(key, GROUP, *await read(redis, key))


DAMAGES = [moved, not_acknowledged, consumer_deleted, acknowledged]


async def numbers(consumer: Subscription, count: int) -> list[int]:
    """Of so many first attempts, settled as they come."""
    got: list[Delivery] = []
    while len(got) < count:
        some = await take(consumer, 1)
        await consumer.settle(some)
        got += some
    assert {(d.attempt, d.suspect) for d in got} == {(1, False)}
    return [int(d.event.data) for d in got]


async def searched_now(redis: Any, key: str) -> None:
    await redis.hdel(f"{key}:meta", "search")


@pytest.mark.parametrize("server", ["redis_server", "valkey_server"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_they_come_again_in_their_order(
    request: pytest.FixtureRequest, server: str, damage: Callable[..., Any]
) -> None:
    """Once each, as new ones, and the depth says why."""
    at: Server = request.getfixturevalue(server)

    async def main(prefix: str) -> None:
        async with RedisBroker.from_url(f"{at.url}?prefix={prefix}") as broker, raw(at) as redis:
            key = broker.name_of(CHANNEL)
            await broker.create(CHANNEL)
            await broker.publish(CHANNEL, events(20))
            await damage(redis, key)
            await broker.publish(CHANNEL, events(1, first=20))
            async with broker.consume(CHANNEL, visibility=0.5) as consumer:
                assert await numbers(consumer, 21) == [20, *range(20)]
                (depth,) = await broker.depth([CHANNEL])
                assert (depth.published, depth.settled, depth.waiting, depth.in_flight) == (21, 21, 0, 0)
                assert f"events of the stream {key} were out of reach" in depth.trouble
                assert depth.trouble.endswith(": 20")
                await searched_now(redis, key)
                assert not await consumer.receive(10, 0.7)
            left = await redis.keys(f"{key}:*")
            assert left == [f"{key}:meta".encode()]
            await broker.delete(CHANNEL)

    asyncio.run(main(f"p{token_hex(4)}"))


def test_what_a_living_consumer_has_and_settles_comes_no_second_time(redis_server: Server) -> None:
    """Its claim is gone, and nobody knows that it lives: it has the visibility time."""

    async def main(prefix: str) -> None:
        async with RedisBroker.from_url(f"{redis_server.url}?prefix={prefix}") as broker, raw(redis_server) as redis:
            key = broker.name_of(CHANNEL)
            await broker.create(CHANNEL)
            await broker.publish(CHANNEL, events(10))
            async with (
                broker.consume(CHANNEL, visibility=LONG, owner="a") as first,
                broker.consume(CHANNEL, visibility=1.0, owner="b") as second,
            ):
                got = await take(first, 10)
                assert await redis.xgroup_delconsumer(key, GROUP, f"{int(LONG * 1000)}:a") == 10
                await searched_now(redis, key)
                assert not await second.receive(10, 0.1)
                await first.settle(got[:4])
                await first.release(got[4:5])
                again = await take(second, 6)
                assert [d.event.id for d in again] == [d.event.id for d in got[4:]]
                await second.settle(again)
                assert not await second.receive(10, 1.5)
            (depth,) = await broker.depth([CHANNEL])
            assert (depth.published, depth.settled) == (10, 10)

    asyncio.run(main(f"p{token_hex(4)}"))


def test_an_attempt_and_a_suspicion_are_kept(redis_server: Server) -> None:
    async def main(prefix: str) -> None:
        async with RedisBroker.from_url(f"{redis_server.url}?prefix={prefix}") as broker, raw(redis_server) as redis:
            key, name = broker.name_of(CHANNEL), f"{int(LONG * 1000)}:a"
            await broker.create(CHANNEL)
            await broker.publish(CHANNEL, events(2))
            async with broker.consume(CHANNEL, visibility=LONG, owner="a") as consumer:
                (tried, _) = await take(consumer, 2)
                await consumer.release([tried])
                await take(consumer, 1)
                await broker.reclaim(CHANNEL, "a")
                (suspect,) = await consumer.receive(2, 1.0)
                assert suspect.attempt == 2
                assert await consumer.alone(suspect)
                assert await redis.xgroup_delconsumer(key, GROUP, name) == 1
            await searched_now(redis, key)
            async with broker.consume(CHANNEL, visibility=0.3) as consumer:
                found: list[Delivery] = []
                while len(found) < 2:
                    found += await consumer.receive(2, 2.0)
                    await consumer.settle(found)
                assert sorted((d.attempt, d.suspect) for d in found) == [(1, True), (3, True)]

    asyncio.run(main(f"p{token_hex(4)}"))


def test_while_the_channel_is_never_idle(redis_server: Server) -> None:
    """New ones always wait: found by the server's own account of them. And no pending entry is taken for a stray."""

    async def main(prefix: str) -> None:
        async with RedisBroker.from_url(f"{redis_server.url}?prefix={prefix}") as broker, raw(redis_server) as redis:
            key = broker.name_of(CHANNEL)
            await broker.create(CHANNEL)
            await broker.publish(CHANNEL, events(5))
            await moved(redis, key)
            await broker.publish(CHANNEL, events(500, first=100))
            async with broker.consume(CHANNEL, visibility=0.3) as consumer:
                seen, held = set[int](), await take(consumer, 3)
                while not set(range(5)) <= seen:
                    assert (await broker.depth([CHANNEL]))[0].waiting
                    got = await take(consumer, 2)
                    await consumer.settle(got)
                    await consumer.extend(held)
                    seen |= {int(d.event.data) for d in got}
                    assert len(seen) < 490
                    await asyncio.sleep(0.01)
                assert not seen & {int(d.event.data) for d in held}
                assert (await broker.depth([CHANNEL]))[0].trouble.endswith(": 5")

    asyncio.run(main(f"p{token_hex(4)}"))


def test_a_place_beyond_the_end_is_put_right(redis_server: Server) -> None:
    """What was published in the meantime comes again; what is published then comes at once."""

    async def main(prefix: str) -> None:
        async with RedisBroker.from_url(f"{redis_server.url}?prefix={prefix}") as broker, raw(redis_server) as redis:
            key = broker.name_of(CHANNEL)
            await broker.create(CHANNEL)
            await redis.execute_command("XGROUP", "SETID", key, GROUP, "9999999999999-0")
            await broker.publish(CHANNEL, events(3))
            async with broker.consume(CHANNEL, visibility=LONG) as consumer:
                assert not await consumer.receive(10, 0.1)
                await broker.publish(CHANNEL, events(2, first=3))
                assert await numbers(consumer, 2) == [3, 4]
            (depth,) = await broker.depth([CHANNEL])
            assert (depth.waiting, depth.trouble[-3:]) == (3, ": 3")

    asyncio.run(main(f"p{token_hex(4)}"))


def test_thousands_behind_thousands_that_come_back(redis_server: Server) -> None:
    """Found a thousand in a call; a place of the search that is no id is no obstacle."""

    async def main(prefix: str) -> None:
        async with RedisBroker.from_url(f"{redis_server.url}?prefix={prefix}") as broker, raw(redis_server) as redis:
            key = broker.name_of(CHANNEL)
            await broker.create(CHANNEL)
            await broker.publish(CHANNEL, events(2500))
            async with broker.consume(CHANNEL, visibility=1.0) as consumer:
                await consumer.release(await take(consumer, 2500), delay=LONG)
                await broker.publish(CHANNEL, events(2500, first=2500))
                await moved(redis, key)
                await redis.hset(f"{key}:meta", "searched", "theirs")
                await searched_now(redis, key)
                seen = list[int]()
                while len(seen) < 2500:
                    got = await consumer.receive(1000, 5.0)
                    await consumer.settle(got)
                    seen += [int(d.event.data) for d in got]
                assert seen == list(range(2500, 5000))
            (depth,) = await broker.depth([CHANNEL])
            assert (depth.waiting, depth.in_flight) == (2500, 0)
            assert depth.trouble.endswith(": 2,500")

    asyncio.run(main(f"p{token_hex(4)}"))


def test_those_that_were_to_come_back(redis_server: Server) -> None:
    """The key that says when was deleted, or evicted."""

    async def main(prefix: str) -> None:
        async with RedisBroker.from_url(f"{redis_server.url}?prefix={prefix}") as broker, raw(redis_server) as redis:
            key = broker.name_of(CHANNEL)
            await broker.create(CHANNEL)
            await broker.publish(CHANNEL, events(3))
            async with broker.consume(CHANNEL, visibility=0.3) as consumer:
                await consumer.release(await take(consumer, 3), delay=LONG)
                assert await redis.delete(f"{key}:back") == 1
                await searched_now(redis, key)
                got = await take(consumer, 3)
                assert [(int(d.event.data), d.attempt) for d in got] == [(0, 2), (1, 2), (2, 2)]

    asyncio.run(main(f"p{token_hex(4)}"))


@pytest.mark.timeout(90)
def test_a_train_handles_and_tells_them(redis_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def main(prefix: str) -> None:
        url, handled = f"{redis_server.url}?prefix={prefix}", list[int]()
        t = Train("t", limit=Volume(1000), workers=Workers(total=2), grace=0.5, observe_every=0.05, visibility=1.0)

        @t.on("t")
        async def handle(n: int) -> None:
            handled.append(n)

        async with t.connect(url) as c:
            await c.publish_many(range(20))
            async with raw(redis_server) as redis:
                await moved(redis, f"{prefix}:{{t_v1}}")
            async with c.running():
                await c.request_switch()
                async with asyncio.timeout(20):
                    await c.wait_switched(1)
                await until(lambda: len(handled) == 20, seconds=20)
                assert sorted(handled) == list(range(20))
                told = [e.fact for e in await journal(c) if isinstance(e.fact, ChannelThreatened | EventsLost)]
                assert [type(fact) for fact in told] == [ChannelThreatened]
                assert "were out of reach of all workers" in caplog.text
                await until(lambda: c.manifest.wagon(1) is None, seconds=20)

    asyncio.run(main(f"p{token_hex(4)}"))


def test_status_names_them(redis_server: Server) -> None:
    async def main(prefix: str) -> None:
        url = f"{redis_server.url}?prefix={prefix}"
        async with Train("t").connect(url, listeners=()) as c:
            await c.publish(1)
            channel = Channel("t", 1)
            async with raw(redis_server) as redis:
                await moved(redis, f"{prefix}:{{t_v1}}")
            async with c.broker.consume(channel, visibility=LONG) as consumer:
                assert not await consumer.receive(1, 0.1)
            (why,) = (await look(c, url)).threatened
            assert "were out of reach of all workers" in why

    asyncio.run(main(f"p{token_hex(4)}"))


@pytest.mark.parametrize("server", ["redis_server", "valkey_server"])
def test_no_other_event_is_taken_for_one(request: pytest.FixtureRequest, server: str) -> None:
    """Searched all the time, while events are settled, given back, delayed, and claims expire and are reclaimed; once
    the server knows how many are new, and once it does not."""
    at: Server = request.getfixturevalue(server)

    async def main(prefix: str) -> None:
        rng, settled = random.Random(5), Counter[int]()
        async with RedisBroker.from_url(f"{at.url}?prefix={prefix}") as broker, raw(at) as redis:
            key = broker.name_of(CHANNEL)

            async def work(name: str) -> None:
                async with broker.consume(CHANNEL, visibility=0.2, owner=name) as consumer:
                    while len(settled) < 1500:
                        got = list(await consumer.receive(rng.randrange(1, 20), 0.05))
                        rng.shuffle(got)
                        cut, more = sorted(rng.randrange(len(got) + 1) for _ in range(2))
                        await consumer.settle(got[:cut])
                        settled.update(int(d.event.data) for d in got[:cut])
                        await consumer.release(got[cut:more], delay=rng.choice([0, 0.05]), tried=rng.random() < 0.5)
                        if rng.random() < 0.05:
                            await broker.reclaim(CHANNEL, name)

            async def search() -> None:
                while len(settled) < 1500:
                    await searched_now(redis, key)
                    assert not (await broker.depth([CHANNEL]))[0].trouble

            await broker.create(CHANNEL)
            await broker.publish(CHANNEL, events(500))
            async with asyncio.TaskGroup() as tasks:
                for n in range(4):
                    tasks.create_task(work(f"box-{n}"))
                tasks.create_task(search())
                for n in range(5):
                    await asyncio.sleep(0.2)
                    await broker.publish(CHANNEL, events(200, first=500 + 200 * n))
                    if n == 3:
                        (last,) = await redis.xrevrange(key, count=1)
                        await redis.xdel(key, last[0])  # it is new: from now on the server does not know how many are
                        settled[int(last[1][b"data"])] += 1
            assert set(settled) == set(range(1500))
            assert not await redis.hexists(f"{key}:meta", "strays")

    asyncio.run(main(f"p{token_hex(4)}"))
