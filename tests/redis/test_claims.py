"""Claims on Redis: those of killed processes, and what stays of consumers that ever were."""

from __future__ import annotations

import asyncio
from pathlib import Path

from eventwagon.contracts.broker import Subscription
from eventwagon.drivers.redis import RedisBroker
from eventwagon.event import Channel
from tests.programs.claimer import Claimed, claiming
from tests.programs.patient import killed_and_replaced, killed_beside_another
from tests.redis.support import LONG, events, raw, take
from tests.servers.redis import RedisServer
from tests.servers.server import Server

CHANNEL = Channel("claims", 1)


async def singles(consumer: Subscription, count: int, *, timeout: float = 5.0) -> Claimed:
    """So many suspects, one after the other; released untried."""
    got = [delivery for _ in range(count) for delivery in await consumer.receive(count, timeout)]
    await consumer.release(got, tried=False)
    return sorted((d.event.data.decode().strip(), d.attempt, d.suspect) for d in got)


async def fresh(broker: RedisBroker) -> None:
    await broker.delete(CHANNEL)
    await broker.create(CHANNEL)


def test_a_killed_process_s_claims_come_back_at_once(redis_server: Server) -> None:
    """At once when they are reclaimed, with their attempts; a suspect that was alone has one more."""

    async def main() -> None:
        async with RedisBroker.from_url(redis_server.url) as broker:
            await fresh(broker)
            await broker.publish(CHANNEL, events(20))
            async with broker.consume(CHANNEL, visibility=LONG) as consumer:
                async with (
                    claiming(redis_server.url, "claims", 12, owner="a") as (_, first),
                    claiming(redis_server.url, "claims", 8, owner="b") as (living, others),
                ):
                    assert {(attempt, suspect) for _, attempt, suspect in [*first, *others]} == {(1, False)}
                    living.kill()
                    await broker.reclaim(CHANNEL, "b")
                    async with asyncio.timeout(LONG / 3):
                        assert await singles(consumer, 8) == sorted((data, 1, True) for data, _, _ in others)
                    async with claiming(redis_server.url, "claims", 1, owner="c", alone=True) as (_, poison):
                        assert len(poison) == 1
                    await broker.reclaim(CHANNEL, "c")
                    expected = sorted((data, 1 + (data == poison[0][0]), True) for data, _, _ in others)
                    assert await singles(consumer, 8) == expected
                await broker.reclaim(CHANNEL, "a")
                assert len(await singles(consumer, 20)) == 20
            (depth,) = await broker.depth([CHANNEL])
            assert (depth.published, depth.settled, depth.waiting, depth.in_flight) == (20, 0, 20, 0)
            await broker.delete(CHANNEL)

    asyncio.run(main())


def test_suspicion_outlives_the_server(own_redis: RedisServer) -> None:
    """Killed and started again between the claim, its marking and its end."""

    async def main() -> None:
        async with RedisBroker.from_url(own_redis.url) as broker:
            await fresh(broker)
            await broker.publish(CHANNEL, events(1))
            async with claiming(own_redis.url, "claims", 1, owner="a"):
                pass
            await broker.reclaim(CHANNEL, "a")
            async with claiming(own_redis.url, "claims", 1, owner="b", alone=True) as (_, got):
                assert got == [("0", 1, True)]
                await asyncio.sleep(1.2)  # until it is on the disk
                await asyncio.to_thread(own_redis.kill)
                await asyncio.to_thread(own_redis.start)
            await broker.reclaim(CHANNEL, "b")
            async with broker.consume(CHANNEL, visibility=LONG) as consumer:
                assert await singles(consumer, 1) == [("0", 2, True)]

    asyncio.run(main())


def test_thousands_of_claims_are_reclaimed(redis_server: Server) -> None:
    async def main() -> None:
        async with RedisBroker.from_url(redis_server.url) as broker:
            await fresh(broker)
            await broker.publish(CHANNEL, events(2500))
            async with broker.consume(CHANNEL, visibility=LONG, owner="a") as consumer:
                got = await take(consumer, 2500)
            assert len(got) == 2500
            await broker.reclaim(CHANNEL, "a")
            (depth,) = await broker.depth([CHANNEL])
            assert (depth.waiting, depth.in_flight) == (2500, 0)
            async with broker.consume(CHANNEL, visibility=LONG) as consumer:
                assert len(await singles(consumer, 100)) == 100
            await broker.delete(CHANNEL)

    asyncio.run(main())


def test_nothing_stays_of_consumers_that_were(redis_server: Server) -> None:
    """Each owner is a consumer of the group; those that claim nothing go as others come. And what is handled at the
    first delivery is written nowhere but in the stream."""

    async def main() -> None:
        async with RedisBroker.from_url(redis_server.url) as broker, raw(redis_server) as redis:
            await fresh(broker)
            await broker.publish(CHANNEL, events(50))
            for n in range(50):
                async with broker.consume(CHANNEL, visibility=LONG, owner=f"box-{n}") as consumer:
                    await consumer.settle(await take(consumer, 1))
            assert len(await redis.xinfo_consumers("eventwagon:{claims_v1}", "eventwagon")) <= 2
            assert await redis.exists("eventwagon:{claims_v1}:taken", "eventwagon:{claims_v1}:back") == 0
            await broker.delete(CHANNEL)

    asyncio.run(main())


def test_a_replacement_and_another_that_runs_have_them_at_once(own_redis: RedisServer, tmp_path: Path) -> None:
    """Well within the visibility time of 60 s, without an attempt lost."""

    async def main() -> None:
        assert await killed_and_replaced(own_redis.url, tmp_path / "first") < 10
        async with raw(own_redis) as redis:
            await redis.flushdb()
        assert await killed_beside_another(own_redis.url, tmp_path / "second") < 10

    asyncio.run(main())
