"""Messages of others in SQS: bad ones, and those of the official CloudEvents package."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from cloudevents.core.formats.json import JSONFormat

from eventwagon.cloudevents import STRUCTURED
from eventwagon.contracts.broker import Delivery
from eventwagon.drivers.aws import SQSBroker
from eventwagon.event import Channel
from tests.aws.support import QUICK, a_channel, clients_of, queues_of
from tests.servers.moto import MotoServer
from tests.strangers import (
    DEEP,
    OURS,
    STRUCTURED_ONES,
    Written,
    batches_hurt_nobody,
    by_package,
    same_to_package,
    same_to_us,
)


async def send(broker: SQSBroker, channel: Channel, written: Sequence[Written]) -> None:
    url = await queues_of(broker).url(channel)
    for attributes, data in written:
        kind = {"DataType": "String", "StringValue": attributes["datacontenttype"].decode()}
        said: dict[str, Any] = {"MessageAttributes": {"contentType": kind}} if kind["StringValue"] else {}
        await clients_of(broker).call("sqs", "send_message", QueueUrl=url, MessageBody=data.decode(), **said)


def test_messages_of_others_end_no_receive(moto_server: MotoServer) -> None:
    """Each comes, as an event or as what can't be decoded, and can be settled; with our own content type as well."""

    async def run() -> None:
        channel, own = a_channel(), b"application/cloudevents+json; charset=utf-8"
        reference = b"application/vnd.eventwagon.reference+json"
        written = [
            *STRUCTURED_ONES,
            Written({"datacontenttype": own}, DEEP),
            Written({"datacontenttype": b""}, DEEP),
            Written({"datacontenttype": own}, b'{"specversion":"1.0","id":"edge","time":"0001-01-01T00:00:00+14:00"}'),
            Written({"datacontenttype": reference}, b'{"key":""}'),
            Written({"datacontenttype": reference}, b"[" * 1000),
        ]
        async with SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            await send(broker, channel, written)
            got: list[Delivery] = []
            async with broker.consume(channel, visibility=30) as consumer:
                async with asyncio.timeout(30):
                    while len(got) < len(written):
                        got += await consumer.receive(10, 1.0)
                await consumer.settle(got)
                assert list(await consumer.receive(10, 1.0)) == []
            bad = [d.event.data for d in got if "undecodable" in d.event.extensions]
            assert sorted(bad) == sorted([DEEP, b'{"no": "array"}', DEEP, b'{"key":""}', b"[" * 1000])
            assert {d.event.id for d in got} >= {"structured", "edge"}
            await broker.delete(channel)

    asyncio.run(run())


def test_messages_that_hold_several_events(moto_server: MotoServer) -> None:
    url = f"{moto_server.url}&resend=3&poll=0.3"

    async def write(channel: Channel, written: Sequence[Written]) -> None:
        async with SQSBroker.from_url(url) as broker:
            await send(broker, channel, written)

    batches_hurt_nobody(url, write, **QUICK)


def test_one_in_our_content_type_that_comes_again_is_not_taken_for_settled(moto_server: MotoServer) -> None:
    """It has no row, as one of ours has none once it is settled."""

    async def run() -> None:
        channel, own = a_channel(), b"application/cloudevents+json; charset=utf-8"
        async with SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            body = b'{"specversion":"1.0","id":"theirs","source":"s","type":"t"}'
            await send(broker, channel, [Written({"datacontenttype": own}, body)])
            async with broker.consume(channel, visibility=30) as consumer:
                for attempt in (1, 2, 3):
                    (delivery,) = await consumer.receive(1, 10.0)
                    assert (delivery.event.id, delivery.attempt) == ("theirs", attempt)
                    await consumer.release([delivery])
                (delivery,) = await consumer.receive(1, 10.0)
                await consumer.settle([delivery])
                assert list(await consumer.receive(1, 1.0)) == []
            await broker.delete(channel)

    asyncio.run(run())


def test_the_official_package_reads_and_writes_ours(moto_server: MotoServer) -> None:
    async def run() -> None:
        async with SQSBroker.from_url(moto_server.url) as broker:
            channel = a_channel()
            await broker.create(channel)
            await broker.publish(channel, [OURS])
            url = await queues_of(broker).url(channel)
            answer = await clients_of(broker).call("sqs", "receive_message", QueueUrl=url)
            same_to_package(JSONFormat().read(None, answer["Messages"][0]["Body"]))
            await broker.delete(channel)
            for kind in (STRUCTURED.encode(), b""):
                channel = a_channel()
                await broker.create(channel)
                theirs = by_package(structured=True)
                await send(broker, channel, [Written({"datacontenttype": kind}, one.data) for one in theirs])
                got: list[Delivery] = []
                async with broker.consume(channel, visibility=30) as consumer:
                    async with asyncio.timeout(30):
                        while len(got) < 2:
                            got += await consumer.receive(10, 1.0)
                same_to_us(sorted((d.event for d in got), key=lambda event: event.id))
                await broker.delete(channel)

    asyncio.run(run())
