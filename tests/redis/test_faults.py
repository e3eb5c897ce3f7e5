"""Broken servers and networks: what is told, what stands afterwards, and that everything goes on by itself."""

from __future__ import annotations

import asyncio
import errno
import gc
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventwagon import Context, Reject, Train, Volume, Workers
from eventwagon.contracts.facts import Fact, StepFailed
from eventwagon.contracts.manifest import Manifest
from eventwagon.drivers.opening import open_drivers
from eventwagon.drivers.redis import RedisBroker
from eventwagon.drivers.redis.registry import RedisRegistry
from eventwagon.drivers.redis.server import Server as RedisAddress
from eventwagon.errors import BrokerError, ChannelGone, PublishTimeout, PublishUncertain, Unavailable
from eventwagon.event import DEAD, Channel, Event
from tests.redis.support import LONG, events, raw, standing, take, through
from tests.servers.proxy import Proxy
from tests.servers.redis import RedisServer
from tests.servers.server import Server
from tests.support import until

CHANNEL = Channel("faults", 1)


async def fresh(broker: RedisBroker) -> None:
    await broker.delete(CHANNEL)
    await broker.create(CHANNEL)


def test_killed_amid_publishers_and_consumers(own_redis: RedisServer) -> None:
    """What was accepted is there after kill -9 and a restart; who publishes and who consumes goes on without new
    entering."""
    own_redis.stop()
    own_redis.config.append("appendfsync always")
    own_redis.start()

    async def main() -> None:
        accepted: set[str] = set()
        handled: set[str] = set()
        troubles: list[BrokerError] = []
        over = asyncio.Event()
        async with RedisBroker.from_url(f"{own_redis.url}?timeout=2") as broker:
            await broker.create(CHANNEL)

            async def publish(number: int) -> None:
                while not over.is_set():
                    batch = events(5, first=number)
                    try:
                        await broker.publish(CHANNEL, batch)
                        accepted.update(e.id for e in batch)
                    except (PublishUncertain, Unavailable) as e:
                        troubles.append(e)
                        await asyncio.sleep(0.02)

            async def consume() -> None:
                async with broker.consume(CHANNEL, visibility=1.0) as consumer:
                    while True:
                        try:
                            (depth,) = await broker.depth([CHANNEL])
                            if over.is_set() and depth.published == depth.settled and handled >= accepted:
                                return
                            got = await consumer.receive(50, 0.2)
                            handled.update(d.event.id for d in got)
                            await consumer.settle(got)
                        except Unavailable as e:
                            troubles.append(e)
                            await asyncio.sleep(0.02)

            async def trouble() -> None:
                for _ in range(2):
                    count = len(accepted)
                    while len(accepted) < count + 200:
                        await asyncio.sleep(0.01)
                    await asyncio.to_thread(own_redis.kill)
                    await asyncio.sleep(0.1)
                    await asyncio.to_thread(own_redis.start)
                count = len(accepted)
                while len(accepted) < count + 200:
                    await asyncio.sleep(0.01)
                over.set()

            async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
                tasks.create_task(trouble())
                tasks.create_task(consume())
                for number in range(4):
                    tasks.create_task(publish(number))
            assert handled >= accepted
            assert troubles
            assert all("127.0.0.1" in str(e) for e in troubles)

    asyncio.run(main())


def test_connections_cut(redis_server: Server) -> None:
    """Cut again and again: nothing that was accepted is lost, and a watch of the registry goes on."""

    async def main() -> None:
        accepted: set[str] = set()
        uncertain: set[str] = set()
        async with Proxy(redis_server.host, redis_server.port) as proxy:
            url = through(redis_server, proxy.port, "timeout=2")
            async with RedisBroker.from_url(url) as broker, RedisRegistry.from_url(url) as registry:
                await fresh(broker)
                train = f"cut{proxy.port}"

                async def cut() -> None:
                    for _ in range(10):
                        await asyncio.sleep(0.03)
                        proxy.cut()

                async def publish() -> None:
                    while len(accepted) < 300 or not cutting.done():
                        batch = events(3)
                        try:
                            await broker.publish(CHANNEL, batch)
                            accepted.update(e.id for e in batch)
                        except PublishUncertain:
                            uncertain.update(e.id for e in batch)
                        except Unavailable:
                            await asyncio.sleep(0.01)

                async with asyncio.timeout(30), registry.watch(train) as watching, asyncio.TaskGroup() as tasks:
                    assert (await anext(watching)).version == 0
                    cutting = tasks.create_task(cut())
                    tasks.create_task(publish())
                    await cutting
                    stored = await registry.replace(train, Manifest(train=train), expect=0)
                    assert await anext(watching) == stored
                there = {e.id for e in await standing(broker, CHANNEL)}
                assert accepted <= there <= accepted | uncertain
                await broker.delete(CHANNEL)

    asyncio.run(main())


def test_answers_that_never_come(redis_server: Server) -> None:
    """The request arrives, its answer does not: uncertain, and what was claimed so comes back after its visibility
    time."""

    async def main() -> None:
        async with (
            Proxy(redis_server.host, redis_server.port) as proxy,
            RedisBroker.from_url(through(redis_server, proxy.port, "timeout=1")) as broker,
        ):
            await fresh(broker)
            async with broker.consume(CHANNEL, visibility=0.5) as consumer:
                await broker.publish(CHANNEL, events(1))  # its connection stands
                await consumer.settle(await take(consumer, 1))
                proxy.hold(answers_only=True)
                with pytest.raises(PublishUncertain, match=f"127.0.0.1:{proxy.port}.*may have been stored"):
                    await broker.publish(CHANNEL, events(2))
                proxy.cut()
                proxy.go_on()
                assert len(await standing(broker, CHANNEL)) == 2
                proxy.hold(answers_only=True)
                with pytest.raises(Unavailable, match="receiving from faults_v1"):
                    await consumer.receive(2, 1.0)
                proxy.cut()
                proxy.go_on()
                got = await take(consumer, 2)
                assert [(d.attempt, d.suspect) for d in got] == [(1, True)] * 2
                await consumer.settle(got)
            await broker.delete(CHANNEL)

    asyncio.run(main())


def test_half_open_and_refused(redis_server: Server) -> None:
    """Nothing arrives any more, or nobody listens: told within the timeout, and over when it is over."""

    async def main() -> None:
        async with Proxy(redis_server.host, redis_server.port) as proxy:
            url = through(redis_server, proxy.port, "timeout=1")
            async with RedisBroker.from_url(url) as broker:
                await fresh(broker)
                proxy.hold()
                with pytest.raises(PublishUncertain):
                    await broker.publish(CHANNEL, events(1))
                with pytest.raises(Unavailable):  # its connection can't even be made: surely not stored
                    await broker.publish(CHANNEL, events(1))
                with pytest.raises(Unavailable):
                    await broker.depth([CHANNEL])
                proxy.refuse()
                proxy.cut()
                await asyncio.sleep(0.05)
                with pytest.raises(Unavailable, match=f"127.0.0.1:{proxy.port}/0: publishing to faults_v1.*reached"):
                    await broker.publish(CHANNEL, events(1))
                with pytest.raises(Unavailable, match="connecting"):
                    async with RedisBroker.from_url(url):
                        pass
                proxy.go_on()
                proxy.refuse(False)
                await broker.publish(CHANNEL, events(3))
                assert len(await standing(broker, CHANNEL)) >= 3
                await broker.delete(CHANNEL)

    asyncio.run(main())


def test_cancelled_while_connecting(redis_server: Server) -> None:
    """Nothing stays open."""

    async def main() -> None:
        async with Proxy(redis_server.host, redis_server.port) as proxy:
            proxy.hold()
            entering = asyncio.create_task(RedisBroker.from_url(through(redis_server, proxy.port)).__aenter__())
            async with asyncio.timeout(30):
                while not proxy.accepted:
                    await asyncio.sleep(0.01)
            entering.cancel()
            await asyncio.wait([entering])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


def test_slow_network(redis_server: Server) -> None:
    """With 50 ms each way calls overlap: fifty publishes take as long as a few."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with (
            Proxy(redis_server.host, redis_server.port) as proxy,
            RedisBroker.from_url(through(redis_server, proxy.port)) as broker,
        ):
            await fresh(broker)
            proxy.delay = 0.05
            began = loop.time()
            await asyncio.gather(*(broker.publish(CHANNEL, events(2)) for _ in range(50)))
            assert loop.time() - began < 50 * 0.1
            proxy.delay = 0.0
            await broker.delete(CHANNEL)

    asyncio.run(main())


def test_scripts_flushed(redis_server: Server) -> None:
    async def main() -> None:
        async with RedisBroker.from_url(redis_server.url) as broker, raw(redis_server) as redis:
            await fresh(broker)
            await broker.publish(CHANNEL, events(1))
            await redis.script_flush()
            await asyncio.gather(*(broker.publish(CHANNEL, events(2)) for _ in range(10)))
            assert len(await standing(broker, CHANNEL)) == 21
            await broker.delete(CHANNEL)

    asyncio.run(main())


def test_server_restarted_while_all_wait(own_redis: RedisServer) -> None:
    """A receive that waits when the server goes says so at once; the next one waits for the server's return and is
    woken."""

    async def main() -> None:
        async with RedisBroker.from_url(own_redis.url) as broker:
            await broker.create(CHANNEL)
            async with broker.consume(CHANNEL, visibility=LONG) as consumer:
                waiting = asyncio.create_task(consumer.receive(1, 30.0))
                await asyncio.sleep(0.1)
                await asyncio.to_thread(own_redis.kill)
                with pytest.raises(Unavailable):
                    async with asyncio.timeout(20):
                        await waiting
                await asyncio.to_thread(own_redis.start)
                waiting = asyncio.create_task(consumer.receive(1, 30.0))
                await asyncio.sleep(0.5)  # the bell has its connection again
                loop = asyncio.get_running_loop()
                began = loop.time()
                await broker.publish(CHANNEL, events(1))
                assert len(await waiting) == 1
                assert loop.time() - began < 5.0

    asyncio.run(main())


def test_replicas(tmp_path: Path, own_redis: RedisServer) -> None:
    """`wait=1` counts a write when a replica has it; until then it is waited for, and nothing is stored twice. A
    replica itself takes no writes."""
    with RedisServer(
        tmp_path, config=[f"replicaof 127.0.0.1 {own_redis.port}", "repl-diskless-sync-delay 0"]
    ) as replica:

        async def main() -> None:
            async with RedisBroker.from_url(f"{own_redis.url}?wait=1&timeout=2") as broker, raw(own_redis) as redis:
                async with asyncio.timeout(20):
                    while (await redis.info("replication")).get("slave0", {}).get("state") != "online":
                        await asyncio.sleep(0.05)
                await broker.create(CHANNEL)
                await broker.publish(CHANNEL, events(3))
                async with RedisBroker.from_url(replica.url) as other:
                    assert len(await other.channels("faults")) == 1
                    with pytest.raises(Unavailable, match="replica, which takes no writes"):
                        await other.publish(CHANNEL, events(1))
                replica.pause()
                with pytest.raises(Unavailable, match="fewer than wait=1 replicas"):
                    await broker.create(Channel("faults", 2))
                waiting = [asyncio.create_task(broker.publish(CHANNEL, events(1))) for _ in range(20)]
                done, _ = await asyncio.wait(waiting, timeout=3.0)  # longer than a server may be silent
                assert not done
                replica.resume()
                async with asyncio.timeout(20):
                    await asyncio.gather(*waiting)
                (depth,) = await broker.depth([CHANNEL])
                assert depth.published == 23

        asyncio.run(main())


@pytest.mark.timeout(120)
def test_a_train_waits_for_a_replica_that_is_away(tmp_path: Path, own_redis: RedisServer) -> None:
    """Each publish is stored once, and says at its timeout what it waited for."""
    train = Train("confirmed", limit=Volume(100_000))
    with RedisServer(
        tmp_path, config=[f"replicaof 127.0.0.1 {own_redis.port}", "repl-diskless-sync-delay 0"]
    ) as replica:

        async def main() -> None:
            url = f"{own_redis.url}?wait=1&timeout=2"
            async with train.connect(url) as connection, raw(own_redis) as redis:
                async with asyncio.timeout(20):
                    while (await redis.info("replication")).get("slave0", {}).get("state") != "online":
                        await asyncio.sleep(0.05)
                await connection.publish(0)
                await asyncio.to_thread(replica.kill)
                for n in (1, 2, 3):
                    with pytest.raises(PublishTimeout, match="0 of wait=1 replicas confirmed"):
                        await connection.publish(n, timeout=1.5)
                waiting = asyncio.create_task(connection.publish(4, timeout=60))
                await asyncio.sleep(1.0)
                await asyncio.to_thread(replica.start)
                await waiting
                await connection.publish(5)
                found = [e.data async for e in connection.broker.read(Channel("confirmed", 1))]
                assert found == [b"0", b"1", b"2", b"3", b"4", b"5"]

        asyncio.run(main())


async def online(redis: Any) -> None:
    """A replica is attached."""
    async with asyncio.timeout(20):
        while (await redis.info("replication")).get("slave0", {}).get("state") != "online":
            await asyncio.sleep(0.05)


async def given_up(broker: RedisBroker, channel: Channel, batch: list[Event], seconds: float = 0.4) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(seconds):
            await broker.publish(channel, batch)


def test_a_publish_that_is_given_up_and_tried_again_is_stored_once(tmp_path: Path, own_redis: RedisServer) -> None:
    """While a replica is away, in parts and at once, also when it was given up before the server has answered. The same
    ids with another content, as two dead letters of one event have, are another batch."""
    with RedisServer(
        tmp_path, config=[f"replicaof 127.0.0.1 {own_redis.port}", "repl-diskless-sync-delay 0"]
    ) as replica:

        async def main() -> None:
            async with RedisBroker.from_url(f"{own_redis.url}?wait=1&timeout=2") as broker, raw(own_redis) as redis:
                await online(redis)
                channels = [CHANNEL, Channel("faults", 1, "mail"), Channel("faults", 0, DEAD)]
                for channel in channels:
                    await broker.create(channel)
                await asyncio.to_thread(replica.kill)
                small, large = events(3), events(30, size=100_000)  # three calls
                other = [msgspec.structs.replace(event, data=b"other") for event in small]
                for seconds in (0.001, 0.3, 0.3, 0.3):
                    async with asyncio.TaskGroup() as tasks:
                        for channel in channels:
                            for batch in (small, other, large):
                                tasks.create_task(given_up(broker, channel, batch, seconds))
                async with asyncio.timeout(20):
                    while [depth.published for depth in await broker.depth(channels)] != [16, 16, 16]:
                        await asyncio.sleep(0.05)
                await asyncio.to_thread(replica.start)
                async with asyncio.timeout(30):
                    await asyncio.gather(
                        *(broker.publish(c, batch) for c in channels for batch in (small, other, large))
                    )
                for channel in channels:
                    found = sorted((event.id, event.data) for event in await standing(broker, channel))
                    assert found == sorted((event.id, event.data) for event in (*small, *other, *large))
                assert not broker.batches
                await broker.publish(CHANNEL, small)  # confirmed: a publish like any other
                assert (await broker.depth([CHANNEL]))[0].published == 39

        asyncio.run(main())


def test_what_may_be_stored_is_remembered_no_longer_than_it_is_of_use(tmp_path: Path, own_redis: RedisServer) -> None:
    """The connection knows what replicas have: where it is gone nobody can tell, and the batch is stored again. Nor are
    batches of a channel that is deleted remembered."""

    async def main() -> None:
        async with (
            Proxy(own_redis.host, own_redis.port) as proxy,
            RedisBroker.from_url(through(own_redis, proxy.port, "wait=1&timeout=2")) as broker,
            RedisBroker.from_url(own_redis.url) as setup,
        ):
            await setup.create(CHANNEL)
            batch = events(3)
            await given_up(broker, CHANNEL, batch)
            proxy.cut()
            with pytest.raises(PublishUncertain, match="the connection broke"):
                await broker.publish(CHANNEL, batch)
            await given_up(broker, CHANNEL, batch)
            assert len(await standing(setup, CHANNEL)) == 6
            assert len(broker.batches) == 1
            await broker.delete(CHANNEL)
            assert not broker.batches
            with pytest.raises(ChannelGone):
                await broker.publish(CHANNEL, batch)
            assert not broker.batches

    asyncio.run(main())


@pytest.mark.timeout(120)
def test_emits_and_dead_letters_are_stored_once_while_a_replica_is_away(
    tmp_path: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker gives up each call after `publish_timeout` and tries again, for as long as it takes."""
    train = Train("emitting", limit=Volume(100_000), workers=Workers(each=4), publish_timeout=2.0)
    mails: list[int] = []

    @train.on("emitting")
    async def first(event: int, ctx: Context) -> None:
        if event % 2:
            raise Reject("it is odd")
        await ctx.emit("mail", event)

    @train.on("mail")
    async def mail(event: int) -> None:
        mails.append(event)

    with RedisServer(
        tmp_path, config=[f"replicaof 127.0.0.1 {own_redis.port}", "repl-diskless-sync-delay 0"]
    ) as replica:

        async def main() -> None:
            facts: list[Fact] = []
            url = f"{own_redis.url}?wait=1&timeout=8"
            async with (
                raw(own_redis) as redis,
                RedisBroker.from_url(own_redis.url) as others,
                train.connect(url, listeners=[facts.append]) as connection,
            ):
                await online(redis)
                async with connection.running():
                    await connection.publish(0)
                    await until(lambda: mails == [0], seconds=20)
                    await asyncio.to_thread(replica.kill)
                    calls = Counter[Channel]()
                    publish = connection.broker.publish

                    async def counted(channel: Channel, batch: Sequence[Event]) -> None:
                        calls[channel] += 1
                        await publish(channel, batch)

                    monkeypatch.setattr(connection.broker, "publish", counted)
                    await others.publish(Channel("emitting", 1), [event_of(n) for n in range(1, 11)])
                    emits, letters = Channel("emitting", 1, "mail"), Channel("emitting", 1, DEAD)
                    await until(lambda: min(calls[emits], calls[letters]) >= 4, seconds=60)
                    mail, dead = await others.depth([emits, letters])
                    assert (mail.published, dead.published) == (6, 5)
                    assert [f for f in facts if isinstance(f, StepFailed) and "emitting to" in f.step]
                    await asyncio.to_thread(replica.start)
                    await until(lambda: sorted(mails) == [0, 2, 4, 6, 8, 10], seconds=30)
                    async with asyncio.timeout(30):
                        while (await others.depth([Channel("emitting", 1)]))[0].settled != 11:
                            await asyncio.sleep(0.05)
                    mail, dead = await others.depth([emits, letters])
                    assert (mail.published, dead.published) == (6, 5)

        asyncio.run(main())


def event_of(number: int) -> Event:
    (event,) = events(1, first=number)
    return msgspec.structs.replace(event, data=b"%d" % number)


def test_failover_behind_an_address(tmp_path: Path, own_redis: RedisServer) -> None:
    """The primary becomes a replica and the address leads to the new one: told, and then followed."""
    with RedisServer(tmp_path, config=[f"replicaof 127.0.0.1 {own_redis.port}", "repl-diskless-sync-delay 0"]) as heir:

        async def main() -> None:
            async with (
                Proxy(own_redis.host, own_redis.port) as proxy,
                RedisBroker.from_url(through(own_redis, proxy.port)) as broker,
                raw(own_redis) as old,
                raw(heir) as new,
            ):
                await broker.create(CHANNEL)
                await broker.publish(CHANNEL, events(3))
                async with broker.consume(CHANNEL, visibility=LONG) as consumer:
                    async with asyncio.timeout(20):
                        while await new.xlen("eventwagon:{faults_v1}") < 3:
                            await asyncio.sleep(0.05)
                    await new.replicaof("NO", "ONE")
                    await old.replicaof(heir.host, heir.port)
                    proxy.target = (heir.host, heir.port)
                    for call in (broker.publish(CHANNEL, events(1)), consumer.receive(1, 0.0)):
                        with pytest.raises(Unavailable, match="is a replica"):
                            await call
                    async with asyncio.timeout(60):
                        while True:
                            try:
                                await broker.publish(CHANNEL, events(1))
                                break
                            except (Unavailable, PublishUncertain):
                                await asyncio.sleep(0.01)
                    await consumer.settle(await take(consumer, 4))
                assert await new.xlen("eventwagon:{faults_v1}") == 0

        asyncio.run(main())


def test_without_a_file_descriptor_a_connection_says_so(redis_server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """redis-py reads a file to make one. The task that makes connections goes on."""

    async def main() -> None:
        real = RedisAddress.connection

        def lacking(self: RedisAddress) -> Any:
            raise OSError(errno.EMFILE, "Too many open files", "METADATA")

        drivers = open_drivers(f"{redis_server.url}?prefix=lacking")
        monkeypatch.setattr(RedisAddress, "connection", lacking)
        with pytest.raises(
            Unavailable, match="connecting: this process has no file descriptor left: raise `ulimit -n`"
        ):
            async with drivers.registry:
                pass
        monkeypatch.setattr(RedisAddress, "connection", real)
        async with drivers.registry:
            assert list(await drivers.registry.trains()) == []

    asyncio.run(main())
