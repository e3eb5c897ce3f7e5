"""A whole train on Pulsar: wagons filled, changed, emptied and removed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from secrets import token_hex
from urllib.parse import quote

import pytest

from eventwagon import Context, Train, Volume, Workers
from eventwagon.contracts.facts import DrainGivenUp
from eventwagon.drivers.pulsar import PulsarBroker
from eventwagon.event import Channel
from eventwagon.policy import losses
from tests.servers.server import Server
from tests.support import Email, SignUp, until


def test_wagons_come_and_go(pulsar_server: Server, tmp_path: Path) -> None:
    name = f"train_{token_hex(4)}"
    url = f"{pulsar_server.url}&registry={quote(f'sqlite:///{tmp_path}', safe='')}"
    handled: list[str] = []
    train = Train(name, limit=Volume(100), workers=Workers(total=4), spares=1)

    @train.on(name)
    async def register(signup: SignUp, ctx: Context) -> None:
        await ctx.emit("welcome", Email(signup.email))

    @train.on("welcome")
    async def welcome(email: Email) -> None:
        handled.append(email.to)

    async def run() -> None:
        async with train.connect(url) as connection, connection.running():
            for first in range(0, 500, 50):
                await connection.publish_many([SignUp(str(n)) for n in range(first, first + 50)])
                await asyncio.sleep(0.3)
            await until(lambda: len(set(handled)) == 500, seconds=60)

            async def wagons() -> set[int]:
                async with PulsarBroker.from_url(pulsar_server.url) as broker:
                    return {channel.wagon for channel in await broker.channels(name)}

            async with asyncio.timeout(60):
                while len(found := await wagons()) > 2 or max(found) < 3:  # the active one and its spare
                    await asyncio.sleep(0.3)
        async with PulsarBroker.from_url(pulsar_server.url) as broker:
            for channel in await broker.channels(name):
                await broker.delete(channel)

    asyncio.run(run())
    assert len(handled) < 600


def test_an_inner_channel_that_was_deleted_is_left_with_its_wagon(pulsar_server: Server, tmp_path: Path) -> None:
    """It can't be made anew: new events go to the next wagon, and are handled there with all that they emit."""
    name = f"train_{token_hex(4)}"
    url = f"{pulsar_server.url}&registry={quote(f'sqlite:///{tmp_path}', safe='')}"
    handled: list[str] = []
    train = Train(name, limit=Volume(1000), workers=Workers(total=2), observe_every=0.2)

    @train.on(name)
    async def register(signup: SignUp, ctx: Context) -> None:
        await ctx.emit("welcome", Email(signup.email))

    @train.on("welcome")
    async def welcome(email: Email) -> None:
        handled.append(email.to)

    async def run() -> None:
        async with train.connect(url, listeners=()) as connection:
            async with connection.running():
                await connection.publish(SignUp("a"))
                await until(lambda: handled == ["a"], seconds=30)
                async with PulsarBroker.from_url(pulsar_server.url) as other:
                    await other.delete(Channel(name, 1, "welcome"))
                async with asyncio.timeout(40):
                    assert await connection.wait_switched(1) == 2
                await connection.publish_many([SignUp(str(n)) for n in range(5)])
                await until(lambda: set("01234") <= set(handled), seconds=40)
            await connection.remove(force=True)

    asyncio.run(run())


def test_what_a_wagon_holds_that_lost_an_inner_topic_is_published_anew(
    pulsar_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would drain for ever."""
    monkeypatch.setattr(losses, "_SURE", 1.0)
    name = f"train_{token_hex(4)}"
    url = f"{pulsar_server.url}&registry={quote(f'sqlite:///{tmp_path}', safe='')}"
    gate, handled = asyncio.Event(), set[str]()
    train = Train(name, limit=Volume(1000), workers=Workers(total=2), observe_every=0.1, grace=0.5, visibility=5.0)

    @train.on(name)
    async def register(signup: SignUp, ctx: Context) -> None:
        await gate.wait()
        await ctx.emit("welcome", Email(signup.email))

    @train.on("welcome")
    async def welcome(email: Email) -> None:
        handled.add(email.to)

    async def run() -> None:
        async with train.connect(url, listeners=()) as connection, connection.running(), asyncio.timeout(100):
            await connection.publish_many([SignUp(str(n)) for n in range(5)])
            await connection.request_switch()
            await connection.wait_switched(1)
            async with PulsarBroker.from_url(pulsar_server.url) as other:
                await other.delete(Channel(name, 1, "welcome"))
            await asyncio.sleep(1.0)
            gate.set()
            await until(lambda: connection.manifest.wagon(1) is None, seconds=80)
            await until(lambda: handled == set("01234"), seconds=40)
            facts = [entry.fact async for entry in connection.journal()]
            assert [f.number for f in facts if isinstance(f, DrainGivenUp)] == [1]

    asyncio.run(run())
