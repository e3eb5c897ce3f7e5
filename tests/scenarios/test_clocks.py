"""Observers whose wall clocks are far apart, or are set while they run. In virtual time."""

from __future__ import annotations

import asyncio

from eventwagon import Age, Context, Limit, Throughput, Train, Volume, Workers
from eventwagon.contracts.facts import Switched, WagonOpened
from eventwagon.testing.virtual_time import run
from tests.support import World, until

HOUR = 3600.0


def train(limit: Limit) -> Train:
    made = Train("t", limit=limit, workers=Workers(total=4), spares=0)

    @made.on("t")
    async def handle(n: int, ctx: Context) -> None:
        pass

    return made


def test_observers_an_hour_apart_agree_about_an_age() -> None:
    """While they disagree one opens a wagon each few seconds, and the other discards it."""

    async def main() -> None:
        world, limit = World(), Volume(3) & Age(3)
        ahead, right = lambda: world.clock() + HOUR, world.clock
        async with (
            train(limit).connect(
                broker=world.broker, registry=world.registry, clock=ahead, listeners=[world.facts.append]
            ) as a,
            train(limit).connect(
                broker=world.broker, registry=world.registry, clock=right, listeners=[world.facts.append]
            ) as b,
            a.running(),
            b.running(),
        ):
            await a.publish(1)
            await a.publish(2)
            await asyncio.sleep(120.0)
            assert len(world.of(WagonOpened)) == 2, "the first, and the next one once two thirds were taken"
            for _ in range(4):
                await a.publish(3)
                await asyncio.sleep(4.0)
            await until(lambda: len(a.manifest.wagons) <= 2)
            assert len(world.of(Switched)) <= 3, "each wagon was switched to once, not as fast as they come"

    run(main())


def test_an_observer_that_starts_with_its_clock_ahead_switches_too_soon_once() -> None:
    async def main() -> None:
        world, limit = World(), Age(200)
        async with world.running(train(limit)) as a:
            await a.publish(1)
            await asyncio.sleep(10.0)
            late = train(limit).connect(
                broker=world.broker,
                registry=world.registry,
                clock=lambda: world.clock() + HOUR,
                listeners=[world.facts.append],
            )
            async with late as b, b.running():
                for _ in range(15):
                    await a.publish(2)
                    await asyncio.sleep(10.0)
            assert len(world.of(Switched)) == 2, "the first wagon became active, and the second too soon"

    run(main())


def test_a_clock_that_is_set_ahead_while_its_process_runs_makes_no_wagon_older() -> None:
    async def main() -> None:
        world, ahead = World(), 0.0
        connection = train(Age(200)).connect(
            broker=world.broker,
            registry=world.registry,
            clock=lambda: world.clock() + ahead,
            listeners=[world.facts.append],
        )
        async with connection as c, c.running():
            for n in range(15):
                ahead = HOUR if n > 5 else 0.0
                await c.publish(n)
                await asyncio.sleep(10.0)
            assert len(world.of(Switched)) == 1, "the first wagon became active"
            await until(lambda: len(world.of(Switched)) == 2)

    run(main())


def test_a_clock_that_is_set_again_and_again_hides_no_burst() -> None:
    async def main() -> None:
        world, back = World(), 0.0
        limit = Throughput(10, seconds=2)
        connection = train(limit).connect(
            broker=world.broker,
            registry=world.registry,
            clock=lambda: world.clock() - back,
            listeners=[world.facts.append],
        )
        async with connection as c, c.running():
            for n in range(100):
                back += 5.0 if n % 10 == 9 else 0.0
                await c.publish(n)
                await asyncio.sleep(0.05)
            assert len(world.of(Switched)) > 1

    run(main())
