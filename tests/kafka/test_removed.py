"""What goes from a topic by other hands than ours: retention, a deletion of records, a topic that was set up
otherwise."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # the package exports them without saying so
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from msgspec import structs
from rich.console import Console

from eventwagon import Context, Train, Volume, Workers
from eventwagon.cli.status import table
from eventwagon.contracts.broker import Depth
from eventwagon.contracts.facts import (
    ChannelThreatened,
    DrainGivenUp,
    EventsLost,
    EventsRescued,
    WagonRemoved,
    sentence,
)
from eventwagon.contracts.manifest import Manifest
from eventwagon.drivers.kafka import KafkaBroker, wagons
from eventwagon.drivers.kafka.admin import LOG_TIME
from eventwagon.drivers.kafka.registry import KafkaRegistry
from eventwagon.drivers.kafka.wire import PROBE_HEADERS
from eventwagon.errors import ChannelGone, StorageBroken
from eventwagon.event import DEAD, Channel
from eventwagon.policy import losses
from eventwagon.runtime import observer
from eventwagon.views.train import look
from tests.kafka.support import LONG, events, holding, new_channel, send, standing, take, topics
from tests.servers.kafka import KafkaServer
from tests.servers.server import Server
from tests.support import until


def remove_records(server: KafkaServer | Server, topic: str, before: int) -> None:
    """As kafka-delete-records.sh does, and retention, a segment at a time."""
    admin = AdminClient({"bootstrap.servers": server.url.removeprefix("kafka://").partition("?")[0]})
    (done,) = admin.delete_records([TopicPartition(topic, 0, before)]).values()
    done.result(10)


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and r.name == "eventwagon.kafka"]


def test_events_that_were_removed_are_lost_not_settled(kafka_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Whether anybody consumes or not; who looks later knows the same; it is told once."""

    async def main() -> None:
        async with holding(kafka_server.url, *events(10)) as (ours, channel):
            remove_records(kafka_server, str(channel), 5)  # of them offset 0 is a probe
            (depth,) = await ours.depth([channel])
            assert (depth.published, depth.settled, depth.waiting, depth.lost) == (6, 0, 6, 4)
            assert len(told := warnings(caplog)) == 1
            assert f"channel {channel} lost 4 events" in told[0]
            assert "retention.ms" in told[0]
            async with KafkaBroker.from_url(kafka_server.url) as other:
                assert (await other.depth([channel]))[0].lost == 4
                async with other.consume(channel, visibility=LONG) as consumer:
                    got = await take(consumer, 6)
                    await consumer.settle(got)
                    assert await consumer.receive(1, 0.3) == []
                (depth,) = await other.depth([channel])
                assert (depth.published, depth.settled, depth.waiting, depth.lost) == (6, 6, 0, 4)
            assert len(warnings(caplog)) == 1

    asyncio.run(main())


def test_dead_letters_that_were_removed_are_told(kafka_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """Those that the train keeps of removed wagons: `status` says how many went, and counts those that are left."""

    async def main() -> None:
        name = new_channel().train
        kept = Channel(name, 0, DEAD)
        async with Train(name).connect(kafka_server.url, listeners=()) as connection:
            await connection.broker.create(kept)
            await connection.broker.publish(kept, events(5))
            remove_records(kafka_server, str(kept), 3)  # of them offset 0 is a probe
            view = await look(connection, kafka_server.url)
            assert (view.dead, view.dead_lost) == (3, 2)
            console = Console(width=200)
            with console.capture() as shown:
                console.print(table(view, console))
            assert "2 dead letters went from the broker" in shown.get()
            assert f"channel {kept} lost 2 events" in " ".join(warnings(caplog))
            await connection.remove(force=True)

    asyncio.run(main())


@pytest.mark.timeout(120)
def test_a_wagon_whose_dead_letters_were_deleted_goes_on(kafka_server: Server) -> None:
    """The train's own topic takes the next ones; `status` says at once what is gone."""

    async def main() -> None:
        train = Train(new_channel().train, limit=Volume(100), attempts=1, observe_every=0.1)
        kept, handled = Channel(train.name, 0, DEAD), list[int]()

        @train.on(train.name)
        async def handle(n: int) -> None:
            if n < 0:
                raise ValueError(n)
            handled.append(n)

        async with train.connect(kafka_server.url) as connection, connection.running(), asyncio.timeout(60):
            await connection.publish(-1)
            while (await connection.depths())[1][DEAD].waiting != 1:
                await asyncio.sleep(0.1)
            admin = AdminClient({"bootstrap.servers": kafka_server.url.removeprefix("kafka://").partition("?")[0]})
            topic = f"{train.name}_v1.dead"
            admin.delete_topics([topic])[topic].result(10)
            while not (view := await look(connection, kafka_server.url)).threatened:
                await asyncio.sleep(0.1)
            assert f"{topic} has vanished from the broker" in " ".join(view.threatened)
            await connection.publish_many([-2, 2])
            await until(lambda: handled == [2], seconds=30)
            while (await connection.broker.depth([kept]))[0].waiting != 1:
                await asyncio.sleep(0.1)
            active = (await connection.refresh()).manifest.active
            assert active is not None
            assert active.number == 1

    asyncio.run(main())


@pytest.mark.timeout(120)
def test_an_inner_channel_that_was_deleted_is_left_with_its_wagon(kafka_server: Server) -> None:
    """It can't be made anew: new events go to the next wagon, and are handled there with all that they emit."""

    async def main() -> None:
        name = new_channel().train
        train = Train(name, limit=Volume(1000), workers=Workers(total=2), observe_every=0.2)
        mailed: list[int] = []

        @train.on(name)
        async def handle(n: int, ctx: Context) -> None:
            await ctx.emit("mail", n)

        @train.on("mail")
        async def mail(n: int) -> None:
            mailed.append(n)

        async with train.connect(kafka_server.url, listeners=()) as connection:
            async with connection.running():
                await connection.publish(1)
                await until(lambda: mailed == [1], seconds=30)
                admin = AdminClient({"bootstrap.servers": kafka_server.url.removeprefix("kafka://").partition("?")[0]})
                admin.delete_topics([f"{name}_v1.mail"])[f"{name}_v1.mail"].result(10)
                async with asyncio.timeout(40):
                    assert await connection.wait_switched(1) == 2
                await connection.publish_many(range(10, 15))
                await until(lambda: set(range(10, 15)) <= set(mailed), seconds=40)
            await connection.remove(force=True)

    asyncio.run(main())


def test_what_somebody_has_in_hand_is_not_lost(kafka_server: Server, caplog: pytest.LogCaptureFixture) -> None:
    """It can still be settled; given back, it is lost to the next one, who finds out by itself."""

    async def main() -> None:
        async with (
            holding(kafka_server.url, *events(4)) as (ours, channel),
            ours.consume(channel, visibility=LONG) as consumer,
            KafkaBroker.from_url(kafka_server.url) as other,
        ):
            got = await take(consumer, 4)
            remove_records(kafka_server, str(channel), 5)
            (depth,) = await other.depth([channel])
            assert (depth.published, depth.in_flight, depth.lost) == (4, 4, 0)
            await consumer.settle(got[:1])
            await consumer.release(got[1:], delay=0.0)
            async with other.consume(channel, visibility=LONG) as second:
                assert await second.receive(4, 0.5) == []
            (depth,) = await ours.depth([channel])
            assert (depth.published, depth.settled, depth.waiting, depth.lost) == (1, 1, 0, 3)
            assert "lost 3 events" in " ".join(warnings(caplog))
            await ours.publish(channel, more := events(2))
            assert [d.event.id for d in await take(consumer, 2)] == [e.id for e in more]

    asyncio.run(main())


def test_all_that_stood_there_was_removed(kafka_server: Server) -> None:
    """Amid a consumer that has read ahead, and another that comes later."""

    async def main() -> None:
        async with (
            holding(kafka_server.url, *events(50)) as (ours, channel),
            ours.consume(channel, visibility=LONG) as consumer,
        ):
            await consumer.settle(await take(consumer, 10))
            remove_records(kafka_server, str(channel), 51)
            async with KafkaBroker.from_url(kafka_server.url) as other:
                (depth,) = await other.depth([channel])
                assert (depth.published, depth.settled, depth.lost) == (10, 10, 40)
                await ours.publish(channel, more := events(3))
                assert await standing(other, channel) == [e.id for e in more]
                async with other.consume(channel, visibility=LONG) as second:
                    assert [d.event.id for d in await take(second, 3)] == [e.id for e in more]
            (lane,) = ours.wagons.live()[0].feeds[""].lanes.values()
            assert lane.messages == 0
            assert lane.bytes == 0

    asyncio.run(main())


async def until_lost(broker: KafkaBroker, channel: Channel, count: int) -> None:
    async with asyncio.timeout(60):
        while (await broker.depth([channel]))[0].lost < count:
            await asyncio.sleep(0.2)


@pytest.mark.slow
def test_what_retention_and_compaction_take_is_lost(tmp_path: Path) -> None:
    """By the server's own doing: an old segment goes, and of records with one key only the last stays."""

    async def main(server: KafkaServer) -> None:
        async with holding(server.url, *events(5)) as (ours, channel):
            async with ours.consume(channel, visibility=LONG) as consumer:
                await consumer.settle(await take(consumer, 2))
            alter(server, str(channel), "retention.ms", "1")
            await until_lost(ours, channel, 3)
            (depth,) = await ours.depth([channel])
            assert (depth.published, depth.settled, depth.waiting, depth.lost) == (2, 2, 0, 3)
        async with holding(server.url) as (ours, channel):
            topic = str(channel)
            keyed = [structs.replace(event, subject="one") for event in events(5)]
            await ours.publish(channel, keyed)
            for name, value in (
                ("segment.ms", "100"),
                ("max.compaction.lag.ms", "100"),
                ("min.cleanable.dirty.ratio", "0.01"),
                ("cleanup.policy", "compact"),
            ):
                alter(server, topic, name, value)
            await asyncio.sleep(0.3)
            await ours.publish(channel, last := [structs.replace(event, subject="two") for event in events(1)])
            consumer_config = {"bootstrap.servers": server.bootstrap, "group.id": "x"}
            async with asyncio.timeout(60):
                while len(await asyncio.to_thread(standing_offsets, consumer_config, topic)) > 2:
                    await asyncio.sleep(0.5)
            async with ours.consume(channel, visibility=LONG) as consumer:
                got = await take(consumer, 2)
                assert [d.event.id for d in got] == [keyed[-1].id, last[0].id]
                await consumer.settle(got)
            await until_lost(ours, channel, 4)
            (depth,) = await ours.depth([channel])
            assert (depth.published, depth.settled, depth.lost) == (2, 2, 4)

    config = {"log.retention.check.interval.ms": "300", "log.cleaner.backoff.ms": "200"}
    with KafkaServer(tmp_path, config=config) as server:
        asyncio.run(main(server))


def standing_offsets(config: dict[str, str], topic: str) -> list[int]:
    """Of records with a key."""
    consumer = Consumer({**config, "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[int] = []
    while (message := consumer.poll(10)) is not None and message.error() is None:
        if message.key():
            found.append(message.offset() or 0)
    consumer.close()
    return found


def test_the_journal_tells_of_lost_events(kafka_server: Server) -> None:
    """Once, with their number, and the wagon's last record has it; the wagon drains and goes all the same."""

    async def main() -> None:
        train = Train(new_channel().train, limit=Volume(5), observe_every=0.1)
        handled: list[int] = []

        @train.on(train.name)
        async def handle(payload: dict[str, int]) -> None:
            handled.append(payload["n"])

        async with train.connect(kafka_server.url) as connection:
            await connection.publish_many([{"n": n} for n in range(8)])
            remove_records(kafka_server, str(Channel(train.name, 1)), 7)  # with the probe
            async with asyncio.timeout(60), connection.running():
                await connection.request_switch("by hand")
                facts: list[object] = []
                while not any(isinstance(f, WagonRemoved) for f in facts):
                    await asyncio.sleep(0.2)
                    facts = [entry.fact async for entry in connection.journal()]
                while (await connection.refresh()).manifest.wagon(1):  # the fact is told before the wagon leaves it
                    await asyncio.sleep(0.05)
            lost = [f for f in facts if isinstance(f, EventsLost)]
            assert [(f.number, f.count, f.total) for f in lost] == [(1, 6, 6)]
            assert f"{train.name}_v1 lost 6 events" in sentence(lost[0])
            (removed,) = (f for f in facts if isinstance(f, WagonRemoved))
            assert (removed.wagon.published, removed.wagon.settled, removed.wagon.lost) == (2, 2, 6)
            assert sorted(handled) == [6, 7]
            view = await look(connection, kafka_server.url, removed=True)
            assert [w.lost for w in view.removed] == [6]

    asyncio.run(main())


def test_what_a_wagon_holds_that_lost_an_inner_topic_is_published_anew(
    kafka_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic can't be made anew, since the claims outlive it: the wagon would drain for ever."""
    monkeypatch.setattr(losses, "_SURE", 1.0)

    async def main() -> None:
        train = Train(new_channel().train, limit=Volume(100), observe_every=0.1, grace=0.5, visibility=5.0)
        gate, handled = asyncio.Event(), set[int]()

        @train.on(train.name)
        async def handle(n: int, ctx: Context) -> None:
            await gate.wait()
            await ctx.emit("inner", n)

        @train.on("inner")
        async def keep(n: int) -> None:
            handled.add(n)

        async with train.connect(kafka_server.url) as connection, connection.running(), asyncio.timeout(100):
            await connection.publish_many(range(5))
            await connection.request_switch()
            await connection.wait_switched(1)
            admin = AdminClient({"bootstrap.servers": kafka_server.url.removeprefix("kafka://").partition("?")[0]})
            admin.delete_topics([str(Channel(train.name, 1, "inner"))])[str(Channel(train.name, 1, "inner"))].result(10)
            await asyncio.sleep(1.0)
            gate.set()
            while (await connection.refresh()).manifest.wagon(1):
                await asyncio.sleep(0.1)
            while handled != set(range(5)):
                await asyncio.sleep(0.1)
            facts = [entry.fact async for entry in connection.journal()]
            assert [f.number for f in facts if isinstance(f, DrainGivenUp)] == [1]
            assert sum(f.count for f in facts if isinstance(f, EventsRescued)) == 5

    asyncio.run(main())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("anew", [False, True], ids=["deleted", "made anew"])
def test_a_wagon_whose_claims_log_was_deleted_is_left_and_its_events_are_published_anew(
    kafka_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, anew: bool
) -> None:
    """Nobody can be given an event of it any more: it is told, new events go to the next wagon, and what the observer
    does not know as settled follows."""
    monkeypatch.setattr(losses, "_SURE", 1.0)

    async def main() -> None:
        train = Train(new_channel().train, limit=Volume(100), workers=Workers(total=2), observe_every=0.1, grace=0.5)
        gate, handled = asyncio.Event(), list[int]()
        gate.set()

        @train.on(train.name)
        async def handle(n: int) -> None:
            await gate.wait()
            handled.append(n)

        async with train.connect(kafka_server.url) as connection, connection.running(), asyncio.timeout(100):
            await connection.publish_many(range(5))
            await until(lambda: len(handled) == 5, seconds=30)
            while (await connection.depths())[1].get("", Depth()).settled != 5:
                await asyncio.sleep(0.1)
            await connection.pause()
            await connection.publish_many(range(10, 15))
            admin = AdminClient({"bootstrap.servers": kafka_server.url.removeprefix("kafka://").partition("?")[0]})
            log = f"{train.name}_v1.0claims"
            admin.delete_topics([log])[log].result(10)
            if anew:
                await make(kafka_server, log, LOG_TIME)
            while not (depth := (await connection.broker.depth([Channel(train.name, 1)]))[0]).undeliverable:
                await asyncio.sleep(0.1)
            assert f"topic {log} was deleted" in depth.trouble
            view = await look(connection, kafka_server.url)
            assert f"topic {log} was deleted" in " ".join(view.threatened)
            await connection.resume()
            assert await connection.wait_switched(1) == 2
            await connection.publish(20)
            while (await connection.refresh()).manifest.wagon(1):
                await asyncio.sleep(0.1)
            await until(lambda: set(handled) == {*range(5), *range(10, 15), 20}, seconds=30)
            assert sorted(handled) == [*range(5), *range(10, 15), 20]  # those that are known as settled come once
            facts = [entry.fact async for entry in connection.journal()]
            assert [f.number for f in facts if isinstance(f, DrainGivenUp)] == [1]
            assert sum(f.count for f in facts if isinstance(f, EventsRescued)) == 5
            assert any(isinstance(f, ChannelThreatened) and f"{log} was deleted" in f.because for f in facts)
            assert any(f"topic {log} was deleted" in r.getMessage() for r in caplog.records)

    asyncio.run(main())


async def make(server: Server, topic: str, config: Mapping[str, str]) -> None:
    """As somebody else does."""
    async with topics(server.url) as admin:
        while not await admin.create(topic, 1, config):
            await asyncio.sleep(0.05)


def test_a_claims_log_that_was_made_anew_is_not_taken_for_the_old_one(
    kafka_server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """Who followed the old one still knows what is settled; who comes later gets all events again."""

    async def main() -> None:
        async with holding(kafka_server.url, *events(3)) as (broker, channel), asyncio.timeout(60):
            async with broker.consume(channel, visibility=LONG) as consumer:
                got = await take(consumer, 3)
                await consumer.settle(got[:2])
            log = f"{channel}.0claims"
            async with topics(kafka_server.url) as admin:
                await admin.delete(log)
            await make(kafka_server, log, LOG_TIME)
            while not (await broker.depth([channel]))[0].undeliverable:
                await asyncio.sleep(0.1)
            assert f"topic {log} was deleted and made anew" in " ".join(warnings(caplog))
            assert await standing(broker, channel) == [got[2].event.id]
            with pytest.raises(ChannelGone):
                async with broker.consume(channel, visibility=LONG):
                    pass
            async with (
                KafkaBroker.from_url(kafka_server.url) as late,
                late.consume(channel, visibility=LONG) as consumer,
            ):
                await consumer.settle(await take(consumer, 3))

    asyncio.run(main())


def plain(server: Server, topic: str, values: range) -> None:
    """Events of somebody who does not know eventwagon."""
    bootstrap = server.url.removeprefix("kafka://").partition("?")[0]
    for value in values:
        assert send(bootstrap, topic, 0, str(value).encode()) is None


@pytest.mark.parametrize("new", [1, 10], ids=["less than before", "more than before"])
def test_events_of_a_topic_that_was_made_anew_do_not_pass_for_settled_ones(kafka_server: Server, new: int) -> None:
    """Whether a process was there when it happened or not: the claims log says which topic it is about."""

    async def main() -> None:
        async with holding(kafka_server.url, *events(5)) as (broker, channel), asyncio.timeout(60):
            async with broker.consume(channel, visibility=LONG) as consumer:
                await consumer.settle(await take(consumer, 3))
            assert (await broker.depth([channel]))[0].published == 5
            async with topics(kafka_server.url) as admin:
                await admin.delete(str(channel))
            await make(kafka_server, str(channel), {})
            await asyncio.to_thread(plain, kafka_server, str(channel), range(new))
            async with KafkaBroker.from_url(kafka_server.url) as late:
                for one in (late, broker):
                    while not (depth := (await one.depth([channel]))[0]).undeliverable:
                        await asyncio.sleep(0.1)
                    assert (depth.published, depth.settled, depth.waiting) == (3 + new, 3, new)
                    assert f"topic {channel} was made anew" in depth.trouble
                    assert len(await standing(one, channel)) == new
                    with pytest.raises(ChannelGone):
                        async with one.consume(channel, visibility=LONG):
                            pass
                assert depth.lost >= 2  # who was there knows

    asyncio.run(main())


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", ["", "inner"])
def test_a_wagon_whose_topic_was_made_anew_is_left_and_the_new_events_are_handled(
    kafka_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """It is told, what the old topic held is reported as lost, and what is in the new one follows to the next wagon."""
    monkeypatch.setattr(losses, "_SURE", 1.0)

    async def main() -> None:
        train = Train(new_channel().train, limit=Volume(100), workers=Workers(total=2), observe_every=0.1, grace=0.5)
        handled, mailed = list[int](), list[int]()

        @train.on(train.name)
        async def handle(n: int, ctx: Context) -> None:
            handled.append(n)
            await ctx.emit("inner", n)

        @train.on("inner")
        async def mail(n: int) -> None:
            mailed.append(n)

        async with train.connect(kafka_server.url) as connection, connection.running(), asyncio.timeout(100):
            await connection.publish_many(range(5))
            await until(lambda: len(mailed) == 5, seconds=30)
            while (await connection.depths())[1].get("inner", Depth()).settled != 5:
                await asyncio.sleep(0.1)
            await connection.pause()
            await connection.publish_many(range(10, 13))
            while (await connection.depths())[1].get("", Depth()).published != 8:
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.5)
            topic = str(Channel(train.name, 1, name))
            async with topics(kafka_server.url) as admin:
                await admin.delete(topic)
            await make(kafka_server, topic, {})
            await asyncio.to_thread(plain, kafka_server, topic, range(100, 102))
            facts = list[object]()
            while not any(isinstance(f, ChannelThreatened) for f in facts):
                await asyncio.sleep(0.1)
                facts = [entry.fact async for entry in connection.journal()]
            await connection.resume()
            assert await connection.wait_switched(1) == 2
            while (await connection.refresh()).manifest.wagon(1):
                await asyncio.sleep(0.1)
            old = [*range(5), *range(10, 13)] if name else range(5)  # the ingress held three, perhaps still in hand
            await until(lambda: {*old, 100, 101} <= set(mailed), seconds=30)
            assert len(set(handled)) == len(handled)  # nothing that was settled comes again
            facts = [entry.fact async for entry in connection.journal()]
            threats = [f for f in facts if isinstance(f, ChannelThreatened)]
            assert [f.channel for f in threats if f"topic {topic} was made anew" in f.because] == [name]
            lost = [f for f in facts if isinstance(f, EventsLost)]
            assert sum(f.count or 0 for f in lost) == (0 if name else 3)
            assert f"topic {topic} was deleted and made anew" in " ".join(warnings(caplog))

    asyncio.run(main())


def test_events_can_be_read_without_a_claims_log(kafka_server: Server) -> None:
    """A process that never read the claims takes no event for settled; one that did knows which are."""

    async def main() -> None:
        channel = new_channel()
        async with KafkaBroker.from_url(kafka_server.url) as broker, KafkaBroker.from_url(kafka_server.url) as other:
            await broker.create(channel)
            some = events(4)
            await broker.publish(channel, some)
            async with broker.consume(channel, visibility=LONG) as consumer:
                await consumer.settle(await take(consumer, 4))
            await broker.publish(channel, more := events(1))
            async with topics(kafka_server.url) as admin:
                await admin.delete(f"{channel}.0claims")
            while not (await broker.depth([channel]))[0].undeliverable:
                await asyncio.sleep(0.1)
            await broker.seal(channel)
            assert await standing(broker, channel) == [more[0].id]
            (depth,) = await other.depth([channel])
            assert (depth.undeliverable, depth.published) == (True, None)
            assert await standing(other, channel) == [event.id for event in (*some, *more)]
            with pytest.raises(ChannelGone):
                async with other.consume(channel, visibility=LONG):
                    pass
            await other.delete(channel)
            assert (await other.depth([channel]))[0] == Depth()

    asyncio.run(main())


# --- topics that are there already --------------------------------------------------------


def set_up(server: Server, topic: str, **config: str) -> None:
    admin = AdminClient({"bootstrap.servers": server.url.removeprefix("kafka://").partition("?")[0]})
    admin.create_topics([NewTopic(topic, 1, 1, config={k.replace("_", "."): v for k, v in config.items()})])[
        topic
    ].result(10)


def alter(server: Server, topic: str, name: str, value: str) -> None:
    admin = AdminClient({"bootstrap.servers": server.url.removeprefix("kafka://").partition("?")[0]})
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    admin.incremental_alter_configs([resource])[resource].result(10)


@pytest.mark.parametrize(
    ("of", "setting", "value", "right"),
    [
        ("{}", "retention.ms", "604800000", "retention.ms=-1"),
        ("{}", "retention.bytes", "1000000", "retention.bytes=-1"),
        ("{}", "cleanup.policy", "compact", "cleanup.policy=delete"),
        ("{}", "max.message.bytes", "20000", "max.message.bytes=1048588"),
        ("{}.0claims", "retention.ms", "604800000", "retention.ms=-1"),
        ("{}.0claims", "message.timestamp.type", "CreateTime", "message.timestamp.type=LogAppendTime"),
    ],
)
def test_a_topic_that_would_lose_events_is_not_taken(
    kafka_server: Server, of: str, setting: str, value: str, right: str
) -> None:
    """The error names the topic, the setting, its value, and what to set; set so, it is taken."""

    async def main() -> None:
        channel = new_channel()
        topic = of.format(channel)
        well = {"retention_ms": "-1", "message_timestamp_type": "LogAppendTime"}
        set_up(kafka_server, topic, **{**well, setting.replace(".", "_"): value})
        async with KafkaBroker.from_url(kafka_server.url) as broker:
            with pytest.raises(StorageBroken) as refused:
                await broker.create(channel)
            assert f"topic {topic}: {setting}={value} " in str(refused.value)
            assert f"set {right}" in str(refused.value)
            alter(kafka_server, topic, *right.split("="))
            await broker.create(channel)
            await broker.publish(channel, events(1))
            await broker.seal(channel)
            await broker.create(channel)  # its size says that it is sealed
            await broker.delete(channel)

    asyncio.run(main())


def test_a_manifest_topic_that_forgets_is_not_taken(kafka_server: Server) -> None:
    async def main() -> None:
        train = new_channel().train
        set_up(kafka_server, f"{train}.0manifest", cleanup_policy="compact")
        set_up(kafka_server, f"{train}.0journal", retention_ms="1000")
        async with KafkaRegistry.from_url(kafka_server.url) as registry:
            with pytest.raises(StorageBroken, match=rf"topic {train}\.0manifest: cleanup\.policy=compact .* set "):
                await registry.replace(train, Manifest(train=train), expect=0)
        async with KafkaRegistry.from_url(kafka_server.url) as registry:  # it hides no other train
            assert train in await registry.trains()

    asyncio.run(main())


def test_dead_letters_of_a_smaller_size_are_taken(kafka_server: Server) -> None:
    """The train's own dead letters keep the size of the day on which they were made."""

    async def main() -> None:
        dead = Channel(new_channel().train, 0, "dead")
        async with KafkaBroker.from_url(f"{kafka_server.url}?max_message_bytes=20000") as before:
            await before.create(dead)
        async with KafkaBroker.from_url(kafka_server.url) as now:
            await now.create(dead)
            await now.delete(dead)

    asyncio.run(main())


def test_what_was_changed_later_is_told(
    kafka_server: Server, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Topics in use are looked at again: once in the log, once in the journal, for as long as it lasts in `depth`."""
    monkeypatch.setattr(wagons, "_LOOK_CLOSER", 1)
    monkeypatch.setattr(observer, "_AGAIN", 1)  # one topic may be looked at before the other was altered

    async def main() -> None:
        train = Train(new_channel().train, limit=Volume(5), observe_every=0.1)
        topic = str(Channel(train.name, 1))
        async with train.connect(kafka_server.url) as connection:
            await connection.publish({"n": 1})
            alter(kafka_server, topic, "retention.ms", "86400000")
            alter(kafka_server, f"{topic}.0claims", "cleanup.policy", "compact")
            async with asyncio.timeout(60), connection.running(work=False):
                facts: list[ChannelThreatened] = []
                while not any("0claims" in f.because and "retention.ms" in f.because for f in facts):
                    await asyncio.sleep(0.3)
                    facts = [e.fact async for e in connection.journal() if isinstance(e.fact, ChannelThreatened)]
                (depth,) = await connection.broker.depth([Channel(train.name, 1)])
                assert f"topic {topic}: retention.ms=86400000 " in depth.trouble
                threatened = (await look(connection, kafka_server.url)).threatened
                assert f"topic {topic}: retention.ms=86400000 " in " ".join(threatened)
                told = [w for w in warnings(caplog) if topic in w]
                assert len(told) == 2
                alter(kafka_server, topic, "retention.ms", "-1")
                alter(kafka_server, f"{topic}.0claims", "cleanup.policy", "delete")
                while (await connection.broker.depth([Channel(train.name, 1)]))[0].trouble:
                    await asyncio.sleep(0.3)
                assert [w for w in warnings(caplog) if topic in w] == told

    asyncio.run(main())


# --- logs that lost their beginning -----------------------------------------------------------


async def six_settled(url: str, channel: Channel) -> list[str]:
    """Of ten events, in two records of the claims log; the ids of all."""
    async with KafkaBroker.from_url(url) as broker:
        await broker.create(channel)
        await broker.publish(channel, sent := events(10))
        async with broker.consume(channel, visibility=LONG) as consumer:
            got = await take(consumer, 10)
            await consumer.settle(got[:4])
            await consumer.settle(got[4:6])
    return [event.id for event in sent]


def ends(server: Server, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": server.url.removeprefix("kafka://").partition("?")[0], "group.id": "x"})
    _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), 10)
    consumer.close()
    return int(end)


@pytest.mark.parametrize("left", [2, 0], ids=["two records are left", "none is left"])
def test_a_claims_log_that_lost_its_beginning_is_rebuilt(
    kafka_server: Server, caplog: pytest.LogCaptureFixture, left: int
) -> None:
    """What its last records say is settled is settled, all else comes again, to whoever asks first; it is told. The
    last two are a settle, and that the consumer left."""

    async def main() -> None:
        channel = new_channel()
        ids = await six_settled(kafka_server.url, channel)
        log = f"{channel}.0claims"
        remove_records(kafka_server, log, ends(kafka_server, log) - left)
        again = ids[:4] + ids[6:] if left else ids
        async with KafkaBroker.from_url(kafka_server.url) as one, KafkaBroker.from_url(kafka_server.url) as other:
            (first,), (second,) = await asyncio.gather(one.depth([channel]), other.depth([channel]))
            for depth in (first, second):
                known = 2 if left else 0
                assert (depth.published or 0) - known == depth.waiting == len(again) + 1  # the probe, until it is read
                assert (depth.settled, depth.in_flight, depth.lost) == (known, 0, 0)
                assert "was rebuilt" in depth.trouble
            assert f"topic {log} lost its beginning" in " ".join(warnings(caplog))
            async with one.consume(channel, visibility=LONG) as a, other.consume(channel, visibility=LONG) as b:
                got = await take(a, 3)
                got += await take(b, len(again) - 3)
                assert sorted(d.event.id for d in got) == sorted(again)
                await a.settle(got)
                assert await b.receive(1, 0.3) == []
            async with KafkaBroker.from_url(kafka_server.url) as late:
                (depth,) = await late.depth([channel])
                assert (depth.published, depth.settled, depth.waiting) == (10, 10, 0)
            await one.delete(channel)

    asyncio.run(main())


@pytest.mark.parametrize("count", [0, 3], ids=["no letters", "letters"])
def test_probes_are_no_dead_letters_after_a_rebuild(kafka_server: Server, count: int) -> None:
    """Nobody consumes dead letters, so nobody reads the probes before them either."""

    async def main() -> None:
        url = f"{kafka_server.url}?partitions=3"
        channel, letters = new_channel(), events(count)
        dead = Channel(channel.train, 1, DEAD)
        async with KafkaBroker.from_url(url) as broker:
            for each in (channel, dead):
                await broker.create(each)
            await broker.publish(dead, letters)
        log = f"{channel}.0claims"
        remove_records(kafka_server, log, ends(kafka_server, log))
        async with KafkaBroker.from_url(url) as one, KafkaBroker.from_url(url) as other:
            for depth, _ in await asyncio.gather(one.depth([dead, channel]), other.depth([dead, channel])):
                assert (depth.published, depth.settled, depth.waiting, depth.lost) == (count, 0, count, 0)
            assert sorted(await standing(one, dead)) == sorted(letter.id for letter in letters)
            for each in (channel, dead):
                await one.delete(each)

    asyncio.run(main())


def test_a_probe_that_its_writer_left_is_no_dead_letter(kafka_server: Server) -> None:
    """It was killed before it could say where the probe is. Letters behind it count."""

    async def main() -> None:
        channel = new_channel()
        dead, kept = Channel(channel.train, 1, DEAD), Channel(channel.train, 0, DEAD)
        async with KafkaBroker.from_url(kafka_server.url) as broker:
            for each in (channel, dead, kept):
                await broker.create(each)
            for each in (dead, kept):
                for _ in range(3):
                    assert send(kafka_server.url.removeprefix("kafka://"), str(each), 0, headers=PROBE_HEADERS) is None
            for depth in await broker.depth([dead, kept]):
                assert (depth.published, depth.waiting) == (0, 0)
            await broker.publish(dead, events(2))
            await broker.publish(kept, events(1))
            for depth, count in zip(await broker.depth([dead, kept]), (2, 1), strict=True):
                assert (depth.published, depth.waiting) == (count, count)
            for each in (channel, dead, kept):
                await broker.delete(each)

    asyncio.run(main())


def test_who_knows_the_claims_tells_those_who_do_not(kafka_server: Server) -> None:
    """While one lives who has read all, nothing comes again."""

    async def main() -> None:
        channel = new_channel()
        ids = await six_settled(kafka_server.url, channel)
        async with KafkaBroker.from_url(kafka_server.url) as knows, KafkaBroker.from_url(kafka_server.url) as other:
            await knows.depth([channel])
            log = f"{channel}.0claims"
            remove_records(kafka_server, log, ends(kafka_server, log))
            (depth,) = await other.depth([channel])
            assert (depth.published, depth.settled, depth.in_flight, depth.trouble) == (10, 6, 4, "")
            for broker in (other, knows):
                assert await standing(broker, channel) == ids[6:]
            await other.delete(channel)

    asyncio.run(main())


def test_a_manifest_log_that_lost_its_beginning_is_told(kafka_server: Server) -> None:
    """Who knows it tells it; if nobody lives who does, the error says what happened."""

    async def main() -> None:
        train = new_channel().train
        log = f"{train}.0manifest"
        async with KafkaRegistry.from_url(kafka_server.url) as knows:
            stored = await knows.replace(train, Manifest(train=train, stops=3), expect=0)
            remove_records(kafka_server, log, ends(kafka_server, log))
            async with KafkaRegistry.from_url(kafka_server.url) as other:
                assert await other.read(train) == stored
        remove_records(kafka_server, log, ends(kafka_server, log))
        async with KafkaRegistry.from_url(kafka_server.url) as nobody:
            with pytest.raises(StorageBroken, match=rf"topic {train}\.0manifest lost its records before offset"):
                await nobody.read(train)

    asyncio.run(main())
