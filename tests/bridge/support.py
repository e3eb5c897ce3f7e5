"""What the tests of the bridge share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from secrets import token_hex
from typing import Any

from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported without saying so
from redis.asyncio import Redis

from eventwagon.bridge import Source, open_source
from eventwagon.bridge.sources.stdin import StdinSource
from tests.servers.server import Server


class RedisFlow:
    """A stream of its own, with a group."""

    ordered = True

    def __init__(self, server: Server, client: Any, claim: float) -> None:
        self.claim = claim
        self.client = client
        self.stream = f"flow-{token_hex(4)}"
        self.url = f"redis://{server.host}:{server.port}/{self.stream}?group=workers&idle={claim}"

    def open(self) -> Source:
        return open_source(self.url, "earliest")

    async def write(self, values: Sequence[bytes]) -> None:
        async with self.client.pipeline(transaction=False) as pipe:
            for value in values:
                pipe.xadd(self.stream, {"data": value})
            await pipe.execute()


@asynccontextmanager
async def redis_flow(server: Server, claim: float = 0.4) -> AsyncIterator[RedisFlow]:
    async with Redis(host=server.host, port=server.port) as client:
        flow = RedisFlow(server, client, claim)
        yield flow
        await client.delete(flow.stream)


class PipeFlow:
    """A pipe, as stdin is one."""

    claim = 0.0
    ordered = True

    def __init__(self) -> None:
        self.end, self._begin = os.pipe()

    def open(self) -> AbstractAsyncContextManager[Source]:
        return StdinSource(self.end)

    async def write(self, values: Sequence[bytes]) -> None:
        await asyncio.to_thread(os.write, self._begin, b"".join(value + b"\n" for value in values))

    def close(self) -> None:
        """Idempotent."""
        if self._begin >= 0:
            os.close(self._begin)
            self._begin = -1


@asynccontextmanager
async def pipe_flow() -> AsyncIterator[PipeFlow]:
    flow = PipeFlow()
    try:
        yield flow
    finally:
        flow.close()
        os.close(flow.end)


class KafkaFlow:
    """A topic of its own, with a group."""

    claim = 0.0
    ordered = True

    def __init__(self, bootstrap: str, admin: Any, options: str) -> None:
        self.bootstrap = bootstrap
        self.topic = f"flow-{token_hex(4)}"
        self.url = f"kafka://{bootstrap}/{self.topic}?group=workers-{self.topic}{options}"
        self.admin = admin
        self.producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 1, "log_level": 0})

    def open(self) -> Source:
        return open_source(self.url, "earliest")

    def send(self, values: Sequence[bytes], **more: Any) -> None:
        """Produce them; it blocks."""
        for value in values:
            self.producer.produce(self.topic, value, **more)
            self.producer.poll(0)
        assert self.producer.flush(30) == 0

    async def write(self, values: Sequence[bytes]) -> None:
        await asyncio.to_thread(self.send, values)


@asynccontextmanager
async def kafka_flow(server: Server, *, partitions: int = 1, options: str = "") -> AsyncIterator[KafkaFlow]:
    bootstrap = server.url.removeprefix("kafka://").partition("?")[0]
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    flow = KafkaFlow(bootstrap, admin, options)
    new = NewTopic(flow.topic, partitions, 1)
    await asyncio.wrap_future(admin.create_topics([new])[flow.topic])
    yield flow
    await asyncio.wrap_future(admin.delete_topics([flow.topic])[flow.topic])
