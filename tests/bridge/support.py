"""What the tests of the bridge share."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from secrets import token_hex
from typing import Any, TypeAlias
from uuid import uuid4

import psycopg
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]  # exported without saying so
from redis.asyncio import Redis
from redis.asyncio import RedisCluster as ClusterClient

from eventwagon import Connection, Train, outbox
from eventwagon.bridge import Bridge, Lag, Record, Rules, Source, open_source
from eventwagon.bridge.sources.postgresql import open_postgresql
from eventwagon.bridge.sources.sqs import open_sqs
from eventwagon.bridge.sources.stdin import StdinSource
from eventwagon.contracts.address import Address
from eventwagon.drivers.aws.clients import Clients
from eventwagon.drivers.aws.place import Place
from eventwagon.errors import ChannelGone, UsageError
from eventwagon.event import Channel, Event
from tests.servers.elasticmq import ElasticMQServer
from tests.servers.moto import MotoServer
from tests.servers.postgresql import PostgresServer
from tests.servers.redis import RedisCluster
from tests.servers.server import Server

SQSServer: TypeAlias = MotoServer | ElasticMQServer


class RedisFlow:
    """A stream of its own, with a group."""

    ordered = True

    def __init__(self, place: str, client: Any, claim: float) -> None:
        self.claim = claim
        self.client = client
        self.stream = f"flow-{token_hex(4)}"
        self.url = f"{place.format(self.stream)}group=workers&idle={claim}"

    def open(self) -> Source:
        return open_source(self.url, "earliest")

    async def write(self, values: Sequence[bytes]) -> None:
        for value in values:
            await self.client.xadd(self.stream, {"data": value})


@asynccontextmanager
async def redis_flow(server: Server | RedisCluster, claim: float = 0.4) -> AsyncIterator[RedisFlow]:
    made: Any
    if isinstance(server, RedisCluster):
        node = server.nodes[0]
        place, made = f"redis://{node.host}:{node.port}/{{}}?cluster=true&", ClusterClient(node.host, node.port)
    else:
        place, made = f"redis://{server.host}:{server.port}/{{}}?", Redis(host=server.host, port=server.port)
    async with made as client:
        flow = RedisFlow(place, client, claim)
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
        self.producer = Producer(
            {"bootstrap.servers": bootstrap, "linger.ms": 1, "enable.idempotence": True, "log_level": 0}
        )

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


class OutboxFlow:
    """A table of its own."""

    claim = 0.0
    ordered = True

    def __init__(self, server: PostgresServer) -> None:
        self.table = f"outbox_{token_hex(4)}"
        self.url = f"{server.url}?table={self.table}"
        self.database = server.url

    def open(self) -> Any:
        return open_postgresql(Address.of(self.url), None)

    async def execute(self, statement: str, *values: object) -> list[Any]:
        async with await psycopg.AsyncConnection.connect(self.database, autocommit=True) as connection:
            cursor = await connection.execute(statement, values or None)
            return await cursor.fetchall() if cursor.description else []

    async def write(self, values: Sequence[bytes]) -> None:
        async with await psycopg.AsyncConnection.connect(self.database) as connection:
            for value in values:
                await outbox.add_async(connection, Event(str(uuid4()), "t", "s", time.time(), value), table=self.table)

    async def left(self) -> int:
        return int((await self.execute(f"SELECT count(*) FROM {self.table}"))[0][0])  # noqa: S608


@asynccontextmanager
async def outbox_flow(server: PostgresServer) -> AsyncIterator[OutboxFlow]:
    flow = OutboxFlow(server)
    await flow.execute(outbox.create_table(flow.table))
    yield flow
    await flow.execute(f"DROP TABLE {flow.table} CASCADE")


class QueueFlow:
    """A queue of its own."""

    claim = 2.0
    ordered = False

    def __init__(self, server: SQSServer, clients: Clients, options: str, suffix: str) -> None:
        self.queue = f"flow-{token_hex(4)}{suffix}"
        self.clients = clients
        self.url = f"sqs://eu-west-1/{self.queue}?endpoint={server.endpoint}&{options}"
        self.at = ""

    def open(self) -> Any:
        return open_sqs(Address.of(self.url), None)

    async def write(self, values: Sequence[bytes]) -> None:
        for value in values:
            await self.clients.call("sqs", "send_message", QueueUrl=self.at, MessageBody=value.decode())

    async def write_at_once(self, values: Sequence[bytes], **more: str) -> None:
        """Ten in a request."""
        for start in range(0, len(values), 10):
            entries = [
                {"Id": str(n), "MessageBody": value.decode(), **more}
                for n, value in enumerate(values[start : start + 10])
            ]
            answer = await self.clients.call("sqs", "send_message_batch", QueueUrl=self.at, Entries=entries)
            assert not answer.get("Failed"), answer

    async def attribute(self, name: str, at: str = "") -> str:
        asked = await self.clients.call("sqs", "get_queue_attributes", QueueUrl=at or self.at, AttributeNames=[name])
        return str(asked["Attributes"][name])


@asynccontextmanager
async def queue_flow(
    server: SQSServer, *, options: str = "visibility=2", suffix: str = "", **attributes: str
) -> AsyncIterator[QueueFlow]:
    async with Clients(Place(region="eu-west-1", endpoint=server.endpoint)) as clients:
        flow = QueueFlow(server, clients, options, suffix)
        made = await clients.call("sqs", "create_queue", QueueName=flow.queue, Attributes=attributes)
        flow.at = made["QueueUrl"]
        yield flow
        await clients.call("sqs", "delete_queue", QueueUrl=flow.at)


# --- bridges and trains ---------------------------------------------------------------------------


def shop(**settings: Any) -> Train:
    """A train whose handler is never called, unless a test runs its workers."""
    train = Train("orders", **settings)

    @train.on("orders")
    async def ship(order: dict[str, int]) -> None:
        pass

    return train


@asynccontextmanager
async def bridging(
    source: Source, connection: Connection, *, patience: float = 30.0, **options: str
) -> AsyncIterator[Bridge]:
    """A bridge that runs; on leaving it is asked to end, and has ended."""
    async with source:
        rules = Rules.parse(source.name, connection.publishing.now.max_event_bytes, **options)
        bridge, asked = Bridge(source, connection, rules), asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            running = tasks.create_task(bridge.run(asked))
            try:
                yield bridge
            finally:
                asked.set()
            async with asyncio.timeout(patience):
                await running


async def crashing(source: Source, connection: Connection) -> None:
    """A bridge that runs until something ends it."""
    async with source:
        rules = Rules.parse(source.name, connection.publishing.now.max_event_bytes)
        await Bridge(source, connection, rules).run(asyncio.Event())


def gated(**settings: Any) -> tuple[Train, asyncio.Event]:
    """A train whose handlers wait for the event."""
    train, gate = Train("orders", **settings), asyncio.Event()

    @train.on("orders")
    async def ship(order: dict[str, int]) -> None:
        await gate.wait()

    return train, gate


async def until(condition: Callable[[], object], what: str, *, patience: float = 30.0) -> None:
    """Wait until it holds."""
    loop = asyncio.get_running_loop()
    end = loop.time() + patience
    while not condition():
        assert loop.time() < end, f"{what}: not within {patience:g} s"
        await asyncio.sleep(0.02)


async def stored(connection: Connection) -> list[Event]:
    """All events in the train's live wagons."""
    manifest = (await connection.refresh()).manifest
    found: list[Event] = []
    for wagon in manifest.wagons:
        with suppress(ChannelGone):  # it is just being opened
            found += [event async for event in connection.broker.read(Channel(manifest.train, wagon.number))]
    return found


async def letters(connection: Connection) -> list[Event]:
    """All dead letters."""
    return [letter async for letter in connection.dead_letters()]


def numbered(count: int, first: int = 0) -> list[bytes]:
    return [b'{"n": %d}' % n for n in range(first, first + count)]


class CrashesBeforeCommit:
    """A source whose reader dies after its batch was published and before it is committed."""

    def __init__(self, source: Source, commits: int) -> None:
        self.name = source.name
        self._source = source
        self._left = commits

    async def __aenter__(self) -> Source:
        await self._source.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._source.__aexit__(*exc)

    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        return await self._source.read(limit, wait)

    async def commit(self, records: Sequence[Record]) -> None:
        self._left -= 1
        if self._left < 0:
            raise UsageError("crashed")  # the one kind of error that ends a bridge
        await self._source.commit(records)

    async def peek(self, limit: int) -> Sequence[Record]:
        return await self._source.peek(limit)

    async def lag(self) -> Lag:
        return await self._source.lag()
