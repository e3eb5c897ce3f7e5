"""Chains of events inside one wagon: what is emitted late in a chain is not left behind."""

import asyncio
import random

from eventwagon import Context, Train, Volume, Workers
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.testing.virtual_time import VirtualClock, run


def test_the_last_step_keeps_up_whatever_the_handlers_average() -> None:
    """Handlers whose mean time goes up and down around the time for which events are fetched ahead: a channel that was
    told to fetch none is asked again."""
    waits: list[float] = []
    rng = random.Random(1)

    async def burst() -> None:
        clock = VirtualClock()
        train = Train("orders", limit=Volume(10_000), workers=Workers(each=4))

        @train.on("orders")
        async def take(at: float, ctx: Context) -> None:
            await asyncio.sleep(0.24)
            await ctx.emit("mail", at)

        @train.on("mail")
        async def mail(at: float, ctx: Context) -> None:
            await asyncio.sleep(0.16)
            await ctx.emit("crm", at)

        @train.on("crm")
        async def crm(at: float, ctx: Context) -> None:
            await asyncio.sleep(0.08)
            waits.append(clock() - at)

        connection = train.connect(broker=MemoryBroker(clock=clock), registry=MemoryRegistry(clock=clock), clock=clock)
        async with connection, connection.running():
            for number in range(300):  # a rush, then nine a second, where the workers can do 8.3
                await connection.publish(clock())
                await asyncio.sleep(rng.expovariate(20.0 if number < 40 else 9.0))
            while len(waits) < 300:
                await asyncio.sleep(0.1)

    run(burst())
    assert max(waits) < 8.0, "about 6 s, if the oldest chain goes first"
