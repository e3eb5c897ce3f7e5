"""The whole train in memory and virtual time: what the pattern promises."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from eventwagon import Context, Train, Volume, Wait, Workers
from eventwagon.contracts.facts import EventRetried, Switched, WagonDrained, WagonOpened, WagonRemoved
from eventwagon.contracts.lifecycle import State
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.errors import (
    DeclarationDiffers,
)
from eventwagon.event import Channel, Event
from eventwagon.testing.virtual_time import run
from tests.support import SignUp, World, journal, signups, until


def test_wagons_fill_switch_drain_and_go() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled)) as train:
            assert await train.publish_many(SignUp(str(i)) for i in range(350)) == 350
            await until(lambda: len(handled) == 350)
            await train.wait_drained(3)
            (active, spare) = train.manifest.wagons
            assert (active.number, active.state, spare.state) == (4, State.ACTIVE, State.READY)
        assert sorted(handled, key=int) == [str(i) for i in range(350)]
        records = [f.wagon for f in world.of(WagonRemoved)]
        assert [(w.number, w.published, w.settled) for w in records] == [(1, 100, 100), (2, 100, 100), (3, 100, 100)]
        assert {c.wagon for c in await world.broker.channels("signups")} == {4, 5}

    run(main())


class Connecting(MemoryBroker):
    """A memory broker that takes note of which wagons are published to, and of who only gets ready to."""

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.calls: list[tuple[int, int]] = []

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if not channel.name:
            self.calls.append((channel.wagon, len(events)))
        await super().publish(channel, events)

    async def warm(self, channel: Channel) -> None:
        self.calls.append((channel.wagon, 0))
        await super().warm(channel)


def test_publishers_get_ready_for_the_next_wagon_before_the_switch() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        world.broker = broker = Connecting(clock=world.clock)
        async with world.running(signups(handled)) as train:
            await until(lambda: len(train.manifest.in_state(State.READY)) == 1)
            assert broker.calls == []  # nothing was published here: nothing is prepared
            for number in range(150):
                await train.publish(SignUp(str(number)))
                await asyncio.sleep(0.01)
            await until(lambda: len(handled) == 150)
        first = {wagon: next(count for other, count in broker.calls if other == wagon) for wagon in (1, 2, 3)}
        assert first == {1: 1, 2: 0, 3: 0}

    run(main())


def test_journal_tells_the_story_after_a_restart() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled)) as train:
            await train.publish_many(SignUp(str(i)) for i in range(150))
            await train.wait_drained(1)
        async with world.connect(Train("signups")) as later:
            facts = [e.fact for e in await journal(later)]
        story = [type(f).__name__ for f in facts if getattr(f, "number", getattr(f, "new", 1)) == 1]
        assert story[:3] == ["Declared", "WagonOpened", "Switched"]
        assert {"WagonSealed", "WagonDrained"} <= set(story)
        (removed,) = [f for f in facts if isinstance(f, WagonRemoved)]
        assert removed.wagon.closed_because == "100 of 100 events taken"
        assert removed.wagon.opened_at <= removed.wagon.closed_at <= removed.wagon.sealed_at <= removed.wagon.drained_at  # type: ignore[operator]

    run(main())


def test_exact_cut_with_several_publishing_processes() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        train = signups(handled, limit=Volume(1000))
        async with world.running(train), world.connect(train) as a, world.connect(train) as b:
            async with asyncio.TaskGroup() as tasks:
                for n, publisher in enumerate([a, b]):
                    for i in range(700):
                        tasks.create_task(publisher.publish(SignUp(f"{n}-{i}")))
            await until(lambda: len(handled) == 1400)
            await a.wait_drained(1)
        assert world.of(WagonDrained)[0].published == 1000

    run(main())


def test_new_events_are_served_while_the_backlog_waits() -> None:
    async def main() -> None:
        world = World()
        waits: dict[int, list[float]] = {}
        train = Train("burst", limit=Wait(2.0), workers=Workers(total=4, floor=0), spares=1)

        @train.on("burst")
        async def handle(n: int, ctx: Context) -> None:
            await asyncio.sleep(0.1)
            waits.setdefault(ctx.wagon, []).append(world.clock() - ctx.event.time)

        async with world.running(train) as connection:
            for i in range(600):  # 80 a second for what 40 a second can serve
                await connection.publish(i)
                await asyncio.sleep(1 / 80)
            await until(lambda: sum(map(len, waits.values())) == 600)
        in_time = sum(w <= 2.0 for wagon in waits.values() for w in wagon)
        assert in_time > 0.9 * (7.5 * 40 + 2 * 40)  # of what 4 workers can do at all; one queue would reach 160

    run(main())


def test_workers_are_divided_between_processes_and_moved_when_one_goes() -> None:
    async def main() -> None:
        world, running = World(), Counter[str]()

        def program(name: str) -> Train:
            train = Train("t", limit=Volume(10_000), workers=Workers(total=5), member_ttl=3.0)

            @train.on("t")
            async def handle(_: int) -> None:
                running[name] += 1
                await asyncio.sleep(1.0)
                running[name] -= 1

            return train

        async with world.running(program("a")) as connection:
            async with world.connect(program("b")) as other, other.running(observe=False):
                await asyncio.sleep(5)
                await connection.publish_many(range(60))
                await asyncio.sleep(4.3)
                assert sorted(running.values()) == [2, 3]
            assert running["b"] == 0  # it left gracefully: nothing in flight was ended
            await asyncio.sleep(3.5)
            assert running["a"] == 5
            await until(lambda: not running["a"])
        assert not world.of(EventRetried)

    run(main())


def test_leaving_gives_back_what_was_not_handled_without_counting_an_attempt() -> None:
    async def main() -> None:
        world, attempts = World(), list[int]()

        def program() -> Train:
            train = Train("t", limit=Volume(1000), workers=Workers(total=4))

            @train.on("t")
            async def handle(_: int, ctx: Context) -> None:
                attempts.append(ctx.attempt)
                await asyncio.sleep(0.5)

            return train

        for _ in range(8):
            async with world.running(program()) as connection:
                if not attempts:
                    await connection.publish_many(range(60))
                await asyncio.sleep(0.7)
        async with world.running(program()):
            await until(lambda: len(attempts) == 60)
        assert set(attempts) == {1}

    run(main())


def test_two_programs_that_declare_one_train_differently() -> None:
    async def main() -> None:
        world = World()
        async with world.running(signups([])):
            different = signups([], limit=Volume(7))
            async with world.connect(different) as other:
                with pytest.raises(DeclarationDiffers, match=r"limit=Volume\(100\) there, Volume\(7\) here.*redeclare"):
                    async with other.running():
                        pass
                await other.publish(SignUp("publishing goes on"))
        async with world.connect(different, redeclare=True) as other, other.running():
            assert other.manifest.declared["limit"] == "Volume(7)"

    run(main())


def test_a_publisher_without_handlers_leaves_the_declaration_to_others() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.connect(Train("signups")) as publisher:
            await publisher.publish({"email": "early"})
            async with world.running(signups(handled)) as connection:
                await until(lambda: handled == ["early"])
                assert connection.manifest.channels == ("welcome",)

    run(main())


def test_switch_drain_and_stop_by_hand() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        train = signups(handled, seconds=0.2)
        async with world.connect(train) as connection, connection.running(), world.connect(Train("signups")) as hand:
            await connection.publish_many(SignUp(str(i)) for i in range(20))
            number = await hand.request_switch("deploy")
            assert number == 1
            assert await hand.wait_switched(number) == 2
            await hand.wait_drained(number)
            assert len(handled) == 20
            await hand.request_stop("maintenance")
            async with asyncio.timeout(5):
                await connection.stopped()
        async with world.connect(train) as connection, connection.running():  # starts again as if nothing were
            await connection.publish(SignUp("after"))
            await until(lambda: len(handled) == 21)

    run(main())


def test_any_number_of_observers_hurt_nobody() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        train = signups(handled)
        async with world.running(train), world.running(train), world.running(train, work=False) as connection:
            await connection.publish_many(SignUp(str(i)) for i in range(950))
            await until(lambda: len(handled) == 950)
            await connection.wait_drained(9)
        numbers = [f.number for f in world.of(WagonOpened)]
        assert len(numbers) == len(set(numbers))
        switches = [(f.old, f.new) for f in world.of(Switched)]
        assert len(switches) == len(set(switches)) == 10

    run(main())


def test_i10_nothing_grows_with_wagons_that_were() -> None:
    async def main() -> None:
        import gc

        world, handled = World(), list[str]()
        counts = []
        async with world.running(signups(handled, limit=Volume(2), cooldown=0.0, wagons=100, keep=50)) as connection:
            for round_ in range(6):
                for i in range(80):
                    await connection.publish(SignUp(f"{round_}-{i}"))
                    await asyncio.sleep(0.02)
                await until(lambda n=80 * (round_ + 1): len(handled) >= n)  # type: ignore[misc]
                active = connection.manifest.active
                assert active is not None
                await connection.wait_drained(active.number - 1)
                world.facts.clear()
                gc.collect()
                counts.append((len(gc.get_objects()), len(asyncio.all_tasks())))
        assert connection.manifest.next_number > 200
        assert counts[-1][1] <= counts[1][1] + 5
        assert counts[-1][0] < counts[1][0] * 1.1

    run(main())


def test_what_a_program_raises_while_it_runs_a_train_comes_out_as_it_is() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with World().running(signups([])):
                raise ZeroDivisionError

    run(main())
