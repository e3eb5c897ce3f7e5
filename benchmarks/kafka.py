"""What Kafka costs through us: publishing, receiving and settling, and the whole path, over the bare client."""

from __future__ import annotations

import asyncio
from urllib.parse import urlsplit

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from eventwagon.event import Event

from .kit import Aim, Benchmark, Line, Run, Stopwatch, in_turn, orders, unused
from .our_side import callers, new_channel, one_after_the_other, receive_and_settle, through_train
from .path import whole
from .places import place
from .sqlite_publish import batches

_CALLERS = 64
_PRODUCER = {"acks": "all", "enable.idempotence": True, "linger.ms": 5, "log_level": 0}


async def run(how: Run) -> list[Line]:
    rounds = how.pick(7, 3)
    with how.scratch() as directory:
        async with place("Kafka", directory) as url:
            if url is None:
                return []
            count = how.pick(60_000, 20_000)
            return [
                await _batches(url, 1000, count, rounds),
                await _many(url, count, rounds),
                await _callers(url, how.pick(400, 100), rounds),
                await _consume(url, 1000, count, rounds),
                await _path(url, count, rounds),
            ]


async def _batches(url: str, size: int, count: int, rounds: int) -> Line:
    work = batches(size, count // size)

    mine, theirs = await in_turn(
        rounds, lambda: one_after_the_other(url, work), lambda: asyncio.to_thread(_raw, url, work, each=True)
    )
    return Line(
        what=f"batches of {size:,}, one after the other",
        against="confluent-kafka: produce, flush each",
        unit="events/s",
        ours=mine,
        theirs=theirs,
        aim=Aim("ratio", least=0.9),
    )


async def _many(url: str, count: int, rounds: int) -> Line:
    """From payloads: encoding, ids and the way to the wagon included, which the other side is spared."""
    work = orders(count)
    mine, theirs = await in_turn(
        rounds,
        lambda: through_train(url, count, lambda connection: connection.publish_many(work)),
        lambda: asyncio.to_thread(_raw, url, batches(500, count // 500)),
    )
    return Line(
        what="publish_many()", against="confluent-kafka: produce, one flush", unit="events/s", ours=mine, theirs=theirs
    )


async def _callers(url: str, each: int, rounds: int) -> Line:
    work = orders(each)

    mine, theirs = await in_turn(
        rounds,
        lambda: through_train(url, each * _CALLERS, callers(_CALLERS, work)),
        lambda: asyncio.to_thread(_raw, url, batches(_CALLERS, each), each=True),
    )
    return Line(
        what=f"{_CALLERS} callers of publish()",
        against=f"confluent-kafka: produce {_CALLERS}, flush each",
        unit="events/s",
        ours=mine,
        theirs=theirs,
        aim=Aim("ratio", least=0.9),
    )


async def _consume(url: str, size: int, count: int, rounds: int) -> Line:
    work = batches(size, count // size)

    async def ours() -> float:
        async with new_channel(url) as (broker, channel):
            await asyncio.gather(*(broker.publish(channel, batch) for batch in work))
            return await receive_and_settle(broker, channel, size, count)

    def raw() -> float:
        topic = _filled(url, work)
        watch = Stopwatch()
        _drain(url, topic, size, count)
        return count / watch.seconds

    mine, theirs = await in_turn(rounds, ours, lambda: asyncio.to_thread(raw))
    return Line(
        what=f"receive and settle {size:,}",
        against="confluent-kafka: consume, headers, commit",
        unit="events/s",
        ours=mine,
        theirs=theirs,
        aim=Aim("ratio", least=0.8),
        note="attaching included on both sides",
    )


async def _path(url: str, count: int, rounds: int) -> Line:
    def raw() -> float:
        watch = Stopwatch()
        topic = _filled(url, batches(500, count // 500))
        _drain(url, topic, 500, count)
        return count / watch.seconds

    mine, theirs = await in_turn(rounds, lambda: whole(url, count), lambda: asyncio.to_thread(raw))
    return Line(
        what="whole path",
        against="confluent-kafka: produce, consume, commit",
        unit="events/s",
        ours=mine,
        theirs=theirs,
        aim=Aim("ours", least=25_000),
    )


def _topic(servers: str) -> str:
    name = unused("raw")
    admin = AdminClient({"bootstrap.servers": servers})  # by name: dropped, it would take the call with it
    admin.create_topics([NewTopic(name, 1, 1)])[name].result()
    return name


def _raw(url: str, work: list[list[Event]], *, each: bool = False) -> float:
    """The same bytes, with a report for each event, which counts what was stored."""
    servers = urlsplit(url).netloc
    topic = _topic(servers)
    producer = Producer({"bootstrap.servers": servers, **_PRODUCER, "linger.ms": 0 if each else 5})
    producer.list_topics(topic, timeout=10)
    watch = Stopwatch()
    _produce(producer, topic, work, each)
    return sum(map(len, work)) / watch.seconds


def _produce(producer: Producer, topic: str, work: list[list[Event]], each: bool) -> None:
    stored = 0

    def report(error: KafkaError | None, message: Message) -> None:
        nonlocal stored
        stored += error is None

    for batch in work:
        for e in batch:
            headers: list[tuple[str, str | bytes | None]] = [
                ("ce_specversion", "1.0"),
                ("ce_id", e.id),
                ("ce_source", e.source),
                ("ce_type", e.type),
                ("ce_time", "2026-01-31T23:59:59.500000Z"),
                ("content-type", e.content_type),
            ]
            producer.produce(topic, e.data, None, 0, report, headers=headers)
        producer.poll(0)
        if each:
            producer.flush()
    producer.flush()
    assert stored == sum(map(len, work))


def _filled(url: str, work: list[list[Event]]) -> str:
    servers = urlsplit(url).netloc
    topic = _topic(servers)
    _produce(Producer({"bootstrap.servers": servers, **_PRODUCER}), topic, work, False)
    return topic


def _drain(url: str, topic: str, size: int, count: int) -> None:
    config = {"group.id": topic, "enable.auto.commit": False, "log_level": 0}
    consumer = Consumer({"bootstrap.servers": urlsplit(url).netloc, **config})
    consumer.assign([TopicPartition(topic, 0, 0)])
    done = 0
    while done < count:
        got = consumer.consume(min(size, count - done), 5.0)
        for message in got:
            assert message.error() is None
            dict(message.headers() or ())
            message.value()
        consumer.commit(message=got[-1], asynchronous=False)
        done += len(got)
    consumer.close()


BENCHMARK = Benchmark(
    "kafka", "publishing, receiving and settling on Kafka, and publish → handle → settle, against the bare client", run
)
