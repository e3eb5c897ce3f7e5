"""docs/howto/move-a-kafka-topic.md, move-a-redis-stream.md and move-an-sqs-queue.md, command by command."""

from __future__ import annotations

import asyncio
import re
import shlex
import time
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported without saying so
from redis import Redis

from eventwagon.bridge.opening import open_source
from eventwagon.drivers.aws.clients import Clients
from eventwagon.drivers.aws.place import Place
from tests.docs.documents import ROOT
from tests.docs.walk import PATIENCE, Walk
from tests.servers.moto import ENVIRONMENT, MotoServer
from tests.servers.server import Server


@pytest.fixture
def place(tmp_path: Path) -> Path:
    directory = tmp_path / "moving"
    directory.mkdir()
    return directory


def until_shipped(place: Path, first: int, end: int) -> None:
    """The train's workers have printed these numbers, each once."""
    log = place / "terminal-1.log"
    deadline = time.monotonic() + PATIENCE
    while (found := sorted(re.findall(r"^shipped (\d+)$", log.read_text(), re.MULTILINE))) != [
        *map(str, range(first, end))
    ]:
        assert time.monotonic() < deadline, found
        time.sleep(0.1)


@pytest.mark.slow
def test_moving_a_redis_stream(place: Path, own_redis: Server) -> None:
    """Six entries; an old worker has acknowledged two of three that it had claimed."""
    with Redis(host=own_redis.host, port=own_redis.port) as client:
        for number in range(6):
            client.xadd("orders", {"data": f'{{"id": "{number}"}}'})
        client.xgroup_create("orders", "workers", "0")
        claimed: Any = client.xreadgroup("workers", "old", {"orders": ">"}, count=3)
        client.xack("orders", "workers", *(entry for entry, _ in claimed[0][1][:2]))
        places = {"localhost:6379": f"{own_redis.host}:{own_redis.port}"}
        with Walk("docs/howto/move-a-redis-stream.md", place, places=places, without=["eventwagon lab"]) as walk:
            walk.go()
            until_shipped(place, 2, 6)
        groups: Any = client.xinfo_groups("orders")
    assert (groups[0]["pending"], groups[0]["lag"]) == (0, 0)


def test_an_entry_becomes_what_the_page_says(own_redis: Server) -> None:
    """Each row of the table: what the producer writes, and the body."""
    text = (ROOT / "docs/howto/move-a-redis-stream.md").read_text()
    rows = re.findall(r"^\| `(XADD orders \* .*?)`.*? \| (.*?) \|", text, re.MULTILINE)
    assert len(rows) == 4

    async def seen() -> list[bytes]:
        url = f"redis://{own_redis.host}:{own_redis.port}/orders?group=workers"
        async with open_source(url, "earliest") as source:
            return [record.value for record in await source.peek(9)]

    with Redis(host=own_redis.host, port=own_redis.port) as client:
        for command, _ in rows:
            client.execute_command(*shlex.split(command))
        bodies = [body.decode() for body in asyncio.run(seen())]
    assert bodies == ['{"id": "3"}', "3", '{"id": "3", "item": "book"}', '{"id": "3"}']
    for body, (_, said) in zip(bodies, rows, strict=True):
        assert f"`{body}`" in said or said.startswith("the value of `data`")


@pytest.mark.slow
def test_moving_a_kafka_topic(place: Path, kafka_server: Server, own_redis: Server) -> None:
    """Six records; the old worker has committed two."""
    bootstrap = kafka_server.url.removeprefix("kafka://").partition("?")[0]
    plain: dict[str, Any] = {"bootstrap.servers": bootstrap, "log_level": 0}
    admin = AdminClient(plain)
    admin.create_topics([NewTopic("orders", 1, 1)])["orders"].result()
    producer = Producer(plain)
    for number in range(6):
        producer.produce("orders", f'{{"id": "{number}"}}', key=f"c{number % 2}")
    assert producer.flush(30) == 0
    old = Consumer({**plain, "group.id": "order-workers", "auto.offset.reset": "earliest", "enable.auto.commit": False})
    old.subscribe(["orders"])
    for _ in range(2):
        while (record := old.poll(1)) is None or record.error():
            pass
        old.commit(message=record, asynchronous=False)
    old.close()
    places = {"localhost:6379": f"{own_redis.host}:{own_redis.port}", "localhost:9092": bootstrap}
    try:
        with Walk("docs/howto/move-a-kafka-topic.md", place, places=places, without=["eventwagon lab"]) as walk:
            walk.go()
            until_shipped(place, 2, 6)
    finally:
        admin.delete_topics(["orders"])["orders"].result()


@pytest.mark.slow
def test_moving_an_sqs_queue(place: Path, moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)

    async def sent(*bodies: str) -> str:
        async with Clients(Place(region="eu-west-1", endpoint=moto_server.endpoint)) as clients:
            url: str = (await clients.call("sqs", "create_queue", QueueName="orders"))["QueueUrl"]
            for body in bodies:
                await clients.call("sqs", "send_message", QueueUrl=url, MessageBody=body)
            return url

    async def removed(url: str) -> None:
        async with Clients(Place(region="eu-west-1", endpoint=moto_server.endpoint)) as clients:
            await clients.call("sqs", "delete_queue", QueueUrl=url)

    url = asyncio.run(sent('{"id": "0"}', '{"id": "1"}'))
    places = {name: f"{name}?endpoint={moto_server.endpoint}" for name in ("eu-west-1/orders", "eu-west-1/acme")}
    try:
        with Walk("docs/howto/move-an-sqs-queue.md", place, places=places, without=["eventwagon lab"]) as walk:
            walk.go()
            until_shipped(place, 0, 2)
    finally:
        asyncio.run(removed(url))
