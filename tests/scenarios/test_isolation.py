"""I8: nothing of one wagon gets through any more (its file is damaged, its node away), and the others don't notice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

import pytest

from eventwagon import Context, Train, Volume, Workers
from eventwagon.contracts.broker import Delivery, Depth
from eventwagon.contracts.facts import WagonRemoved
from eventwagon.contracts.lifecycle import State
from eventwagon.drivers.memory.broker import MemoryBroker, MemorySubscription
from eventwagon.errors import Unavailable
from eventwagon.event import Channel, Event
from eventwagon.testing.virtual_time import run
from tests.support import World, until


class Breakable(MemoryBroker):
    """A memory broker some of whose wagons are `away`: every call for their channels fails, after `seconds`."""

    def __init__(self, clock: object, *, seconds: float) -> None:
        super().__init__(clock=clock)  # type: ignore[arg-type]
        self.away = frozenset[int]()
        self.seconds = seconds

    async def reach(self, *channels: Channel) -> None:
        for channel in channels:
            if channel.wagon in self.away:
                await asyncio.sleep(self.seconds)
                raise Unavailable(f"{channel} is away")

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        await self.reach(channel)
        await super().create(channel, capacity=capacity)

    async def unbound(self, channel: Channel) -> None:
        await self.reach(channel)
        await super().unbound(channel)

    async def warm(self, channel: Channel) -> None:
        await self.reach(channel)
        await super().warm(channel)

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        await self.reach(channel)
        await super().publish(channel, events)

    async def seal(self, channel: Channel) -> None:
        await self.reach(channel)
        await super().seal(channel)

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        await self.reach(*channels)
        return await super().depth(channels)

    async def read(self, channel: Channel) -> AsyncIterator[Event]:
        await self.reach(channel)
        async for event in super().read(channel):
            yield event

    async def delete(self, channel: Channel) -> None:
        await self.reach(channel)
        await super().delete(channel)

    def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> MemorySubscription:
        return _Breakable(self, channel, visibility, owner)


class _Breakable(MemorySubscription):
    _broker: Breakable

    async def __aenter__(self) -> MemorySubscription:
        await self._broker.reach(self.channel)
        return await super().__aenter__()

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        await self._broker.reach(self.channel)
        return await super().receive(limit, timeout)

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        await self._broker.reach(self.channel)
        await super().settle(deliveries)

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None:
        await self._broker.reach(self.channel)
        await super().release(deliveries, delay=delay, tried=tried, cleared=cleared)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        await self._broker.reach(self.channel)
        await super().extend(deliveries)


@pytest.mark.parametrize("seconds", [0.001, 5.0], ids=["refuses", "hangs"])
@pytest.mark.parametrize("workers", [Workers(each=2), Workers(total=4, floor=1)], ids=str)
def test_i8_a_wagon_that_is_away_holds_up_no_other(workers: Workers, seconds: float) -> None:
    """Wagon 1 is away from the middle of its draining on: new events wait no longer, later wagons drain and go. When
    it is back it drains too, and nothing is lost. Where its calls hang, so do the observers' looks: then a publisher
    may be held for `hold` at a full wagon, and no longer."""

    async def waits(*, away: bool) -> list[float]:
        world, handled, found = World(), dict[str, float](), dict[str, float]()
        world.broker = broker = Breakable(world.clock, seconds=seconds)
        train = Train("t", limit=Volume(40), workers=workers, spares=1, visibility=10.0, observe_every=0.2)

        @train.on("t")
        async def handle(what: str, ctx: Context) -> None:
            await asyncio.sleep(0.05)
            ctx.emit("done", what)

        @train.on("done")
        async def done(what: str, ctx: Context) -> None:
            handled[what] = world.clock()

        async with world.connect(train) as publisher, world.running(train):
            assert await publisher.publish_many(f"old {n}" for n in range(40)) == 40
            await publisher.wait_switched(await publisher.request_switch())
            await until(lambda: len(handled) >= 5)
            broker.away = frozenset({1} if away else ())
            for n in range(120):
                found[f"new {n}"] = world.clock()
                await publisher.publish(f"new {n}")
                await asyncio.sleep(0.1)
            await until(lambda: handled.keys() >= found.keys(), seconds=600)
            await until(lambda: {2, 3} <= {f.wagon.number for f in world.of(WagonRemoved)}, seconds=600)
            first = publisher.manifest.wagon(1)
            assert (first is not None and first.state is State.DRAINING) == away
            broker.away = frozenset()
            await publisher.wait_drained(1)
            assert len(handled) == 160
        return sorted(handled[name] - at for name, at in found.items())

    async def main() -> None:
        alone, beside = await waits(away=False), await waits(away=True)
        most = int(len(alone) * 0.99)
        assert beside[most] <= 1.5 * alone[most]
        held = Train("t").settings.hold + 0.5 if seconds > 1.0 else 0.0
        assert beside[-1] <= held + 1.5 * alone[-1]

    run(main())
