"""A whole train on SQS and DynamoDB: wagons filled, changed, emptied, removed; publishers that are stopped in
between."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from secrets import token_hex
from typing import Any

from eventwagon import Connection, Context, Lag, Train, Volume, Workers
from eventwagon.contracts.facts import SealWaits, WagonRemoved, WagonSealed
from eventwagon.drivers.aws import SQSBroker
from eventwagon.event import Channel
from tests.aws.support import QUICK, Between, clients_of, queues_of, refused
from tests.servers.moto import MotoServer
from tests.support import Email, SignUp, journal, until


async def removed(connection: Connection, count: int) -> None:
    """Until so many wagons are gone."""
    try:
        async with asyncio.timeout(60):
            while sum(isinstance(entry.fact, WagonRemoved) for entry in await journal(connection)) < count:
                await asyncio.sleep(0.5)
    except TimeoutError:
        told = "\n".join(str(entry) for entry in await journal(connection))
        raise AssertionError(f"{await connection.depths()}\n{told}") from None


async def clear(url: str, train: str) -> None:
    async with SQSBroker.from_url(url) as broker:
        for channel in await broker.channels(train):
            await broker.delete(channel)


def test_wagons_come_and_go(moto_server: MotoServer) -> None:
    name = f"train_{token_hex(4)}"
    url = f"{moto_server.url}&resend=3&poll=0.3"
    handled: list[str] = []
    train = Train(name, limit=Volume(15), workers=Workers(total=4), spares=1, backoff=0.1, **QUICK)
    failed: set[str] = set()

    @train.on(name)
    async def register(signup: SignUp, ctx: Context) -> None:
        if signup.email == "7" and "7" not in failed:
            failed.add("7")
            raise RuntimeError("once")
        await ctx.emit("welcome", Email(signup.email))

    @train.on("welcome")
    async def welcome(email: Email) -> None:
        handled.append(email.to)

    async def run() -> int:
        async with train.connect(url) as connection, connection.running(), train.connect(url) as second:
            count = 0
            while count < 30 or (active := connection.manifest.active) is None or active.number < 3:
                halves = [[SignUp(str(n)) for n in range(first, first + 5)] for first in (count, count + 5)]
                await asyncio.gather(connection.publish_many(halves[0]), second.publish_many(halves[1]))
                count += 10
                await asyncio.sleep(0.5)
            await until(lambda: len(set(handled)) == count, seconds=90, step=0.1)
            await removed(connection, 2)
        await clear(url, name)

        return count

    count = asyncio.run(run())
    assert set(handled) == {str(n) for n in range(count)}


def test_a_publisher_that_is_stopped_through_a_switch(moto_server: MotoServer) -> None:
    """Its lease holds the seal back while it may publish, and no longer; what it was told is accepted is handled."""
    name = f"train_{token_hex(4)}"
    url = f"{moto_server.url}&resend=3&poll=0.3"
    handled: Counter[int] = Counter()
    train = Train(name, limit=Volume(10_000), workers=Workers(total=4), spares=1, **QUICK)

    @train.on(name)
    async def handle(payload: dict[str, int]) -> None:
        handled[payload["n"]] += 1

    async def run() -> list[int]:
        async with train.connect(url) as connection, connection.running():
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                *("-m", "tests.aws.publisher", url, name, "1000"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            try:
                await until(lambda: len(handled) >= 3, seconds=60, step=0.1)
                os.kill(process.pid, signal.SIGSTOP)
                await connection.wait_switched(await connection.request_switch("by the test"))
                await until_fact(connection, SealWaits, WagonSealed)
                await removed(connection, 1)
                os.kill(process.pid, signal.SIGCONT)
                count = len(handled)
                await until(lambda: len(handled) > count + 2, seconds=60, step=0.1)
                out, _ = await process.communicate(b"\n")
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            accepted = [int(line) for line in out.split()]
            await until(lambda: set(accepted) <= set(handled), seconds=60, step=0.1)
        await clear(url, name)
        return accepted

    async def until_fact(connection: Connection, *kinds: type) -> None:
        async with asyncio.timeout(60):
            while not any(isinstance(entry.fact, kinds) for entry in await journal(connection)):
                await asyncio.sleep(0.3)

    accepted = asyncio.run(run())
    assert len(accepted) > 5
    assert set(accepted) <= set(handled)


def test_queues_that_were_deleted_are_made_again_for_what_they_held(moto_server: MotoServer) -> None:
    """By hand, or since the table was restored: of the wagon that drains and of the one that is active."""
    name = f"train_{token_hex(4)}"
    url = f"{moto_server.url}&resend=1&poll=0.3"
    gate, handled = asyncio.Event(), set[int]()
    train = Train(name, limit=Volume(100), workers=Workers(total=2), **{**QUICK, "grace": 0.5})

    @train.on(name)
    async def handle(n: int, ctx: Context) -> None:
        await gate.wait()
        await ctx.emit("inner", n)

    @train.on("inner")
    async def inner(n: int) -> None:
        handled.add(n)

    async def run() -> None:
        async with train.connect(url) as connection, connection.running():
            await connection.publish_many(range(5))
            await connection.request_switch()
            await connection.wait_switched(1)
            await connection.publish_many(range(5, 8))
            async with SQSBroker.from_url(url) as broker:
                for channel in (Channel(name, 1), Channel(name, 1, "inner"), Channel(name, 2)):
                    where = await queues_of(broker).url(channel)
                    await clients_of(broker).call("sqs", "delete_queue", QueueUrl=where)
            gate.set()
            await until(lambda: handled == set(range(8)), seconds=90)
            await removed(connection, 1)
            await connection.publish(8, timeout=30)
            await until(lambda: 8 in handled, seconds=60)
        await clear(url, name)

    asyncio.run(run())


def test_the_active_wagons_queue_is_deleted(moto_server: MotoServer) -> None:
    """While SQS refuses a new one of that name (moto would not), publishers go over to the next wagon at once, whatever
    the cooldown. Later the wagon gets its queue, and all is handled."""
    name = f"train_{token_hex(4)}"
    url = f"{moto_server.url}&resend=1&poll=0.3"
    handled, early = set[int](), True
    train = Train(name, limit=Lag(10_000), workers=Workers(total=2), spares=1, cooldown=3600.0, **QUICK)

    @train.on(name)
    async def handle(n: int) -> None:
        handled.add(n)

    async def meddle(operation: str, request: dict[str, Any], ask: Callable[[], Any]) -> Any:
        if early and operation == "create_queue" and request["QueueName"].endswith("_v1"):
            raise refused("AWS.SimpleQueueService.QueueDeletedRecently")
        return await ask()

    async def run() -> None:
        nonlocal early
        async with train.connect(url) as connection, connection.running():
            await connection.publish(0)
            await until(lambda: handled == {0} and connection.manifest.ready, seconds=60)
            assert isinstance(connection.broker, SQSBroker)
            clients = clients_of(connection.broker)
            Between(clients, meddle)
            where = await queues_of(connection.broker).url(Channel(name, 1))
            await clients.call("sqs", "delete_queue", QueueUrl=where)
            await connection.publish_many(range(1, 6), timeout=30)
            active = connection.manifest.active
            assert active is not None
            assert active.number == 2
            early = False
            await until(lambda: handled == set(range(6)), seconds=60)
            await removed(connection, 1)
        await clear(url, name)

    asyncio.run(run())
