"""The lease fence: a broker that can't refuse writes to a sealed channel, in memory and virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from eventwagon import Event, Volume
from eventwagon.contracts.facts import (
    EventsLate,
    EventsRescued,
    OrphanRemoved,
    SealWaits,
    Switched,
    WagonDrained,
    WagonRemoved,
    WagonSealed,
)
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.errors import EventTooLarge
from eventwagon.event import DEAD, Channel
from eventwagon.testing.virtual_time import run
from tests.support import SignUp, World, signups, until


class Pausing(MemoryBroker):
    """A memory broker that does not fence, through which one process's publishes can be held as SIGSTOP would."""

    def __init__(self, world: World) -> None:
        super().__init__(clock=world.clock, fences=False)
        self.go = asyncio.Event()
        self.go.set()

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        await self.go.wait()
        await super().publish(channel, events)


class Shared(MemoryBroker):
    """Another process's view of the same channels, without the pauses."""

    def __init__(self, of: MemoryBroker) -> None:
        super().__init__(fences=False)
        self.queues = of.queues


def unfenced() -> tuple[World, Pausing]:
    world = World()
    world.broker = paused = Pausing(world)
    return world, paused


def test_wagons_fill_switch_drain_and_go_without_a_fence() -> None:
    async def main() -> None:
        world, _ = unfenced()
        handled = list[str]()
        async with world.running(signups(handled)) as train:
            for i in range(350):
                await train.publish(SignUp(str(i)))
                await asyncio.sleep(0.01)
            await until(lambda: len(handled) == 350)
            async with asyncio.timeout(600):
                await train.wait_drained(3)
        assert sorted(map(int, handled)) == list(range(350))
        for sealed, switched in zip(world.of(WagonSealed), [f for f in world.of(Switched) if f.old], strict=False):
            assert sealed.number == switched.old
            assert sealed.seconds < 5  # a publisher that lives says soon that it has seen the switch
        assert not world.of(EventsRescued)

    run(main())


def test_the_seal_waits_for_a_publisher_that_may_still_send() -> None:
    async def main() -> None:
        world, broker = unfenced()
        handled = list[str]()
        settings = signups(handled).settings
        async with (
            world.running(signups(handled), broker=Shared(broker)) as train,
            world.connect(signups([])) as stopped,
        ):
            await stopped.publish(SignUp("before"))
            broker.go.clear()
            async with asyncio.TaskGroup() as tasks:
                late = tasks.create_task(stopped.publish(SignUp("late"), timeout=300))
                await asyncio.sleep(0.1)
                number = await train.request_switch()
                await train.wait_switched(number)
                await asyncio.sleep(settings.lease * 0.9)
                assert [f.number for f in world.of(SealWaits)] == [1]
                assert not world.of(WagonSealed)
                await until(lambda: world.of(WagonSealed), seconds=4 * settings.lease)
                broker.go.set()
                await late
            await until(lambda: sorted(handled) == ["before", "late"])

    run(main())


def test_what_a_paused_process_sends_after_its_lease_is_found_and_handled() -> None:
    async def main() -> None:
        world, broker = unfenced()
        handled = list[str]()
        async with world.running(signups(handled), broker=Shared(broker)) as train:
            await train.publish(SignUp("before"))
            number = await train.request_switch()
            await train.wait_switched(number)
            await until(lambda: world.of(WagonSealed), seconds=60)
            await asyncio.sleep(20)  # drained by now; a process wakes up in the middle of a send
            event = Event("late", "SignUp", "/", world.clock(), b'{"email": "late"}')
            await MemoryBroker.publish(broker, Channel("signups", number), [event])
            async with asyncio.timeout(300):
                await train.wait_drained(number)
            await until(lambda: sorted(handled) == ["before", "late"])
        assert world.of(EventsLate)[0].count == 1
        assert world.of(WagonRemoved)

    run(main())


class Shrunk(Shared):
    """The server takes less by now than it did."""

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if channel.name != DEAD and any(len(event.data) > 100 for event in events):
            raise EventTooLarge(f"{channel} takes 100 bytes at the most")
        await super().publish(channel, events)


def test_a_late_event_that_the_next_wagon_never_takes_is_a_dead_letter() -> None:
    """Else the wagon would never be removed."""

    async def main() -> None:
        world, broker = unfenced()
        handled = list[str]()
        async with world.running(signups(handled), broker=Shrunk(broker)) as train:
            await train.publish(SignUp("before"))
            number = await train.request_switch()
            await train.wait_switched(number)
            await until(lambda: world.of(WagonRemoved), seconds=300)
            texts = ["late", "x" * 200, "later"]
            late = [Event(t[:5], "SignUp", "/", world.clock(), b'{"email": "%s"}' % t.encode()) for t in texts]
            old = Channel("signups", number)  # a publisher that stood still makes it again
            await broker.create(old)
            await MemoryBroker.publish(broker, old, late)
            await until(lambda: world.of(OrphanRemoved), seconds=300)
            await until(lambda: sorted(handled) == ["before", "late", "later"])
            (letter,) = [letter async for letter in train.dead_letters()]
        assert (letter.id, letter.data, letter.extensions["deadattempts"]) == ("xxxxx", late[1].data, "0")
        assert "100 bytes" in letter.extensions["deadbecause"]
        assert [(f.count, f.dead) for f in world.of(EventsRescued)] == [(2, 1)]

    run(main())


def test_late_events_come_in_even_at_the_cap() -> None:
    """Refusing them would keep their wagon, the wagon would keep the cap reached, and the cap would go on refusing
    them."""

    async def main() -> None:
        world, broker = unfenced()
        handled = list[str]()
        train = signups(handled, limit=Volume(2), wagons=2, at_cap="refuse", spares=0, keep_drained=5.0)
        async with world.running(train, broker=Shared(broker)) as connection:
            await connection.publish(SignUp("a"))
            number = await connection.request_switch()
            await connection.wait_switched(number)
            await until(lambda: world.of(WagonDrained), seconds=60)
            late = [Event(f"late{n}", "SignUp", "/", world.clock(), b'{"email": "late%d"}' % n) for n in range(1)]
            await MemoryBroker.publish(broker, Channel("signups", number), late)
            await connection.publish_many([SignUp("b"), SignUp("c")])
            async with asyncio.timeout(120):
                await connection.wait_drained(number)
            await until(lambda: sorted(handled) == ["a", "b", "c", "late0"])

    run(main())
