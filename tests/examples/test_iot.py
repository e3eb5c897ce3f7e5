"""The MQTT source of `examples/iot` against the suite for sources, and the example itself on real servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from secrets import token_hex

import pytest
from examples.iot.mqtt_source import open_mqtt
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from eventwagon.bridge import Source
from eventwagon.contracts.address import Address
from eventwagon.testing.conformance import Check, SourceHarness, Undeclared, source_checks
from tests.servers.mosquitto import MosquittoServer


def send(server: MosquittoServer, topic: str, values: Sequence[bytes]) -> None:
    """As a device does; returns when the server has them."""
    client = Client(CallbackAPIVersion.VERSION2)
    client.connect(server.host, server.port)
    client.loop_start()
    for info in [client.publish(topic, value, qos=1) for value in values]:
        info.wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


class Flow:
    """A topic of its own. Each reader that is open at a time has a session of its own, as each of several bridges."""

    claim = 0.0
    ordered = True

    def __init__(self, server: MosquittoServer) -> None:
        self._server = server
        self._topic = f"flow-{token_hex(4)}"
        self._free = ["second", "first"]

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Source]:
        session = self._free.pop()
        options = f"client_id={self._topic}-{session}&group=workers"
        try:
            async with open_mqtt(Address.of(f"{self._server.url}/{self._topic}?{options}"), "latest") as source:
                yield source
        finally:
            self._free.append(session)

    async def write(self, values: Sequence[bytes]) -> None:
        await asyncio.to_thread(send, self._server, self._topic, values)


@pytest.mark.parametrize("check", source_checks(), ids=str)
def test_the_source_keeps_the_contract(check: Check[SourceHarness], mosquitto_server: MosquittoServer) -> None:
    @asynccontextmanager
    async def flow() -> AsyncIterator[Flow]:
        yield Flow(mosquitto_server)

    try:
        asyncio.run(check.run(flow))
    except Undeclared as undeclared:
        assert "without taking them" in str(undeclared)
