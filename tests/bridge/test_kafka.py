"""A topic of a real Kafka, bridged into a train: cut over and back, kills, a full train, rebalances, outages."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, KafkaException, TopicPartition
from confluent_kafka.admin import NewPartitions, NewTopic  # type: ignore[attr-defined]  # exported without saying so

from eventwagon import Connection, Volume
from eventwagon.bridge import open_source
from eventwagon.bridge.sources import kafka_group
from eventwagon.errors import UsageError
from tests.bridge.support import (
    CrashesBeforeCommit,
    KafkaFlow,
    bridging,
    crashing,
    gated,
    kafka_flow,
    letters,
    numbered,
    shop,
    stored,
    until,
)
from tests.kafka.support import send
from tests.servers.kafka import KafkaServer
from tests.servers.redis import RedisServer
from tests.servers.server import Server


def group_of(flow: KafkaFlow) -> str:
    return f"workers-{flow.topic}"


def consumer_of(flow: KafkaFlow, **more: Any) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": flow.bootstrap,
            "group.id": group_of(flow),
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
            **more,
        }
    )


def old_worker(flow: KafkaFlow, count: int) -> list[bytes]:
    """As the programs that the bridge takes over from: handles so many records, commits, and leaves."""
    consumer = consumer_of(flow)
    consumer.subscribe([flow.topic])
    done: list[bytes] = []
    end = time.monotonic() + 15
    while len(done) < count:
        assert time.monotonic() < end, f"the old worker got {len(done)} of {count} records"
        messages = consumer.consume(50, 0.1)
        for message in messages:
            assert message.error() is None
            done.append(message.value() or b"")
        if messages:
            consumer.commit(asynchronous=False)
    consumer.close()
    return done


async def until_committed(flow: KafkaFlow, total: int) -> None:
    """Until the group has committed so many records, over all partitions."""
    asked = ConsumerGroupTopicPartitions(group_of(flow))
    committed = 0
    async with asyncio.timeout(40):
        while committed < total:
            found = await asyncio.wrap_future(flow.admin.list_consumer_group_offsets([asked])[group_of(flow)])
            committed = sum(max(0, place.offset) for place in found.topic_partitions)
            await asyncio.sleep(0.05)
    assert committed == total


async def writing(flow: KafkaFlow, values: Sequence[bytes], pause: float = 0.01) -> None:
    for start in range(0, len(values), 20):
        await flow.write(values[start : start + 20])
        await asyncio.sleep(pause)


async def in_train(connection: Connection) -> Counter[bytes]:
    return Counter(event.data for event in await stored(connection))


def test_cut_over_and_back_under_load_loses_nothing(kafka_server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        async with (
            kafka_flow(kafka_server, partitions=3) as flow,
            shop().connect(f"sqlite:///{tmp_path}") as c,
        ):
            values = numbered(4000)
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(writing(flow, values, 0.02))
                done = await asyncio.to_thread(old_worker, flow, 300)
                async with bridging(open_source(flow.url), c) as bridge:
                    await until(lambda: bridge.passed > 300, "the bridge's turn")
                done += await asyncio.to_thread(old_worker, flow, 300)
                await writer
            async with bridging(open_source(flow.url), c):
                await until_committed(flow, len(values))
            assert Counter(done) + await in_train(c) == Counter(values)  # each once: nobody was killed

    asyncio.run(main())


def test_a_crash_between_publish_and_commit_repeats_one_batch_with_the_same_ids(
    kafka_server: Server, tmp_path: Path
) -> None:
    async def main() -> None:
        train = shop(publish_batch=50)  # a batch of the bridge: 100
        async with kafka_flow(kafka_server) as flow, train.connect(f"sqlite:///{tmp_path}") as c:
            await flow.write(numbered(1000))
            for kill in range(2):
                with pytest.raises(UsageError, match="crashed"):
                    await crashing(CrashesBeforeCommit(flow.open(), kill), c)
            async with bridging(flow.open(), c):
                await until_committed(flow, 1000)
            events = await stored(c)
            by_id = {event.id: event.data for event in events}
            assert len(by_id) == 1000
            assert sorted(by_id.values()) == sorted(numbered(1000))
            assert 0 < len(events) - 1000 <= 2 * 100

    asyncio.run(main())


PROGRAM = """
from eventwagon import Train

orders = Train("orders", publish_batch=100)  # a batch of the bridge is two of these


@orders.on("orders")
async def ship(order: dict[str, int]) -> None:
    pass
"""


_started: list[subprocess.Popen[str]] = []


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Processes end with the test that started them, also with one that fails."""
    yield
    while _started:
        process = _started.pop()
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def command(place: Path, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "eventwagon", "bridge", *arguments, "--url", f"sqlite:///{place}/trains"],
        cwd=place,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    _started.append(process)
    return process


def test_a_killed_process_loses_nothing_and_sigterm_repeats_nothing(kafka_server: Server, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(PROGRAM)

    async def main() -> None:
        async with (
            kafka_flow(kafka_server, partitions=2, options="&session.timeout.ms=6000") as flow,
            shop().connect(f"sqlite:///{tmp_path}/trains") as c,
        ):
            values = numbered(6000)
            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(writing(flow, values, 0.005))
                first = command(tmp_path, flow.url, "app:orders", "--from", "earliest", "--no-observe")
                await seen(c, 500)
                first.send_signal(signal.SIGTERM)
                said, _ = await asyncio.to_thread(first.communicate, timeout=20)
                assert first.returncode == 0, said
                before = await stored(c)
                assert len({event.id for event in before}) == len(before)
                second = command(tmp_path, flow.url, "app:orders", "--no-observe")
                await seen(c, len(before) + 500)
                second.kill()
                await asyncio.to_thread(second.communicate)
                await writer
            third = command(tmp_path, flow.url, "app:orders", "--no-observe")
            await until_committed(flow, len(values))
            third.send_signal(signal.SIGTERM)
            await asyncio.to_thread(third.communicate, timeout=20)
            events = await stored(c)
            by_id = {event.id: event.data for event in events}
            assert sorted(by_id.values()) == sorted(values)
            assert len(by_id) == len(values)
            assert len(events) - len(values) <= 200

    async def seen(c: Connection, count: int) -> None:
        async with asyncio.timeout(90):
            while len(await stored(c)) < count:
                await asyncio.sleep(0.2)

    asyncio.run(main())


@pytest.mark.parametrize("assignor", ["eager", "cooperative"])
def test_bridges_that_come_and_go_lose_nothing(kafka_server: Server, tmp_path: Path, assignor: str) -> None:
    async def main() -> None:
        options = f"&assignor={assignor}&heartbeat.interval.ms=300"
        async with (
            kafka_flow(kafka_server, partitions=4, options=options) as flow,
            shop(publish_batch=50).connect(f"sqlite:///{tmp_path}") as c,
        ):
            written, stop = list[bytes](), asyncio.Event()

            async def write() -> None:
                while not stop.is_set():
                    written.extend(some := numbered(20, len(written)))
                    await flow.write(some)
                    await asyncio.sleep(0.02)

            async with asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(write())
                async with bridging(flow.open(), c) as last:
                    async with bridging(flow.open(), c) as one:
                        await until(lambda: one.passed > 100 and last.passed > 100, "both carry")
                    async with bridging(flow.open(), c) as other:
                        await until(lambda: other.passed > 100, "another one carries")
                    stop.set()
                    await writer
                    await until_committed(flow, len(written))
            events = await stored(c)
            by_id = {event.id: event.data for event in events}
            assert sorted(by_id.values()) == sorted(written)
            # a batch is finished before its partition goes, unless the group has changed twice meanwhile
            assert len(events) - len(written) <= 50

    asyncio.run(main())


def test_poison_goes_to_the_dead_letters(kafka_server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        async with kafka_flow(kafka_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            await flow.write(numbered(5))
            await asyncio.to_thread(flow.send, [b"\x00\xff"], headers=[("ce_specversion", b"9"), ("ce_id", b"x")])
            await asyncio.to_thread(flow.send, [b"x" * 300_000], key=b"large")
            await asyncio.to_thread(
                flow.send, [b"7"], headers=[("Tenant", b"t")], key=b"ada", timestamp=1_700_000_000_500
            )
            async with bridging(flow.open(), c) as bridge:
                await until_committed(flow, 8)
            assert (bridge.passed, bridge.buried) == (6, 2)
            event = (await stored(c))[-1]
            assert event.id == f"kafka/{flow.topic}/0/7@1700000000500"
            assert (event.subject, event.time, event.extensions) == ("ada", 1_700_000_000.5, {"tenant": "t"})
            assert [len(letter.data) for letter in await letters(c)] == [2, 300_000]

    asyncio.run(main())


def test_a_full_train_keeps_the_bridge_in_its_group(
    kafka_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_group, "_FINISH", 0.5)

    async def main() -> None:
        train, gate = gated(limit=Volume(1000), wagons=2, at_cap="refuse", publish_batch=250)
        options = "&assignor=cooperative&session.timeout.ms=6000&max.poll.interval.ms=6000&heartbeat.interval.ms=300"
        async with (
            kafka_flow(kafka_server, partitions=2, options=options) as flow,
            train.connect(f"sqlite:///{tmp_path}") as c,
        ):
            await flow.write(numbered(8500))  # more than is read ahead
            async with c.running(), bridging(flow.open(), c) as bridge:
                await until(lambda: "the cap of 2" in bridge.trouble, "the train is full")
                await asyncio.sleep(7)  # longer than max.poll.interval
                assert bridge.passed == 2000
                assert times_assigned() == 1
                async with flow.open() as other:  # partitions that are paused go away, and come back
                    while not await other.read(10, 0.1):
                        pass
                gate.set()
                await until_committed(flow, 8500)
                assert bridge.passed >= 8500

    def times_assigned() -> int:
        told = [said.message for said in caplog.records]
        assert not [text for text in told if "out of its group" in text]
        return len([text for text in told if "partitions assigned" in text])

    caplog.set_level(logging.INFO)
    asyncio.run(main())


def test_an_outage_of_the_train_is_waited_for(kafka_server: Server, own_redis: RedisServer) -> None:
    async def main() -> None:
        train = shop(publish_timeout=1.0, publish_batch=100)
        async with kafka_flow(kafka_server) as flow, train.connect(own_redis.url) as c:
            values = numbered(2000)
            async with bridging(flow.open(), c) as bridge, asyncio.TaskGroup() as tasks:
                writer = tasks.create_task(writing(flow, values))
                await until(lambda: bridge.passed > 300, "it runs")
                await asyncio.to_thread(own_redis.kill)
                await until(lambda: bool(bridge.trouble), "the outage is told")
                await asyncio.to_thread(own_redis.start)
                await writer
                await until_committed(flow, len(values))
            assert (await in_train(c)).keys() == set(values)

    asyncio.run(main())


def test_a_server_that_vanishes_is_waited_for(own_kafka: KafkaServer, tmp_path: Path) -> None:
    async def main() -> None:
        async with kafka_flow(own_kafka) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            async with bridging(flow.open(), c) as bridge:
                await flow.write(numbered(100))
                # else it waits for its commit, and not for records
                await until(lambda: bridge.passed == 100 and bridge.lag.records == 0, "all is committed")
                await asyncio.to_thread(own_kafka.kill)
                await until(lambda: "reading" in bridge.trouble, "the server is missed")
                await asyncio.to_thread(own_kafka.start)
                await until(lambda: not bridge.trouble, "it goes on")
                await flow.write(numbered(100, 100))
                await until_committed(flow, 200)
            assert (await in_train(c)).keys() == set(numbered(200))

    asyncio.run(main())


def test_where_a_new_group_begins(kafka_server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        async with kafka_flow(kafka_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            await asyncio.to_thread(flow.send, [b"1"], timestamp=1_700_000_000_000)
            await asyncio.to_thread(flow.send, [b"2"], timestamp=1_700_000_001_000)
            with pytest.raises(UsageError, match="has no position in this topic"):
                async with open_source(flow.url):
                    pass
            with pytest.raises(UsageError, match="there is no topic"):
                async with open_source(flow.url.replace(flow.topic, "nothing", 1)):
                    pass
            async with open_source(flow.url, 1_700_000_000.5) as source:
                assert [record.value for record in await source.peek(5)] == [b"2"]
            async with open_source(flow.url, "latest") as source:
                assert await source.peek(5) == []
                while (await source.lag()).records != 0:
                    assert await source.read(10, 0.1) == []
            await flow.write([b"3"])  # the position was committed: what comes while nobody reads is not passed over
            async with bridging(open_source(flow.url, "latest"), c):
                await until_committed(flow, 3)
            assert await in_train(c) == {b"3": 1}

    asyncio.run(main())


def test_all_of_a_partition_that_is_added_is_read(kafka_server: Server, tmp_path: Path) -> None:
    async def main() -> None:
        options = "&topic.metadata.refresh.interval.ms=1000&heartbeat.interval.ms=300"
        async with kafka_flow(kafka_server, options=options) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            await flow.write([b"0"])
            async with bridging(open_source(flow.url, "latest"), c) as bridge:
                await until_committed(flow, 1)  # it begins after the first record
                (future,) = flow.admin.create_partitions([NewPartitions(flow.topic, 2)]).values()
                await asyncio.wrap_future(future)
                for value in (b"1", b"2"):
                    assert await asyncio.to_thread(send, flow.bootstrap, flow.topic, 1, value) is None
                await until(lambda: bridge.passed == 2, "the new partition is read")
            async with bridging(open_source(flow.url), c):
                await until_committed(flow, 3)
            assert await in_train(c) == {b"1": 1, b"2": 1}

    asyncio.run(main())


def test_a_position_whose_records_are_deleted_is_told(
    kafka_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with kafka_flow(kafka_server) as flow, shop().connect(f"sqlite:///{tmp_path}") as c:
            await flow.write(numbered(10))
            await asyncio.to_thread(old_worker, flow, 10)
            asked = [ConsumerGroupTopicPartitions(group_of(flow), [TopicPartition(flow.topic, 0, 2)])]
            await asyncio.wrap_future(flow.admin.alter_consumer_group_offsets(asked)[group_of(flow)])
            (future,) = flow.admin.delete_records([TopicPartition(flow.topic, 0, 5)]).values()
            await asyncio.wrap_future(future)
            async with bridging(open_source(flow.url), c):
                await until_committed(flow, 10)
            assert (await in_train(c)).keys() == set(numbered(5, 5))

    asyncio.run(main())
    assert any("what was between is deleted" in said.message for said in caplog.records)


def test_a_topic_that_is_made_anew_while_it_is_read_ends_the_bridge(
    kafka_server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """To the client it is the same topic: it would go on at the old position. Until then nothing goes on."""
    caplog.set_level(logging.INFO, "eventwagon")

    async def main() -> None:
        async with (
            kafka_flow(kafka_server, partitions=1) as flow,
            shop().connect(f"sqlite:///{tmp_path}") as c,
        ):
            await flow.write(numbered(200))
            running = asyncio.create_task(crashing(flow.open(), c))
            async with asyncio.timeout(60):
                while len(await stored(c)) < 200:
                    await asyncio.sleep(0.1)
                await asyncio.wrap_future(flow.admin.delete_topics([flow.topic])[flow.topic])
                while not any("the topic was deleted" in said for said in caplog.messages):
                    await asyncio.sleep(0.1)
                await asyncio.sleep(3.0)  # more than from one look to the next
                assert not any("goes on" in said for said in caplog.messages)
                made = False
                while not made:
                    with suppress(KafkaException):
                        new = NewTopic(flow.topic, 1, 1)
                        await asyncio.wrap_future(flow.admin.create_topics([new])[flow.topic])
                        made = True
                    await asyncio.sleep(0.1)
                with pytest.raises(UsageError, match="the topic was deleted and made anew"):
                    await running

    asyncio.run(main())
