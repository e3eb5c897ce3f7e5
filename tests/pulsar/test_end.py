"""A process that used Pulsar ends by itself, with no thread of the client left in its interpreter."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from eventwagon.drivers.pulsar import PulsarBroker
from tests.pulsar.support import a_channel
from tests.servers.server import Server

PROGRAM = """
import asyncio, sys, threading, time

from eventwagon.drivers.pulsar import PulsarBroker
from eventwagon.drivers.pulsar.native import Landing
from eventwagon.event import Channel
from tests.pulsar.support import events


async def main(url, train):
    async with PulsarBroker.from_url(url) as broker:
        channel = Channel(train, 1)
        await broker.publish(channel, events(20))
        async with broker.consume(channel, visibility=5.0) as consumer:
            await consumer.settle(await consumer.receive(20, 5.0))


def slowly(landing, *call):
    post(landing, *call)
    if threading.current_thread() is not threading.main_thread():
        time.sleep(0.3)  # as if the machine had something else to do just now


post, Landing.post = Landing.post, slowly
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.slow
def test_it_ends_without_a_crash(pulsar_server: Server) -> None:
    async def create() -> str:
        channel = a_channel()
        async with PulsarBroker.from_url(pulsar_server.url) as broker:
            await broker.create(channel)
        return channel.train

    train = asyncio.run(create())
    for _ in range(2):
        ended = subprocess.run(
            [sys.executable, "-c", PROGRAM, pulsar_server.url, train], capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, "")
