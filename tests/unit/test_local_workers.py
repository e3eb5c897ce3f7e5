"""The workers of one process, step by step."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest

from eventwagon import Context, Train, Workers
from eventwagon.contracts.broker import Delivery
from eventwagon.contracts.facts import Fact, Listener, StepFailed
from eventwagon.contracts.orchestrator import WagonSpec
from eventwagon.drivers.memory.broker import MemoryBroker, MemorySubscription
from eventwagon.event import DEAD, Channel, Event, new_ids
from eventwagon.runtime.in_process import InProcess
from eventwagon.runtime.local_workers import LocalWorkers
from eventwagon.settings import Settings
from eventwagon.testing.virtual_time import VirtualClock, run
from tests.support import pools_of, runtime_of, until

CLOCK = VirtualClock()
INGRESS, INNER, DEAD_LETTERS = Channel("t", 1), Channel("t", 1, "mail"), Channel("t", 1, DEAD)


def spec(*channels: Channel) -> WagonSpec:
    return WagonSpec(train="t", number=1, unit=1, channels=channels, dead_letters=DEAD_LETTERS, workers=None)


def served(number: int, cut_off_at: float | None) -> WagonSpec:
    channels, dead = (Channel("t", number),), Channel("t", number, DEAD)
    return WagonSpec(
        train="t", number=number, unit=number, channels=channels, dead_letters=dead, workers=None, cut_off_at=cut_off_at
    )


class Receiving(MemoryBroker):
    """Counts the receives under way, by channel."""

    def __init__(self) -> None:
        super().__init__()
        self.receiving = Counter[Channel]()

    def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> MemorySubscription:
        return _Receiver(self, channel, visibility, owner)


class _Receiver(MemorySubscription):
    def __init__(self, broker: Receiving, channel: Channel, visibility: float, owner: str) -> None:
        super().__init__(broker, channel, visibility, owner)
        self.counts = broker.receiving

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        self.counts[self.channel] += 1
        try:
            return await super().receive(limit, timeout)
        finally:
            self.counts[self.channel] -= 1


async def holding(*channels: Channel) -> Receiving:
    """A broker with these channels, and an event in the ingress."""
    broker = Receiving()
    for channel in (*channels, DEAD_LETTERS):
        await broker.create(channel)
    await broker.publish(INGRESS, [Event(new_ids(1, CLOCK())[0], "t", "s", CLOCK(), b'"a"')])
    return broker


def workers(
    train: Train, broker: MemoryBroker, *, shared: int | None, slo: float | None = None, tell: Listener = lambda _: None
) -> LocalWorkers:
    runtime = runtime_of(train, broker, clock=CLOCK, tell=tell, settings=Settings())
    return LocalWorkers(runtime, shared=shared, slo=slo)


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
        async with asyncio.timeout(10), workers(train, broker, shared=1) as working:
            await working.serve(spec(INGRESS))
            await ended.wait()
            for _ in range(steps):
                await asyncio.sleep(0)
            working.resize(0, 0)
            await asyncio.sleep(1)
            assert [pool.size for pool in pools_of("t")] == [0]

    run(main())


def test_a_worker_that_is_cancelled_before_it_has_begun_is_replaced() -> None:
    """Somebody cancels all tasks of the program in that moment."""
    handled = list[str]()
    train = Train("t")

    @train.on("t")
    async def handle(name: str) -> None:
        handled.append(name)

    async def main() -> None:
        broker = await holding(INGRESS)
        async with asyncio.timeout(60), workers(train, broker, shared=0) as working:
            await working.serve(spec(INGRESS))
            others = asyncio.all_tasks()
            working.resize(2, 0)
            for task in asyncio.all_tasks() - others:
                task.cancel()
            await until(lambda: handled)
            assert [pool.size for pool in pools_of("t")] == [2]

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
        runtime = runtime_of(train, broker, clock=time.time, settings=settings)
        async with LocalWorkers(runtime, shared=8, slo=60.0) as working:
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
    assert 0.04 < share < 0.25, f"the floor of one in eight got {share:.0%}"


def test_late_events_are_passed_over_for_those_behind_them_that_can_be_on_time() -> None:
    """A draining wagon with 30 late events, 5 that are not, and a newer wagon whose events can wait."""
    taken = list[int]()
    train = Train("t")

    @train.on("t")
    async def work(number: int) -> None:
        taken.append(number)
        await asyncio.sleep(0.1)

    async def main() -> None:
        broker, now = MemoryBroker(), CLOCK()
        old, new = Channel("t", 1), Channel("t", 2)
        ages = [*([9.0] * 30), *([1.2] * 5)]
        for channel, waited, first in ((old, ages, 0), (new, [0.1] * 3, 100)):
            await broker.create(channel)
            await broker.create(Channel("t", channel.wagon, DEAD))
            for number, age in enumerate(waited, first):
                await broker.publish(channel, [Event(new_ids(1, now - age)[0], "t", "s", now - age, b"%d" % number)])
        async with asyncio.timeout(60), workers(train, broker, shared=1, slo=2.0) as working:
            await working.serve(served(1, now - 1.0))
            await working.serve(served(2, None))
            while len(taken) < 38:
                await asyncio.sleep(0.1)

    run(main())
    # While the late ones are passed over the worker is not idle: it takes one of the newer wagon's.
    late = [number for number in taken if number < 30]
    assert late == sorted(late)
    in_time = [number for number in taken if number >= 30]
    assert [number for number in in_time if number < 100] == [30, 31, 32, 33, 34]
    assert in_time.index(34) < in_time.index(102)
    assert taken.index(34) <= 7
    assert len(set(taken)) == 38


@pytest.mark.parametrize("leave_after", [0.0, 0.05, 0.35, 1.0])
def test_what_was_passed_over_is_given_back_when_the_wagon_is_left(leave_after: float) -> None:
    train = Train("t")

    @train.on("t")
    async def work(number: int) -> None:
        await asyncio.sleep(0.1)

    async def main() -> None:
        broker, now = MemoryBroker(), CLOCK()
        for channel in (Channel("t", 1), Channel("t", 1, DEAD)):
            await broker.create(channel)
        for number, age in enumerate([*([9.0] * 40), *([0.5] * 9)]):
            event = Event(new_ids(1, now - age)[0], "t", "s", now - age, b"%d" % number)
            await broker.publish(Channel("t", 1), [event])
        async with asyncio.timeout(60), workers(train, broker, shared=2, slo=2.0) as working:
            consumer = await working.serve(served(1, now))
            await asyncio.sleep(leave_after)
            await consumer.end(5.0)
        (depth,) = await broker.depth([Channel("t", 1)])
        assert depth.in_flight == 0
        assert depth.waiting == 49 - (depth.settled or 0)

    run(main())


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
        async with workers(train, broker, shared=1, tell=told.append) as working:
            consumer = await working.serve(spec(INGRESS))
            await asyncio.sleep(5)
            assert [d.published for d in await broker.depth([INGRESS, INNER])] == [1, 0]
            assert [d.settled for d in await broker.depth([INGRESS])] == [0]
            (fact,) = (fact for fact in told if isinstance(fact, StepFailed))
            assert "t_v1.mail is not yet one of the wagon's channels" in fact.because
            await consumer.update(spec(INGRESS, INNER))
            await asyncio.sleep(5)
            assert [d.published for d in await broker.depth([INGRESS, INNER])] == [1, 1]
            assert [d.settled for d in await broker.depth([INGRESS])] == [1]

    run(main())


def test_no_event_waits_at_a_busy_worker_while_that_of_another_process_is_free() -> None:
    """Two processes with a worker each at one wagon; the worker of one is at a long event. The other does all the
    rest."""
    done = list[str]()
    train = Train("t", workers=Workers(each=1))

    @train.on("t")
    async def work(kind: str) -> None:
        await asyncio.sleep(50.0 if kind == "long" else 0.2)
        done.append(kind)

    async def main() -> None:
        broker, own = MemoryBroker(), msgspec.structs.replace(spec(INGRESS), workers=1)
        for channel in (INGRESS, DEAD_LETTERS):
            await broker.create(channel)

        async def publish(kind: str) -> None:
            await broker.publish(INGRESS, [Event(new_ids(1, CLOCK())[0], "t", "s", CLOCK(), b'"%s"' % kind.encode())])

        async with (
            asyncio.timeout(5000),
            workers(train, broker, shared=None) as one,
            workers(train, broker, shared=None) as other,
        ):
            for process in (one, other):
                await process.serve(own)
            await publish("long")
            for number in range(1, 21):
                await publish("short")
                if number % 4 == 0:  # between, nothing waits
                    await asyncio.sleep(2.0)
            assert done == ["short"] * 20
            while len(done) < 21:
                await asyncio.sleep(10.0)

    run(main())


def test_warm_workers_wait_for_nothing_at_a_drained_wagon() -> None:
    """A receive that was under way there, and could only be in vain, held them up for half a second."""
    train = Train("t")

    @train.on("t")
    async def handle(name: str) -> None:
        pass

    async def main() -> None:
        broker = await holding(INGRESS)
        await broker.create(Channel("t", 2))
        first = msgspec.structs.replace(spec(INGRESS), workers=1)
        second = msgspec.structs.replace(served(2, None), unit=1, workers=1)
        loop = asyncio.get_running_loop()
        working = workers(train, broker, shared=None)
        async with asyncio.timeout(60), working, InProcess(working.serve) as local:
            for asked in (first, second):
                began = loop.time()
                await local.ensure(asked)
                while await ready(local) != asked.number:
                    await asyncio.sleep(0.001)
                assert loop.time() - began < 0.1
                await asyncio.sleep(0.6)  # what waited is settled, and another receive is under way
            assert (await broker.depth([INGRESS]))[0].settled == 1

    async def ready(local: InProcess) -> int | None:
        return next((d.number for d in (await local.deployments("t")).values() if d.ready), None)

    run(main())


def test_what_comes_while_a_wagon_is_left_is_given_back_at_once() -> None:
    """A receive of another channel is still under way: nobody waits for it, and whose claim runs on meanwhile is in the
    next process's way."""

    async def main() -> None:
        train = Train("t")
        handled = list[str]()

        @train.on("t")
        async def first(name: str) -> None:
            handled.append(name)

        @train.on("mail")
        async def mail(name: str) -> None:
            handled.append(name)

        broker = await holding(INGRESS, INNER)
        async with workers(train, broker, shared=1) as working:
            consumer = await working.serve(spec(INGRESS, INNER))
            await until(lambda: handled == ["a"])
            await until(lambda: broker.receiving[INGRESS] and broker.receiving[INNER])
            ending = asyncio.create_task(consumer.end(1.0))
            await asyncio.sleep(0)
            await broker.publish(INNER, [Event(new_ids(1, CLOCK())[0], "t", "s", CLOCK(), b'"b"')])
            await asyncio.sleep(0.01)
            (depth,) = await broker.depth([INNER])
            assert (depth.waiting, depth.in_flight) == (1, 0)
            assert broker.receiving[INGRESS]
            await ending
        assert handled == ["a"]

    run(main())


def test_a_wagon_without_its_ingress_is_changed_without_asking_for_it_again() -> None:
    """Asking again could fail, and what else changed with it: a pause would not be heeded."""

    async def main() -> None:
        train = Train("t")

        @train.on("t")
        async def first(name: str) -> None: ...

        @train.on("mail")
        async def mail(name: str) -> None: ...

        broker = await holding(INGRESS, INNER)
        cut = msgspec.structs.replace(spec(INGRESS, INNER), cut_off_at=1.0)
        await broker.delete(INGRESS)
        async with workers(train, broker, shared=1) as working:
            consumer = await working.serve(cut)
            asked = list[Channel]()
            consume = broker.consume

            def watched(channel: Channel, **more: Any) -> Any:
                asked.append(channel)
                return consume(channel, **more)

            broker.consume = watched  # type: ignore[method-assign]
            await consumer.update(msgspec.structs.replace(cut, paused=True))
            assert consumer.paused
            assert asked == []

    run(main())
