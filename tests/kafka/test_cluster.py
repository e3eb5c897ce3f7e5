"""Three brokers: what a seal proves, and what stands when leaders go."""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from secrets import token_hex
from typing import Any

import pytest
from confluent_kafka import KafkaError
from confluent_kafka.admin import AdminClient

from eventwagon.contracts.registry import Member
from eventwagon.drivers.kafka import KafkaBroker
from eventwagon.drivers.kafka.registry import KafkaRegistry
from eventwagon.errors import PublishUncertain, Sealed, Unavailable
from eventwagon.event import Channel
from tests.kafka.support import Publishing, events, new_channel, offset_calls, patiently, send, standing, take, topics
from tests.servers.kafka import KafkaCluster, KafkaServer


def leader(cluster: KafkaCluster, channel: Channel | str, partition: int = 0) -> KafkaServer:
    """The node that leads this partition."""
    running = next(n for n in cluster.nodes if n.running)
    admin = AdminClient({"bootstrap.servers": running.bootstrap, "log_level": 0})
    until = time.monotonic() + 10
    while True:  # a new topic may not be known to the node that is asked
        known = admin.list_topics(str(channel), timeout=10).topics[str(channel)].partitions.get(partition)
        if known is not None and known.leader > 0:
            return cluster.nodes[known.leader - 1]
        assert time.monotonic() < until
        time.sleep(0.05)


def test_every_partitions_leader_has_refused(kafka_cluster: KafkaCluster) -> None:
    """Sealed amid publishers: what stands is what was accepted, and afterwards no leader takes even an empty record."""

    async def main() -> None:
        channel = new_channel()
        url = f"{kafka_cluster.url}?partitions=3"
        async with KafkaBroker.from_url(url) as broker, KafkaBroker.from_url(url) as other:
            await broker.create(channel)
            publishing = [Publishing(b, channel) for b in (broker, other, broker, other)]
            async with asyncio.TaskGroup() as group:
                for one in publishing:
                    group.create_task(one.run())
                await asyncio.sleep(0.5)
                await broker.seal(channel)
                (depth,) = await other.depth([channel])
                stood = await standing(broker, channel)
            accepted = [name for one in publishing for name in one.accepted]
            unsure = {name for one in publishing for name in one.unsure}
            assert len(accepted) > 10
            assert set(accepted) <= set(stood) <= set(accepted) | unsure
            assert depth.published == len(stood)
            for partition in range(3):
                for acks in ("1", "all"):
                    error = await asyncio.to_thread(send, kafka_cluster.bootstrap, str(channel), partition, acks=acks)
                    assert error is not None
                    assert error.code() == KafkaError.MSG_SIZE_TOO_LARGE
            await broker.seal(channel)
            assert await standing(other, channel) == stood
            await broker.delete(channel)

    asyncio.run(main())


def test_a_frozen_leader_holds_up_calls_about_its_own_partitions(
    kafka_cluster: KafkaCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those about others share one call with them until it was late once."""
    asked = offset_calls(monkeypatch)

    async def main() -> None:
        leaders = dict[str, KafkaServer]()
        async with topics(kafka_cluster.url) as admin:
            while len({node.node for node in leaders.values()}) < 2:  # they get them by chance
                name = f"t{token_hex(5)}"
                await admin.create(name, 1, {})
                leaders[name] = leader(kafka_cluster, name)
            *_, slow, quick = leaders
            both = (slow, 0), (quick, 0)
            assert await admin.ends(both) == dict.fromkeys(both, 0)
            leaders[slow].pause()
            held_up = list[asyncio.Task[Any]]()
            while len(held_up) < 4 and not any(
                one.done() for one in held_up
            ):  # on a slow machine another one leads then
                held_up.append(asyncio.create_task(admin.ends(both[:1])))
                assert await admin.ends(both[1:]) == {both[1]: 0}
            leaders[slow].resume()
            for one in held_up:
                assert await one == {both[0]: 0}
            assert asked.count({slow, quick}) == 2  # before it was frozen, and the first one after that
            for name in leaders:
                await admin.delete(name)

    asyncio.run(main())


def test_a_leader_is_killed_amid_the_seal(kafka_cluster: KafkaCluster) -> None:
    async def main() -> None:
        channel = new_channel()
        async with KafkaBroker.from_url(kafka_cluster.url) as broker, KafkaBroker.from_url(kafka_cluster.url) as other:
            await broker.create(channel)
            publishing = Publishing(other, channel)
            async with asyncio.TaskGroup() as group:
                group.create_task(publishing.run())
                await asyncio.sleep(0.3)
                sealing = group.create_task(patiently(lambda: broker.seal(channel)))
                await asyncio.sleep(0.03)
                await asyncio.to_thread(leader(kafka_cluster, channel).kill)
                await sealing
                stood = await standing(broker, channel)
            assert set(publishing.accepted) <= set(stood) <= {*publishing.accepted, *publishing.unsure}
            async with KafkaBroker.from_url(kafka_cluster.url) as later:
                with pytest.raises(Sealed):
                    await later.publish(channel, events(1))
            assert await standing(broker, channel) == stood
            await broker.delete(channel)

    asyncio.run(main())


def test_a_leader_that_slept_through_the_seal(kafka_cluster: KafkaCluster) -> None:
    """A stale publisher still holds its connection to the old leader, which knows nothing of the seal: what it sends is
    never acknowledged as stored unless it stands."""

    async def main() -> None:
        channel = new_channel()
        url = f"{kafka_cluster.url}?timeout=6"
        async with KafkaBroker.from_url(url) as broker, KafkaBroker.from_url(url) as stale:
            await broker.create(channel)
            await stale.publish(channel, kept := events(3))
            old = leader(kafka_cluster, channel)
            old.pause()
            try:
                late = asyncio.create_task(stale.publish(channel, unsure := events(2)))
                await asyncio.sleep(0.1)
                await patiently(lambda: broker.seal(channel))
                stood = await standing(broker, channel)
            finally:
                old.resume()
            try:
                await late
                kept += unsure
            except (Sealed, PublishUncertain, Unavailable):
                pass
            assert {e.id for e in kept} <= set(stood)
            with pytest.raises(Sealed):
                await stale.publish(channel, events(1))
            await asyncio.sleep(1.0)
            assert await standing(broker, channel) == stood
            await broker.delete(channel)

    asyncio.run(main())


def test_consumers_and_members_outlive_a_leader(kafka_cluster: KafkaCluster) -> None:
    """A leader goes for good: every accepted event is received, the registry goes on, totals agree."""

    async def main() -> None:
        channel = new_channel()
        url = f"{kafka_cluster.url}?partitions=3&timeout=6"
        async with (
            KafkaBroker.from_url(url) as broker,
            KafkaBroker.from_url(url) as worker,
            KafkaRegistry.from_url(url) as registry,
        ):
            await broker.create(channel)
            publishing = Publishing(broker, channel)
            seen: set[str] = set()

            async def work() -> None:
                async with AsyncExitStack() as stack:
                    consumer = await patiently(
                        lambda: stack.enter_async_context(worker.consume(channel, visibility=20.0))
                    )
                    while not (publishing.sealed.is_set() and set(publishing.accepted) <= seen):
                        try:
                            got = await consumer.receive(50, 0.5)
                            seen.update(d.event.id for d in got)
                            await consumer.settle(got)
                        except Unavailable:  # a settle may be done all the same
                            continue

            async with asyncio.timeout(150), asyncio.TaskGroup() as group:
                group.create_task(publishing.run())
                group.create_task(work())
                await asyncio.sleep(0.3)
                await asyncio.to_thread(leader(kafka_cluster, channel).kill)
                await patiently(lambda: registry.check_in(channel.train, Member(name="a"), ttl=600.0))
                await asyncio.sleep(0.5)
                assert [m.name for m in await registry.members(channel.train)] == ["a"]
                await patiently(lambda: broker.seal(channel))
            (depth,) = await broker.depth([channel])
            assert depth.published is not None
            assert len(publishing.accepted) <= depth.published <= len(publishing.accepted) + len(publishing.unsure)
            async with worker.consume(channel, visibility=20.0) as consumer:
                if depth.settled != depth.published:  # claimed or settled with an unknown outcome
                    await consumer.settle(await take(consumer, depth.published - (depth.settled or 0)))
            (depth,) = await broker.depth([channel])
            assert depth.settled == depth.published
            await broker.delete(channel)

    asyncio.run(main())
