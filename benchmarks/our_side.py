"""Our side of the benchmarks on servers: a new channel, or a new train, used the same way whatever the broker is."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from eventwagon import Train
from eventwagon.contracts.broker import Broker
from eventwagon.drivers.opening import open_drivers
from eventwagon.event import Channel, Event
from eventwagon.limits import Volume

from .kit import Order, Stopwatch, unused

Publish = Callable[[Any], Awaitable[object]]
"""What is done with a connection."""


@asynccontextmanager
async def new_channel(url: str) -> AsyncIterator[tuple[Broker, Channel]]:
    """A broker with an empty channel, which goes again."""
    async with open_drivers(url).broker as broker:
        channel = Channel(unused("bench"), 1)
        await broker.create(channel)
        yield broker, channel
        await broker.delete(channel)


async def one_after_the_other(url: str, work: Sequence[Sequence[Event]]) -> float:
    """Events/s of publishing these batches."""
    async with new_channel(url) as (broker, channel):
        watch = Stopwatch()
        for batch in work:
            await broker.publish(channel, batch)
        return sum(map(len, work)) / watch.seconds


async def receive_and_settle(broker: Broker, channel: Channel, size: int, count: int) -> float:
    """Events/s of working off `count` events, attaching included."""
    watch, done = Stopwatch(), 0
    async with broker.consume(channel, visibility=600.0) as consumer:
        while done < count:
            got = await consumer.receive(size, 5.0)
            await consumer.settle(got)
            done += len(got)
        return count / watch.seconds


async def through_train(url: str, count: int, publish: Publish) -> float:
    """Events/s of publishing `count` events to a new train that nobody works for."""
    async with Train(unused("bench"), limit=Volume(10**9)).connect(url, listeners=()) as connection:
        await connection.found()
        watch = Stopwatch()
        await publish(connection)
        return count / watch.seconds


def callers(count: int, work: Sequence[Order]) -> Publish:
    """`count` tasks that each publish all of it, one event a call."""

    async def publish(connection: Any) -> None:
        async def call() -> None:
            for order in work:
                await connection.publish(order)

        await asyncio.gather(*(call() for _ in range(count)))

    return publish
