"""What the tests of the Kafka drivers share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from secrets import token_hex
from typing import Any, TypeVar

import pytest
from confluent_kafka import KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from eventwagon.contracts.broker import Broker, Delivery, Subscription
from eventwagon.drivers.kafka import KafkaBroker
from eventwagon.drivers.kafka.admin import Admin
from eventwagon.drivers.kafka.options import Options
from eventwagon.drivers.kafka.sender import Headers
from eventwagon.errors import BrokerError, ChannelGone, PublishUncertain, Sealed, Unavailable
from eventwagon.event import Channel, Event, new_ids

LONG = 600.0
_T = TypeVar("_T")


def events(count: int, *, size: int = 10) -> list[Event]:
    now = 1_700_000_000.5
    return [Event(name, "happened", "/tests", now, b"x" * size) for name in new_ids(count, now)]


def new_channel(name: str = "") -> Channel:
    return Channel(f"t{token_hex(5)}", 1, name)


@asynccontextmanager
async def holding(url: str, *held: Event) -> AsyncIterator[tuple[KafkaBroker, Channel]]:
    """A broker and a new channel with these events; removed afterwards."""
    channel = new_channel()
    async with KafkaBroker.from_url(url) as broker:
        await broker.create(channel)
        if held:
            await broker.publish(channel, held)
        try:
            yield broker, channel
        finally:
            await broker.delete(channel)


@asynccontextmanager
async def topics(url: str) -> AsyncIterator[Admin]:
    """The cluster's topics, through a client of the test's own."""
    admin = Admin(Options(url.removeprefix("kafka://").partition("?")[0]))
    try:
        yield admin
    finally:
        await admin.close()


def offset_calls(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The topics of each call for offsets from now on."""
    asked = list[set[str]]()
    list_offsets = AdminClient.list_offsets

    def recorded(self: AdminClient, wanted: dict[TopicPartition, Any], **options: Any) -> Any:
        asked.append({at.topic for at in wanted})
        return list_offsets(self, wanted, **options)

    monkeypatch.setattr(AdminClient, "list_offsets", recorded)
    return asked


async def standing(broker: Broker, channel: Channel) -> list[str]:
    """The ids of what stands there."""
    return [event.id async for event in broker.read(channel)]


async def take(consumer: Subscription, count: int, *, patience: float = 30.0) -> list[Delivery]:
    got: list[Delivery] = []
    async with asyncio.timeout(patience):
        while len(got) < count:
            got += await consumer.receive(count - len(got), 1.0)
    return got


async def patiently(step: Callable[[], Awaitable[_T]], *, seconds: float = 60.0) -> _T:
    """What the step returns, once it raises no Unavailable."""
    async with asyncio.timeout(seconds):
        while True:
            try:
                return await step()
            except Unavailable:
                await asyncio.sleep(0.1)


class Publishing:
    """Publishes one event after the other until the channel is sealed; what was accepted, and what may be stored."""

    def __init__(self, broker: Broker, channel: Channel) -> None:
        self.accepted: list[str] = []
        self.unsure: list[str] = []
        self.sealed = asyncio.Event()
        self._broker = broker
        self._channel = channel
        self._stop = False

    async def run(self) -> None:
        while not self._stop:
            some = events(2)
            try:
                await self._broker.publish(self._channel, some)
            except Sealed as e:
                self.accepted += [one.id for one in some[: e.accepted]]
                # the leader that died may have stored it, and the next one refused its second sending
                self.unsure += [one.id for one in some[e.accepted :]]
                self.sealed.set()
                return
            except PublishUncertain:
                self.unsure += [one.id for one in some]
            except ChannelGone:
                raise
            except BrokerError:
                await asyncio.sleep(0.05)
            else:
                self.accepted += [one.id for one in some]

    def stop(self) -> None:
        self._stop = True


def send(
    bootstrap: str, topic: str, partition: int, value: bytes = b"", *, headers: Headers = (), **config: object
) -> KafkaError | None:
    """What a plain producer is told."""
    said: list[KafkaError | None] = []

    def report(error: KafkaError | None, message: Message) -> None:
        said.append(error)

    producer = Producer({"bootstrap.servers": bootstrap, "message.timeout.ms": 10_000, "log_level": 0, **config})
    producer.produce(topic, value, None, partition, report, headers=list(headers))
    producer.flush(20)
    return said[0]
