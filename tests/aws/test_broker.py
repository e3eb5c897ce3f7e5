"""What can go wrong between the table and the queue: nothing accepted is lost, and nothing is called empty that is
not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from eventwagon.contracts.broker import Depth
from eventwagon.drivers.aws import SQSBroker
from eventwagon.drivers.aws.wire import INLINE, letter
from eventwagon.errors import ChannelGone, EventTooLarge, PublishUncertain, Sealed, Unavailable
from eventwagon.event import Channel, Event
from tests.aws.support import Between, a_channel, clients_of, events, queues_of, refused, rows_of
from tests.servers.moto import MotoServer

Ask = Callable[[], Any]


async def ids(broker: SQSBroker, channel: Channel) -> list[str]:
    return [event.id async for event in broker.read(channel)]


async def handle_all(broker: SQSBroker, channel: Channel, count: int, *, seconds: float = 30.0) -> Counter[str]:
    """Receive and settle until so many different ones were handled."""
    handled: Counter[str] = Counter()
    async with asyncio.timeout(seconds), broker.consume(channel, visibility=30) as consumer:
        while len(handled) < count:
            got = await consumer.receive(10, 1.0)
            handled.update(delivery.event.id for delivery in got)
            await consumer.settle(got)
    return handled


def unequal(depth: Depth) -> bool:
    """It proves nothing empty."""
    return depth.published != depth.settled


def test_hundreds_in_one_call_come_once_each(moto_server: MotoServer) -> None:
    async def run() -> None:
        channel, some = a_channel(), events(120)
        async with SQSBroker.from_url(f"{moto_server.url}&resend=3") as broker:
            await broker.create(channel)
            await broker.publish(channel, some)
            assert sorted(await ids(broker, channel)) == sorted(event.id for event in some)
            handled: Counter[str] = Counter()
            async with broker.consume(channel, visibility=120) as consumer:
                while len(handled) < 120:
                    got = await consumer.receive(100, 1.0)  # several calls at once
                    handled.update(delivery.event.id for delivery in got)
                    await consumer.settle(got)
                    await broker.depth([channel])  # sends again what moto may have lost
            assert set(handled) == {event.id for event in some}
            assert await broker.depth([channel]) == [Depth(published=120, settled=120, waiting=0, in_flight=0)]
            await broker.delete(channel)

    asyncio.run(run())


def test_what_sqs_has_lost_is_not_called_empty_and_is_sent_again(moto_server: MotoServer) -> None:
    async def run() -> None:
        channel, some = a_channel(), events(3)
        async with SQSBroker.from_url(f"{moto_server.url}&resend=1") as broker:
            await broker.create(channel)
            await broker.publish(channel, some)
            await clients_of(broker).call("sqs", "purge_queue", QueueUrl=await queues_of(broker).url(channel))
            async with asyncio.timeout(30):
                while not await queues_of(broker).in_sight(channel):
                    (depth,) = await broker.depth([channel])
                    assert depth == Depth(published=3, settled=0)
                    await asyncio.sleep(0.2)
            handled = await handle_all(broker, channel, 3)
            assert set(handled) == {event.id for event in some}
            assert not unequal((await broker.depth([channel]))[0])
            await broker.delete(channel)

    asyncio.run(run())


def test_what_a_dying_publisher_wrote_down_but_did_not_send_is_handled(moto_server: MotoServer) -> None:
    async def run() -> None:
        channel, some = a_channel(), events(2)
        url = f"{moto_server.url}&resend=1"
        async with SQSBroker.from_url(url) as dying, SQSBroker.from_url(url) as broker:
            await broker.create(channel)
            letters = [letter(event, channel) for event in some]
            await rows_of(dying).put(channel, letters[:1])  # it died before the look at the seal
            await rows_of(dying).put(channel, letters[1:])
            await rows_of(dying).admit(channel, 1)  # and here before sending
            await broker.seal(channel)
            async with asyncio.TaskGroup() as group:
                handling = group.create_task(handle_all(broker, channel, 2))
                while not handling.done():
                    (depth,) = await broker.depth([channel])
                    assert unequal(depth) or not await ids(broker, channel)
                    await asyncio.sleep(0.3)
            assert not unequal((await broker.depth([channel]))[0])
            await broker.delete(channel)

    asyncio.run(run())


def test_a_publisher_that_is_stopped_past_the_seal_keeps_the_wagon_and_loses_nothing(moto_server: MotoServer) -> None:
    """It looked at the seal in time and sends late. The wagon is not empty before; a second late one is refused."""

    async def run() -> None:
        channel, some = a_channel(), events(2)
        at_the_gate, go_on = asyncio.Event(), asyncio.Event()

        async def stop(operation: str, request: dict[str, Any], ask: Ask) -> Any:
            if operation == "send_message_batch":
                at_the_gate.set()
                await go_on.wait()
            return await ask()

        async with SQSBroker.from_url(moto_server.url) as stale, SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            Between(clients_of(stale), stop)
            sending = asyncio.create_task(stale.publish(channel, some[:1]))
            await at_the_gate.wait()
            await broker.seal(channel)
            with pytest.raises(Sealed):
                await broker.publish(channel, events(1))
            assert unequal((await broker.depth([channel]))[0])
            go_on.set()
            await sending
            assert some[0].id in await handle_all(broker, channel, 1)
            await broker.delete(channel)

    asyncio.run(run())


def test_after_deletion_the_table_refuses_even_where_sqs_still_takes_messages(moto_server: MotoServer) -> None:
    """AWS says that for a minute a deleted queue may take messages that are gone with it. moto's is gone at once: so
    the queue is left standing here."""

    async def run() -> None:
        channel = a_channel()
        async with SQSBroker.from_url(moto_server.url) as stale, SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            await stale.publish(channel, events(1))
            await handle_all(broker, channel, 1)
            await rows_of(broker).close(channel)
            await rows_of(broker).forget(channel)
            with pytest.raises(ChannelGone):
                await stale.publish(channel, events(1))
            assert await queues_of(broker).in_sight(channel) == 0
            assert await rows_of(broker).count(channel, most=10) == (0, True)
            await broker.delete(channel)

    asyncio.run(run())


def test_a_settled_event_whose_message_stays_is_not_handled_again(moto_server: MotoServer) -> None:
    async def run() -> None:
        channel = a_channel()

        async def keep(operation: str, request: dict[str, Any], ask: Ask) -> Any:
            if operation == "delete_message_batch":
                raise refused("InternalError", 500)
            return await ask()

        async with SQSBroker.from_url(moto_server.url) as failing, SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            await broker.publish(channel, events(2))
            Between(clients_of(failing), keep)
            async with failing.consume(channel, visibility=1) as consumer:
                got = [*await consumer.receive(2, 5.0)]
                while len(got) < 2:
                    got += await consumer.receive(2, 5.0)
                await consumer.settle(got)
            assert await queues_of(broker).in_sight(channel) == 2
            async with broker.consume(channel, visibility=5) as consumer:
                assert list(await consumer.receive(10, 3.0)) == []
            assert await queues_of(broker).in_sight(channel) == 0
            assert await broker.depth([channel]) == [Depth(published=2, settled=2, waiting=0, in_flight=0)]
            await broker.delete(channel)

    asyncio.run(run())


def test_a_batch_that_sqs_takes_in_part_is_completed(moto_server: MotoServer) -> None:
    async def run() -> None:
        channel, some = a_channel(), events(15)
        calls: list[int] = []

        async def partly(operation: str, request: dict[str, Any], ask: Ask) -> Any:
            if operation != "send_message_batch":
                return await ask()
            entries = request["Entries"]
            calls.append(len(entries))
            if len(calls) > 2:
                return await ask()
            refuse = entries[len(entries) // 2 :]
            del entries[len(entries) // 2 :]
            answer = await ask()
            failed = [{"Id": e["Id"], "SenderFault": False, "Code": "InternalError", "Message": ""} for e in refuse]
            return {**answer, "Failed": failed}

        async with SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            Between(clients_of(broker), partly)
            await broker.publish(channel, some)
            assert sorted(calls) == [3, 5, 5, 10]
            handled = await handle_all(broker, channel, 15)
            assert handled == Counter(event.id for event in some)
            await broker.delete(channel)

    asyncio.run(run())


def test_throttled_for_a_while_all_arrives_and_for_longer_it_is_said(moto_server: MotoServer) -> None:
    async def run() -> None:
        channel, some = a_channel(), events(30)
        left = 3
        throttling = ""

        async def throttle(operation: str, request: dict[str, Any], ask: Ask) -> Any:
            nonlocal left
            if operation == "batch_write_item" and left:
                left -= 1
                ((table, items),) = request["RequestItems"].items()
                request["RequestItems"] = {table: items[:10]}
                answer = await ask()
                return {**answer, "UnprocessedItems": {table: items[10:]}}
            if operation == throttling:
                raise refused("ThrottlingException")
            return await ask()

        async with SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            Between(clients_of(broker), throttle)
            await broker.publish(channel, some)
            assert sorted(await ids(broker, channel)) == sorted(event.id for event in some)
            throttling = "batch_get_item"
            with pytest.raises(Unavailable, match="ThrottlingException"):
                await broker.depth([channel])
            throttling = "send_message_batch"  # written down and not sent
            with pytest.raises(PublishUncertain, match="ThrottlingException"):
                await broker.publish(channel, events(1))
            throttling = "receive_message"
            async with broker.consume(channel, visibility=30) as consumer:
                with pytest.raises(Unavailable, match="ThrottlingException"):
                    await consumer.receive(1, 1.0)
                throttling = ""
                assert await consumer.receive(1, 5.0)
            await broker.delete(channel)

    asyncio.run(run())


def test_large_events_stand_in_the_table_alone(moto_server: MotoServer) -> None:
    async def run() -> None:
        channel = a_channel()
        data = bytes(range(256)) * (INLINE // 256)
        async with SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            sent: Event = events(1, data)[0]
            await broker.publish(channel, [sent])
            with pytest.raises(EventTooLarge):
                await broker.publish(channel, events(1, b"x" * 400_000))
            async with broker.consume(channel, visibility=30) as consumer:
                (got,) = await consumer.receive(10, 5.0)
                assert got.event.data == data
                assert got.attempt == 1
                await consumer.settle([got])
            assert not unequal((await broker.depth([channel]))[0])
            await broker.delete(channel)

    asyncio.run(run())


def test_a_message_that_others_sent_is_handled_and_counts_for_nothing(moto_server: MotoServer) -> None:
    async def run() -> None:
        channel = a_channel()
        async with SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            url = await queues_of(broker).url(channel)
            await clients_of(broker).call("sqs", "send_message", QueueUrl=url, MessageBody="hello")
            async with broker.consume(channel, visibility=1) as consumer:
                (first,) = await consumer.receive(10, 5.0)
                await consumer.release([first])
                (again,) = await consumer.receive(10, 5.0)
                assert (again.event.data, again.attempt) == (b"hello", 2)
                await consumer.settle([again])
                assert list(await consumer.receive(10, 1.5)) == []
            await broker.delete(channel)

    asyncio.run(run())


def test_what_an_ordinary_event_reads_and_writes_for_suspicion(moto_server: MotoServer) -> None:
    """Nothing at its first delivery. Of ten suspects in a batch one is handed on, and the rest is given back at
    once."""

    async def run() -> None:
        channel, some = a_channel(), events(10)
        asked: Counter[str] = Counter()

        async def count(operation: str, request: dict[str, Any], ask: Ask) -> Any:
            asked[operation] += 1
            return await ask()

        async with SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            await broker.publish(channel, some)
            async with broker.consume(channel, visibility=2) as consumer:
                Between(clients_of(broker), count)
                got = [*await consumer.receive(10, 5.0)]
                while len(got) < 10:
                    got += await consumer.receive(10 - len(got), 5.0)
                assert set(asked) == {"receive_message"}
                await asyncio.sleep(2.5)
                seen: Counter[str] = Counter()
                for _ in range(10):
                    (one,) = await consumer.receive(10, 5.0)
                    assert (one.attempt, one.suspect) == (1, True)
                    assert await consumer.alone(one)
                    seen[one.event.id] += 1
                    await consumer.settle([one])
                assert seen == Counter(event.id for event in some)
            await broker.delete(channel)

    asyncio.run(run())


def test_an_idle_channel_costs_one_read_of_its_counters(moto_server: MotoServer) -> None:
    async def run() -> None:
        channel = a_channel()
        asked: Counter[str] = Counter()

        async def count(operation: str, request: dict[str, Any], ask: Ask) -> Any:
            asked[operation] += 1
            return await ask()

        async with SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            await broker.publish(channel, events(1))
            await handle_all(broker, channel, 1)
            await broker.depth([channel])
            Between(clients_of(broker), count)
            for _ in range(5):
                await broker.depth([channel])
            assert asked == {"batch_get_item": 5}
            await broker.delete(channel)

    asyncio.run(run())


def test_a_table_that_is_gone_is_told(moto_server: MotoServer) -> None:
    async def run() -> None:
        async with SQSBroker.from_url(f"{moto_server.url}&table=doomed") as broker:
            await clients_of(broker).call("dynamodb", "delete_table", TableName="doomed")
            with pytest.raises(Exception, match="table doomed in eu-west-1") as told:
                await broker.create(a_channel())
            assert type(told.value).__name__ == "StorageBroken"

    asyncio.run(run())


def test_nobody_there_is_unavailable() -> None:
    async def run() -> None:
        with pytest.raises(Unavailable, match="looking for table eventwagon"):
            async with SQSBroker.from_url("sqs://eu-west-1/ew?endpoint=http://127.0.0.1:9"):
                pass

    asyncio.run(run())


def test_sealed_amid_publishers_it_is_called_empty_only_when_all_accepted_were_handled(moto_server: MotoServer) -> None:
    async def run() -> None:
        channel = a_channel()
        accepted: set[str] = set()
        handled: set[str] = set()
        amid = asyncio.Event()

        async def publish(broker: SQSBroker) -> None:
            while True:
                some = events(3)
                try:
                    await broker.publish(channel, some)
                except Sealed:
                    return
                accepted.update(event.id for event in some)
                if len(accepted) > 30:
                    amid.set()

        async def work(broker: SQSBroker) -> None:
            async with broker.consume(channel, visibility=30) as consumer:
                while True:
                    got = await consumer.receive(10, 1.0)
                    handled.update(delivery.event.id for delivery in got)
                    await consumer.settle(got)

        url = f"{moto_server.url}&resend=2"
        async with SQSBroker.from_url(url) as one, SQSBroker.from_url(url) as two:
            await one.create(channel)
            async with asyncio.timeout(90), asyncio.TaskGroup() as group:
                publishers = [group.create_task(publish(broker)) for broker in (one, one, two, two)]
                worker = group.create_task(work(two))
                await amid.wait()
                await one.seal(channel)
                while unequal((await one.depth([channel]))[0]):
                    await asyncio.sleep(0.1)
                missing = accepted - handled
                await asyncio.wait(publishers)
                worker.cancel()
            assert not missing
            assert accepted <= handled
            await one.delete(channel)

    asyncio.run(run())


@pytest.mark.parametrize("name", ["", "inner"])
def test_a_publisher_makes_a_deleted_queue_again(moto_server: MotoServer, name: str) -> None:
    """Of a channel that stands: what it publishes is received, and counts once."""

    async def main() -> None:
        channel = a_channel(name)
        async with SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            await broker.publish(channel, events(1))
            where = await queues_of(broker).url(channel)
            await clients_of(broker).call("sqs", "delete_queue", QueueUrl=where)
            some = events(2)
            await broker.publish(channel, some)
            async with broker.consume(channel, visibility=30.0) as consumer:
                got = await consumer.receive(10, 5.0)
                assert {d.event.id for d in got} <= {e.id for e in some}
                assert got
            assert (await rows_of(broker).counted([channel]))[channel].published == 3
            await broker.delete(channel)
            with pytest.raises(ChannelGone):
                await broker.publish(channel, some)

    asyncio.run(main())


@pytest.mark.parametrize("code", ["AWS.SimpleQueueService.QueueDeletedRecently", "AccessDenied"])
def test_where_a_deleted_queue_cant_be_made_again_the_ingress_is_sealed(moto_server: MotoServer, code: str) -> None:
    """SQS allows a queue of the same name a minute later (moto at once), and a publisher needs no right to make any."""

    async def meddle(operation: str, request: dict[str, Any], ask: Callable[[], Any]) -> Any:
        if operation == "create_queue":
            raise refused(code)
        return await ask()

    async def main() -> None:
        ingress, inner = a_channel(), a_channel("inner")
        async with SQSBroker.from_url(moto_server.url) as broker:
            for channel in (ingress, inner):
                await broker.create(channel)
                where = await queues_of(broker).url(channel)
                await clients_of(broker).call("sqs", "delete_queue", QueueUrl=where)
            some = events(2)
            async with SQSBroker.from_url(moto_server.url) as publisher:
                Between(clients_of(publisher), meddle)
                with pytest.raises(Sealed):
                    await publisher.publish(ingress, some)
                with pytest.raises(PublishUncertain, match="made up"):
                    await publisher.publish(inner, some)
            with pytest.raises(Sealed):
                await broker.publish(ingress, events(1))
            assert {e.id async for e in broker.read(ingress)} >= {e.id for e in some}
            for channel in (ingress, inner):
                await broker.delete(channel)

    asyncio.run(main())
