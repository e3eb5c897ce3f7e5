"""Fields of a channel's hash, and what is beside it, that another program, or a person, has written."""

from __future__ import annotations

import asyncio
from secrets import token_hex

import pytest

from eventwagon import Context, Train, Volume, Workers
from eventwagon.contracts.facts import ChannelThreatened, EventsLost
from eventwagon.drivers.redis import RedisBroker
from eventwagon.errors import Sealed
from eventwagon.event import Channel
from eventwagon.views.train import look
from tests.redis.support import LONG, events, raw, take
from tests.servers.server import Server
from tests.support import journal, until

CHANNEL = Channel("t", 1)
GARBAGE = (b"\xe9", b"many", b"", b"-1", b"1e3", b"0x10", b"nan", b"9" * 400)
HINTS = ("ticket", "largest", "due", "search", "searched", "strays", "strays_until", "bell")


@pytest.mark.parametrize("server", ["redis_server", "valkey_server"])
@pytest.mark.parametrize("garbage", [*GARBAGE, None], ids=repr)
def test_hints_are_begun_anew(request: pytest.FixtureRequest, server: str, garbage: bytes | None) -> None:
    """Or were deleted. Every call goes on, and no claim of before is taken for a new one."""
    at: Server = request.getfixturevalue(server)

    async def main(prefix: str) -> None:
        async with RedisBroker.from_url(f"{at.url}?prefix={prefix}") as broker, raw(at) as redis:
            key = broker.name_of(CHANNEL)

            async def damage() -> None:
                if garbage is None:
                    await redis.hdel(f"{key}:meta", *HINTS)
                else:
                    await redis.hset(f"{key}:meta", mapping=dict.fromkeys(HINTS, garbage))

            await broker.create(CHANNEL, capacity=100)
            await broker.publish(CHANNEL, events(10))
            async with broker.consume(CHANNEL, visibility=LONG) as consumer:
                await consumer.release(await take(consumer, 10))
                first = await take(consumer, 10)
                await damage()
                await broker.publish(CHANNEL, events(1, first=10))
                await damage()
                (depth,) = await broker.depth([CHANNEL])
                assert (depth.published, depth.settled, depth.waiting, depth.in_flight) == (11, 0, 1, 10)
                await damage()
                (new,) = await take(consumer, 1)
                await consumer.release([new])
                await damage()
                (new,) = await take(consumer, 1)
                assert new.attempt == 2
                assert new.token[1] not in {d.token[1] for d in first}
                await damage()
                await consumer.extend(first)
                await consumer.settle(first)
                await consumer.settle([new])
            await damage()
            async with broker.consume(CHANNEL, visibility=LONG) as consumer:
                await broker.publish(CHANNEL, events(1, first=11))
                await damage()
                await consumer.settle(await take(consumer, 1))
            (depth,) = await broker.depth([CHANNEL])
            assert (depth.published, depth.settled) == (12, 12)
            await broker.seal(CHANNEL)

    asyncio.run(main(f"p{token_hex(4)}"))


@pytest.mark.parametrize("part", ["back", "taken"])
def test_what_is_beside_a_channel(redis_server: Server, part: str) -> None:
    async def main(prefix: str) -> None:
        async with RedisBroker.from_url(f"{redis_server.url}?prefix={prefix}") as broker, raw(redis_server) as redis:
            key = broker.name_of(CHANNEL)
            await broker.create(CHANNEL)
            await broker.publish(CHANNEL, events(2))
            async with broker.consume(CHANNEL, visibility=LONG) as consumer:
                got = await take(consumer, 2)
                await consumer.release(got)
                if part == "back":
                    theirs = ("foo", "", "1-2-3", "99999999999999999999999-1", "5-5")
                    await redis.zadd(f"{key}:back", dict.fromkeys(theirs, 0))
                    await redis.zadd(f"{key}:back", dict.fromkeys(("bar", "6-6"), -5))
                else:
                    await redis.hset(
                        f"{key}:taken", mapping={got[0].token[0]: b"\xe9", got[1].token[0]: "1:" + "9" * 30}
                    )
                assert (await broker.depth([CHANNEL]))[0].waiting == 2
                again = await take(consumer, 2)
                assert [d.event.id for d in again] == [d.event.id for d in got]
                await consumer.settle(again)
                assert not await consumer.receive(10, 0.1)
            assert await redis.exists(f"{key}:back", f"{key}:taken") == 0

    asyncio.run(main(f"p{token_hex(4)}"))


@pytest.mark.parametrize("garbage", GARBAGE[:-1], ids=repr)
def test_a_bound_that_is_no_number(redis_server: Server, garbage: bytes) -> None:
    """The ingress takes no more; what it has is handled. Of a number too large for any bound nothing follows."""

    async def main(prefix: str) -> None:
        async with RedisBroker.from_url(f"{redis_server.url}?prefix={prefix}") as broker, raw(redis_server) as redis:
            key, inner = broker.name_of(CHANNEL), Channel("t", 1, "inner")
            await broker.create(CHANNEL, capacity=5)
            await broker.create(inner)
            await broker.publish(CHANNEL, events(2))
            for channel in (CHANNEL, inner):
                await redis.hset(f"{broker.name_of(channel)}:meta", "capacity", garbage)
            await broker.publish(inner, events(2))
            with pytest.raises(Sealed, match="no number") as caught:
                await broker.publish(CHANNEL, events(2))
            assert (caught.value.accepted, f"{key}:meta" in str(caught.value)) == (0, True)
            depth, of_inner = await broker.depth([CHANNEL, inner])
            assert (depth.published, depth.waiting, of_inner.waiting, of_inner.trouble) == (2, 2, 2, "")
            assert depth.trouble == str(caught.value)
            async with broker.consume(CHANNEL, visibility=LONG) as consumer:
                await consumer.settle(await take(consumer, 2))
            await broker.unbound(CHANNEL)
            await broker.publish(CHANNEL, events(1))

    asyncio.run(main(f"p{token_hex(4)}"))


@pytest.mark.timeout(90)
def test_a_train_leaves_such_a_wagon_and_tells(redis_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def main(prefix: str) -> None:
        url, handled, gate = f"{redis_server.url}?prefix={prefix}", set[int](), asyncio.Event()
        t = Train("t", limit=Volume(1000), workers=Workers(total=2), grace=0.5, observe_every=0.05)

        @t.on("t")
        async def handle(n: int, ctx: Context) -> None:
            await gate.wait()
            handled.add(n)

        async with t.connect(url) as c, c.running(), raw(redis_server) as redis:
            await c.publish(1)
            await redis.hset(f"{prefix}:{{t_v1}}:meta", "capacity", "x")
            await until(lambda: "capacity of the hash" in caplog.text)
            assert "is no number" in "".join((await look(c, url)).threatened)
            await c.publish(2, timeout=20)
            gate.set()
            await until(lambda: handled == {1, 2} and c.manifest.wagon(1) is None, seconds=30)
            told = [e.fact for e in await journal(c) if isinstance(e.fact, ChannelThreatened | EventsLost)]
            assert [type(fact) for fact in told] == [ChannelThreatened]

    asyncio.run(main(f"p{token_hex(4)}"))
