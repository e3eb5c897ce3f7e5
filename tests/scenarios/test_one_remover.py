"""Any number of observers run, and one of them removes a wagon. In virtual time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest

from eventwagon import Connection, Event, Train, Volume, Workers
from eventwagon.contracts.broker import Depth
from eventwagon.contracts.facts import StepFailed, WagonRemoved
from eventwagon.contracts.lifecycle import State
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.event import DEAD, Channel
from eventwagon.testing.virtual_time import run
from tests.support import World, journal, until

KEPT = Channel("t", 0, DEAD)


class SlowBroker(MemoryBroker):
    """Moving a dead letter out takes half a second."""

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if channel == KEPT:
            await asyncio.sleep(0.5)
        await super().publish(channel, events)


class HangingBroker(MemoryBroker):
    """Dead letters can't be read while it hangs."""

    hangs = False

    async def read(self, channel: Channel) -> AsyncIterator[Event]:
        if self.hangs and channel.name == DEAD:
            await asyncio.Event().wait()
        async for event in super().read(channel):
            yield event


def bad() -> Train:
    train = Train("t", limit=Volume(10), workers=Workers(total=4), attempts=1, breaker=None, grace=1.0, spares=1)

    @train.on("t")
    async def handle(n: int) -> None:
        raise RuntimeError("bad")

    return train


async def letters(connection: Connection) -> Counter[str]:
    return Counter([letter.id async for letter in connection.dead_letters()])


async def removals(connection: Connection) -> list[tuple[int, int | None]]:
    """The wagons that were removed, and how many dead letters they left."""
    facts = [entry.fact for entry in await journal(connection)]
    found = [(fact.wagon.number, fact.dead) for fact in facts if isinstance(fact, WagonRemoved)]
    return sorted(found, key=lambda record: record[0])


def removing(connection: Connection) -> list[str]:
    return [w.remover for w in connection.manifest.in_state(State.REMOVING)]


@pytest.mark.parametrize("observers", [2, 3])
def test_several_observers_store_each_letter_once_and_record_each_removal_once(observers: int) -> None:
    async def main() -> None:
        world = World()
        world.broker = SlowBroker(clock=world.clock)
        async with AsyncExitStack() as stack:
            c, *_ = [await stack.enter_async_context(world.running(bad())) for _ in range(observers)]
            for n in range(40):
                await c.publish(n)
                await asyncio.sleep(0.1)
            last = await c.request_switch()
            await c.wait_drained(last)
            await until(lambda: all(w.number > last for w in c.manifest.wagons))
            found, gone = await letters(c), await removals(c)
        assert (len(found), set(found.values())) == (40, {1})
        assert [number for number, _ in gone] == list(range(1, last + 1))
        assert sum(dead or 0 for _, dead in gone) == 40

    run(main())


@pytest.mark.parametrize("ends", [True, False], ids=["gone", "standing still"])
def test_another_observer_finishes_what_one_began_that_is_gone_or_stands_still(ends: bool) -> None:
    async def main() -> None:
        world, first = World(), AsyncExitStack()
        world.broker = broker = HangingBroker(clock=world.clock)
        broker.hangs = True
        async with first, AsyncExitStack() as stack:
            a = await first.enter_async_context(world.running(bad()))
            await a.publish_many(list(range(3)))
            await a.request_switch()
            await until(lambda: removing(a))
            (by,) = removing(a)
            b = await stack.enter_async_context(world.running(bad()))
            if ends:
                await first.aclose()
            broker.hangs = False  # the call that hangs goes on hanging
            await asyncio.sleep(30)
            assert removing(b) == ([] if ends else [by])
            await until(lambda: not removing(b), seconds=400)
            found, gone = await letters(b), await removals(b)
            assert (len(found), set(found.values())) == (3, {1})
            assert gone == [(1, 3)]

    run(main())


class Unanswered(MemoryBroker):
    """The first look at a wagon's dead letters has no answer."""

    asked = 0

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        if [c.name for c in channels] == [DEAD]:
            self.asked += 1
            if self.asked == 1:
                await asyncio.Event().wait()
        return await super().depth(channels)


def test_a_look_that_is_never_answered_is_told_and_repeated() -> None:
    """The only observer would wait for ever, and others for as long as an archive may take."""

    async def main() -> None:
        world = World()
        world.broker = broker = Unanswered(clock=world.clock)
        async with world.running(bad()) as c:
            await c.publish_many(list(range(3)))
            await c.request_switch()
            await until(lambda: broker.asked)
            await until(lambda: c.manifest.wagon(1) is None, seconds=60)
            assert await removals(c) == [(1, 3)]
        assert any("no answer within" in fact.because for fact in world.of(StepFailed))

    run(main())
