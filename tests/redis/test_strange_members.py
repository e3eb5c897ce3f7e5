"""Members of the sets of names that another program, or a person, has added."""

from __future__ import annotations

import asyncio
from secrets import token_hex

import pytest

from eventwagon import Train, Volume, Workers
from eventwagon.drivers.redis import RedisBroker
from eventwagon.drivers.redis.registry import RedisRegistry
from eventwagon.event import Channel
from tests import doctors
from tests.redis.support import raw
from tests.servers.server import Server
from tests.support import until

OF_CHANNELS = (
    b"foo",
    b"",
    b"-1 x",
    b"-1.x",
    b"1 \xe9",
    b"1.\xe9",
    b"01.",
    "١.".encode(),
    b"t_v1",
    b"9" * 5000 + b".",
    b"1.\x1b[2J",
    b"1.a\n",
)
OF_TRAINS = (b"\xe9\xff", b"", b"a b", b"t_v1", b"x" * 10_000, b"../x", b"\x1b[2J")


def test_they_are_skipped_told_once_and_left_alone(redis_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    async def main(prefix: str) -> None:
        url, listing, trains = f"{redis_server.url}?prefix={prefix}", f"{prefix}:{{t}}:channels", f"{prefix}:trains"
        async with Train("t").connect(url, listeners=()) as c:
            await c.publish(1)
        async with RedisBroker.from_url(url) as broker, RedisRegistry.from_url(url) as registry, raw(redis_server) as r:
            known = set(await broker.channels("t"))
            assert Channel("t", 1) in known
            assert await r.sadd(listing, *OF_CHANNELS) == len(OF_CHANNELS)
            assert await r.sadd(trains, *OF_TRAINS) == len(OF_TRAINS)
            for _ in range(3):
                assert set(await broker.channels("t")) == known
                assert await registry.trains() == ["t"]
            told = [record.getMessage() for record in caplog.records if "no name of eventwagon's" in record.message]
            assert len(told) == 2
            assert f"the set {listing} has the members '', '-1 x', '-1.x' and 9 more" in told[0]
            assert f"the set {trains} has the members '', '\\x1b[2J', '../x' and 4 more" in told[1]
            await r.sadd(listing, "bar")
            await broker.channels("t")
            assert f"the set {listing} has the member 'bar'" in caplog.text
            await r.srem(listing, "foo")
            await broker.channels("t")
            await r.sadd(listing, "foo")
            await broker.channels("t")
            assert f"the set {listing} has the member 'foo'" in caplog.text
            assert set(OF_CHANNELS) < set(await r.smembers(listing))

    asyncio.run(main(f"p{token_hex(4)}"))


def test_doctor_names_them(redis_server: Server) -> None:
    prefix = f"p{token_hex(4)}"
    url, listing, trains = f"{redis_server.url}?prefix={prefix}", f"{prefix}:{{t}}:channels", f"{prefix}:trains"

    async def main() -> None:
        async with Train("t").connect(url, listeners=()) as c, raw(redis_server) as r:
            await c.publish(1)
            await r.sadd(listing, "foo")
            await r.sadd(trains, b"\xe9")

    asyncio.run(main())
    found = doctors.look(url)
    assert not [step for each in found.values() for step in each.steps if step.problem]
    (of_channels,) = (f for f in found["broker"].findings if listing in f.what)
    (of_trains,) = (f for f in found["registry"].findings if trains in f.what)
    assert (of_channels.severity, of_trains.severity) == ("costs", "costs")
    assert "'foo'" in of_channels.what
    assert "'\\\\xe9'" in of_trains.what
    assert f"SREM {trains}" in of_trains.todo


@pytest.mark.timeout(90)
def test_a_train_switches_removes_and_is_removed(redis_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Of the train no key stays, but for the set with what is not its own."""

    async def main(prefix: str) -> None:
        url, listing, handled = f"{redis_server.url}?prefix={prefix}", f"{prefix}:{{t}}:channels", set[int]()
        t = Train("t", limit=Volume(5), workers=Workers(total=2), spares=1, grace=0.5, observe_every=0.05, wagons=3)

        @t.on("t")
        async def handle(n: int) -> None:
            handled.add(n)

        async with t.connect(url, listeners=()) as c, raw(redis_server) as r:
            async with c.running():
                await c.publish(0)
                await r.sadd(listing, *OF_CHANNELS)
                await r.sadd(f"{prefix}:trains", *OF_TRAINS)
                for n in range(1, 30):
                    await c.publish(n, timeout=20)
                await until(lambda: handled == set(range(30)) and c.manifest.wagon(1) is None, seconds=30)
            await c.remove()
            assert await r.smembers(listing) == set(OF_CHANNELS)
            assert await r.smembers(f"{prefix}:trains") == set(OF_TRAINS)
            assert sorted(await r.keys(f"{prefix}:{{t*")) == [listing.encode()]
        assert not [record for record in caplog.records if record.exc_info]

    asyncio.run(main(f"p{token_hex(4)}"))
