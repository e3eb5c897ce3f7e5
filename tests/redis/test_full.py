"""A server whose memory is full and that evicts nothing: all that waits is handled, and nothing stands still but new
events."""

from __future__ import annotations

import asyncio

import pytest

from eventwagon import Context, Reject, Train, Volume, Workers
from eventwagon.contracts.facts import Fact, StepFailed
from eventwagon.drivers.redis import RedisBroker
from eventwagon.errors import PublishTimeout, Unavailable
from eventwagon.event import DEAD, Channel
from tests.redis.support import LONG, events, raw, take
from tests.servers.redis import RedisServer
from tests.support import until

TRAIN = "full"


@pytest.fixture(params=["redis", "valkey"])
def server(request: pytest.FixtureRequest) -> RedisServer:
    found: RedisServer = request.getfixturevalue(f"own_{request.param}")
    return found


def a_train(handled: list[int], gate: asyncio.Event) -> Train:
    train = Train(TRAIN, limit=Volume(100_000), workers=Workers(total=4), spares=1)

    @train.on(TRAIN)
    async def first(event: int, ctx: Context) -> None:
        await gate.wait()
        if event == 0:
            raise Reject("it is the first")
        if event == 1 and ctx.attempt == 1:
            raise ValueError("once more")
        await ctx.emit("second", event)

    @train.on("second")
    async def second(event: int) -> None:
        handled.append(event)

    return train


@pytest.mark.timeout(120)
def test_a_full_server_still_drains(server: RedisServer) -> None:
    """Claims, emits, retries, dead letters, a switch, the seal, the removal and check-ins go on. Publishers wait, and
    are told of the memory; when there is room they go on."""

    async def main() -> None:
        handled: list[int] = []
        facts: list[Fact] = []
        gate = asyncio.Event()
        train = a_train(handled, gate)
        async with (
            train.connect(f"{server.url}?timeout=2", listeners=[facts.append]) as connection,
            raw(server) as redis,
            connection.running(),
        ):
            await connection.publish_many(range(50))
            async with asyncio.timeout(20):
                while len((await connection.refresh()).manifest.ready) < 1:
                    await asyncio.sleep(0.05)
            await redis.config_set("maxmemory-policy", "noeviction")
            await redis.config_set("maxmemory", "1mb")  # more is in use already
            with pytest.raises(PublishTimeout, match="memory is full: raise its maxmemory"):
                await connection.publish(99, timeout=1.0)
            waiting = asyncio.create_task(connection.publish(100, timeout=60))
            gate.set()
            await until(lambda: set(range(1, 50)) <= set(handled), seconds=30)
            await connection.request_switch("by hand")
            async with asyncio.timeout(30):
                while (await connection.refresh()).manifest.wagon(1) is not None:
                    await asyncio.sleep(0.05)
            kept = [e async for e in connection.broker.read(Channel(TRAIN, 0, DEAD))]
            assert [e.data for e in kept] == [b"0"]
            assert not waiting.done()
            assert len(await connection.members()) == 1
            await redis.config_set("maxmemory", "0")
            await waiting
            await until(lambda: 100 in handled, seconds=30)
        assert not [f for f in facts if isinstance(f, StepFailed) and "memory" in f.because]

    asyncio.run(main())


def test_each_call_on_a_full_server(server: RedisServer) -> None:
    """What helps to free memory, or writes little, is never refused; a publish to an ingress is, and may pass. What
    handlers emit is stored past `maxmemory`, as `doctor` says."""
    channel, inner = Channel(TRAIN, 1), Channel(TRAIN, 1, "second")

    async def main() -> None:
        async with RedisBroker.from_url(server.url) as broker, raw(server) as redis:
            await broker.create(channel)
            await broker.publish(channel, events(10))
            await redis.config_set("maxmemory-policy", "noeviction")
            await redis.config_set("maxmemory", "1mb")
            with pytest.raises(Unavailable, match="memory is full"):
                await broker.publish(channel, events(1))
            await broker.create(inner)
            await broker.publish(inner, events(1))
            before = int((await redis.info("memory"))["used_memory"])
            await broker.publish(inner, events(20, size=100_000))
            assert int((await redis.info("memory"))["used_memory"]) > before + 1_000_000
            policy = [f.means for f in await broker.inspect([]) if f.what == "maxmemory-policy=noeviction"]
            assert "still stores emitted events, past maxmemory" in policy[0]
            async with broker.consume(channel, visibility=LONG, owner="me") as consumer:
                got = await take(consumer, 10)
                await consumer.extend(got)
                assert await consumer.alone(got[0])
                await consumer.release(got[:4])
                await consumer.settle(got[4:8])
                assert await broker.reclaim(channel, "me") == 2
                again = await take(consumer, 6)
                await consumer.settle(again)
            await broker.seal(channel)
            (depth,) = await broker.depth([channel])
            assert (depth.published, depth.settled) == (10, 10)
            await broker.delete(channel)
            await broker.delete(inner)
            assert await broker.channels(TRAIN) == []

    asyncio.run(main())
