"""Messages of others in Pulsar: bad ones, and those of the official CloudEvents package."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import pulsar  # type: ignore[import-untyped]
import pytest

from eventwagon.drivers.pulsar import PulsarBroker
from eventwagon.event import Channel
from tests.pulsar.support import client_of
from tests.servers.server import Server
from tests.strangers import Write, Written, batches_hurt_nobody, both_ways, hurt_nobody


async def send(server: Server, channel: Channel, written: Sequence[Written]) -> None:
    def sending() -> None:
        client = client_of(server)
        producer = client.create_producer(f"persistent://public/default/{channel}")
        for attributes, data in written:
            named = {"content-type" if n == "datacontenttype" else f"ce_{n}": v.decode() for n, v in attributes.items()}
            producer.send(data, properties=named)
        client.close()

    await asyncio.to_thread(sending)


@pytest.fixture
def write(pulsar_server: Server) -> Write:
    async def write(channel: Channel, written: Sequence[Written]) -> None:
        await send(pulsar_server, channel, written)

    return write


def test_messages_of_others_end_no_worker_and_no_removal(pulsar_server: Server, tmp_path: Path, write: Write) -> None:
    url = f"{pulsar_server.url}&registry={quote(f'sqlite:///{tmp_path}', safe='')}"
    hurt_nobody(url, write, latin_1=False)


def test_messages_that_hold_several_events(pulsar_server: Server, tmp_path: Path, write: Write) -> None:
    url = f"{pulsar_server.url}&registry={quote(f'sqlite:///{tmp_path}', safe='')}"
    batches_hurt_nobody(url, write)


def test_the_official_package_reads_and_writes_ours(pulsar_server: Server, write: Write) -> None:
    def read(channel: Channel) -> tuple[dict[str, bytes], bytes]:
        client = client_of(pulsar_server)
        reader = client.create_reader(f"persistent://public/default/{channel}", pulsar.MessageId.earliest)
        message = reader.read_next(10_000)
        given, data = message.properties(), message.data()
        client.close()
        names = {n.removeprefix("ce-").replace("content-type", "datacontenttype"): v.encode() for n, v in given.items()}
        return names, data

    both_ways(lambda: PulsarBroker.from_url(pulsar_server.url), lambda channel: asyncio.to_thread(read, channel), write)
