"""A server that goes and comes back, a network that fails, a cluster that would make topics by itself."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from eventwagon.drivers.kafka import KafkaBroker
from eventwagon.drivers.kafka.registry import KafkaRegistry
from eventwagon.drivers.kafka.sender import Sender
from eventwagon.errors import BrokerError, ChannelGone, PublishUncertain, StorageBroken, Unavailable
from eventwagon.event import Channel
from tests.kafka.support import LONG, Publishing, events, holding, new_channel, patiently, standing, take
from tests.servers.kafka import KafkaServer, login, sasl
from tests.servers.ports import free_port
from tests.servers.proxy import Proxy


def test_killed_and_started_again(own_kafka: KafkaServer) -> None:
    """Amid publishing and consuming: what was accepted is received, by a consumer that was not entered again; claims,
    totals and the seal stand."""

    async def main() -> None:
        channel = new_channel()
        url = f"{own_kafka.url}?timeout=3"
        async with KafkaBroker.from_url(url) as broker, KafkaBroker.from_url(url) as worker:
            await broker.create(channel)
            publishing = Publishing(broker, channel)
            seen: set[str] = set()

            async def work() -> None:
                async with worker.consume(channel, visibility=2.0) as consumer:
                    while not (publishing.sealed.is_set() and set(publishing.accepted) <= seen):
                        try:
                            got = await consumer.receive(20, 0.5)
                            seen.update(d.event.id for d in got)
                            await consumer.settle(got)
                        except Unavailable:  # a settle may be done all the same
                            await asyncio.sleep(0.05)

            async with asyncio.timeout(90), asyncio.TaskGroup() as group:
                group.create_task(publishing.run())
                group.create_task(work())
                while not seen:
                    await asyncio.sleep(0.05)
                before = len(publishing.accepted)
                await asyncio.to_thread(own_kafka.kill)
                await asyncio.sleep(0.5)
                await asyncio.to_thread(own_kafka.start)
                while len(publishing.accepted) < before + 20:
                    await asyncio.sleep(0.05)
                await patiently(lambda: broker.seal(channel))
            (depth,) = await broker.depth([channel])
            assert depth.published is not None
            assert len(publishing.accepted) <= depth.published <= len(publishing.accepted) + len(publishing.unsure)

    asyncio.run(main())


def test_answers_that_do_not_come(tmp_path: Path) -> None:
    """Half-open: the publish may have been stored, and says so within its time; then all goes on."""

    async def main(server: KafkaServer, port: int) -> None:
        async with Proxy(server.host, server.port, listen=port) as proxy:
            await asyncio.to_thread(server.await_ready)
            async with holding(f"kafka://127.0.0.1:{port}?timeout=2") as (broker, channel):
                await broker.publish(channel, first := events(2))
                async with broker.consume(channel, visibility=LONG) as consumer:
                    await consumer.settle(await take(consumer, 2))
                    proxy.hold(answers_only=True)
                    began = time.monotonic()
                    with pytest.raises(PublishUncertain, match=str(channel)):
                        await broker.publish(channel, unsure := events(2))
                    for step in (broker.depth([channel]), consumer.settle([]), broker.seal(new_channel())):
                        try:
                            await step
                        except Unavailable as e:
                            assert f"127.0.0.1:{port}" in str(e)  # noqa: PT017
                    assert time.monotonic() - began < 15
                    proxy.go_on()
                    proxy.cut()
                    await asyncio.sleep(0.2)
                    proxy.cut()
                    kept = events(2)
                    async with asyncio.timeout(30):
                        while True:
                            try:
                                await broker.publish(channel, kept)
                                break
                            except (PublishUncertain, Unavailable):
                                continue
                    ids: set[str] = set()
                    while not {e.id for e in kept} <= ids:
                        ids |= {d.event.id for d in await take(consumer, 1)}
                    assert ids <= {e.id for e in (*unsure, *kept)}
                    assert not ids & {e.id for e in first}

    port = free_port()
    server = KafkaServer(tmp_path, advertised=port)
    server.launch()
    try:
        asyncio.run(main(server, port))
    finally:
        server.close()


def test_nobody_there(capfd: pytest.CaptureFixture[str]) -> None:
    """Every call says so within its time, naming where; nothing is written to the terminal."""

    async def main() -> None:
        port = free_port()
        url = f"kafka://127.0.0.1:{port}?timeout=0.5&sasl.password=s3cret&sasl.username=bob"
        channel = new_channel()
        async with KafkaBroker.from_url(url) as broker, KafkaRegistry.from_url(url) as registry:
            for step in (
                broker.create(channel),
                broker.publish(channel, events(1)),
                broker.seal(channel),
                broker.depth([channel]),
                broker.delete(channel),
                broker.channels("x"),
                registry.read("x"),
                registry.trains(),
            ):
                with pytest.raises(BrokerError, match=rf"127\.0\.0\.1:{port}") as caught:
                    await step
                assert isinstance(caught.value, Unavailable)
                assert "s3cret" not in str(caught.value)

    asyncio.run(main())
    assert capfd.readouterr().err == ""


def test_a_cluster_that_makes_topics_by_itself(tmp_path: Path) -> None:
    """Neither looking, publishing nor consuming makes one, nor does a publisher that knew the channel bring it back."""

    async def main(server: KafkaServer) -> None:
        async with KafkaBroker.from_url(server.url) as broker, KafkaBroker.from_url(server.url) as stale:
            channel = new_channel()
            with pytest.raises(ChannelGone):
                await broker.publish(channel, events(1))
            with pytest.raises(ChannelGone):
                async with broker.consume(channel, visibility=1.0):
                    pass
            await broker.depth([channel])
            await broker.create(channel)
            await stale.publish(channel, events(3))
            late = asyncio.create_task(stale.publish(channel, events(500)))
            await broker.delete(channel)
            with contextlib.suppress(ChannelGone, PublishUncertain):
                await late
            with pytest.raises(ChannelGone):
                await stale.publish(channel, events(2))
            await asyncio.sleep(0.5)
            names = AdminClient({"bootstrap.servers": server.bootstrap}).list_topics(timeout=10).topics
            assert not [name for name in names if name.startswith(channel.train)]

    with KafkaServer(tmp_path, config={"auto.create.topics.enable": "true"}) as server:
        asyncio.run(main(server))


def test_a_right_that_is_missing_is_named(tmp_path: Path) -> None:
    users = {"admin": "adm1n-s3cret", "bob": "b0b-s3cret"}

    async def main(url: str, bob: str) -> None:
        async with holding(url, *events(1)) as (_, channel):
            async with KafkaBroker.from_url(bob) as broker:
                for step, right in (
                    (broker.seal(channel), "DESCRIBE"),
                    (broker.create(new_channel()), "CREATE"),
                    (broker.publish(channel, events(1)), "DESCRIBE"),
                ):
                    with pytest.raises(BrokerError) as caught:
                        await step
                    assert right in str(caught.value) or isinstance(caught.value, ChannelGone)
                    assert "s3cret" not in str(caught.value)
            async with KafkaBroker.from_url(bob.replace("b0b-s3cret", "wr0ng-s3cret")) as broker:
                with pytest.raises((StorageBroken, Unavailable)) as refused:
                    await broker.publish(channel, events(1))
                assert "s3cret" not in str(refused.value)

    with KafkaServer(tmp_path, config=sasl(users), client=login("admin", users["admin"])) as server:
        bob = server.url.replace("admin", "bob").replace(users["admin"], users["bob"])
        bob = bob.replace("adm1n-s3cret", users["bob"])
        asyncio.run(main(server.url, f"{bob}&timeout=3"))


def test_a_producer_that_failed_for_good_closes_quietly(tmp_path: Path) -> None:
    """Without the right to write it gets no identity, and its client says so in whatever call comes next."""
    users = {"admin": "adm1n-s3cret", "bob": "b0b-s3cret"}

    async def main(server: KafkaServer) -> None:
        config = {"bootstrap.servers": server.bootstrap, "enable.idempotence": True, **login("bob", users["bob"])}
        troubles: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: troubles.append(context))
        for due in (0, 1):
            sender = Sender(config)
            with pytest.raises(KafkaException, match="_FATAL"):
                async with asyncio.timeout(20):
                    for number in itertools.count():
                        sender.producer().produce(f"any-{number}")
                        await asyncio.sleep(0.05)
            if due:  # a report that never comes: it is looked for until the sender closes
                sender.begin(due)
            await sender.close()
            assert not troubles

    with KafkaServer(tmp_path, config=sasl(users), client=login("admin", users["admin"])) as server:
        asyncio.run(main(server))


def test_a_server_that_is_slow(tmp_path: Path) -> None:
    """With 30 ms each way all of it works."""

    async def main(server: KafkaServer, port: int) -> None:
        async with Proxy(server.host, server.port, listen=port) as proxy:
            await asyncio.to_thread(server.await_ready)
            proxy.delay = 0.03
            async with holding(f"kafka://127.0.0.1:{port}", *events(5)) as (broker, channel):
                async with broker.consume(channel, visibility=LONG) as consumer:
                    got = await take(consumer, 5)
                    await consumer.settle(got[:3])
                assert await standing(broker, channel) == [d.event.id for d in got[3:]]
                assert await broker.channels(channel.train) == [Channel(channel.train, 1)]

    port = free_port()
    server = KafkaServer(tmp_path, advertised=port)
    server.launch()
    try:
        asyncio.run(main(server, port))
    finally:
        server.close()
