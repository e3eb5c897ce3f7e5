"""An entry of another program with the last id that there is: its stream takes no more, ever."""

from __future__ import annotations

import asyncio
from secrets import token_hex
from typing import Any

import pytest

from eventwagon import Context, Reject, Train, Volume, Workers
from eventwagon.contracts.facts import (
    ChannelThreatened,
    DrainGivenUp,
    Entry,
    EventsLost,
    StopRequested,
    Switched,
    encode_entry,
)
from eventwagon.contracts.manifest import Manifest
from eventwagon.drivers.redis import RedisBroker
from eventwagon.drivers.redis.registry import RedisRegistry
from eventwagon.drivers.redis.scripts import LAST_ID
from eventwagon.errors import ChannelGone, PublishUncertain, Sealed
from eventwagon.event import DEAD, Channel
from eventwagon.runtime.observer import Observer
from eventwagon.views.train import look
from tests.redis.support import LONG, events, standing, take
from tests.servers.redis import ask
from tests.servers.server import Server
from tests.support import journal, until

_BEFORE_LAST = LAST_ID.removesuffix("5") + "4"


@pytest.mark.parametrize("server", ["redis_server", "valkey_server"])
def test_each_call_on_an_exhausted_stream(request: pytest.FixtureRequest, server: str) -> None:
    """What it holds is counted, read, received and settled; what comes then is refused."""
    at: Server = request.getfixturevalue(server)

    async def main(prefix: str) -> None:
        async with RedisBroker.from_url(f"{at.url}?prefix={prefix}") as broker:
            for channel in (Channel("t", 1), Channel("t", 1, "inner")):
                await broker.create(channel)
                ask(at.port, "XADD", broker.name_of(channel), _BEFORE_LAST, "data", "theirs")
                assert not (await broker.depth([channel]))[0].exhausted
                some = events(3)
                with pytest.raises(PublishUncertain if channel.name else Sealed) as caught:
                    await broker.publish(channel, some)
                if isinstance(caught.value, Sealed):
                    assert caught.value.accepted == 1
                with pytest.raises(ChannelGone if channel.name else Sealed, match="takes no more events"):
                    await broker.publish(channel, some[1:])
                assert [event.data for event in await standing(broker, channel)] == [b"theirs", some[0].data]
                assert channel in await broker.channels("t")
                for expected in ((2, 0, 2), (2, 0, 0), (2, 2, 0)):
                    (depth,) = await broker.depth([channel])
                    assert (depth.published, depth.settled, depth.waiting) == expected
                    assert depth.exhausted
                    assert "another program" in depth.trouble
                    if expected == (2, 0, 2):
                        consumer = broker.consume(channel, visibility=LONG)
                        subscription = await consumer.__aenter__()
                        got = await take(subscription, 2)
                    elif not expected[1]:
                        await subscription.settle(got)
                        await consumer.__aexit__(None, None, None)
                await broker.delete(channel)
                await broker.create(channel)
                assert not (await broker.depth([channel]))[0].exhausted

    asyncio.run(main(f"p{token_hex(4)}"))


@pytest.mark.timeout(90)
@pytest.mark.parametrize("name", ["", "mail", DEAD])
def test_a_wagon_with_an_exhausted_channel(redis_server: Server, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """It is left for the next one and told; every event is handled, in whichever wagon."""
    defaults: Any = Observer.__init__.__kwdefaults__
    monkeypatch.setitem(defaults, "sweep_every", 0.3)

    async def main(prefix: str) -> None:
        url, train, handled = f"{redis_server.url}?prefix={prefix}", f"t{token_hex(4)}", set[int]()
        t = Train(train, limit=Volume(1000), workers=Workers(total=4), grace=1.0, observe_every=0.05, visibility=2.0)

        @t.on(train)
        async def handle(n: int, ctx: Context) -> None:
            if n == 99:
                raise Reject("poison")
            await ctx.emit("mail", n)

        @t.on("mail")
        async def mail(n: int) -> None:
            handled.add(n)

        async with t.connect(url) as c:
            async with c.running():
                await c.publish(1)
                await until(lambda: 1 in handled)
                key = f"{prefix}:{{{train}_v1}}" + (f".{name}" if name else "")
                ask(redis_server.port, "XADD", key, LAST_ID, "data", "9")
                await c.publish(2, timeout=20)
                if name == DEAD:
                    assert "takes no more events" in "".join((await look(c, url)).threatened)
                    await c.publish(99)  # the train's own dead letters take it
                    await until(lambda: 2 in handled)
                    await asyncio.sleep(1.0)  # two sweeps
                    await c.request_switch()
                async with asyncio.timeout(20):
                    await c.wait_switched(1)
                await until(lambda: c.manifest.wagon(1) is None, seconds=40)
                await c.publish(3)
                await until(lambda: {1, 2, 3} <= handled, seconds=20)
                facts = [e.fact for e in await journal(c)]
            assert not any(isinstance(f, EventsLost) for f in facts)
            assert {f.channel for f in facts if isinstance(f, ChannelThreatened)} == {name}
            switched = next(f for f in facts if isinstance(f, Switched) and f.new == 2)
            assert ("can take no more events" in switched.because) is (name != DEAD)
            assert {f.number for f in facts if isinstance(f, DrainGivenUp)} <= ({1} if name == "mail" else set())
            if name != DEAD:
                assert 9 in handled
            else:
                letters = [letter.data async for letter in c.dead_letters()]
                assert sorted(letters) == [b"9", b"99"]

    asyncio.run(main(f"p{token_hex(4)}"))


@pytest.mark.parametrize("server", ["redis_server", "valkey_server"])
def test_an_exhausted_journal_stops_no_train(request: pytest.FixtureRequest, server: str) -> None:
    """What it has is kept, in its order."""
    at: Server = request.getfixturevalue(server)

    def told(because: str) -> Entry:
        return Entry(0.0, "me", StopRequested(train="t", because=because))

    async def main(prefix: str) -> None:
        def end() -> None:
            line = encode_entry(told("theirs"))
            ask(at.port, "XADD", f"{prefix}:{{t}}:journal", LAST_ID, "entry", line.decode())

        async def entries() -> list[Entry]:
            return [entry async for entry in registry.entries("t")]

        async with RedisRegistry.from_url(f"{at.url}?prefix={prefix}") as registry:
            first = [told(str(n)) for n in range(499)]
            stored = await registry.replace("t", Manifest(train="t"), expect=0, entries=first)
            end()
            assert await entries() == [*first, told("theirs")]  # a whole page
            await registry.replace("t", Manifest(train="t"), expect=stored.version, entries=[told("replace")])
            end()
            await registry.append("t", [told("append")])
            await registry.append("t", [told("append")])
            added = ["theirs", "replace", "theirs", "append", "append"]
            assert await entries() == [*first, *map(told, added)]

    asyncio.run(main(f"p{token_hex(4)}"))
