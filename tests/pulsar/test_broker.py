"""What the suite does not ask: hot seals, foreign clients, namespaces that would lose events, crashed processes."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pulsar  # type: ignore[import-untyped]
import pytest
from msgspec import structs

from eventwagon.contracts.broker import Delivery
from eventwagon.drivers.pulsar import PulsarBroker
from eventwagon.errors import ChannelGone, EventTooLarge, Sealed, StorageBroken, Unavailable
from eventwagon.event import Channel, Event
from tests.programs.claimer import claiming
from tests.pulsar.support import Publisher, Worker, a_channel, client_of, events
from tests.servers.server import Server


def admin(server: Server, path: str) -> str:
    return f"{parse_qs(urlsplit(server.url).query)['admin'][0]}/admin/v2/{path}"


def test_sealed_while_many_publish(pulsar_server: Server) -> None:
    """Twenty rounds: what each publisher was told it stored is what stands, and a consumer gets it all."""

    async def one(broker: PulsarBroker, other: PulsarBroker) -> None:
        channel = a_channel()
        await broker.create(channel)
        publishers = [Publisher(b, channel) for b in (broker, other) for _ in range(3)]
        async with broker.consume(channel, visibility=30.0) as consumer:
            worker = Worker(consumer)
            async with asyncio.TaskGroup() as group:
                group.create_task(worker.run())
                for publisher in publishers:
                    group.create_task(publisher.run(pause=0.0))
                while sum(len(p.accepted) for p in publishers) < 60:
                    await asyncio.sleep(0.005)
                await broker.seal(channel)
                accepted: set[str] = set()
                try:
                    async with asyncio.timeout(60):
                        while not all(p.stop for p in publishers):
                            await asyncio.sleep(0.01)
                        accepted = set().union(*(p.accepted for p in publishers))
                        assert [reason for p in publishers for reason in p.reasons] == []
                        while worker.handled.keys() != accepted:
                            await asyncio.sleep(0.02)
                except TimeoutError:
                    pytest.fail(
                        f"stopped {[p.stop for p in publishers]}, {len(accepted)} accepted, never handled "
                        f"{len(accepted - worker.handled.keys())}, never accepted {worker.handled.keys() - accepted}, "
                        f"refused receives and settles {worker.troubles}, {await broker.depth([channel])}"
                    )
                worker.stop = True
            (depth,) = await broker.depth([channel])
            assert (depth.published, depth.settled) == (len(accepted), len(accepted))
        with pytest.raises(Sealed):
            await other.publish(channel, events(1))
        await broker.delete(channel)
        with pytest.raises((ChannelGone, Sealed)):
            await other.publish(channel, events(1))

    url = f"{pulsar_server.url}&send_timeout=30"

    async def run() -> None:
        async with (
            PulsarBroker.from_url(url) as broker,
            PulsarBroker.from_url(url) as other,
        ):
            for _ in range(20):
                await one(broker, other)

    asyncio.run(run())


def test_a_foreign_client_reads_and_writes(pulsar_server: Server) -> None:
    """A plain client sees CloudEvents, and what it writes is received, settled and counted."""
    channel = a_channel()
    topic = f"persistent://public/default/{channel}"
    client = client_of(pulsar_server)

    def read() -> Any:
        reader = client.create_reader(topic, pulsar.MessageId.earliest)
        message = reader.read_next(10_000)
        reader.close()
        return message

    def write() -> None:
        producer = client.create_producer(topic)
        producer.send(b"bare")
        producer.send(b"{}", properties={"ce-id": "7", "ce-type": "t", "ce-source": "s", "ce-subject": "k"})
        producer.close()
        batches = client.create_producer(topic, batching_enabled=True, batching_max_publish_delay_ms=100)
        for number in range(3):
            batches.send_async(b"b%d" % number, lambda *_: None)
        batches.flush()
        batches.close()

    async def run() -> None:
        async with PulsarBroker.from_url(pulsar_server.url) as broker:
            await broker.create(channel)
            sent = Event("1", "a.b", "/c", 1.5, b"data", "key", "text/plain", {"traceparent": "00"})
            await broker.publish(channel, [sent])
            message = await asyncio.to_thread(read)
            assert message.data() == b"data"
            assert message.partition_key() == "key"
            assert message.properties() == {
                "ce-specversion": "1.0",
                "ce-id": "1",
                "ce-type": "a.b",
                "ce-source": "/c",
                "ce-time": "1970-01-01T00:00:01.500000Z",
                "ce-subject": "key",
                "ce-traceparent": "00",
                "content-type": "text/plain",
            }
            await asyncio.to_thread(write)
            browsed = [event async for event in broker.read(channel)]
            async with broker.consume(channel, visibility=30.0) as consumer:
                got: list[Delivery] = []
                while len(got) < 6:
                    got += await consumer.receive(10, 10)
                assert [d.event for d in got] == browsed
                assert [d.event.data for d in got] == [b"data", b"bare", b"{}", b"b0", b"b1", b"b2"]
                bare = got[1].event
                assert bare.id.startswith(f"{channel}/")
                assert abs(bare.time - time.time()) < 60
                assert (got[2].event.id, got[2].event.subject) == ("7", "k")
                await consumer.settle(got[:5])
                (depth,) = await broker.depth([channel])
                assert depth.published == 4  # a batch of another's counts as one, and is settled with its last
                await consumer.settle(got[5:])
                async with asyncio.timeout(10):
                    while depth.settled != 4:
                        (depth,) = await broker.depth([channel])
            await broker.delete(channel)

    try:
        asyncio.run(run())
    finally:
        client.close()


def test_a_namespace_that_brings_back_topics(pulsar_server: Server) -> None:
    namespace = f"public/{a_channel().train}"
    value = {"allowAutoTopicCreation": True, "topicType": "non-partitioned"}
    with httpx.Client(timeout=30) as http:
        http.put(
            admin(pulsar_server, f"namespaces/{namespace}"), json={"bundles": {"numBundles": 1}}
        ).raise_for_status()
        http.post(admin(pulsar_server, f"namespaces/{namespace}/autoTopicCreation"), json=value).raise_for_status()

    async def enter() -> None:
        async with PulsarBroker.from_url(pulsar_server.url.replace("public/default", namespace)):
            pass

    with pytest.raises(StorageBroken, match="set-auto-topic-creation --disable"):
        asyncio.run(enter())


def test_addresses_that_are_wrong(pulsar_server: Server) -> None:
    async def enter(url: str) -> None:
        async with PulsarBroker.from_url(url):
            pass

    with pytest.raises(StorageBroken, match="no such namespace"):
        asyncio.run(enter(pulsar_server.url.replace("public/default", "public/nowhere")))
    with pytest.raises(Unavailable, match="admin="):
        asyncio.run(enter("pulsar://127.0.0.1:1/public/default?admin=http://127.0.0.1:1"))


def test_the_broker_refuses_connections(pulsar_server: Server) -> None:
    """The admin API is there, the broker's own port is not."""

    async def run() -> None:
        channel = a_channel()
        wrong = f"pulsar://127.0.0.1:1/{pulsar_server.url.split('/', 3)[3]}"
        async with PulsarBroker.from_url(wrong) as broker:
            await broker.create(channel)
            with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
                await broker.publish(channel, events(1))
            await broker.delete(channel)

    asyncio.run(run())


def test_too_large_an_event(pulsar_server: Server) -> None:
    async def run() -> None:
        channel = a_channel()
        async with PulsarBroker.from_url(pulsar_server.url) as broker:
            await broker.create(channel)
            large, fits = events(1, b"x" * (5 * 1024 * 1024 + 1)), events(1, b"x" * (5 * 1024 * 1024 - 1000))
            with pytest.raises(EventTooLarge, match="maxMessageSize"):
                await broker.publish(channel, [*events(3), *large])
            await broker.publish(channel, fits)
            assert [event.id async for event in broker.read(channel)] == [fits[0].id]
            await broker.delete(channel)

    asyncio.run(run())


def test_a_killed_process(pulsar_server: Server) -> None:
    """What it had in hand comes to another, soon and with its attempts, as suspects; one that was alone has one more,
    and so it goes on from process to process."""

    async def run() -> None:
        channel = a_channel()
        url = f"{pulsar_server.url}&registry=redis%3A%2F%2F127.0.0.1"  # which nobody asks
        async with PulsarBroker.from_url(pulsar_server.url) as broker:
            await broker.create(channel)
            await broker.publish(channel, [structs.replace(e, data=b"%d" % n) for n, e in enumerate(events(5))])
            async with claiming(url, channel.train, 5) as (_, got):
                assert got == [(str(n), 1, False) for n in range(5)]
            async with claiming(url, channel.train, 2) as (_, got):
                assert got == [("0", 1, True), ("1", 1, True)]
            for attempt in (1, 2):
                async with claiming(url, channel.train, 5, alone=True) as (_, got):
                    assert sorted(got) == [(str(n), attempt, True) for n in range(5)]
            async with broker.consume(channel, visibility=30.0) as consumer:
                for n in range(5):
                    async with asyncio.timeout(20):
                        while not (some := await consumer.receive(10, 1.0)):
                            pass
                    assert [(d.attempt, d.suspect) for d in some] == [(3, True)]
                    if n:
                        await consumer.settle(some)
                    else:
                        assert await consumer.alone(some[0])
                        await consumer.release(some, delay=60.0, tried=False)
            await broker.delete(channel)

    asyncio.run(run())


def test_a_slow_process_keeps_little_from_others(pulsar_server: Server) -> None:
    """While one process has taken what it prefetches and asks for no more, another gets the rest."""

    async def run() -> None:
        channel = a_channel()
        url = f"{pulsar_server.url}&prefetch=10"
        async with PulsarBroker.from_url(url) as slow, PulsarBroker.from_url(url) as quick:
            await slow.create(channel)
            await slow.publish(channel, events(100))
            async with (
                slow.consume(channel, visibility=30.0) as one,
                quick.consume(channel, visibility=30.0) as other,
            ):
                held = await one.receive(5, 10.0)
                got = 0
                async with asyncio.timeout(20):
                    while got < 100 - 5 - 20:
                        some = await other.receive(50, 1.0)
                        got += len(some)
                        await other.settle(some)
                await one.release(held, tried=False)
            # it has left, and gives back what it prefetched
            async with quick.consume(channel, visibility=30.0) as other, asyncio.timeout(20):
                while got < 100:
                    some = await other.receive(50, 1.0)
                    got += len(some)
                    await other.settle(some)
            await quick.delete(channel)

    asyncio.run(run())


def test_channels_of_other_names_are_never_touched(pulsar_server: Server) -> None:
    async def run() -> None:
        async with PulsarBroker.from_url(pulsar_server.url) as broker:
            channel = a_channel()
            await broker.create(channel)
            assert list(await broker.channels(channel.train[:-1])) == []
            await broker.delete(Channel(channel.train, 11))
            assert [str(c) for c in await broker.channels(channel.train)] == [str(channel)]
            await broker.delete(channel)

    asyncio.run(run())
