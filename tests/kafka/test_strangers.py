"""Messages of others in Kafka: bad ones, and those of the official CloudEvents package."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from eventwagon.drivers.kafka import KafkaBroker
from eventwagon.event import Channel
from tests.kafka.support import holding
from tests.servers.server import Server
from tests.strangers import Write, Written, batches_hurt_nobody, both_ways, hurt_nobody

NULLS: list[tuple[str, bytes | None]] = [
    (name, None) for name in ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type")
]
Headers = list[tuple[str, str | bytes | None]]


def headers(attributes: dict[str, bytes]) -> Headers:
    return [
        ("content-type" if name == "datacontenttype" else f"ce_{name}", value) for name, value in attributes.items()
    ]


async def produce(server: Server, channel: Channel, written: Sequence[tuple[Headers, bytes]]) -> None:
    producer = Producer({"bootstrap.servers": server.url.removeprefix("kafka://").partition("?")[0]})
    for names, data in written:
        producer.produce(str(channel), data, headers=names)
    assert await asyncio.to_thread(producer.flush, 20) == 0


@pytest.fixture
def write(kafka_server: Server) -> Write:
    async def write(channel: Channel, written: Sequence[Written]) -> None:
        await produce(kafka_server, channel, [(headers(one.attributes), one.data) for one in written])

    return write


def test_messages_of_others_end_no_worker_and_no_removal(kafka_server: Server, write: Write) -> None:
    hurt_nobody(kafka_server.url, write)


def test_messages_that_hold_several_events(kafka_server: Server, write: Write) -> None:
    batches_hurt_nobody(kafka_server.url, write)


def test_headers_without_a_value_are_left_out(kafka_server: Server) -> None:
    async def main() -> None:
        async with holding(kafka_server.url) as (broker, channel):
            await produce(kafka_server, channel, [(list(NULLS), b"1"), ([*NULLS[1:], ("ce_specversion", None)], b"2")])
            events = [event async for event in broker.read(channel)]
        assert [(e.type, e.source, e.content_type, e.data) for e in events] == [
            ("unknown", "unknown", "application/json", data) for data in (b"1", b"2")
        ]
        assert all(e.id.startswith(f"{channel}/") and e.time > 1.7e9 for e in events)

    asyncio.run(main())


def test_the_official_package_reads_and_writes_ours(kafka_server: Server, write: Write) -> None:
    def consume(channel: Channel) -> tuple[dict[str, bytes], bytes]:
        servers = kafka_server.url.removeprefix("kafka://").partition("?")[0]
        consumer = Consumer({"bootstrap.servers": servers, "group.id": "package"})
        consumer.assign([TopicPartition(str(channel), 0, 0)])
        while True:
            message = consumer.poll(20)
            assert message is not None
            given: dict[str, Any] = dict(message.headers() or [])
            if "0probe" not in given:  # no event: others skip it
                break
        consumer.close()
        names = {
            name.removeprefix("ce_").replace("content-type", "datacontenttype"): value for name, value in given.items()
        }
        return names, message.value() or b""

    both_ways(
        lambda: KafkaBroker.from_url(kafka_server.url), lambda channel: asyncio.to_thread(consume, channel), write
    )
