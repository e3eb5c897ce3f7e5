"""New partitions: of a new topic, and those that somebody adds to one.

A partition that just got its leader may refuse a producer's first message, take its second, and then take the first,
sent again, for a repetition: the client reports it as stored, without an offset, and it is nowhere. On a busy machine
it is so with one new topic in fifty."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from secrets import token_hex
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message, Producer
from confluent_kafka.admin import AdminClient, NewPartitions  # type: ignore[attr-defined]  # exported without saying so
from msgspec import structs

from eventwagon.contracts.broker import Delivery
from eventwagon.contracts.facts import Entry, StepFailed
from eventwagon.contracts.registry import Registry
from eventwagon.drivers.kafka import KafkaBroker, wagons
from eventwagon.drivers.kafka.admin import Admin
from eventwagon.drivers.kafka.names import Names
from eventwagon.drivers.kafka.offsets import Place
from eventwagon.drivers.kafka.options import Options
from eventwagon.drivers.kafka.publishing import Publisher
from eventwagon.drivers.kafka.registry import KafkaRegistry
from eventwagon.drivers.kafka.sender import REPEATED, Sender
from eventwagon.errors import PublishUncertain
from eventwagon.event import Channel
from tests.kafka.support import LONG, events, holding, send, standing, take
from tests.kafka.test_sharing import feed_of, until_shared, work
from tests.servers.kafka import KafkaServer


def test_the_first_entries_of_a_new_journal_are_all_there(kafka_server: KafkaServer) -> None:
    async def add(registry: Registry, train: str, writer: int) -> None:
        facts = [StepFailed(train=train, step=f"{writer} {n}", because="") for n in range(4)]
        for some in (facts[:2], facts[2:]):
            await registry.append(train, [Entry(1.0, "a test", fact) for fact in some])

    async def main() -> None:
        url = kafka_server.url
        async with KafkaRegistry.from_url(url) as one, KafkaRegistry.from_url(url) as other:
            for _ in range(30):
                train = f"journal-{token_hex(4)}"
                await asyncio.gather(*(add(r, train, n) for n, r in enumerate([one, other] * 5)))
                found = [e.fact.step async for e in one.entries(train) if isinstance(e.fact, StepFailed)]
                assert set(found) == {f"{writer} {n}" for writer in range(10) for n in range(4)}

    asyncio.run(main())


class _Said:
    """A report's message, as far as it is looked at."""

    def __init__(self, offset: int | None) -> None:
        self._offset = offset

    def offset(self) -> int | None:
        return self._offset


class _Producer:
    """Reports these offsets, one for each message that it is given."""

    def __init__(self, *offsets: int | None) -> None:
        self.offsets = list(offsets)
        self.reports: list[Callable[[], Any]] = []

    def produce(self, topic: str, value: bytes, key: bytes, partition: int, report: Any, headers: Any) -> None:
        said = _Said(self.offsets.pop(0))
        self.reports.append(lambda: report(None, said))

    def poll(self, timeout: float) -> int:
        reports, self.reports = self.reports, []
        for report in reports:
            report()
        return len(reports)

    def flush(self, timeout: float) -> int:
        return 0


@pytest.mark.parametrize(
    ("offsets", "at", "left"),
    [((7,), 7, 0), ((None, 8), 8, 0), ((None, None, 9), None, 1)],
    ids=["stored", "taken for a repetition", "and once more"],
)
def test_a_success_without_an_offset_is_none(offsets: tuple[int | None, ...], at: int | None, left: int) -> None:
    async def main() -> tuple[KafkaError | None, Message | None]:
        sender = Sender({})
        sender._producer = producer = _Producer(*offsets)  # type: ignore[assignment]  # noqa: SLF001
        said = await sender.one("t", 0, b"x")
        assert len(producer.offsets) == left
        await sender.close()
        return said

    error, message = asyncio.run(main())
    assert error is (REPEATED if at is None else None)
    assert message is not None
    assert message.offset() == at


def test_events_that_are_reported_so_are_not_surely_stored(kafka_server: KafkaServer) -> None:
    async def main() -> None:
        admin = Admin(Options.from_url(kafka_server.url))
        publisher = Publisher(admin, Names(""))
        channel = Channel("t", 1)
        await admin.create(str(channel), 1, {})
        await publisher.warm(channel)  # known before the producer is another
        publisher.sender._producer = _Producer(0, None, 1)  # type: ignore[assignment]  # noqa: SLF001
        with pytest.raises(PublishUncertain, match="1 of 3 events were not acknowledged: taken for a repetition"):
            await publisher.publish(channel, events(3))
        await admin.delete(str(channel))
        await publisher.close()
        await admin.close()

    asyncio.run(main())


def grow(bootstrap: str, channel: Channel, partitions: int) -> None:
    """As somebody does it by hand."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_partitions([NewPartitions(str(channel), partitions)])[str(channel)].result(20)


def send_to(bootstrap: str, channel: Channel, *partitions: int) -> None:
    """One event to each, from a foreign program that knows all of them."""
    for p in partitions:
        for _ in range(40):  # a broker may not know of it yet
            error = send(bootstrap, str(channel), p, b"1")
            if error is None:
                break
            time.sleep(0.1)
        assert error is None


@pytest.mark.parametrize("had", [1, 4])
def test_living_processes_read_partitions_that_somebody_adds(
    kafka_server: KafkaServer, caplog: pytest.LogCaptureFixture, had: int
) -> None:
    async def main() -> None:
        url = f"{kafka_server.url}?partitions={had}"
        async with (
            holding(url, *events(10)) as (ours, channel),
            KafkaBroker.from_url(url) as other,
            ours.consume(channel, visibility=LONG) as one,
            other.consume(channel, visibility=LONG) as two,
        ):
            await until_shared(ours, other)
            stop, got = asyncio.Event(), list[Delivery]()
            async with asyncio.timeout(30), asyncio.TaskGroup() as group:
                for consumer in (one, two):
                    group.create_task(work(consumer, got, stop))
                grow(kafka_server.bootstrap, channel, 7)
                send_to(kafka_server.bootstrap, channel, *range(7), *range(7))
                while len(got) < 24:
                    await asyncio.sleep(0.05)
                while feed_of(ours).partition_count + feed_of(other).partition_count < 14:
                    await asyncio.sleep(0.05)
                await until_shared(ours, other)
                send_to(kafka_server.bootstrap, channel, *range(7))  # now an owner reads each
                while len(got) < 31:
                    await asyncio.sleep(0.05)
                stop.set()
            assert len({d.event.id for d in got}) == 31
            assert [(d.published, d.settled) for b in (ours, other) for d in await b.depth([channel])] == [(31, 31)] * 2
            told = [r.getMessage() for r in caplog.records if "7 partitions" in r.getMessage()]
            assert len(told) == 2  # each process once
            assert all(f"topic {channel} has 7 partitions, it had {had}: somebody added some" in one for one in told)

    asyncio.run(main())


def test_a_living_publisher_writes_to_all_of_them(kafka_server: KafkaServer) -> None:
    async def main() -> None:
        async with holding(f"{kafka_server.url}?partitions=2", *events(1)) as (broker, channel):
            places = [(str(channel), p) for p in range(4)]
            grow(kafka_server.bootstrap, channel, 4)
            async with asyncio.timeout(20):
                while True:
                    await broker.publish(channel, events(1))
                    ends = await broker.wagons.admin.ends(places)
                    if all((ends[place] or 0) > 1 for place in places):  # more than a probe
                        return
                    await asyncio.sleep(0.02)

    asyncio.run(main())


@pytest.mark.parametrize("sealed_by", ["who has not noticed", "another"])
def test_a_sealed_wagon_is_not_empty_while_something_waits_in_one_of_them(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch, sealed_by: str
) -> None:
    """Before this process notices by itself."""
    monkeypatch.setattr(wagons, "_DESCRIBE", 10_000)

    async def main() -> None:
        url = f"{kafka_server.url}?partitions=2"
        async with (
            holding(url, *events(4)) as (ours, channel),
            KafkaBroker.from_url(url) as other,
            ours.consume(channel, visibility=LONG) as consumer,
        ):
            await consumer.settle(await take(consumer, 4))
            assert (await ours.depth([channel]))[0].waiting == 0
            grow(kafka_server.bootstrap, channel, 4)
            send_to(kafka_server.bootstrap, channel, 2, 3)
            await (other if sealed_by == "another" else ours).seal(channel)
            for p in range(4):
                error = send(kafka_server.bootstrap, str(channel), p, b"1")
                assert error is not None
                assert error.code() == KafkaError.MSG_SIZE_TOO_LARGE
            (depth,) = await ours.depth([channel])
            assert (depth.published, depth.settled, depth.waiting) == (6, 4, 2)
            await consumer.settle(await take(consumer, 2))  # counting, it has noticed
            (depth,) = await ours.depth([channel])
            assert (depth.published, depth.settled) == (6, 6)

    asyncio.run(main())


def test_what_is_in_one_of_them_is_found_where_nobody_consumes(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dead letters are moved out before their topic is deleted."""
    monkeypatch.setattr(wagons, "_DESCRIBE", 10_000)

    async def main() -> None:
        async with holding(f"{kafka_server.url}?partitions=2", *events(2)) as (broker, channel):
            grow(kafka_server.bootstrap, channel, 4)
            send_to(kafka_server.bootstrap, channel, 3)
            assert len(await standing(broker, channel)) == 3

    asyncio.run(main())


def test_topics_that_are_gone_are_not_described_for_ever(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wagons, "_LOOK", 0.05)

    async def main() -> None:
        async with holding(kafka_server.url) as (broker, channel), KafkaBroker.from_url(kafka_server.url) as other:
            await other.publish(channel, events(1))
            await broker.delete(channel)
            assert str(channel) in other.wagons.publisher.topics()
            async with asyncio.timeout(20):
                while other.wagons.publisher.topics():
                    await asyncio.sleep(0.05)

    asyncio.run(main())


def test_who_notices_partitions_amid_a_look_goes_on_looking(
    kafka_server: KafkaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A count of events notices them, too, and may do so while a look is under way."""
    monkeypatch.setattr(wagons, "_DESCRIBE", 10_000)
    monkeypatch.setattr(wagons, "_LOOK", 0.05)

    async def main() -> None:
        async with (
            holding(f"{kafka_server.url}?partitions=2", *events(4)) as (broker, channel),
            broker.consume(channel, visibility=LONG),
        ):
            admin, looks = broker.wagons.admin, 0
            ends = admin.ends

            async def meanwhile(places: Iterable[Place], **how: bool) -> dict[Place, int | None]:
                nonlocal looks
                asked = list(places)
                found = await ends(asked, **how)
                if how.get("patient") and (str(channel), 0) in asked:
                    looks += 1
                    await broker.wagons.recount(channel)
                return found

            await asyncio.to_thread(grow, kafka_server.bootstrap, channel, 4)
            monkeypatch.setattr(admin, "ends", meanwhile)
            async with asyncio.timeout(30):
                while feed_of(broker).partition_count < 4:
                    await asyncio.sleep(0.05)
                seen = looks
                while looks < seen + 3:
                    await asyncio.sleep(0.05)
            monkeypatch.undo()

    asyncio.run(main())


def test_events_with_a_key_go_where_librdkafka_sends_them(kafka_server: KafkaServer) -> None:
    """But to no partition that this process has not noticed."""
    keys = [f"käy {n}" for n in range(60)]

    async def main() -> None:
        async with holding(f"{kafka_server.url}?partitions=3") as (broker, channel):
            places = [(str(channel), p) for p in range(3)]
            before = await broker.wagons.admin.ends(places)
            producer = Producer({"bootstrap.servers": kafka_server.bootstrap})
            for key in keys:
                producer.produce(str(channel), b"1", key)
            producer.flush(20)
            theirs = await broker.wagons.admin.ends(places)
            await broker.publish(
                channel, [structs.replace(e, subject=k) for e, k in zip(events(60), keys, strict=True)]
            )
            ours = await broker.wagons.admin.ends(places)
            for place in places:
                assert (ours[place] or 0) - (theirs[place] or 0) == (theirs[place] or 0) - (before[place] or 0) > 0

    asyncio.run(main())
