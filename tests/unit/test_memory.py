"""What the memory drivers promise beyond the contracts: nothing stays of what is gone, and several may enter them."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc

from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.event import Channel, Event, new_ids
from eventwagon.testing.virtual_time import run


def events(count: int) -> list[Event]:
    return [Event(new, "t", "s", 0.0, b"x" * 100) for new in new_ids(count, 0.0)]


def test_nothing_stays_of_wagons_that_are_gone() -> None:
    async def one(broker: MemoryBroker, number: int) -> None:
        channel = Channel("t", number)
        await broker.create(channel, capacity=100)
        await broker.publish(channel, events(100))
        async with broker.consume(channel, visibility=30.0) as consumer:
            await consumer.release((await consumer.receive(10, 1.0))[:5], delay=3600.0)
            await consumer.settle(await consumer.receive(50, 1.0))
        await broker.delete(channel)

    async def main() -> int:
        broker = MemoryBroker()
        for number in range(20):
            await one(broker, number)
        gc.collect()
        tracemalloc.start()
        for number in range(20, 220):
            await one(broker, number)
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return grown

    # bytes; one wagon holds some 30,000. What other tests have left in this process may grow once
    assert min(run(main()) for _ in range(2)) < 50_000


def test_nothing_stays_of_events_that_are_settled() -> None:
    async def turns(broker: MemoryBroker, channel: Channel, count: int) -> None:
        async with broker.consume(channel, visibility=30.0) as consumer:
            for turn in range(count):
                await broker.publish(channel, events(50))
                got = await consumer.receive(50, 1.0)
                await consumer.release(got[:5], delay=0.1 * (turn % 3))
                await consumer.settle(got[5:])
            await asyncio.sleep(1.0)
            while got := await consumer.receive(500, 0.0):
                await consumer.settle(got)

    async def main() -> int:
        broker, channel = MemoryBroker(), Channel("t", 1)
        await broker.create(channel)
        await turns(broker, channel, 20)
        gc.collect()
        tracemalloc.start()
        await turns(broker, channel, 200)
        gc.collect()
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return grown

    # bytes; the 1,000 events that were given back would take some 500,000
    assert min(run(main()) for _ in range(2)) < 50_000


def test_several_enter_one_broker_and_leave_it_as_it_is() -> None:
    async def main() -> None:
        channel = Channel("t", 1)
        async with MemoryBroker() as broker:
            async with broker as again:
                await again.create(channel)
                await again.publish(channel, events(1))
            async with broker.consume(channel, visibility=30.0) as consumer:
                assert len(await consumer.receive(10, 0.0)) == 1

    run(main())


def test_two_that_wait_are_both_woken() -> None:
    async def main() -> None:
        broker, channel = MemoryBroker(), Channel("t", 1)
        await broker.create(channel)
        async with broker.consume(channel, visibility=30.0) as a, broker.consume(channel, visibility=30.0) as b:
            async with asyncio.TaskGroup() as group:
                waiting = [group.create_task(c.receive(1, 100.0)) for c in (a, b)]
                await asyncio.sleep(1.0)
                await broker.publish(channel, events(2))
            assert [len(task.result()) for task in waiting] == [1, 1]
            assert asyncio.get_running_loop().time() == 1.0

    run(main())
