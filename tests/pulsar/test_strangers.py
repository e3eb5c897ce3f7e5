"""Messages of others in Pulsar: bad ones, and those of the official CloudEvents package."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import quote

import pulsar  # type: ignore[import-untyped]

from eventwagon.brokers.pulsar import PulsarBroker
from eventwagon.event import Channel
from tests.servers.server import Server
from tests.strangers import (
    BINARY_ONES,
    OURS,
    STRUCTURED_ONES,
    Written,
    beside_ours,
    by_package,
    read_by_package,
    same_to_package,
    same_to_us,
)

from .support import a_channel


def client_of(server: Server) -> Any:
    logger = pulsar.ConsoleLogger(pulsar._pulsar.LoggerLevel.Error)
    return pulsar.Client(server.url.split("/public")[0], logger=logger)


async def send(server: Server, channel: Channel, written: Sequence[Written]) -> None:
    def sending() -> None:
        client = client_of(server)
        producer = client.create_producer(f"persistent://public/default/{channel}")
        for attributes, data in written:
            named = {"content-type" if n == "datacontenttype" else f"ce_{n}": v.decode() for n, v in attributes.items()}
            producer.send(data, properties=named)
        client.close()

    await asyncio.to_thread(sending)


def test_messages_of_others_end_no_worker_and_no_removal(pulsar_server: Server, tmp_path: Path) -> None:
    async def write(channel: Channel, written: Sequence[Written]) -> None:
        await send(pulsar_server, channel, written)

    bad = [BINARY_ONES[3], STRUCTURED_ONES[1]]
    written = [*BINARY_ONES, *STRUCTURED_ONES]
    url = f"{pulsar_server.url}&registry={quote(f'sqlite:///{tmp_path}', safe='')}"
    asyncio.run(beside_ours(f"t{token_hex(5)}", url, write, written, bad))


def test_the_official_package_reads_and_writes_ours(pulsar_server: Server) -> None:
    def read(channel: Channel) -> tuple[dict[str, bytes], bytes]:
        client = client_of(pulsar_server)
        reader = client.create_reader(f"persistent://public/default/{channel}", pulsar.MessageId.earliest)
        message = reader.read_next(10_000)
        given, data = message.properties(), message.data()
        client.close()
        names = {n.removeprefix("ce-").replace("content-type", "datacontenttype"): v.encode() for n, v in given.items()}
        return names, data

    async def main() -> None:
        async with PulsarBroker.from_url(pulsar_server.url) as broker:
            channel = a_channel()
            await broker.create(channel)
            await broker.publish(channel, [OURS])
            same_to_package(read_by_package(*await asyncio.to_thread(read, channel)))
            await broker.delete(channel)
            for structured in (False, True):
                channel = a_channel()
                await broker.create(channel)
                await send(pulsar_server, channel, by_package(structured=structured))
                same_to_us([event async for event in broker.read(channel)])
                await broker.delete(channel)

    asyncio.run(main())
