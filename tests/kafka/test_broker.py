"""What is Kafka's own: foreign clients, the claims log's size, memory, leftovers, options."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Any

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition
from msgspec import structs

from eventwagon.contracts.broker import Depth
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.registry import Member
from eventwagon.drivers.kafka import KafkaBroker, broker, registry, wagon
from eventwagon.drivers.kafka.registry import KafkaRegistry
from eventwagon.errors import EventTooLarge, UsageError
from eventwagon.event import JSON, Channel, Event
from eventwagon.runtime.probe import probe
from tests.kafka.support import LONG, events, holding, new_channel, standing, take, topics
from tests.servers.kafka import KafkaServer
from tests.servers.server import Server


def servers(server: Server) -> str:
    return server.url.removeprefix("kafka://").partition("?")[0]


# --- foreign clients ----------------------------------------------------------------------


def test_a_foreign_producer(kafka_server: Server) -> None:
    """CloudEvents in binary and in structured mode, an event with half of its attributes, and no CloudEvent at all."""

    async def main() -> None:
        async with holding(kafka_server.url) as (ours, channel):
            producer = Producer({"bootstrap.servers": servers(kafka_server)})
            full: dict[str, str | bytes | None] = {
                "ce_specversion": "1.0",
                "ce_id": "a",
                "ce_source": "/foreign",
                "ce_type": "order.made",
                "ce_time": "2026-01-31T23:59:59+01:00",
                "ce_subject": "s",
                "ce_traceparent": "00-1",
                "content-type": "text/x",
            }
            producer.produce(str(channel), b"1", b"s", headers=full)
            producer.produce(str(channel), b"2", headers=[("ce_type", "order.made")])
            producer.produce(str(channel), b'{"plain": 3}')
            structured: dict[str, Any] = {
                "specversion": "1.0",
                "id": "d",
                "source": "/x",
                "type": "t",
                "time": "2026-01-31T23:59:59Z",
                "comexample": "y",
                "data": {"n": 4},
            }
            kind: dict[str, str | bytes | None] = {"content-type": "application/cloudevents+json; charset=UTF-8"}
            producer.produce(str(channel), json.dumps(structured).encode(), headers=kind)
            binary = {"specversion": "1.0", "id": "e", "source": "/x", "type": "t", "data_base64": "AP8="}
            producer.produce(str(channel), json.dumps(binary).encode(), headers=kind)
            producer.produce(str(channel), b"no json", headers=kind)
            await asyncio.to_thread(producer.flush, 10)
            async with ours.consume(channel, visibility=LONG) as consumer:
                got = [d.event for d in await take(consumer, 6)]
            assert got[0] == Event(
                "a", "order.made", "/foreign", 1769900399.0, b"1", "s", "text/x", {"traceparent": "00-1"}
            )
            assert (got[1].type, got[1].data, got[1].content_type) == ("order.made", b"2", JSON)
            assert got[1].id.startswith(f"{channel}/0/")
            assert got[1].time > 1.7e9
            assert (got[2].data, got[2].type, got[2].source) == (b'{"plain": 3}', "unknown", "unknown")
            assert got[3] == Event("d", "t", "/x", 1769903999.0, b'{"n": 4}', extensions={"comexample": "y"})
            assert (got[4].data, got[4].content_type) == (b"\0\xff", "application/octet-stream")
            assert (got[5].data, got[5].extensions["undecodable"]) == (b"no json", got[5].id)
            assert len({e.id for e in got}) == 6
            assert [e async for e in ours.read(channel)] == got  # what was made up is the same each time

    asyncio.run(main())


def test_a_foreign_consumer(kafka_server: Server) -> None:
    """Reads what we published as CloudEvents; it meets probes, which carry one header and no value."""

    async def main() -> None:
        event = Event("a", "order.made", "/ours", 1.5, b"{}", "key", JSON, {"traceparent": "00-1"})
        async with holding(kafka_server.url, event) as (_, channel):
            consumer = Consumer({"bootstrap.servers": servers(kafka_server), "group.id": "foreign"})
            consumer.assign([TopicPartition(str(channel), 0, 0)])
            found = await asyncio.to_thread(consumer.consume, 2, 10)
            await asyncio.to_thread(consumer.close)
        probe, message = found
        assert (probe.value() or b"", probe.headers()) == (b"", [("0probe", b"")])
        assert (message.key(), message.value()) == (b"key", b"{}")
        assert dict(message.headers() or ()) == {
            "ce_specversion": b"1.0",
            "ce_id": b"a",
            "ce_source": b"/ours",
            "ce_type": b"order.made",
            "ce_time": b"1970-01-01T00:00:01.500000Z",
            "ce_subject": b"key",
            "ce_traceparent": b"00-1",
            "content-type": b"application/json",
        }

    asyncio.run(main())


def test_offsets_without_an_event(kafka_server: Server) -> None:
    """What a foreign producer's transactions leave in the log is no event: skipped, and left out of the totals."""

    async def main() -> None:
        async with holding(kafka_server.url) as (ours, channel):
            producer = Producer({"bootstrap.servers": servers(kafka_server), "transactional.id": str(channel)})
            producer.init_transactions(30)
            for commit in (True, False, True):
                producer.begin_transaction()
                producer.produce(str(channel), b"x", partition=0)
                producer.flush(10)
                if commit:
                    producer.commit_transaction(30)
                else:
                    producer.abort_transaction(30)
            async with ours.consume(channel, visibility=LONG) as consumer:
                got = await take(consumer, 2)
                await consumer.settle(got)
                assert await consumer.receive(1, 1.0) == []
                await ours.publish(channel, events(1))
                await consumer.settle(await take(consumer, 1))
            (depth,) = await ours.depth([channel])
            assert (depth.published, depth.settled) == (3, 3)

    asyncio.run(main())


# --- what grows, and does not ---------------------------------------------------------------


def test_the_claims_log_is_trimmed(kafka_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """With snapshots: who comes later knows the same, and so does who was there."""
    monkeypatch.setattr(wagon, "_EVERY", 10)

    async def main() -> None:
        async with (
            holding(kafka_server.url, *events(60)) as (ours, channel),
            KafkaBroker.from_url(kafka_server.url) as other,
            ours.consume(channel, visibility=LONG) as consumer,
            other.consume(channel, visibility=LONG) as second,
            topics(kafka_server.url) as admin,
        ):
            for turn in range(20):
                got = await (second if turn % 3 else consumer).receive(3, 5.0)
                await consumer.settle(got[:2])
                await second.release(got[2:], delay=0.0)
            log = f"{channel}.0claims"
            async with asyncio.timeout(20):
                while not (start := (await admin.starts([(log, 0)]))[log, 0]):
                    await asyncio.sleep(0.05)
            end = (await admin.ends([(log, 0)]))[log, 0]
            assert end is not None
            assert start <= end - 10  # who is a little behind reads on
            async with KafkaBroker.from_url(kafka_server.url) as later:
                depths = [
                    structs.replace((await b.depth([channel]))[0], oldest_at=None, newest_at=None)
                    for b in (later, ours, other)
                ]
                assert depths[0] == depths[1] == depths[2]
                settled = depths[0].settled or 0
                assert (depths[0].published, depths[0].waiting, depths[0].in_flight) == (60, 60 - settled, 0)
                async with later.consume(channel, visibility=LONG) as third:
                    await third.settle(await take(third, 60 - settled))
            assert [d.settled for d in await ours.depth([channel])] == [60]

    asyncio.run(main())


def test_the_manifest_log_is_trimmed(kafka_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_EVERY", 20)

    async def main() -> None:
        train = new_channel().train
        async with (
            KafkaRegistry.from_url(kafka_server.url) as ours,
            KafkaRegistry.from_url(kafka_server.url) as other,
            topics(kafka_server.url) as admin,
        ):
            stored = await ours.replace(train, Manifest(train=train), expect=0)
            assert await other.read(train) == stored
            for turn in range(60):
                writer, new = (ours if turn % 2 else other), Manifest(train=train, stops=turn)
                await writer.check_in(train, Member(name=f"m{turn % 5}"), ttl=600.0)
                stored = await writer.replace(train, new, expect=stored.version)
            log = f"{train}.0manifest"
            async with asyncio.timeout(20):
                while not (await admin.starts([(log, 0)]))[log, 0]:
                    await asyncio.sleep(0.05)
            async with KafkaRegistry.from_url(kafka_server.url) as later:
                for one in (later, ours, other):
                    assert await one.read(train) == stored
                    assert [m.name for m in await one.members(train)] == [f"m{i}" for i in range(5)]
            changed = await other.replace(train, Manifest(train=train, stops=80), expect=stored.version)
            assert await ours.read(train) == changed

    asyncio.run(main())


def test_memory_under_a_slow_handler(kafka_server: Server) -> None:
    """Of 12 MB only about a megabyte is read ahead, and all of it comes in order."""

    async def main() -> None:
        channel = new_channel()
        async with KafkaBroker(servers(kafka_server), cache=1) as ours:
            await ours.create(channel)
            for _ in range(12):
                await ours.publish(channel, events(100, size=10_000))
            async with ours.consume(channel, visibility=LONG) as consumer:
                feed = ours.wagons.live()[0].feeds[""]
                await asyncio.sleep(1.0)
                seen = 0
                while seen < 1200:
                    got = await consumer.receive(40, 5.0)
                    assert [d.token[1] for d in got] == list(
                        range(seen + 1, seen + 1 + len(got))
                    )  # offset 0 is the probe
                    seen += len(got)
                    assert feed.lanes[0].bytes < 6_000_000
                    assert feed.kept.bytes <= 1_100_000
                    await consumer.settle(got)
                assert not feed.kept.bytes
            await ours.delete(channel)

    asyncio.run(main())


def test_a_consumer_that_left_with_a_full_cache_comes_back(kafka_server: Server) -> None:
    """Its prefetching was paused then; meanwhile another process has handled what stood there."""

    async def main() -> None:
        async with (
            holding(kafka_server.url) as (other, channel),
            KafkaBroker(servers(kafka_server), cache=1) as ours,
        ):
            async with ours.consume(channel, visibility=LONG):
                await other.publish(channel, events(200, size=20_000))
                (feed,) = (feed for wagon in ours.wagons.live() for feed in wagon.feeds.values())
                async with asyncio.timeout(20):
                    while not feed.lanes[0].full:
                        await asyncio.sleep(0.05)
            async with other.consume(channel, visibility=LONG) as consumer:
                await consumer.settle(await take(consumer, 200))
            async with ours.consume(channel, visibility=LONG) as consumer:
                await other.publish(channel, events(3))
                assert len(await take(consumer, 3, patience=10)) == 3

    asyncio.run(main())


def test_an_idle_wagon_writes_nothing(kafka_server: Server) -> None:
    async def main() -> None:
        async with (
            holding(kafka_server.url, *events(1)) as (ours, channel),
            ours.consume(channel, visibility=LONG) as consumer,
            topics(kafka_server.url) as admin,
        ):
            await consumer.release(await take(consumer, 1), delay=LONG)
            place = (f"{channel}.0claims", 0)
            before = await admin.ends([place])
            assert await consumer.receive(10, 1.5) == []
            assert await admin.ends([place]) == before

    asyncio.run(main())


def test_a_claims_log_alone_is_removed(kafka_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A creator or remover that died halfway leaves one: it is no channel, and goes after a while."""
    monkeypatch.setattr(broker, "_ORPHAN", 0.3)

    async def main() -> None:
        channel = new_channel()
        async with KafkaBroker.from_url(kafka_server.url) as ours, topics(kafka_server.url) as admin:
            await admin.create(f"{channel}.0claims", 1, {})
            assert await ours.channels(channel.train) == []
            assert f"{channel}.0claims" in await admin.names()
            await asyncio.sleep(0.4)
            assert await ours.channels(channel.train) == []
            async with asyncio.timeout(10):
                while f"{channel}.0claims" in await admin.names():
                    await asyncio.sleep(0.05)
            await ours.create(channel)  # and nothing of it is in the way of the channel itself
            await ours.publish(channel, events(1))
            assert len(await standing(ours, channel)) == 1
            await ours.delete(channel)
            async with asyncio.timeout(10):
                while [name for name in await admin.names() if name.startswith(channel.train)]:
                    await asyncio.sleep(0.05)

    asyncio.run(main())


@pytest.mark.parametrize("partitions", [1, 4])
def test_every_process_of_a_wagon_can_try_a_round_trip(kafka_server: Server, partitions: int) -> None:
    """In a channel that each makes and deletes: offsets begin again with each, and what came before is not settled."""

    async def main() -> None:
        url = f"{kafka_server.url}?partitions={partitions}"
        async with holding(url) as (ours, channel), KafkaBroker.from_url(url) as other:
            for broker in (ours, ours, other, ours):
                await probe(broker, channel.train, channel.wagon, timeout=15.0)
            async with KafkaBroker.from_url(url) as later:
                await probe(later, channel.train, channel.wagon, timeout=15.0)

    asyncio.run(main())


def test_who_does_not_consume_knows_ages_too(kafka_server: Server) -> None:
    """An observer reads one event here and there; of partitions the oldest and the newest count."""

    async def main() -> None:
        channel = new_channel()
        old, middle, new = (structs.replace(e, time=1.7e9 + n) for n, e in enumerate(events(3)))
        url = f"{kafka_server.url}?partitions=3"
        async with KafkaBroker.from_url(url) as ours, KafkaBroker.from_url(url) as observer:
            await ours.create(channel)
            for event in (middle, old, new):
                await ours.publish(channel, [event])
                await asyncio.sleep(0.02)  # so that the next one goes to another partition
            (depth,) = await observer.depth([channel])
            assert (depth.oldest_at, depth.newest_at) == (old.time, new.time)
            async with ours.consume(channel, visibility=LONG) as consumer:
                await consumer.settle([d for d in await take(consumer, 3) if d.event != middle])
            await asyncio.sleep(0.1)
            (depth,) = await observer.depth([channel])
            assert (depth.waiting, depth.oldest_at, depth.newest_at) == (0, None, None)
            await ours.delete(channel)

    asyncio.run(main())


# --- sizes, names, options --------------------------------------------------------------------


def test_too_large_is_no_seal(kafka_server: Server) -> None:
    async def main() -> None:
        channel = new_channel()
        async with KafkaBroker.from_url(f"{kafka_server.url}?max_message_bytes=20000") as ours:
            await ours.create(channel)
            small, large = events(1), events(1, size=20_000)
            with pytest.raises(EventTooLarge, match="20,000"):
                await ours.publish(channel, [*small, *large])
            named = Event("x", "t", "s", 1.0, b"", subject="ü" * 15_000)
            with pytest.raises(EventTooLarge):
                await ours.publish(channel, [named])
            async with KafkaBroker.from_url(kafka_server.url) as other:  # which learns the limit from the topic
                with pytest.raises(EventTooLarge):
                    await other.publish(channel, large)
            await ours.publish(channel, sent := events(500, size=5000))
            at = sent[0].time
            assert await ours.depth([channel]) == [
                Depth(published=500, settled=0, waiting=500, in_flight=0, oldest_at=at, newest_at=at)
            ]
            await ours.delete(channel)

    asyncio.run(main())


def test_topics_of_others_are_no_channels(kafka_server: Server) -> None:
    async def main() -> None:
        train = new_channel().train
        async with KafkaBroker.from_url(kafka_server.url) as ours, topics(kafka_server.url) as admin:
            foreign = [
                train,
                f"{train}.Upper",
                f"{train}_v0",
                f"{train}_v01",
                f"{train}_v1.0claims",
                f"{train}_vx.dead",
            ]
            for name in foreign:
                await admin.create(name, 1, {})
            assert await ours.channels(train) == []
            await ours.create(Channel(train, 0, "dead"))
            assert await ours.channels(train) == [Channel(train, 0, "dead")]
            await ours.delete(Channel(train, 0, "dead"))
            for name in foreign:
                await admin.delete(name)

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka://", "write kafka://host:9092"),
        ("kafka://user:pa55word@host", "sasl.username"),
        ("kafka://host?partitions=x", "partitions='x': give a whole number"),
        ("kafka://host?partitions=0", "give 1 to 1000"),
        ("kafka://host?replication=0", "or -1"),
        ("kafka://host?timeout=0", "0.1 to 300"),
        ("kafka://host?colour=red", "option colour can't be given; known are partitions"),
        ("kafka://host?acks=1", "option acks can't be given"),
        ("kafka://host?security.protocol=pa55word", 'librdkafka does not take security.protocol: Invalid value "***"'),
    ],
)
def test_urls_that_cannot_be(url: str, said: str) -> None:
    for driver in (KafkaBroker, KafkaRegistry):
        with pytest.raises(UsageError) as refused:
            driver.from_url(url)
        assert said in str(refused.value)
        assert "pa55word" not in str(refused.value)


def test_logged_in_with_options_of_the_url() -> None:
    url = "kafka://host?security.protocol=SASL_PLAINTEXT&sasl.mechanism=PLAIN&sasl.username=bob&sasl.password=pa55word"
    KafkaBroker.from_url(url)


def test_leaving_while_the_server_is_gone(own_kafka: KafkaServer) -> None:
    """It takes a moment, not for ever."""

    async def main() -> None:
        async with KafkaBroker.from_url(f"{own_kafka.url}?timeout=2") as ours:
            channel = new_channel()
            await ours.create(channel)
            await asyncio.to_thread(own_kafka.kill)
            late = asyncio.create_task(ours.publish(channel, events(3)))
            await asyncio.sleep(0.1)
        late.cancel()
        with contextlib.suppress(BaseException):
            await late

    async def within() -> None:
        async with asyncio.timeout(30):
            await main()

    asyncio.run(within())
