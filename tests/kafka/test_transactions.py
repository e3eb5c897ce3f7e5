"""Producers of others with transactions, in a wagon that is sealed and drained."""

from __future__ import annotations

import asyncio
from functools import partial
from secrets import token_hex

import pytest
from confluent_kafka import Producer

from eventwagon import Train, Volume
from eventwagon.contracts.broker import proven_empty
from eventwagon.contracts.facts import StepFailed, WagonRemoved
from eventwagon.contracts.manifest import Manifest
from eventwagon.drivers.kafka import KafkaBroker, KafkaRegistry
from eventwagon.errors import Sealed, Unavailable
from eventwagon.event import Channel
from tests.kafka.support import LONG, events, holding, new_channel, send, take
from tests.servers.server import Server


def bootstrap(server: Server) -> str:
    return server.url.removeprefix("kafka://").partition("?")[0]


class Transactional:
    """A producer of somebody else's. Its calls block."""

    def __init__(self, server: Server) -> None:
        name = f"tx-{token_hex(4)}"
        self.producer = Producer({"bootstrap.servers": bootstrap(server), "transactional.id": name, "log_level": 0})
        self.producer.init_transactions(30)

    def begin(self, topic: str, *values: bytes, source: str = "/others", key: bytes | None = None) -> None:
        self.producer.begin_transaction()
        self.write(topic, *values, source=source, key=key)

    def write(self, topic: str, *values: bytes, source: str = "/others", key: bytes | None = None) -> None:
        for n, value in enumerate(values):
            headers = {"ce_specversion": "1.0", "ce_id": f"{token_hex(4)}-{n}", "ce_source": source, "ce_type": "t"}
            self.producer.produce(topic, value, key, partition=0, headers=headers)  # type: ignore[arg-type]
        assert self.producer.flush(10) == 0

    def commit(self) -> None:
        self.producer.commit_transaction(20)


def test_a_seal_waits_for_an_open_transaction(kafka_server: Server) -> None:
    """It says whose it is, and refuses new events meanwhile; the producer can end it, and all of it is handled."""

    async def main() -> None:
        async with holding(kafka_server.url, *events(1)) as (ours, channel):
            topic = str(channel)
            theirs, other = await asyncio.gather(*(asyncio.to_thread(Transactional, kafka_server) for _ in range(2)))
            await asyncio.to_thread(theirs.begin, topic, b"1", b"2")
            with pytest.raises(Unavailable) as waits:
                await ours.seal(channel)
            assert f"topic {topic}, partition 0: another producer's transaction is open from offset 2" in str(
                waits.value
            )
            assert "of source /others" in str(waits.value)
            async with KafkaBroker.from_url(kafka_server.url) as stale:
                with pytest.raises(Sealed):
                    await stale.publish(channel, events(1))
            await asyncio.to_thread(theirs.commit)
            await ours.seal(channel)
            assert send(bootstrap(kafka_server), topic, 0, b"") is not None  # as strict as ever
            async with ours.consume(channel, visibility=LONG) as consumer:
                got = await take(consumer, 3)
                assert [d.event.data for d in got[1:]] == [b"1", b"2"]
                await consumer.settle(got)
                async with asyncio.timeout(20):
                    while not proven_empty(await ours.depth([channel]), await ours.depth([channel])):
                        assert await consumer.receive(1, 0.1) == []  # the marker at the end is no event
            (depth,) = await ours.depth([channel])
            assert (depth.published, depth.settled, depth.lost) == (3, 3, 0)
            another = new_channel()
            await ours.create(another)
            for producer in (theirs, other):  # neither is blocked
                await asyncio.to_thread(producer.begin, str(another), b"3")
                await asyncio.to_thread(producer.commit)
            await ours.delete(another)

    asyncio.run(main())


def test_a_transaction_that_is_refused_amid_a_seal_can_be_aborted(kafka_server: Server) -> None:
    """It is open when the seal begins, and writes on: refused, it ends, and its producer goes on elsewhere."""

    async def main() -> None:
        async with holding(kafka_server.url) as (ours, channel), holding(kafka_server.url) as (_, elsewhere):
            theirs = await asyncio.to_thread(Transactional, kafka_server)
            await asyncio.to_thread(theirs.begin, str(channel), b"1")
            with pytest.raises(Unavailable, match="is open"):
                await ours.seal(channel)
            await asyncio.to_thread(theirs.write, str(channel), b"2")
            await asyncio.to_thread(theirs.producer.abort_transaction, 20)
            await ours.seal(channel)
            await asyncio.to_thread(theirs.begin, str(elsewhere), b"3")
            await asyncio.to_thread(theirs.commit)
            async with ours.consume(channel, visibility=LONG) as consumer:
                assert await consumer.receive(1, 0.5) == []
            assert proven_empty(await ours.depth([channel]), await ours.depth([channel]))

    asyncio.run(main())


def test_an_open_transaction_holds_up_nobody_who_reads(kafka_server: Server) -> None:
    """What came before it is received and browsed at once, by whoever attaches while it is open."""

    async def main() -> None:
        async with holding(kafka_server.url, *events(2)) as (ours, channel):
            theirs = await asyncio.to_thread(Transactional, kafka_server)
            await asyncio.to_thread(theirs.begin, str(channel), b"1")
            async with asyncio.timeout(8), KafkaBroker.from_url(kafka_server.url) as other:
                assert len([e async for e in other.read(channel)]) == 2
                async with other.consume(channel, visibility=LONG) as consumer:
                    await consumer.settle(await take(consumer, 2))
                    assert await consumer.receive(1, 0.2) == []
                    await asyncio.to_thread(theirs.commit)
                    assert [d.event.data for d in await take(consumer, 1)] == [b"1"]
            await ours.seal(channel)

    asyncio.run(main())


def test_a_train_switches_amid_a_foreign_transaction(kafka_server: Server) -> None:
    """The seal is told to wait, once; when the transaction ends all is handled and the wagon goes."""

    async def main() -> None:
        train = Train(new_channel().train, limit=Volume(100), observe_every=0.1)
        handled: list[int] = []

        @train.on(train.name)
        async def handle(payload: int) -> None:
            handled.append(payload)

        async with train.connect(kafka_server.url) as connection:
            await connection.publish(1)
            theirs = await asyncio.to_thread(Transactional, kafka_server)
            await asyncio.to_thread(theirs.begin, str(Channel(train.name, 1)), b"2", b"3")
            async with asyncio.timeout(100), connection.running():
                await connection.request_switch("by hand")
                facts: list[object] = []
                while not any(isinstance(f, StepFailed) for f in facts):
                    await asyncio.sleep(0.2)
                    facts = [e.fact async for e in connection.journal()]
                await connection.publish(4)
                await asyncio.to_thread(theirs.commit)
                while not any(isinstance(f, WagonRemoved) for f in facts):
                    await asyncio.sleep(0.2)
                    facts = [e.fact async for e in connection.journal()]
                while len(handled) < 4:
                    await asyncio.sleep(0.1)
            (told,) = (f for f in facts if isinstance(f, StepFailed))
            assert "another producer's transaction is open" in told.because
            assert sorted(handled) == [1, 2, 3, 4]
            (removed,) = (f for f in facts if isinstance(f, WagonRemoved))
            assert (removed.wagon.published, removed.wagon.settled, removed.wagon.lost) == (3, 3, 0)

    asyncio.run(main())


# --- in logs, to which no other program may write ---------------------------------------------


@pytest.mark.parametrize("ends", ["commit", "abort"])
@pytest.mark.parametrize("more", [True, False], ids=["amid the log", "at its end"])
@pytest.mark.parametrize("key", [None, b"r-theirs", b"s-theirs"])  # ours begin like that
def test_the_trace_of_a_transaction_in_a_claims_log_is_no_lost_beginning(
    kafka_server: Server, caplog: pytest.LogCaptureFixture, ends: str, more: bool, key: bytes | None
) -> None:
    """What was settled stays settled, for those who follow the log and for those who come later."""

    async def main() -> None:
        async with holding(kafka_server.url, *events(4)) as (ours, channel):
            async with ours.consume(channel, visibility=LONG) as consumer:
                got = await take(consumer, 4)
                await consumer.settle(got[:2])
                theirs = await asyncio.to_thread(Transactional, kafka_server)
                await asyncio.to_thread(partial(theirs.begin, f"{channel}.0claims", b"x", key=key))
                await asyncio.to_thread(theirs.commit if ends == "commit" else theirs.producer.abort_transaction)
                if more:
                    await consumer.settle(got[2:3])
                settled = 3 if more else 2
                async with KafkaBroker.from_url(kafka_server.url) as later:
                    for broker in (ours, later):
                        (depth,) = await broker.depth([channel])
                        assert (depth.settled, depth.in_flight, depth.trouble) == (settled, 4 - settled, "")
                assert await consumer.receive(1, 0.3) == []
                await consumer.settle(got[settled:])
            (depth,) = await ours.depth([channel])
            assert (depth.published, depth.settled) == (4, 4)

    asyncio.run(main())
    assert not [record for record in caplog.records if "lost its beginning" in record.message]


def test_the_trace_of_a_transaction_in_a_manifest_log_stops_no_train(kafka_server: Server) -> None:
    async def main() -> None:
        train = new_channel().train
        async with KafkaRegistry.from_url(kafka_server.url) as knows:
            await knows.replace(train, Manifest(train=train, stops=1), expect=0)
            theirs = await asyncio.to_thread(Transactional, kafka_server)
            await asyncio.to_thread(theirs.begin, f"{train}.0manifest", b"x")
            await asyncio.to_thread(theirs.commit)
            known = await knows.read(train)
            stored = await knows.replace(train, Manifest(train=train, stops=2), expect=known.version)
            async with KafkaRegistry.from_url(kafka_server.url) as later:
                assert await later.read(train) == stored

    asyncio.run(main())


def test_an_open_transaction_in_a_log_is_named(kafka_server: Server) -> None:
    async def main() -> None:
        train = new_channel().train
        async with KafkaRegistry.from_url(kafka_server.url) as knows:
            await knows.replace(train, Manifest(train=train), expect=0)
        theirs = await asyncio.to_thread(Transactional, kafka_server)
        await asyncio.to_thread(theirs.begin, f"{train}.0manifest", b"x")
        async with KafkaRegistry.from_url(f"{kafka_server.url}?timeout=3") as later:
            with pytest.raises(Unavailable, match=r"another producer's transaction is open from offset .*names its"):
                await later.read(train)
            await asyncio.to_thread(theirs.commit)
            assert (await later.read(train)).manifest.train == train

    asyncio.run(main())
