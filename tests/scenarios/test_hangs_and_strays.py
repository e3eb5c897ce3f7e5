"""Calls that never return, cancellations that nobody meant, settling that fails for good. In virtual time where threads
allow it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from eventwagon import Connection, Context, Event, Reject, Train, Volume, Workers
from eventwagon.contracts.broker import Delivery, Depth
from eventwagon.contracts.facts import EventDied, StepFailed
from eventwagon.drivers.memory.broker import MemoryBroker, MemorySubscription
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import EndedEarly, Unavailable
from eventwagon.event import DEAD, Channel
from eventwagon.testing.virtual_time import run
from tests.support import World, journal, until


class Troubled(MemoryBroker):
    """A driver of which some calls hang, or raise what they should not."""

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__(clock=clock)
        self.hanging: int | None = None
        """Receives of this wagon are never answered."""
        self.unsettled: Callable[[Delivery], bool] = lambda _: False
        """What can't be settled."""
        self.broken: tuple[str, BaseException] | None = None
        """What the next publish to a channel of that name raises."""
        self.stored_as: set[str] = set()
        """What the context of the caller said at publishes to inner channels."""
        self.inner_delay = 0.0
        """Seconds that a publish to an inner channel takes."""

    def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> TroubledSubscription:
        return TroubledSubscription(self, channel, visibility, owner)

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if self.broken is not None and channel.name == self.broken[0]:
            error, self.broken = self.broken[1], None
            raise error
        if channel.name:
            self.stored_as.add(tenant.get())
            await asyncio.sleep(self.inner_delay)
        await super().publish(channel, events)


class TroubledSubscription(MemorySubscription):
    _broker: Troubled

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        if self.channel.wagon == self._broker.hanging:
            await asyncio.Event().wait()
        return await super().receive(limit, timeout)

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        if any(map(self._broker.unsettled, deliveries)):
            raise TypeError("can't be settled")
        await super().settle(deliveries)


tenant = contextvars.ContextVar("tenant", default="nobody")


def troubled() -> tuple[World, Troubled]:
    world = World()
    world.broker = broker = Troubled(world.clock)
    return world, broker


# --- cancellations that nobody meant --------------------------------------------------------------


@pytest.mark.parametrize("attempts", [None, 2])
def test_whoever_cancels_workers_costs_their_events_nothing(attempts: int | None) -> None:
    """As asyncio.run does with all tasks, when `main` returns while a train runs in a task of its own."""
    world = World(clock=time.time)
    train = Train("t", limit=Volume(1000), workers=Workers(total=3), attempts=attempts, grace=0.5)
    began: list[int] = []

    @train.on("t")
    async def handle(n: int) -> None:
        began.append(n)
        await asyncio.sleep(30)

    async def serve() -> None:
        async with world.running(train):
            await asyncio.Event().wait()

    async def main() -> None:
        serving = asyncio.create_task(serve())
        async with world.connect(train) as connection:
            for n in range(6):
                await connection.publish(n)
            await until(lambda: len(began) == 3 and not serving.done())

    asyncio.run(main())
    assert not world.of(EventDied)

    async def left() -> Sequence[Delivery]:
        async with world.broker.consume(Channel("t", 1), visibility=30.0) as consumer:
            return await consumer.receive(10, 0.0)

    given_back = asyncio.run(left())
    assert [(d.attempt, d.suspect) for d in given_back] == [(1, False)] * 6


def test_a_cancellation_that_one_event_leaves_behind_costs_the_next_nothing() -> None:
    async def main() -> None:
        world, done = World(), list[tuple[int, int]]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=1), attempts=2)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            me = asyncio.current_task()
            assert me is not None
            if n == 0:
                asyncio.get_running_loop().call_later(0.5, me.cancel)
            else:
                await asyncio.sleep(1)
            done.append((n, ctx.attempt))

        async with world.running(train) as connection:
            for n in range(3):
                await connection.publish(n)
            await until(lambda: len(done) == 3)
        assert sorted(done) == [(0, 1), (1, 1), (2, 1)]

    run(main())


async def caught(connection: Connection) -> int:
    """How many exceptions its process has caught, by its next check-in."""
    await asyncio.sleep(10)
    (me,) = await connection.members()
    return me.caught


@pytest.mark.parametrize("attempts", [None, 2])
def test_a_handler_that_cancels_those_of_others_costs_them_nothing_and_is_told(
    attempts: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        world, tasks, done = World(), set[asyncio.Task[Any]](), list[tuple[int, int]]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=4), attempts=attempts, backoff=0.1)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            me = asyncio.current_task()
            assert me is not None
            if n == 0:
                await asyncio.sleep(0.01)
                for task in tasks:
                    task.cancel()
                raise ValueError("now it is tried again")
            tasks.add(me)
            try:
                await asyncio.sleep(1)
                done.append((n, ctx.attempt))
            finally:
                tasks.discard(me)

        async with world.running(train) as connection:
            for n in range(4):
                await connection.publish(n)
            await until(lambda: len(done) == 3 and bool(world.of(EventDied)), seconds=60)
            assert await caught(connection) >= 3
        (death,) = world.of(EventDied)
        assert "now it is tried again" in death.because
        assert sorted(done) == [(1, 1), (2, 1), (3, 1)]

    with caplog.at_level(logging.WARNING, logger="eventwagon"):
        run(main())
    (line,) = [r for r in caplog.records if "another task cancelled handler" in r.getMessage()]
    assert line.levelno == logging.WARNING
    assert "no attempt is counted" in line.getMessage()


def test_an_event_whose_handler_is_cancelled_each_time_dies_in_the_end() -> None:
    async def main() -> None:
        world, tasks = World(), set[asyncio.Task[Any]]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=2), attempts=2, backoff=0.1)

        @train.on("t")
        async def handle(n: int) -> None:
            me = asyncio.current_task()
            assert me is not None
            tasks.add(me)
            try:
                await asyncio.sleep(1000)
            finally:
                tasks.discard(me)

        async def janitor() -> None:
            while True:
                await asyncio.sleep(0.1)
                for task in tasks:
                    task.cancel()

        async with world.running(train) as connection, asyncio.TaskGroup() as group:
            cleaning = group.create_task(janitor())
            await connection.publish(1)
            await until(lambda: bool(world.of(EventDied)), seconds=600)
            cleaning.cancel()
            assert await caught(connection) == 12
        (death,) = world.of(EventDied)
        assert death.attempts == 2
        assert death.because == "another task cancelled its handler (12 times)"

    run(main())


@pytest.mark.parametrize("times", [1, 2])
def test_a_handler_that_cancels_everything_ends_its_process_without_a_defect(
    times: int, caplog: pytest.LogCaptureFixture
) -> None:
    """As a careless clean-up does. It is told, and the next process goes on with the events."""

    async def main() -> None:
        world, done, cancelled = World(), set[int](), list[int]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=4), attempts=3)
        me = asyncio.current_task()
        assert me is not None

        @train.on("t")
        async def handle(n: int) -> None:
            await asyncio.sleep(0.1)
            while n == 0 and len(cancelled) < times:
                cancelled.append(n)
                for task in asyncio.all_tasks():
                    if task is not asyncio.current_task():
                        task.cancel()
                await asyncio.sleep(0.3)
            done.add(n)

        try:
            async with world.running(train) as connection:
                for n in range(4):
                    await connection.publish(n)
                await asyncio.sleep(1000)
        except (asyncio.CancelledError, EndedEarly):
            while me.cancelling():
                me.uncancel()
        assert cancelled
        async with world.running(train):
            await until(lambda: done == {0, 1, 2, 3}, seconds=60)
        assert not world.of(EventDied)

    with caplog.at_level(logging.WARNING, logger="eventwagon"):
        run(main())
    assert "somebody has cancelled its tasks" in caplog.text
    assert not [r for r in caplog.records if r.levelno >= logging.ERROR]


def test_an_event_whose_handler_cancels_everything_and_itself_each_time_dies_in_the_end() -> None:
    async def main() -> None:
        world, calls = World(), list[int]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=4))
        me = asyncio.current_task()
        assert me is not None

        @train.on("t")
        async def handle(n: int) -> None:
            calls.append(n)
            await asyncio.sleep(0.1)
            for task in asyncio.all_tasks():
                task.cancel()
            await asyncio.sleep(1)

        async with world.connect(train) as connection:
            await connection.publish(1)
        while not world.of(EventDied):
            assert len(calls) < 20
            try:
                async with world.running(train):
                    await asyncio.sleep(1000)
            except (asyncio.CancelledError, EndedEarly):
                while me.cancelling():
                    me.uncancel()
        (death,) = world.of(EventDied)
        assert death.attempts == len(calls) == 8

    run(main())


# --- calls that never return ----------------------------------------------------------------------


def test_a_wagon_whose_receive_hangs_takes_no_worker_from_the_others() -> None:
    async def main() -> None:
        world, broker = troubled()
        done = set[int]()

        def program() -> Train:
            train = Train("t", limit=Volume(3), workers=Workers(total=2), spares=1, grace=1.0)

            @train.on("t")
            async def handle(n: int) -> None:
                done.add(n)
                await asyncio.sleep(1.0 if n < 3 else 0.01)

            return train

        async with world.running(program()) as connection, world.running(program()):
            await asyncio.sleep(1)
            for n in range(3):
                await connection.publish(n)
            await asyncio.sleep(0.6)
            broker.hanging = 1
            for n in range(3, 9):
                await connection.publish(n)
            await until(lambda: done >= set(range(3, 9)), seconds=20)

    run(main())


def test_grace_begins_at_once_though_a_receive_hangs() -> None:
    async def main() -> None:
        world, broker = troubled()
        cut: list[float] = []
        train, loop = Train("t", workers=Workers(total=2), grace=1.0), asyncio.get_running_loop()

        @train.on("t")
        async def handle(n: int) -> None:
            try:
                await asyncio.sleep(1000)
            finally:
                cut.append(loop.time())

        async with world.running(train) as connection:
            await connection.publish(1)
            await asyncio.sleep(1)
            broker.hanging = 1
            await asyncio.sleep(2)
            began = loop.time()
        assert cut[0] - began == pytest.approx(1.0)
        assert loop.time() - began < 15

    run(main())


def test_what_was_handled_and_is_not_yet_stored_is_given_back_on_leaving() -> None:
    """Emits wait for a slow broker, batch by batch. What is stored is settled batch by batch, and nothing stays
    claimed."""

    async def main() -> None:
        world, broker = troubled()
        broker.inner_delay = 0.4
        settings: dict[str, Any] = {"grace": 1.0, "publish_batch": 3, "visibility": 600.0}
        train = Train("t", limit=Volume(1000), workers=Workers(total=2), **settings)
        handled: list[int] = []

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            handled.append(n)
            await ctx.emit("mail", n)

        @train.on("mail")
        async def mail(n: int) -> None:
            pass

        async with world.running(train) as connection:
            await connection.publish_many(range(60))
            await until(lambda: len(handled) == 60)
        (depth,) = await broker.depth([Channel("t", 1)])
        assert depth.in_flight == 0
        assert 6 <= (depth.settled or 0) < 60
        broker.inner_delay = 0.0
        async with world.running(train) as connection:
            await until(lambda: len(handled) == 120 - (depth.settled or 0))

    run(main())


# --- failures that last ---------------------------------------------------------------------------


def test_a_defect_of_the_driver_costs_a_dead_letter_nothing_while_its_wagon_is_removed() -> None:
    async def main() -> None:
        world, broker = troubled()
        train = Train("t", limit=Volume(1000), workers=Workers(total=2), spares=1)

        @train.on("t")
        async def handle(n: int) -> None:
            raise Reject("no")

        async with world.running(train) as connection:
            await connection.publish(7)
            await until(lambda: bool(world.of(EventDied)))
            await asyncio.sleep(1)
            broker.broken = (DEAD, TypeError("a defect"))
            await connection.request_switch("by hand")
            await until(lambda: broker.broken is None, seconds=60)
            await until(lambda: connection.manifest.wagon(1) is None, seconds=60)
            (letter,) = [letter async for letter in connection.dead_letters()]
        assert letter.data == b"7"

    run(main())


def test_what_can_not_be_settled_is_handled_once_and_settled_when_it_can_be() -> None:
    async def main() -> None:
        world, broker = troubled()
        handled: list[int] = []
        train = Train("t", limit=Volume(1000), workers=Workers(total=2), visibility=2.0)

        @train.on("t")
        async def handle(n: int) -> None:
            handled.append(n)

        async with world.running(train) as connection:
            broker.unsettled = lambda delivery: delivery.event.data == b"1"
            for n in range(3):
                await connection.publish(n)
            await asyncio.sleep(600)
            assert sorted(handled) == [0, 1, 2]
            assert not world.of(EventDied)
            (depth,) = await broker.depth([Channel("t", 1)])
            assert (depth.settled, depth.in_flight) == (2, 1)
            broker.unsettled = lambda _: False
            await asyncio.sleep(61)
            (depth,) = await broker.depth([Channel("t", 1)])
            assert (depth.settled, depth.in_flight) == (3, 0)
        assert sorted(handled) == [0, 1, 2]

    run(main())


def test_no_thread_left_is_no_fault_of_the_event(monkeypatch: pytest.MonkeyPatch) -> None:
    world, done, is_short = World(clock=time.time), list[int](), True
    train = Train("t", workers=Workers(total=2), attempts=1, breaker=None)
    start = threading.Thread.start

    @train.on("t")
    def handle(n: int, ctx: Context) -> None:
        assert ctx.attempt == 1
        done.append(n)

    def starts(self: threading.Thread) -> None:
        if is_short and self.name == "eventwagon-handler":
            raise RuntimeError("can't start new thread")
        start(self)

    async def main() -> None:
        nonlocal is_short
        async with world.running(train) as connection:
            for n in range(3):
                await connection.publish(n)
            while sum(member.caught for member in await connection.members()) < 3:
                await asyncio.sleep(0.01)
            is_short = False
            await until(lambda: sorted(done) == [0, 1, 2])

    monkeypatch.setattr(threading.Thread, "start", starts)
    asyncio.run(main())


@pytest.mark.parametrize("emits", [("a",), ("a", "b")], ids=["one", "two"])
def test_a_driver_that_exits_ends_no_process(emits: Sequence[str]) -> None:
    async def main() -> None:
        world, broker = troubled()
        done: list[int] = []
        train = Train("t", limit=Volume(1000), workers=Workers(total=3))

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            for name in emits:
                ctx.emit(name, n)

        @train.on("a")
        async def a(n: int) -> None:
            done.append(n)

        @train.on("b")
        async def b(n: int) -> None:
            done.append(n)

        async with world.running(train) as connection:
            broker.broken = "a", SystemExit(3)
            await connection.publish(1)
            await connection.publish(2)
            await until(lambda: sorted(set(done)) == [1, 2] and len(done) >= 2 * len(emits))

    run(main())


def test_each_failed_look_tells_nothing_again() -> None:
    class Flickering(MemoryRegistry):
        asked = 0

        async def members(self, train: str) -> Sequence[object]:  # type: ignore[override]
            self.asked += 1
            if self.asked % 7 == 0:
                raise TypeError("a blip")
            return await super().members(train)

    class Away(MemoryBroker):
        is_away = False

        async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
            if self.is_away and any(channel.wagon == 1 for channel in channels):
                raise Unavailable("wagon 1 is away")
            return await super().depth(channels)

    async def main() -> None:
        world = World()
        world.registry = Flickering(clock=world.clock)
        broker = world.broker = Away(clock=world.clock)
        train = Train("t", limit=Volume(1000), workers=Workers(total=2))

        @train.on("t")
        async def handle(n: int) -> None: ...

        async with world.running(train) as connection:
            await connection.publish(1)
            broker.is_away = True
            await asyncio.sleep(50)
            told = [e.fact for e in await journal(connection) if isinstance(e.fact, StepFailed)]
        assert len([f for f in told if "_v1" in f.step]) == 1, told

    run(main())


def test_the_driver_is_called_in_no_events_context() -> None:
    async def main() -> None:
        world, broker = troubled()
        done: list[int] = []
        train = Train("t", limit=Volume(1000), workers=Workers(total=4))

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            tenant.set(f"tenant {n}")
            await asyncio.sleep(0.001)
            ctx.emit("a", n)

        @train.on("a")
        async def a(n: int) -> None:
            done.append(n)

        async with world.running(train) as connection:
            await connection.publish_many(range(12))
            await until(lambda: len(done) == 12)
        assert broker.stored_as == {"nobody"}

    run(main())


# --- removing -------------------------------------------------------------------------------------


def test_a_publish_of_an_observer_that_is_never_answered_holds_up_its_removal_for_a_while_only() -> None:
    class Mute(MemoryBroker):
        mute = 3

        async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
            if str(channel) == "t.dead" and self.mute:
                self.mute -= 1
                await asyncio.Event().wait()
            await super().publish(channel, events)

    async def main() -> None:
        world = World()
        world.broker = broker = Mute(clock=world.clock)
        train = Train("t", limit=Volume(1000), publish_timeout=5.0)

        @train.on("t")
        async def handle(n: int) -> None:
            raise Reject("bad luck")

        async with world.running(train) as connection:
            event_id = await connection.publish(13)
            await until(lambda: world.of(EventDied))
            old = await connection.request_switch()
            async with asyncio.timeout(120):
                await connection.wait_drained(old)
            assert broker.mute == 0
            assert "t.dead: the broker has not answered in time" in str(world.of(StepFailed))
            assert [letter.id async for letter in connection.dead_letters()] == [event_id]

    run(main())
