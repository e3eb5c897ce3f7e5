"""An observer that stood still, as one stopped by its system does, and goes on when the others have long gone on. In
virtual time."""

from __future__ import annotations

import asyncio

from eventwagon import Volume
from eventwagon.contracts.facts import OrphanRemoved
from eventwagon.contracts.lifecycle import State
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.event import Channel
from eventwagon.testing.virtual_time import run
from tests.support import SignUp, World, signups, until


class Stopped(MemoryBroker):
    """Of one process: what it does to the channels of wagon 2 is done when the test says so."""

    def __init__(self, shared: MemoryBroker) -> None:
        self.__dict__ = shared.__dict__
        self.going_on = asyncio.Event()
        self.stands = asyncio.Event()

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        if channel.wagon == 2:
            self.stands.set()
            await self.going_on.wait()
        await super().create(channel, capacity=capacity)


def test_what_it_makes_anew_of_a_wagon_that_is_gone_goes_at_once() -> None:
    async def main() -> None:
        world = World()
        assert isinstance(world.broker, MemoryBroker)
        stopped, handled = Stopped(world.broker), list[str]()
        train = signups(handled, limit=Volume(50), spares=0)
        async with world.running(train, broker=stopped, observe=True, work=False) as late:
            await late.publish_many([SignUp(str(n)) for n in range(45)])
            await stopped.stands.wait()
            async with world.running(train) as c:
                await c.publish_many([SignUp(str(n)) for n in range(45, 110)])
                await until(lambda: c.manifest.next_number > 3 and c.manifest.wagon(2) is None)
                stopped.going_on.set()
                began = world.clock()
                await until(lambda: world.of(OrphanRemoved))
                assert world.clock() - began < 1.0  # the sweep comes each 30 s
                assert all(channel.wagon != 2 for channel in await c.broker.channels("signups"))
                assert c.manifest.active is not None
                assert c.manifest.active.state is State.ACTIVE

    run(main())
