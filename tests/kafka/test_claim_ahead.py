"""A consumer that settles large batches as fast as they come claims the next one in the record of the settle."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack

import pytest

from eventwagon.contracts.broker import Delivery, Subscription
from eventwagon.drivers.kafka import KafkaBroker
from eventwagon.drivers.kafka.pace import Pace
from eventwagon.errors import Unavailable
from eventwagon.event import Channel
from tests.kafka.support import LONG, events, holding
from tests.servers.server import Server
from tests.support import until

SIZE = 200


def test_only_large_batches_settled_fast_and_whole_set_the_pace() -> None:
    def pace(*batches: tuple[int, int, int, float]) -> bool:
        """What each was asked for, received, settled, and took."""
        seen, is_due = Pace(), False
        for limit, received, settled, seconds in batches:
            seen.received(received, limit, 10.0)
            is_due = seen.settled(settled, 10.0 + seconds)
        return is_due

    good = 1000, 1000, 1000, 0.01
    assert pace(good, good)
    assert not pace(good)
    assert not pace(good, (2000, 1000, 1000, 0.01))  # there was no more
    assert not pace(good, (1000, 1000, 999, 0.01))
    assert not pace(good, (1000, 1000, 1000, 0.06))
    assert not pace(good, (10, 10, 10, 0.01))
    assert not pace((1000, 1000, 1, 0.01), good)


async def work(consumer: Subscription, batches: int) -> list[Delivery]:
    """What so many batches had, each settled at once."""
    done = list[Delivery]()
    for _ in range(batches):
        got = await consumer.receive(SIZE, 10.0)
        await consumer.settle(got)
        done += got
    return done


async def in_flight(broker: KafkaBroker, channel: Channel) -> int:
    (depth,) = await broker.depth([channel])
    return depth.in_flight or 0


def test_a_batch_takes_one_record(kafka_server: Server) -> None:
    batches = 20

    async def main() -> None:
        some = events(SIZE * batches)
        async with holding(kafka_server.url, *some) as (broker, channel):
            log = (await broker.wagons.of(channel)).log
            async with broker.consume(channel, visibility=LONG) as consumer:
                before = log.next
                done = await work(consumer, batches)
                # a receive may come before all of its events were read, and then returns fewer
                while len(done) < len(some):
                    done += await work(consumer, 1)
                records = log.next - before
            assert [d.event.id for d in done] == [event.id for event in some]
            assert {d.attempt for d in done} == {1}
            assert records < 1.5 * batches  # two a batch, if the claim had one of its own

    asyncio.run(main())


def test_what_nobody_asks_for_is_given_back(kafka_server: Server) -> None:
    async def main() -> None:
        some = events(SIZE * 20)
        async with (
            holding(kafka_server.url, *some) as (broker, channel),
            KafkaBroker.from_url(kafka_server.url) as other,
        ):
            async with broker.consume(channel, visibility=LONG) as rests:
                await rests.receive(1, 10.0)
                await asyncio.sleep(0.3)  # the rest is read
                done = await work(rests, 10)
                assert await in_flight(broker, channel) > 1  # one more batch than the first event
                async with asyncio.timeout(5):
                    while await in_flight(other, channel) > 1:
                        await asyncio.sleep(0.02)
                async with other.consume(channel, visibility=LONG) as consumer:
                    while len(done) < len(some) - 1:
                        done += await work(consumer, 1)
            assert sorted(d.event.id for d in done) == sorted(event.id for event in some[1:])
            assert {d.attempt for d in done} == {1}

    asyncio.run(main())


def test_a_process_that_leaves_gives_it_back(kafka_server: Server) -> None:
    async def main() -> None:
        some = events(SIZE * 20)
        async with holding(kafka_server.url, *some) as (broker, channel):
            async with (
                KafkaBroker.from_url(kafka_server.url) as leaves,
                leaves.consume(channel, visibility=LONG) as consumer,
            ):
                done = await work(consumer, 10)
            assert await in_flight(broker, channel) == 0
            async with broker.consume(channel, visibility=LONG) as consumer:
                while len(done) < len(some):
                    done += await work(consumer, 1)
            assert sorted(d.event.id for d in done) == sorted(event.id for event in some)
            assert {d.attempt for d in done} == {1}

    asyncio.run(main())


def test_slow_handlers_claim_nothing_ahead(kafka_server: Server) -> None:
    async def main() -> None:
        async with (
            holding(kafka_server.url, *events(SIZE * 10)) as (broker, channel),
            broker.consume(channel, visibility=LONG) as consumer,
        ):
            for _ in range(5):
                got = await consumer.receive(SIZE, 10.0)
                await asyncio.sleep(0.06)
                await consumer.settle(got)
                assert await in_flight(broker, channel) == 0

    asyncio.run(main())


def test_what_another_process_leaves_alone_need_not_wait_until_one_has_handled_its_own(kafka_server: Server) -> None:
    """That process may be dead."""

    async def main() -> None:
        async with (
            holding(f"{kafka_server.url}?partitions=2") as (broker, channel),
            KafkaBroker.from_url(kafka_server.url) as other,
            broker.consume(channel, visibility=LONG) as consumer,
            other.consume(channel, visibility=LONG),  # it asks for nothing
        ):
            wagon = await broker.wagons.of(channel)
            claims, feed = wagon.channel(channel.name), wagon.feeds[channel.name]
            await until(lambda: len(claims.members) == 2 and len(feed.lanes) == 1)
            (own,) = feed.lanes
            for _ in range(10):  # each goes to one partition
                await broker.publish(channel, events(3000))
            from_partition = own
            while from_partition == own:
                got = await consumer.receive(SIZE, 10.0)
                from_partition = got[0].token[0]
                await asyncio.sleep(0.03)
                await consumer.settle(got)
            assert claims.partition(own).fresh < 15_000

    asyncio.run(main())


def test_who_asks_for_less_gets_no_more(kafka_server: Server) -> None:
    async def main() -> None:
        some = events(SIZE * 10)
        async with holding(kafka_server.url, *some) as (broker, channel):
            async with broker.consume(channel, visibility=LONG) as consumer:
                done = await work(consumer, 5)
                got = await consumer.receive(7, 10.0)
                assert 0 < len(got) <= 7
                done += got
                await consumer.settle(got)
                while len(done) < len(some):
                    done += await work(consumer, 1)
            assert [d.event.id for d in done] == [event.id for event in some]
            assert {d.attempt for d in done} == {1}

    asyncio.run(main())


async def claimed_ahead(consumer: Subscription) -> list[Delivery]:
    """Work until the consumer has claimed the next batch; what it had until then."""
    done = list[Delivery]()
    while consumer._ahead is None:  # type: ignore[attr-defined]  # noqa: SLF001
        done += await work(consumer, 1)
    await asyncio.sleep(0)
    return done


def test_what_is_given_back_in_a_busy_loop_comes_before_what_follows(kafka_server: Server) -> None:
    async def main() -> None:
        some = events(SIZE * 20)
        async with holding(kafka_server.url, *some) as (broker, channel):
            async with broker.consume(channel, visibility=LONG) as consumer:
                done = await claimed_ahead(consumer)
                time.sleep(0.06)  # noqa: ASYNC251 - so that the timer is due in the moment in which more is asked for
                await asyncio.sleep(0)
                while len(done) < len(some):
                    done += await work(consumer, 1)
            assert [d.event.id for d in done] == [event.id for event in some]

    asyncio.run(main())


def test_what_a_cancelled_receive_has_claimed_comes_before_what_follows(kafka_server: Server) -> None:
    async def main() -> None:
        some, done, rng = events(2000), list[Delivery](), random.Random(1)
        async with holding(kafka_server.url, *some) as (broker, channel):
            async with broker.consume(channel, visibility=LONG) as consumer:
                for _ in range(40):
                    receiving = asyncio.create_task(consumer.receive(20, 10.0))
                    await asyncio.sleep(rng.random() * 0.004)
                    receiving.cancel()
                    await asyncio.wait([receiving])
                    done += [] if receiving.cancelled() else receiving.result()
                    done += await consumer.receive(5, 10.0)
            assert [d.event.id for d in done] == [event.id for event in some[: len(done)]]

    asyncio.run(main())


def test_what_was_claimed_before_a_long_stop_is_not_handed_out(kafka_server: Server) -> None:
    """Its claim has expired: another process may have it."""

    async def main() -> None:
        async with (
            holding(kafka_server.url, *events(SIZE * 20)) as (broker, channel),
            broker.consume(channel, visibility=0.5) as consumer,
        ):
            last = (await claimed_ahead(consumer))[-1].token[1]
            time.sleep(0.6)  # noqa: ASYNC251 - a handler may do that
            for got in [await consumer.receive(SIZE, 10.0) for _ in range(2)]:
                assert got[0].suspect or got[0].token[1] > last + SIZE

    asyncio.run(main())


def test_a_record_that_failed_is_told_once(kafka_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with (
            holding(kafka_server.url, *events(SIZE * 20)) as (broker, channel),
            broker.consume(channel, visibility=LONG) as consumer,
        ):
            log = (await broker.wagons.of(channel)).log
            append = log.append

            def fail_once(_: bytes) -> asyncio.Future[object]:
                monkeypatch.setattr(log, "append", append)
                failed: asyncio.Future[object] = asyncio.get_running_loop().create_future()
                failed.set_exception(Unavailable("try again"))
                return failed

            await claimed_ahead(consumer)
            got = await consumer.receive(SIZE, 10.0)
            monkeypatch.setattr(log, "append", fail_once)
            with pytest.raises(Unavailable):
                await consumer.settle(got)
            assert await consumer.receive(SIZE, 10.0)
            await consumer.settle(got)

    asyncio.run(main())


def test_what_comes_while_another_claims_does_not_wait(kafka_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim asks for more than there is, and gets what there was as it was proposed."""

    async def main() -> None:
        async with (
            holding(kafka_server.url) as (broker, channel),
            broker.consume(channel, visibility=LONG) as first,
            broker.consume(channel, visibility=LONG) as second,
        ):
            wagon, loop = await broker.wagons.of(channel), asyncio.get_running_loop()
            feed, append = wagon.feeds[channel.name], wagon.log.append

            def slowly(record: bytes) -> asyncio.Future[object]:
                answered: asyncio.Future[object] = loop.create_future()
                append(record).add_done_callback(lambda one: loop.call_later(0.5, answered.set_result, one.result()))
                return answered

            monkeypatch.setattr(wagon.log, "append", slowly)
            receiving = [asyncio.create_task(one.receive(100, 20.0)) for one in (first, second)]
            await broker.publish(channel, events(1))
            await until(lambda: feed.asked > 0)
            await broker.publish(channel, events(1))
            async with asyncio.timeout(5):
                assert [len(await one) for one in receiving] == [1, 1]

    asyncio.run(main())


@pytest.mark.parametrize("seed", range(3))
def test_each_event_is_delivered_once_whatever_consumers_do(kafka_server: Server, seed: int) -> None:
    """Two processes with three consumers, which ask for more or less, are cancelled, rest, and close."""
    rng = random.Random(seed)
    some = events(12_000)
    done = list[Delivery]()

    async def consume(broker: KafkaBroker, channel: Channel) -> None:
        while len(done) < len(some):
            async with broker.consume(channel, visibility=LONG) as consumer:
                for _ in range(rng.randint(1, 12)):
                    limit = SIZE if rng.random() < 0.8 else rng.randint(1, 2 * SIZE)
                    receiving = asyncio.create_task(consumer.receive(limit, 0.3))
                    if rng.random() < 0.1:
                        await asyncio.sleep(rng.random() * 0.01)
                        receiving.cancel()
                        await asyncio.wait([receiving])
                        if receiving.cancelled():
                            continue
                    got = await receiving
                    await consumer.settle(got)
                    done.extend(got)
                    if rng.random() < 0.1:
                        await asyncio.sleep(rng.random() * 0.1)

    async def main() -> None:
        async with AsyncExitStack() as opened:
            broker, channel = await opened.enter_async_context(holding(f"{kafka_server.url}?partitions=2", *some))
            other = await opened.enter_async_context(KafkaBroker.from_url(kafka_server.url))
            async with asyncio.timeout(60), asyncio.TaskGroup() as group:
                for one in (broker, broker, other):
                    group.create_task(consume(one, channel))
            assert await in_flight(other, channel) == 0

    asyncio.run(main())
    assert sorted(d.event.id for d in done) == sorted(event.id for event in some)
    assert {d.attempt for d in done} == {1}
