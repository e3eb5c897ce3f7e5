"""Options that decide what topics are called and how clients log in."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import time
from pathlib import Path
from typing import Any

import pytest

from eventwagon import Train, Volume
from eventwagon.drivers.kafka import KafkaBroker
from eventwagon.drivers.kafka.options import Options
from eventwagon.drivers.kafka.registry import KafkaRegistry
from eventwagon.errors import StorageBroken, UsageError
from eventwagon.event import Channel
from tests.kafka.support import LONG, events, new_channel, take
from tests.servers.kafka import KafkaServer
from tests.servers.ports import free_port
from tests.servers.server import Server


async def one_event(train: Train, url: str, number: int, handled: list[int]) -> None:
    @train.on(train.name)
    async def handle(payload: int) -> None:
        handled.append(payload)

    async with train.connect(url) as connection:
        await connection.publish(number)
        async with asyncio.timeout(60), connection.running():
            while not handled:
                await asyncio.sleep(0.05)


def test_a_prefix_keeps_two_installations_apart(kafka_server: Server) -> None:
    """The same train twice, under two prefixes and without one: none sees the others' topics."""

    async def main() -> None:
        name = new_channel().train
        urls = [kafka_server.url, f"{kafka_server.url}?topic_prefix=acme.", f"{kafka_server.url}?topic_prefix=Other_"]
        handled: list[list[int]] = [[], [], []]
        for at, url in enumerate(urls):
            await one_event(Train(name, limit=Volume(100)), url, at, handled[at])
        assert handled == [[0], [1], [2]]
        for url, prefix in zip(urls, ("", "acme.", "Other_"), strict=True):
            async with KafkaBroker.from_url(url) as broker, KafkaRegistry.from_url(url) as registry:
                assert broker.name_of(Channel(name, 1)) == f"{prefix}{name}_v1"
                found = await broker.channels(name)
                assert Channel(name, 1) in found
                assert name in await registry.trains()
                assert not [train for train in await registry.trains() if "." in train]
                for channel in found:
                    await broker.seal(channel)
                    await broker.delete(channel)
                assert await broker.channels(name) == []

    asyncio.run(main())


def test_modes_that_cannot_be() -> None:
    with pytest.raises(UsageError, match="mode='json'; give binary or structured"):
        KafkaBroker.from_url("kafka://host:9092?mode=json")


@pytest.mark.parametrize("prefix", ["a b", "ü", "x" * 101, "a/b", "a\n"])
def test_prefixes_that_cannot_be(prefix: str) -> None:
    for driver in (KafkaBroker, KafkaRegistry):
        with pytest.raises(UsageError, match="topic_prefix"):
            driver("host:9092", topic_prefix=prefix)


@pytest.mark.parametrize(
    "given",
    [
        "retries=0",
        "max.in.flight.requests.per.connection=1000000",
        "max.poll.interval.ms=1",
        "linger.ms=5000",
        "fetch.wait.max.ms=60000",
        "receive.message.max.bytes=1000",
        "queue.buffering.max.messages=1",
        "connections.max.idle.ms=1",  # no call ended
        "error_cb=x",  # raised TypeError
        "default.topic.config=1",  # raised AttributeError
        "internal.termination.signal=9",  # killed the process
        "plugin.library.paths=/tmp/x",  # loaded it
    ],
)
def test_what_eventwagon_decides_can_not_be_given(given: str) -> None:
    """It is refused before librdkafka sees it."""
    name = given.partition("=")[0]
    said = rf"kafka://h:1: option {name} can't be given; known are partitions, .* sasl\.\*, .*: eventwagon decides the"
    for driver in (KafkaBroker, KafkaRegistry):
        with pytest.raises(UsageError, match=said):
            driver.from_url(f"kafka://h:1?{given}")
        with pytest.raises(UsageError, match=said):
            driver("h:1", config=dict([given.split("=")]))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("max_message_bytes=2147483648", "max_message_bytes=2147483648; give 1024 to 50000000"),
        ("replication=99999", "replication=99999; give 1 to the number of brokers, or -1"),
        ("partitions=1001", "partitions=1001; give 1 to 1000"),
        ("partitions=2&partitions=4", "option 'partitions' is given twice"),
        ("log_level=x", "librdkafka does not take log_level: Invalid value"),
        (
            "compression.level=99",
            'does not take compression.level: Configuration property "compression.level" value 99',
        ),
        ("check.crcs=2", "does not take check.crcs: Expected bool"),  # an option of consumers alone
        ("sasl.mechanism=NONE&security.protocol=SASL_PLAINTEXT", "Unsupported SASL mechanism: \\*\\*\\*"),
        ("sasl.pasword=hunter2", 'No such configuration property: "sasl.pasword"'),
    ],
)
def test_values_that_no_client_can_have(given: str, said: str) -> None:
    for driver in (KafkaBroker, KafkaRegistry):
        with pytest.raises(UsageError, match=said) as refused:
            driver.from_url(f"kafka://h:1?{given}")
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"partitions": "4"}, "partitions='4'; give a whole number"),
        ({"partitions": 1.5}, "partitions=1.5; give a whole number"),
        ({"replication": True}, "replication=True; give a whole number"),
        ({"timeout": "3"}, "timeout='3'; give a number of seconds"),
        ({"group": None}, "group=None; give text"),
        ({"config": {"log_level": 7}}, "config: give a dict of names and values, all of them text"),
        ({"config": {"client.id": "\ud800"}}, "config: give a dict"),
        ({"config": {"client.id": "a\0b"}}, "config: give a dict"),
        ({"config": [("log_level", "7")]}, "config: give a dict"),
    ],
)
def test_what_only_a_program_can_give(given: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        KafkaBroker("h:1", **given)


def test_more_copies_than_brokers(kafka_server: Server) -> None:
    async def main() -> None:
        async with Train(new_channel().train).connect(f"{kafka_server.url}?replication=5") as connection:
            with pytest.raises(StorageBroken, match="set replication= in the URL to the number of brokers or less"):
                await connection.found()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("place", "why"),
    [
        ("h:x,h2", "the port of host 1 of 2 is no number from 1 to 65535"),
        ("h:99999", "the port of the host is no number"),
        ("h:0", "the port of the host is no number"),
        ("h,,h2", "host 2 of 3 is none"),
        ("h h2", "the host is none"),
        ("h/topic", "no path follows the hosts"),
        ("u:p@h", "go into sasl.username= and sasl.password="),
        ("", "the hosts are missing"),
    ],
)
def test_what_is_wrong_with_a_url_is_told_at_once(place: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        KafkaBroker.from_url(f"kafka://{place}")


def test_hosts_have_ports() -> None:
    assert Options.from_url("kafka://a,b:1,[::1],[::2]:3").servers == "a:9092,b:1,[::1]:9092,[::2]:3"


def token() -> tuple[str, float]:
    """One that nobody signed, as Kafka takes them in tests."""
    until = time.time() + 600
    parts = ({"alg": "none"}, {"sub": "tests", "iat": int(time.time()) - 5, "exp": int(until)})
    words = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return ".".join((*words, "")), until


def test_tokens_come_from_a_function(tmp_path: Path) -> None:
    """SASL/OAUTHBEARER, for all clients of the broker and of the registry."""
    bearer = (
        "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="
    )
    config = {
        "listener.security.protocol.map": "CLIENTS:PLAINTEXT,TOKENS:SASL_PLAINTEXT,CONTROLLER:PLAINTEXT",
        "sasl.enabled.mechanisms": "OAUTHBEARER",
        "listener.name.tokens.oauthbearer.sasl.jaas.config": f'{bearer}"server";',
    }
    asked: list[str] = []

    def give(config: str) -> tuple[str, float]:
        asked.append(config)
        return token()

    async def main(servers: str) -> None:
        options = {"security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "OAUTHBEARER"}
        channel = new_channel()
        async with (
            KafkaBroker(servers, oauth_cb=give, config=options) as broker,
            KafkaRegistry(servers, oauth_cb=give, config=options) as registry,
        ):
            await broker.create(channel)
            await broker.publish(channel, events(2))
            async with broker.consume(channel, visibility=LONG) as consumer:
                await consumer.settle(await take(consumer, 2))
            await broker.seal(channel)
            assert channel.train not in await registry.trains()
            await broker.delete(channel)
        assert len(asked) >= 5

    server = TwoListeners(tmp_path, config=config)
    with server:
        asyncio.run(main(f"{server.host}:{server.tokens}"))


class TwoListeners(KafkaServer):
    """A second listener, for clients with tokens."""

    def properties(self) -> dict[str, str]:
        found = super().properties()
        listener = f"TOKENS://{self.host}:{self.tokens}"
        found["listeners"] += f",{listener}"
        found["advertised.listeners"] += f",{listener}"
        return found

    @property
    def tokens(self) -> int:
        if not hasattr(self, "_tokens"):
            self._tokens = free_port()
        return self._tokens
