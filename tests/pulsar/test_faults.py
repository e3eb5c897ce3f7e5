"""The server killed, paused and cut off: what was accepted stands, and consumers go on by themselves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest

from eventwagon.drivers.pulsar import PulsarBroker
from eventwagon.errors import PublishUncertain, Unavailable
from tests.pulsar.support import Publisher, Worker, a_channel, events
from tests.servers.fixtures import missing
from tests.servers.install import Missing
from tests.servers.ports import free_port
from tests.servers.proxy import Proxy
from tests.servers.pulsar import PulsarServer
from tests.support import until

PROXY = free_port()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PulsarServer]:
    """One that can be reached through the proxy, and that these tests may kill."""
    try:
        made = PulsarServer(tmp_path_factory.mktemp("pulsar"))
    except Missing as why:
        raise missing(why) from None
    own = f"internal:pulsar://127.0.0.1:{made.port}"
    made.config["advertisedListeners"] = f"{own},proxy:pulsar://127.0.0.1:{PROXY}"
    with made:
        yield made


def url(server: PulsarServer, **options: object) -> str:
    more = "".join(f"&{name}={value}" for name, value in options.items())
    return f"pulsar://127.0.0.1:{PROXY}/public/default?admin={server.admin_url}&listener=proxy{more}"


async def trouble(
    server: PulsarServer, fault: Callable[[Proxy], Awaitable[None]], *, send_timeout: float = 2.0
) -> tuple[Publisher, Worker]:
    """Publishers and a consumer at work while the fault happens; what was accepted must have been handled."""
    channel = a_channel()
    async with (
        Proxy("127.0.0.1", server.port, listen=PROXY) as proxy,
        PulsarBroker.from_url(url(server, send_timeout=send_timeout)) as broker,
    ):

        async def emptied() -> bool:
            (depth,) = await broker.depth([channel])
            return depth.published == depth.settled

        await broker.create(channel)
        publisher = Publisher(broker, channel)
        async with broker.consume(channel, visibility=30.0) as consumer:
            worker = Worker(consumer)
            async with asyncio.TaskGroup() as group:
                for _ in range(4):
                    group.create_task(publisher.run())
                group.create_task(worker.run())
                await until(lambda: len(worker.handled) > 30)
                await fault(proxy)
                before = len(worker.handled)
                await until(lambda: len(worker.handled) > before + 30)
                publisher.stop = True
                await until(lambda: publisher.accepted <= worker.handled.keys())
                # acknowledgements that the trouble swallowed come again: somebody must be there to settle them
                async with asyncio.timeout(60):
                    while not await emptied():
                        await asyncio.sleep(0.1)
                worker.stop = True
            assert worker.handled.keys() <= publisher.accepted | publisher.uncertain
        await broker.delete(channel)
    return publisher, worker


def test_killed_and_started_again(server: PulsarServer) -> None:
    async def fault(_: Proxy) -> None:
        await asyncio.to_thread(server.kill)
        await asyncio.sleep(0.5)
        await asyncio.to_thread(server.start)

    publisher, _ = asyncio.run(trouble(server, fault))
    assert publisher.troubles


def test_connections_cut(server: PulsarServer) -> None:
    async def fault(proxy: Proxy) -> None:
        for _ in range(5):
            proxy.cut()
            await asyncio.sleep(0.4)

    _, worker = asyncio.run(trouble(server, fault))
    again = sum(count - 1 for count in worker.handled.values())
    assert again < len(worker.handled) / 4  # settled ones whose acknowledgement was on its way


def test_answers_held_back(server: PulsarServer) -> None:
    """Half-open: what was sent is stored, and nothing says so."""

    async def fault(proxy: Proxy) -> None:
        proxy.hold(answers_only=True)
        await asyncio.sleep(3.5)
        proxy.go_on()

    publisher, _ = asyncio.run(trouble(server, fault, send_timeout=1.0))
    assert publisher.troubles["uncertain"]


def test_a_slow_network(server: PulsarServer) -> None:
    async def fault(proxy: Proxy) -> None:
        proxy.delay = 0.3
        await asyncio.sleep(2)
        proxy.delay = 0.0

    publisher, worker = asyncio.run(trouble(server, fault))
    assert not publisher.troubles["uncertain"]
    assert set(worker.handled.values()) == {1}


def test_a_server_that_is_not_there(server: PulsarServer) -> None:
    async def run() -> None:
        channel = a_channel()
        async with (
            Proxy("127.0.0.1", server.port, listen=PROXY) as proxy,
            PulsarBroker.from_url(url(server, send_timeout=1)) as broker,
        ):
            await broker.create(channel)
            await broker.publish(channel, events(1))
            proxy.refuse()
            proxy.cut()
            began = time.monotonic()
            with pytest.raises((Unavailable, PublishUncertain)):
                await broker.publish(channel, events(1))
            assert time.monotonic() - began < 10
            with pytest.raises(Unavailable, match="not connected"):
                await broker.publish(channel, events(1))
            proxy.refuse(False)
            publisher = Publisher(broker, channel)
            async with asyncio.timeout(20):
                await publisher.once(events(1))
            await broker.delete(channel)

    asyncio.run(run())


def test_what_was_settled_and_sealed_stands_after_a_clean_restart(own_pulsar: PulsarServer) -> None:
    async def run() -> None:
        channel = a_channel()
        async with PulsarBroker.from_url(own_pulsar.url) as broker:
            await broker.create(channel)
            await broker.publish(channel, events(10))
            async with broker.consume(channel, visibility=30.0) as consumer:
                got = await consumer.receive(10, 10)
                while len(got) < 10:
                    got = [*got, *await consumer.receive(10, 10)]
                await consumer.settle(got[::2])
                await broker.depth([channel])
                await broker.seal(channel)
                await asyncio.to_thread(own_pulsar.stop)
                await asyncio.to_thread(own_pulsar.start)
                (depth,) = await broker.depth([channel])
                assert (depth.published, depth.settled) == (10, 5)
                await consumer.settle(got[1::2])  # still in hand here: settled late, and counted once
                async with asyncio.timeout(20):
                    while (await broker.depth([channel]))[0].settled != 10:
                        await asyncio.sleep(0.1)
                assert [event async for event in broker.read(channel)] == []

    asyncio.run(run())
