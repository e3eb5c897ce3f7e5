"""Dead letters that go right before their wagon does, sooner than a loss is confirmed: they are reported all the same,
once. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import msgspec
import pytest

from eventwagon import Connection, Reject, Train, Volume, Workers
from eventwagon.contracts.broker import Depth
from eventwagon.contracts.facts import DeadLettersLost
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.registry import Snapshot
from eventwagon.drivers.memory.broker import MemoryBroker, MemoryQueue
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import Unavailable
from eventwagon.event import DEAD, Channel
from eventwagon.testing.virtual_time import run
from eventwagon.views.train import look
from tests.support import World, journal, until

LETTERS = Channel("train", 1, DEAD)


class Case:
    """A train whose handler rejects events below 10, and waits for the gate with the others."""

    def __init__(self) -> None:
        self.world = World()
        self.gate = asyncio.Event()
        self.handled: list[int] = []

    def train(self) -> Train:
        train = Train("train", limit=Volume(1000), workers=Workers(total=8), spares=1)

        @train.on("train")
        async def handle(n: int) -> None:
            if n < 10:
                raise Reject("no")
            await self.gate.wait()
            self.handled.append(n)

        return train

    async def letters(self, c: Connection, *more: int) -> None:
        """Three events die in wagon 1, and an observer has time to see that."""
        await c.publish_many([1, 2, 3, *more])
        await until(lambda: self.queues[LETTERS].depth(0.0).published == 3)
        await asyncio.sleep(6)

    @property
    def queues(self) -> dict[Channel, MemoryQueue]:
        assert isinstance(self.world.broker, MemoryBroker)
        return self.world.broker.queues

    async def lost(self, c: Connection) -> list[tuple[int, int, int]]:
        """What the journal says: wagon, count, total."""
        facts = [e.fact for e in await journal(c) if isinstance(e.fact, DeadLettersLost)]
        return [(f.number, f.count, f.total) for f in facts]


async def deleted(case: Case) -> None:
    await case.world.broker.delete(LETTERS)


async def thinned(case: Case) -> None:
    """A hand takes two of the three."""
    async with case.world.broker.consume(LETTERS, visibility=5.0) as hand:
        await hand.settle(await hand.receive(2, 1.0))


@pytest.mark.parametrize(("how", "count"), [(deleted, 3), (thinned, 2)])
def test_lost_right_before_the_wagon_goes(how: Callable[[Case], Awaitable[None]], count: int) -> None:
    """Two observers look, and a third process begins later, when all of it is over."""

    async def main() -> None:
        case = Case()
        async with case.world.running(case.train()) as c, case.world.running(case.train()):
            await case.letters(c, 10)
            await c.wait_switched(await c.request_switch())
            await asyncio.sleep(1)
            await how(case)
            case.gate.set()
            await until(lambda: c.manifest.wagon(1) is None, seconds=20)
            assert await case.lost(c) == [(1, count, count)]
            view = await look(c, "memory://")
            assert (view.dead, view.dead_lost) == (3 - count, count)
            async with case.world.running(case.train()):
                await asyncio.sleep(100)
            assert await case.lost(c) == [(1, count, count)]

    run(main())


def test_nothing_is_lost_when_nothing_goes() -> None:
    """The train's own dead letters have them."""

    async def main() -> None:
        case = Case()
        async with case.world.running(case.train()) as c, case.world.running(case.train()):
            await case.letters(c, 10)
            await c.wait_switched(await c.request_switch())
            case.gate.set()
            await until(lambda: c.manifest.wagon(1) is None, seconds=20)
            await asyncio.sleep(100)
            assert await case.lost(c) == []
            view = await look(c, "memory://")
            assert (view.dead, view.dead_lost) == (3, 0)

    run(main())


def test_lost_with_the_registry_and_everything_else() -> None:
    """A server that comes back empty: the new manifest does not know the wagon."""

    async def main() -> None:
        case = Case()
        async with case.world.running(case.train()) as c, case.world.running(case.train()):
            await case.letters(c)
            case.queues.clear()
            case.world.registry.documents.clear()
            await until(lambda: c.manifest.epoch == 1, seconds=20)
            await asyncio.sleep(100)
            assert await case.lost(c) == [(1, 3, 3)]
            view = await look(c, "memory://")
            assert (view.dead, view.dead_lost) == (0, 3)

    run(main())


class Exhausted(MemoryBroker):
    """The wagon's dead letters take no more events, so that others go to the train's own."""

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        depths = zip(channels, await super().depth(channels), strict=True)
        return [msgspec.structs.replace(d, exhausted=c == LETTERS and d != Depth()) for c, d in depths]


class Refusing(MemoryRegistry):
    """While `refuses`, it can't store that wagon 1 is gone."""

    refuses = True

    async def replace(self, train: str, manifest: Manifest, **how: Any) -> Snapshot:
        if self.refuses and manifest.next_number > 1 and manifest.wagon(1) is None:
            raise Unavailable("away")
        return await super().replace(train, manifest, **how)


@pytest.mark.parametrize("broker", [MemoryBroker, Exhausted])
@pytest.mark.parametrize("goes_on", [True, False], ids=["the same process", "another"])
def test_letters_that_a_removal_has_moved_are_not_lost(*, goes_on: bool, broker: type[MemoryBroker]) -> None:
    """The removal's last step fails, and is repeated when their channel is gone."""

    async def main() -> None:
        case = Case()
        case.world.broker = broker(clock=case.world.clock)
        case.world.registry = registry = Refusing(clock=case.world.clock)
        processes = {}
        async with AsyncExitStack() as stack:
            for _ in range(2):
                process = AsyncExitStack()
                c = await process.enter_async_context(case.world.running(case.train()))
                processes[c.name] = c, process
                stack.push_async_exit(process)
            await case.letters(c)
            await c.wait_switched(await c.request_switch())
            await until(lambda: LETTERS not in case.queues)
            await asyncio.sleep(10)
            (wagon,) = c.manifest.in_state(State.REMOVING)
            assert wagon.letters_kept == (None if broker is Exhausted else 3)
            if not goes_on:
                await processes.pop(wagon.remover)[1].aclose()
                ((c, _),) = processes.values()
            registry.refuses = False
            await until(lambda: c.manifest.wagon(1) is None, seconds=60)
            assert await case.lost(c) == []
            view = await look(c, "memory://")
            assert (view.dead, view.dead_lost) == (3, 0)

    run(main())
