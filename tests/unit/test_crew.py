"""The workers of one process, step by step."""

from __future__ import annotations

import asyncio
import time

import pytest

from eventwagon import Context, Train, Workers
from eventwagon.brokers.memory import MemoryBroker
from eventwagon.crew import Crew
from eventwagon.event import DEAD, Channel, Event, new_ids
from eventwagon.facts import Fact, StepFailed
from eventwagon.orchestrator import WagonSpec
from eventwagon.settings import Settings
from eventwagon.testing.virtual_time import VirtualClock, run

CLOCK = VirtualClock()
INGRESS, INNER, DEAD_LETTERS = Channel("t", 1), Channel("t", 1, "mail"), Channel("t", 1, DEAD)


def spec(*channels: Channel) -> WagonSpec:
    return WagonSpec(train="t", number=1, unit=1, channels=channels, dead_letters=DEAD_LETTERS, workers=None)


async def holding(*channels: Channel) -> MemoryBroker:
    """A broker with these channels, and an event in the ingress."""
    broker = MemoryBroker()
    for channel in (*channels, DEAD_LETTERS):
        await broker.create(channel)
    await broker.publish(INGRESS, [Event(new_ids(1, CLOCK())[0], "t", "s", CLOCK(), b'"a"')])
    return broker


def crew(train: Train, broker: MemoryBroker, told: list[Fact]) -> Crew:
    return Crew("t", train.handlers, Settings(), broker, slo=None, shared=1, clock=CLOCK, tell=told.append)


@pytest.mark.parametrize("steps", range(8))
def test_a_worker_that_lets_others_run_hears_that_it_should_end(steps: int) -> None:
    """Told so at any step after a handler that took long."""
    ended = asyncio.Event()
    train = Train("t")

    @train.on("t")
    async def long(name: str) -> None:
        await asyncio.sleep(0.1)
        ended.set()

    async def main() -> None:
        broker = await holding(INGRESS)
        async with asyncio.timeout(10), crew(train, broker, []) as working:
            await working.serve(spec(INGRESS))
            await ended.wait()
            for _ in range(steps):
                await asyncio.sleep(0)
            working.resize(0, 0)
            await asyncio.sleep(1)
            assert [t for t in asyncio.all_tasks() if "Lanes._work" in repr(t)] == []

    run(main())


def test_a_floor_gets_its_share_when_many_workers_are_free_in_the_same_moment() -> None:
    """In real time: timers end together, and one choice must not send all that are free then to the floor's wagon."""
    taken = list[int]()
    train = Train("t")

    @train.on("t")
    async def short(name: str, ctx: Context) -> None:
        taken.append(ctx.wagon)
        await asyncio.sleep(0.005)

    async def main() -> None:
        broker, now = MemoryBroker(), time.time()
        old, new = Channel("t", 1), Channel("t", 2)
        for channel, at in ((old, now - 100.0), (new, now)):
            await broker.create(channel)
            await broker.publish(channel, [Event(i, "t", "s", at, b'"a"') for i in new_ids(1000, at)])
        settings = Settings(workers=Workers(total=8, floor=1))
        async with Crew(
            "t", train.handlers, settings, broker, slo=60.0, shared=8, clock=time.time, tell=lambda _: None
        ) as working:
            working.resize(8, 1)
            for channel, cut in ((old, now - 98.0), (new, None)):
                dead = Channel("t", channel.wagon, DEAD)
                await working.serve(
                    WagonSpec(
                        train="t",
                        number=channel.wagon,
                        unit=channel.wagon,
                        channels=(channel,),
                        dead_letters=dead,
                        workers=None,
                        cut_off_at=cut,
                    )
                )
            while len(taken) < 900:
                await asyncio.sleep(0.001)

    asyncio.run(main())
    share = taken[100:900].count(1) / 800
    assert 0.08 < share < 0.25, f"the floor of one in eight got {share:.0%}"


def test_what_is_emitted_to_a_channel_that_the_wagon_has_not_got_yet_waits_for_it() -> None:
    """The channel may exist without being the wagon's: made by an observer that was too late, and swept soon."""
    told = list[Fact]()
    train = Train("t")

    @train.on("t")
    async def register(name: str, ctx: Context) -> None:
        ctx.emit("mail", name)

    @train.on("mail")
    async def mail(name: str) -> None:
        await asyncio.sleep(1000)

    async def main() -> None:
        broker = await holding(INGRESS, INNER)
        async with crew(train, broker, told) as working:
            serving = await working.serve(spec(INGRESS))
            await asyncio.sleep(5)
            assert [d.published for d in await broker.depth([INGRESS, INNER])] == [1, 0]
            assert [d.settled for d in await broker.depth([INGRESS])] == [0]
            (fact,) = (fact for fact in told if isinstance(fact, StepFailed))
            assert "t_v1.mail is not yet one of the wagon's channels" in fact.because
            await serving.update(spec(INGRESS, INNER))
            await asyncio.sleep(5)
            assert [d.published for d in await broker.depth([INGRESS, INNER])] == [1, 1]
            assert [d.settled for d in await broker.depth([INGRESS])] == [1]

    run(main())
