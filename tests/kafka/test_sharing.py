"""Processes that share a channel's partitions, on a real server: each reads its own, and nothing waits for an owner
that is gone, dropped or busy."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from secrets import token_hex

import pytest
from confluent_kafka import ConsumerGroupTopicPartitions, Producer
from confluent_kafka.admin import AdminClient

from eventwagon.contracts.broker import Delivery, Subscription
from eventwagon.drivers.kafka import KafkaBroker, progress, wire
from eventwagon.drivers.kafka.claims import TTL
from eventwagon.drivers.kafka.feed import Feed
from eventwagon.drivers.kafka.proposals import FORMAT, Claim, Join, Leave, Member, Settle, decode, encode
from eventwagon.errors import UsageError
from eventwagon.event import Channel
from tests.kafka.support import LONG, events, holding, new_channel, take, topics
from tests.servers.server import Server


def feed_of(broker: KafkaBroker) -> Feed:
    (live,) = broker.wagons.live()
    (feed,) = live.feeds.values()
    return feed


async def until_shared(*brokers: KafkaBroker) -> None:
    """Until each partition is read by one of them, and none reads more than its share."""
    async with asyncio.timeout(20):
        while True:
            feeds = [feed_of(broker) for broker in brokers]
            owned = sorted(p for feed in feeds for p in feed.lanes)
            counts = [len(feed.lanes) for feed in feeds]
            if owned == list(range(feeds[0].partition_count)) and max(counts) - min(counts) <= 1:
                return
            await asyncio.sleep(0.02)


async def work(consumer: Subscription, into: list[Delivery], stop: asyncio.Event) -> None:
    while not stop.is_set():
        got = await consumer.receive(20, 0.2)
        into += got
        await consumer.settle(got)


def test_each_reads_its_own_partitions(kafka_server: Server) -> None:
    """Of eight, with three processes that come and go. Every event is handled, and handled once."""

    async def main() -> None:
        url = f"{kafka_server.url}?partitions=8"
        async with holding(url) as (ours, channel), AsyncExitStack() as stack:
            brokers = [await stack.enter_async_context(KafkaBroker.from_url(url)) for _ in range(3)]
            got: list[Delivery] = []
            stop = asyncio.Event()
            published = [event for _ in range(40) for event in events(25)]
            async with AsyncExitStack() as consuming, asyncio.TaskGroup() as group:
                for broker in brokers:
                    consumer = await consuming.enter_async_context(broker.consume(channel, visibility=LONG))
                    group.create_task(work(consumer, got, stop))
                await until_shared(*brokers)
                for first in range(0, 1000, 25):
                    await ours.publish(channel, published[first : first + 25])
                    await asyncio.sleep(0.011)
                async with asyncio.timeout(20):
                    while len(got) < 1000:
                        await asyncio.sleep(0.05)
                stop.set()
            assert sorted(d.event.id for d in got) == sorted(event.id for event in published)
            async with brokers[0].consume(channel, visibility=LONG):
                await until_shared(brokers[0])  # the others have left

    asyncio.run(main())


@pytest.mark.parametrize("partitions", [1, 4])
def test_an_owner_that_does_nothing_holds_nobody_up(kafka_server: Server, partitions: int) -> None:
    """It lives, but has no time for its events."""

    async def main() -> None:
        url = f"{kafka_server.url}?partitions={partitions}"
        async with (
            holding(url) as (ours, channel),
            KafkaBroker.from_url(url) as other,
            ours.consume(channel, visibility=LONG),
            other.consume(channel, visibility=LONG) as consumer,
        ):
            await until_shared(ours, other)
            for _ in range(4):
                await ours.publish(channel, events(5))
                await asyncio.sleep(0.02)
            got = await take(consumer, 20, patience=5.0)
            await consumer.settle(got)
            assert (await ours.depth([channel]))[0].settled == 20

    asyncio.run(main())


def test_an_owner_that_dies_holds_nobody_up(kafka_server: Server) -> None:
    """It is gone without a word; its partitions go to the others after a while, and its events at once."""

    async def main() -> None:
        url = f"{kafka_server.url}?partitions=4"
        async with (
            holding(url) as (ours, channel),
            KafkaBroker.from_url(url) as dead,
            dead.consume(channel, visibility=LONG),
            ours.consume(channel, visibility=LONG) as consumer,
        ):
            await until_shared(ours, dead)
            (its,) = dead.wagons.live()
            its.log.leave()  # it neither reads nor writes any more
            its.feeds.clear()
            loop = asyncio.get_running_loop()
            began, got = loop.time(), 0
            while loop.time() < began + 2 * TTL / 1000 + 2.0 and len(feed_of(ours).lanes) < 4:
                await ours.publish(channel, events(2))
                sent = loop.time()
                got += len(some := await take(consumer, 2, patience=TTL / 1000))
                await consumer.settle(some)
                assert loop.time() - sent < TTL / 1000
                await asyncio.sleep(0.05)
            assert len(feed_of(ours).lanes) == 4
            assert (await ours.depth([channel]))[0].settled == got

    asyncio.run(main())


def test_events_of_a_dead_owner_are_handled_though_all_others_are_busy(kafka_server: Server) -> None:
    """The other one is never idle, and the dead one owes nothing yet, since nobody has told that events wait there."""

    async def main() -> None:
        url = f"{kafka_server.url}?partitions=2"
        async with (
            holding(url) as (ours, channel),
            KafkaBroker.from_url(url) as dead,
            dead.consume(channel, visibility=LONG),
            ours.consume(channel, visibility=LONG) as consumer,
        ):
            await until_shared(ours, dead)
            (its,) = dead.wagons.live()
            its.log.leave()  # it neither reads nor writes any more
            its.feeds.clear()
            (mine,) = feed_of(ours).lanes
            bootstrap = kafka_server.url.removeprefix("kafka://").partition("?")[0]
            producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 0})

            def publish(partition: int) -> str:
                (event,) = events(1)
                key, value, headers = wire.encode(event)
                producer.produce(str(channel), value, key, partition, headers=headers)
                producer.poll(0)
                return event.id

            its_event = publish(1 - mine)
            async with asyncio.timeout(60):
                while True:
                    publish(mine)
                    got = await consumer.receive(5, 5.0)
                    await consumer.settle(got)
                    if its_event in [delivery.event.id for delivery in got]:
                        break
            await asyncio.to_thread(producer.flush, 10)

    asyncio.run(main())


def test_what_goes_to_another_process_is_served_until_that_one_reads_it(kafka_server: Server) -> None:
    async def main() -> None:
        url = f"{kafka_server.url}?partitions=4"
        async with holding(url) as (ours, channel), ours.consume(channel, visibility=LONG) as consumer:
            await until_shared(ours)
            (its,), feed = ours.wagons.live(), feed_of(ours)
            await its.log.append(encode([Member("other"), Join(channel.name, 4)]))
            theirs = sorted(p for p in range(4) if its.channel(channel.name).partition(p).owner == "other")
            assert len(theirs) == 2
            assert sorted(feed.lanes) == [0, 1, 2, 3]
            for _ in range(8):  # some for each partition
                await ours.publish(channel, events(5))
                await asyncio.sleep(0.011)
            await consumer.settle(await take(consumer, 40, patience=5.0))
            await its.log.append(encode([Member("other"), Claim(channel.name, 1, 1000, [(theirs[0], 0)])]))
            assert theirs[0] not in feed.lanes
            async with asyncio.timeout(10):
                while len(feed.lanes) > 2:  # it does not wait for that one for ever
                    await asyncio.sleep(0.02)

    asyncio.run(main())


def test_who_was_dropped_joins_again(kafka_server: Server) -> None:
    async def main() -> None:
        url = f"{kafka_server.url}?partitions=4"
        async with (
            holding(url) as (ours, channel),
            KafkaBroker.from_url(url) as other,
            ours.consume(channel, visibility=LONG) as consumer,
            other.consume(channel, visibility=LONG),
        ):
            await until_shared(ours, other)
            live = feed_of(other)
            dropped = [Member(other.wagons.live()[0].me), Leave("")]
            with pytest.MonkeyPatch.context() as patched:
                patched.setattr(live, "look", lambda: None)  # its event loop stands still
                ours.wagons.live()[0].log.append(encode(dropped))
                await until_shared(ours)
            await until_shared(ours, other)
            await ours.publish(channel, events(3))
            await consumer.settle(await take(consumer, 3))

    asyncio.run(main())


def test_a_wagon_of_an_earlier_release_is_served_as_it_served_it(kafka_server: Server) -> None:
    """Its claims log has format 1, and keeps it: all read everything, and an earlier release could go on."""

    async def main() -> None:
        url = f"{kafka_server.url}?partitions=2"
        channel = new_channel()
        async with KafkaBroker.from_url(url) as ours, topics(kafka_server.url) as admin:
            await admin.create(f"{channel}.0claims", 1, {"message.timestamp.type": "LogAppendTime"})
            bootstrap = kafka_server.url.removeprefix("kafka://").partition("?")[0]
            producer = Producer({"bootstrap.servers": bootstrap})
            producer.produce(f"{channel}.0claims", encode([Settle("other", [])]), b"r-of-an-earlier-release")
            await asyncio.to_thread(producer.flush, 10)
            await ours.create(channel)
            await ours.publish(channel, events(40))
            async with (
                KafkaBroker.from_url(url) as other,
                ours.consume(channel, visibility=LONG) as one,
                other.consume(channel, visibility=LONG) as two,
            ):
                got = await take(one, 10) + await take(two, 10)
                await two.release(got[:1], delay=0.0)
                await one.settle(got[1:])
                await one.settle(await take(one, 21))
                assert [sorted(feed_of(b).lanes) for b in (ours, other)] == [[0, 1], [0, 1]]
            (depth,) = await ours.depth([channel])
            assert (depth.published, depth.settled) == (40, 40)
            for record in await records(ours, channel):
                assert not any(isinstance(op, Member) or op == FORMAT for op in decode(record))
            await ours.delete(channel)

    asyncio.run(main())


def test_a_new_log_begins_with_its_format(kafka_server: Server) -> None:
    """So an earlier release says what is wrong, instead of serving the wagon by other rules."""

    async def main() -> None:
        async with holding(kafka_server.url, *events(1)) as (ours, channel):
            async with ours.consume(channel, visibility=LONG) as consumer:
                await consumer.settle(await take(consumer, 1))
            first, *others = await records(ours, channel)
            assert decode(first)[0] == FORMAT
            assert all(isinstance(decode(record)[0], Member) for record in others)

    asyncio.run(main())


def test_tools_for_consumer_groups_show_the_lag(kafka_server: Server) -> None:
    """With `group=`: the offset before which all is settled, of a group without members."""

    async def main() -> None:
        group = f"g{token_hex(4)}"
        url = f"{kafka_server.url}?group={group}"
        async with holding(url, *events(10)) as (ours, channel):
            bootstrap = kafka_server.url.removeprefix("kafka://").partition("?")[0]
            admin = AdminClient({"bootstrap.servers": bootstrap})

            async def committed() -> int:
                asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group]
                found = await asyncio.wrap_future(asked)
                return next((p.offset for p in found.topic_partitions if p.topic == str(channel)), -1)

            async with ours.consume(channel, visibility=LONG) as consumer, asyncio.timeout(30):
                got = await take(consumer, 10)
                await consumer.settle([*got[:4], got[7]])
                while await committed() != 5:  # the probe, and four events
                    await asyncio.sleep(0.1)
                await consumer.settle(got)
                while await committed() != 11:
                    await asyncio.sleep(0.1)
            described = await asyncio.wrap_future(admin.describe_consumer_groups([group])[group])
            assert described.members == []

    asyncio.run(main())


def test_the_lag_is_whole_although_a_process_was_not_told_the_group(
    kafka_server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who was told commits for the other's partitions, too, once nobody else does."""
    monkeypatch.setattr(progress, "_LOOK", 1)

    async def main() -> None:
        group, channel, handled = f"g{token_hex(4)}", new_channel(), list[str]()
        url = f"{kafka_server.url}?partitions=4"
        admin = AdminClient({"bootstrap.servers": kafka_server.url.removeprefix("kafka://")})

        async def work(consumer: Subscription) -> None:
            while True:
                some = await consumer.receive(10, 1.0)
                await consumer.settle(some)
                handled.extend(d.event.id for d in some)

        async def open_partitions() -> int:
            asked = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)])[group]
            found = {p.partition: p.offset for p in (await asyncio.wrap_future(asked)).topic_partitions}
            ends = await told.wagons.admin.ends([(str(channel), p) for p in range(4)])
            return sum(found.get(p, -1) != end for (_, p), end in ends.items())

        async with KafkaBroker.from_url(f"{url}&group={group}") as told, KafkaBroker.from_url(url) as untold:
            await told.create(channel)
            async with (
                told.consume(channel, visibility=LONG, owner="told") as one,
                untold.consume(channel, visibility=LONG, owner="untold") as other,
                asyncio.timeout(60),
            ):
                tasks = [asyncio.create_task(work(one)), asyncio.create_task(work(other))]
                for _ in range(40):
                    await told.publish(channel, events(5))
                    await asyncio.sleep(0.02)
                while len(handled) < 200 or await open_partitions():
                    await asyncio.sleep(0.2)
                for task in tasks:
                    task.cancel()
            await told.delete(channel)

    asyncio.run(main())


def test_a_group_that_may_not_be_used_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="group='a b'; give up to 100 letters"):
        KafkaBroker("host:9092", group="a b")


async def records(broker: KafkaBroker, channel: Channel) -> list[bytes]:
    log = f"{channel}.0claims"
    end = (await broker.wagons.admin.ends([(log, 0)]))[log, 0] or 0
    return [m.value() or b"" for m in await broker.wagons.reader.range(log, 0, 0, end)]
