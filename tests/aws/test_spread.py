"""Counters are spread: no item of the table takes every write, and their sums are as exact as one item's."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from eventwagon.contracts.broker import Depth
from eventwagon.drivers.aws import SQSBroker, rows
from eventwagon.drivers.aws.rows import PARTS
from eventwagon.errors import ChannelGone, Sealed
from eventwagon.event import Channel
from tests.aws.support import Between, a_channel, clients_of, events, rows_of
from tests.servers.moto import MotoServer

Ask = Callable[[], Any]
_NONE = Depth(published=0, settled=0, waiting=0, in_flight=0)


async def settle_all(broker: SQSBroker, channel: Channel, count: int) -> None:
    """One by one, so that each counts in a call of its own."""
    async with asyncio.timeout(60), broker.consume(channel, visibility=60) as consumer:
        while count:
            for delivery in await consumer.receive(10, 1.0):
                await consumer.settle([delivery])
                count -= 1


async def single(broker: SQSBroker, channel: Channel) -> None:
    """Make the channel as earlier releases made it: with one item for its counters."""
    await broker.create(channel)
    await rows_of(broker).close(channel)
    pk, sk = rows_of(broker).single(channel)
    await broker.table.put({"pk": {"S": pk}, "sk": {"S": sk}, "published": {"N": "0"}, "settled": {"N": "0"}})


def test_no_partition_key_takes_more_than_its_share_of_the_writes(moto_server: MotoServer) -> None:
    async def run() -> None:
        channel, count = a_channel(), 100
        written: Counter[str] = Counter()
        counted: Counter[str] = Counter()

        async def note(operation: str, given: dict[str, Any], ask: Ask) -> Any:
            if operation in ("update_item", "delete_item"):
                written[given["Key"]["pk"]["S"]] += 1
                counted[given["Key"]["pk"]["S"]] += operation == "update_item"
            elif operation == "batch_write_item":
                for request in (each for some in given["RequestItems"].values() for each in some):
                    item = request["PutRequest"]["Item"] if "PutRequest" in request else request["DeleteRequest"]["Key"]
                    written[item["pk"]["S"]] += 1
            return await ask()

        async with SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            Between(clients_of(broker), note)
            for event in events(count):
                await broker.publish(channel, [event])
            await settle_all(broker, channel, count)
            assert await broker.depth([channel]) == [Depth(published=count, settled=count, waiting=0, in_flight=0)]
            assert counted.total() == 2 * count  # one write for each call, as before
            assert len(+counted) == PARTS
            assert max(counted.values()) <= 0.4 * counted.total()  # a quarter each, by chance: that is five sigma
            assert len(written) == 2 * PARTS
            assert max(written.values()) <= 0.2 * written.total()
            await broker.delete(channel)

    asyncio.run(run())


def test_a_seal_holds_in_every_item(moto_server: MotoServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        channel = a_channel()
        async with SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            await broker.seal(channel)
            for part in range(PARTS):
                monkeypatch.setattr(rows, "choice", lambda keys, part=part: keys[part])
                assert await rows_of(broker).admit(channel, 1) == "sealed"
            assert await broker.depth([channel]) == [_NONE]
            await broker.delete(channel)

    asyncio.run(run())


def test_a_channel_that_is_half_made_or_half_deleted_is_not_called_empty(moto_server: MotoServer) -> None:
    """Its maker died between two of its items: unknown, until somebody makes or deletes it again."""

    async def run() -> None:
        channel = a_channel()
        async with SQSBroker.from_url(moto_server.url) as broker:
            await broker.create(channel)
            await broker.publish(channel, events(3))
            for key in rows_of(broker).totals(channel)[1:]:
                await broker.table.remove(key)
                assert await broker.depth([channel]) == [Depth()]
            with pytest.raises(ChannelGone):
                async with broker.consume(channel, visibility=5):
                    pass
            await broker.create(channel)
            (depth,) = await broker.depth([channel])
            assert depth.published != depth.settled
            await broker.delete(channel)
            await broker.delete(channel)
            assert await broker.depth([channel]) == [Depth()]

    asyncio.run(run())


def test_a_channel_of_an_earlier_release_goes_on(moto_server: MotoServer) -> None:
    """With the one item that it has: by a process that made it and one that comes to it."""

    async def run() -> None:
        channel = a_channel()
        async with SQSBroker.from_url(moto_server.url) as broker, SQSBroker.from_url(moto_server.url) as other:
            await single(broker, channel)
            await other.publish(channel, events(2))
            await broker.create(channel)  # as by each observer that finds it provisioning
            await broker.publish(channel, events(1))
            assert (await other.depth([channel]))[0].published == 3
            await settle_all(other, channel, 3)
            for each in (broker, other):
                assert await each.depth([channel]) == [Depth(published=3, settled=3, waiting=0, in_flight=0)]
            first, second = rows_of(broker), rows_of(other)
            await first.counted([channel])
            await second.counted([channel])  # they know now that it has one item
            assert await first.may_resend(channel, 10.0, 5.0)
            assert not await second.may_resend(channel, 11.0, 5.0)
            await other.seal(channel)
            for each in (broker, other):
                with pytest.raises(Sealed):
                    await each.publish(channel, events(1))
            await broker.delete(channel)
            assert await broker.depth([channel]) == [Depth()]

    asyncio.run(run())


def test_what_a_call_asks_for(moto_server: MotoServer) -> None:
    """Spreading costs reads of an observer and writes of a wagon's making and end, and none of an event."""

    async def run() -> None:
        channel = a_channel()
        calls: Counter[str] = Counter()

        async def note(operation: str, given: dict[str, Any], ask: Ask) -> Any:
            calls[operation] += 1
            return await ask()

        async def asked(step: Any) -> dict[str, int]:
            calls.clear()
            await step
            return dict(calls)

        async with SQSBroker.from_url(moto_server.url) as broker:
            Between(clients_of(broker), note)
            await broker.create(channel)
            await broker.depth([channel])
            some = events(10)
            assert await asked(broker.publish(channel, some)) == {
                "batch_write_item": 1,
                "update_item": 1,
                "send_message_batch": 1,
            }
            async with broker.consume(channel, visibility=60) as consumer:
                got = await consumer.receive(10, 1.0)
                left = len(got)
                assert await asked(consumer.settle(got)) == {
                    "batch_write_item": 1,
                    "update_item": 1,
                    "delete_message_batch": 1,
                }
                while left < 10:
                    got = await consumer.receive(10, 1.0)
                    left += len(got)
                    await consumer.settle(got)
            await broker.depth([channel])
            assert await asked(broker.depth([channel])) == {"batch_get_item": 1}
            assert await asked(broker.seal(channel)) == {"update_item": PARTS + 1}
            await broker.delete(channel)

    asyncio.run(run())
