"""What the trains of a process share that name the same cluster."""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
import threading
from concurrent.futures import Future
from contextlib import AsyncExitStack, suppress
from itertools import count
from pathlib import Path
from secrets import token_hex
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package exports them without saying so
    AdminClient,
    NewTopic,
)

from eventwagon import Train
from eventwagon.drivers.kafka import KafkaBroker, admin, forward, reader, sender, wagons
from eventwagon.drivers.kafka.admin import Admin
from eventwagon.drivers.kafka.options import Options
from eventwagon.drivers.kafka.registry import KafkaRegistry
from eventwagon.event import Channel
from tests.kafka.support import LONG, events, holding, new_channel, offset_calls, standing, take, topics
from tests.servers.server import Server
from tests.support import until


def clients() -> int:
    """How many of librdkafka's clients live in this process."""
    count = 0
    for path in Path("/proc/self/task").glob("*/comm"):
        with suppress(OSError):  # the thread has ended meanwhile
            count += path.read_text() == "rdk:main\n"
    return count


def test_who_leaves_takes_nothing_from_the_others(kafka_server: Server) -> None:
    """Two of the same train are two members all the same; with other options nothing is shared."""

    async def main() -> None:
        channel, some = new_channel(), events(4)
        url = kafka_server.url
        async with KafkaBroker.from_url(url) as stays, KafkaBroker.from_url(f"{url}?partitions=2") as other:
            async with KafkaBroker.from_url(url) as leaves, KafkaRegistry.from_url(url) as registry:
                assert leaves.wagons.admin is stays.wagons.admin
                assert leaves.wagons.client.sender is stays.wagons.client.sender
                assert leaves.wagons.client.me != stays.wagons.client.me
                assert other.wagons.admin is not stays.wagons.admin
                await stays.create(channel)
                await leaves.publish(channel, some)
                async with leaves.consume(channel, visibility=LONG) as consumer:
                    await consumer.settle(await take(consumer, 2))
                assert (await registry.read(channel.train)).version == 0
            assert await standing(stays, channel) == [event.id for event in some[2:]]
            async with stays.consume(channel, visibility=LONG) as consumer:
                assert [d.event.id for d in await take(consumer, 2)] == [event.id for event in some[2:]]
            await stays.delete(channel)

    asyncio.run(main())


def test_the_last_one_closes_it(kafka_server: Server) -> None:
    async def main() -> None:
        async with KafkaBroker.from_url(kafka_server.url) as first:
            shared = first.wagons.admin
        with pytest.raises(RuntimeError, match="shutdown"):
            await shared.blocking(print)
        async with KafkaBroker.from_url(kafka_server.url) as anew:
            assert anew.wagons.admin is not shared
            assert await anew.channels("nobody") == []

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads by name in /proc")
def test_a_consumer_that_is_not_used_is_closed(kafka_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes back with the next read."""
    monkeypatch.setattr(reader, "_KEPT", 0.2)

    async def main() -> None:
        channel, some, before = new_channel(), events(3), clients()
        async with KafkaBroker.from_url(kafka_server.url) as broker:
            await broker.create(channel)
            await broker.publish(channel, some)
            for _ in range(2):
                assert await standing(broker, channel) == [event.id for event in some]
                # what is left: for topics, for offsets, two producers, and a consumer that follows the claims
                await until(lambda: clients() <= before + 5, seconds=20.0)
            await broker.delete(channel)

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads by name in /proc")
def test_one_more_idle_train_needs_no_client_of_its_own(kafka_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sender, "_KEPT", 1.0)

    async def main() -> None:
        before = clients()
        async with AsyncExitStack() as opened:
            for _ in range(3):
                train = Train(f"t{token_hex(5)}")

                @train.on(train.name)
                async def handle(order: dict[str, int]) -> None: ...

                connection = await opened.enter_async_context(train.connect(kafka_server.url))
                await connection.found()
                await opened.enter_async_context(connection.running())
                # for topics, for offsets, the logs' producer and consumer, the events' consumer, and one for check-ins
                await until(lambda: clients() <= before + 7, seconds=30.0)
            counts = list[int]()
            for _ in range(30):
                await asyncio.sleep(0.1)
                counts.append(clients())
            # most of the time: one that ends while its successor begins is counted, too
            assert sorted(counts)[len(counts) // 2] <= before + 7, counts

    asyncio.run(main())


def test_a_producer_that_rested_is_asked_for_the_topic_first(
    kafka_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its first message waits for half a second."""
    monkeypatch.setattr(sender, "_KEPT", 0.2)
    asked = list[sender.Sender]()
    describe_to = Admin.describe_to

    async def counted(self: Admin, producers: sender.Sender, topic: str) -> Any:
        asked.append(producers)
        return await describe_to(self, producers, topic)

    async def main() -> None:
        channel = new_channel()
        async with KafkaBroker.from_url(kafka_server.url) as broker:
            await broker.create(channel)
            await broker.publish(channel, events(1))
            used = broker.wagons.publisher.sender
            await until(lambda: used.at_rest)
            monkeypatch.setattr(Admin, "describe_to", counted)
            await broker.depth([channel])
            assert used.at_rest, "who only looks needs none"
            await broker.publish(channel, events(2))
            assert asked == [used]
            assert len(await standing(broker, channel)) == 3
            await broker.delete(channel)

    asyncio.run(main())


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads by name in /proc")
def test_many_logs_that_are_read_at_once_take_few_clients(kafka_server: Server) -> None:
    async def main() -> None:
        train, before, most = f"t{token_hex(5)}", clients(), 0
        channels = [Channel(train, number) for number in range(1, 25)]
        async with KafkaBroker.from_url(kafka_server.url) as creates:
            await asyncio.gather(*(creates.create(channel) for channel in channels))
        async with KafkaBroker.from_url(kafka_server.url) as broker:
            depth = asyncio.create_task(broker.depth(channels))
            while not depth.done():
                most = max(most, clients() - before)
                await asyncio.sleep(0.02)
            assert len(await depth) == len(channels)
            assert most <= 12
            await asyncio.gather(*(broker.delete(channel) for channel in channels))

    asyncio.run(main())


def test_a_topic_that_cannot_be_looked_up_holds_up_its_own_calls(
    kafka_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client waits for it before it asks for any other, so it is asked for apart from then on."""
    mine, impossible = f"t{token_hex(5)}", "a b/c"
    asked = offset_calls(monkeypatch)

    async def main() -> None:
        async with topics(kafka_server.url) as admin:
            await admin.create(mine, 1, {})
            hopeless = list[asyncio.Task[Any]]()
            for _ in range(3):
                hopeless.append(asyncio.create_task(admin.ends([(impossible, 0)])))
                assert await admin.ends([(mine, 0)]) == {(mine, 0): 0}
            assert asked.count({mine, impossible}) == 1
            for one in hopeless:
                one.cancel()
            await asyncio.wait(hopeless)
            await admin.delete(mine)

    asyncio.run(main())


def test_an_absent_topic_takes_one_more_look_up_for_all_of_its_partitions(
    kafka_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = list[str]()

    def counted(name: str) -> None:
        real = getattr(AdminClient, name)

        def call(self: AdminClient, *args: Any, **options: Any) -> Any:
            asked.append(name)
            return real(self, *args, **options)

        monkeypatch.setattr(AdminClient, name, call)

    async def main() -> None:
        async with topics(kafka_server.url) as admin:
            await admin.ends([("no-other", 0)])  # a new client looks up first
            counted("list_topics")
            counted("describe_topics")
            places = [(name, p) for name in ("none", "no-other") for p in range(8)]
            assert await admin.ends(places) == dict.fromkeys(places)

    asyncio.run(main())
    assert asked == ["describe_topics"]


def test_a_client_for_offsets_has_one_call_at_a_time_and_no_other(
    kafka_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """librdkafka may end the process if metadata come in by another call as one begins."""
    list_offsets, list_topics = AdminClient.list_offsets, AdminClient.list_topics
    under_way = dict[int, list[Future[Any]]]()
    looks_up = set[int]()
    at_once = list[str]()

    def offsets(self: AdminClient, wanted: Any, **options: Any) -> Any:
        if not all(call.done() for call in under_way.get(id(self), ())):
            at_once.append("list_offsets")
        if id(self) in looks_up:
            at_once.append("list_topics")
        futures = list_offsets(self, wanted, **options)
        under_way[id(self)] = list(futures.values())
        return futures

    def look_up(self: AdminClient, *args: Any, **options: Any) -> Any:
        looks_up.add(id(self))
        try:
            return list_topics(self, *args, **options)
        finally:
            looks_up.discard(id(self))

    monkeypatch.setattr(AdminClient, "list_offsets", offsets)
    monkeypatch.setattr(AdminClient, "list_topics", look_up)

    async def main() -> None:
        async with topics(kafka_server.url) as admin:
            names = [f"t{token_hex(5)}" for _ in range(8)]
            await asyncio.gather(*(admin.create(name, 2, {}) for name in names))
            for _ in range(5):
                calls = [admin.ends([(name, 0), (name, 5)]) for name in names]  # there is no partition 5
                calls += [admin.starts([(name, 1)]) for name in names]
                asking = [asyncio.create_task(call) for call in calls]
                await asyncio.gather(*(admin.describe(name) for name in names))
                await asyncio.sleep(0.2)
                for one in asking:
                    one.cancel()
                await asyncio.wait(asking)
            await asyncio.gather(*(admin.delete(name) for name in names))

    asyncio.run(main())
    assert under_way
    assert at_once == []


def test_a_new_producer_is_asked_twice() -> None:
    """And itself, although a client that has nothing to send counts as false."""
    asked = list[object]()

    class Idle:
        def __len__(self) -> int:
            return 0

        def list_topics(self, topic: str, timeout: float) -> SimpleNamespace:
            asked.append(self)
            return SimpleNamespace(topics={topic: SimpleNamespace(error=None)})

    async def main() -> None:
        cluster = Admin(Options("127.0.0.1:1"))
        used, producer = sender.Sender({}), Idle()
        used._producer = producer  # type: ignore[assignment]  # noqa: SLF001
        assert await cluster.describe_to(used, "t")
        assert asked == [producer] * 2
        assert await cluster.describe_to(used, "t")
        assert asked == [producer] * 3
        await cluster.close()

    asyncio.run(main())


def test_what_producers_know_does_not_grow_with_wagons_that_were(kafka_server: Server) -> None:
    async def main() -> None:
        train = f"t{token_hex(5)}"
        async with KafkaBroker.from_url(kafka_server.url) as broker:
            logs, own = broker.wagons.client.sender, broker.wagons.publisher.sender
            for number in range(1, 4):
                channel = Channel(train, number)
                await broker.create(channel)
                await broker.publish(channel, events(1))
                async with broker.consume(channel, visibility=LONG) as consumer:
                    await consumer.settle(await take(consumer, 1))
                    assert (logs.known, own.known) == ({f"{channel}.0claims"}, {f"{channel}"})
                await broker.seal(channel)
                await broker.delete(channel)
                assert (logs.known, own.known) == (set(), set())

    asyncio.run(main())


def test_a_defect_in_one_look_ends_none_of_the_later_ones(
    kafka_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    looks = list[bool]()
    look = wagons.Wagons._look  # noqa: SLF001

    async def breaks_twice(self: wagons.Wagons, *, describe: bool = False) -> None:
        looks.append(describe)
        if len(looks) <= 2:
            raise ValueError("a defect")
        await look(self, describe=describe)

    monkeypatch.setattr(wagons.Wagons, "_look", breaks_twice)
    monkeypatch.setattr(wagons, "_LOOK", 0.05)

    async def main() -> None:
        async with holding(kafka_server.url) as (broker, channel), asyncio.timeout(30):
            await broker.depth([channel])
            while len(looks) < 4:
                await asyncio.sleep(0.05)

    asyncio.run(main())
    told = [record for record in caplog.records if record.exc_info]
    assert len(told) == 1
    assert "failed unexpectedly" in told[0].getMessage()


def test_a_client_that_fails_for_hours_is_warned_of_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        clock = count(0.0, 7.0)
        monkeypatch.setattr(forward, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        failing = forward.Forward({}, "reads", prompt=True)
        for _ in range(100):
            failing._tell(KafkaException(KafkaError(KafkaError._FAIL)))  # noqa: SLF001
        assert 700 / 63 <= len(caplog.records) <= 700 / 63 + 1

    caplog.set_level(logging.WARNING, "eventwagon")
    asyncio.run(main())


def test_a_read_that_fails_after_its_caller_has_gone_is_nobody_s() -> None:
    async def main() -> None:
        told = list[object]()
        asyncio.get_running_loop().set_exception_handler(lambda _, about: told.append(about))
        asked = Admin(Options("127.0.0.1:1"))
        begun, goes_on = threading.Event(), threading.Event()

        def fail(_: object) -> None:
            begun.set()
            goes_on.wait(5.0)
            raise KafkaException(KafkaError(KafkaError._FAIL))  # noqa: SLF001

        some = reader.Reader(asked, asked.options.consumer(wait=5, queued=128))
        read = asyncio.create_task(some._read(fail, "t"))  # noqa: SLF001
        await asyncio.to_thread(begun.wait, 5.0)
        read.cancel()
        await asyncio.sleep(0)
        goes_on.set()
        with pytest.raises(asyncio.CancelledError):
            await read
        await some.close()
        await asked.close()
        del read
        gc.collect()
        await asyncio.sleep(0)
        assert told == []

    asyncio.run(main())


def test_few_topics_are_created_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the time of a call does not pass while it waits for the others."""

    class Client:
        most = 0

        def __init__(self, options: dict[str, Any]) -> None:
            self.waiting = dict[str, Future[None]]()

        def create_topics(self, new: list[NewTopic], **times: float) -> dict[str, Future[None]]:
            self.waiting[new[0].topic] = answer = Future[None]()
            Client.most = max(Client.most, len(self.waiting))
            asyncio.get_running_loop().call_later(0.01, self.answer, new[0].topic)
            return {new[0].topic: answer}

        def answer(self, topic: str) -> None:
            self.waiting.pop(topic).set_result(None)

    monkeypatch.setattr(admin, "AdminClient", Client)

    async def main() -> None:
        cluster = Admin(Options("127.0.0.1:1"))
        assert await asyncio.gather(*(cluster.create(f"t{n}", 1, {}) for n in range(10))) == [True] * 10
        assert Client.most == 2
        await cluster.close()

    asyncio.run(main())
