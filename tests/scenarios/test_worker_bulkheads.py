"""What a handler, a driver or a server does ends with that event, that call. In virtual time where threads allow it."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import os
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any

import pydantic
import pytest

from eventwagon import Context, Event, Reject, Retry, Snooze, Train, Volume, Workers
from eventwagon.connection import Connection
from eventwagon.contracts.broker import Delivery
from eventwagon.contracts.facts import HandlerOverran
from eventwagon.drivers.memory.broker import MemoryBroker, MemorySubscription
from eventwagon.errors import EventRefused, EventTooLarge
from eventwagon.event import DEAD, Channel
from eventwagon.testing.virtual_time import run
from tests.support import World, journal, left_behind, pools_of, until


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class UnprintableInEveryWay(BaseException):
    def __str__(self) -> str:
        raise SystemExit(3)

    __repr__ = __str__


class OfNoClass(Exception):
    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("no connection")


class Lazy:
    """As an object is that looks up what it stands for when it is asked for its class."""

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        raise RuntimeError("no connection")


class Endless(ExceptionGroup[Exception]):
    @property
    def exceptions(self) -> tuple[Exception, ...]:
        return (self,)


class OddRetry(Retry):
    def __getattribute__(self, name: str) -> Any:
        if name == "after":
            raise KeyError("after")
        return super().__getattribute__(name)


def raising(error: BaseException) -> Callable[[Context], Awaitable[None]]:
    async def bad(ctx: Context) -> None:
        raise error

    return bad


def raising_later(error: BaseException) -> Callable[[Context], Awaitable[None]]:
    async def bad(ctx: Context) -> None:
        await asyncio.sleep(0.01)
        raise error

    return bad


async def awaits_what_was_cancelled(ctx: Context) -> None:
    task = asyncio.create_task(asyncio.sleep(9))
    asyncio.get_running_loop().call_later(0.01, task.cancel)
    await task


async def cancels_itself(ctx: Context) -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(1)


async def cancels_itself_and_fails(ctx: Context) -> None:
    """The cancellation would come at the worker's next await."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    raise ValueError("after cancelling")


async def awaits_nonsense(ctx: Context) -> None:
    class Nonsense:
        def __await__(self) -> Any:
            yield 42

    await Nonsense()


async def raises_of_no_class(ctx: Context) -> None:
    raise OfNoClass


async def raises_an_endless_group(ctx: Context) -> None:
    raise Endless("endless", [ValueError("x")])


async def raises_an_odd_retry(ctx: Context) -> None:
    raise OddRetry


async def recursion(ctx: Context) -> None:
    await recursion(ctx)


ERRORS: list[BaseException] = [
    SystemExit(1),
    GeneratorExit(),
    asyncio.CancelledError("nobody's"),
    BaseExceptionGroup("many", [SystemExit(2), ValueError("x")]),
    ExceptionGroup("some", [ValueError("x")]),
    Unprintable(),
    UnprintableInEveryWay(),
    StopAsyncIteration(),
    TimeoutError(),
    ValueError("\ud800 half a character"),
    ValueError("\x1b[31mred\x07\r\nforged: line"),
    ValueError("long " * 100_000),
    MemoryError(),
]
BAD = [
    *(pytest.param(raising(e), id=f"raises {type(e).__name__}") for e in ERRORS),
    *(pytest.param(raising_later(e), id=f"raises {type(e).__name__} later") for e in ERRORS),
    *(
        pytest.param(f, id=f.__name__)
        for f in (
            awaits_what_was_cancelled,
            cancels_itself,
            cancels_itself_and_fails,
            awaits_nonsense,
            recursion,
            raises_of_no_class,
            raises_an_endless_group,
            raises_an_odd_retry,
        )
    ),
]


@pytest.mark.parametrize("bad", BAD)
def test_whatever_a_handler_raises_is_a_failed_attempt(bad: Callable[[Context], Awaitable[None]]) -> None:
    """Two events make the handler do it; nine others are handled all the same, the two are dead, the pool has its
    size."""

    async def main() -> None:
        world, done = World(), list[int]()
        train = Train("t", limit=Volume(100), workers=Workers(total=2), attempts=2, backoff=0.05)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            if n == 0:
                await bad(ctx)
            done.append(n)

        async with world.running(train) as connection:
            for n in (0, 0, *range(1, 10)):
                await connection.publish(n)
            await until(lambda: len(done) == 9)
            await until_dead(connection, 2)
            (pool,) = [each for each in pools_of(train.name) if each.is_shared]
            assert pool.size == pool.target == 2
            async for letter in connection.dead_letters():
                assert letter.extensions["deadbecause"].isprintable()
        assert done == list(range(1, 10))

    run(main())


def test_what_a_handler_returns_is_not_asked_what_it_is() -> None:
    async def main() -> None:
        world, done = World(), list[int]()
        train = Train("t", limit=Volume(100), workers=Workers(total=2), attempts=2)

        @train.on("t")
        async def handle(n: int) -> object:
            await asyncio.sleep(0.01)
            done.append(n)
            return Lazy()

        async with world.running(train) as connection:
            await connection.publish(1)
            await until(lambda: done == [1])
            await asyncio.sleep(200)
        assert done == [1]

    run(main())


async def until_dead(connection: Connection, count: int) -> list[Event]:
    while len(letters := [letter async for letter in connection.dead_letters()]) < count:
        await asyncio.sleep(0.05)
    return letters


@pytest.mark.parametrize(
    "error", [e for e in ERRORS if not isinstance(e, StopAsyncIteration)], ids=lambda e: type(e).__name__
)
def test_whatever_a_handler_in_a_thread_raises_is_a_failed_attempt(error: BaseException) -> None:
    async def main() -> None:  # in real time: threads don't fit virtual time
        world, done = World(clock=time.time), list[int]()
        train = Train("t", limit=Volume(100), workers=Workers(total=2), attempts=2, backoff=0.01)

        @train.on("t")
        def handle(n: int) -> None:
            if n == 0:
                raise error
            done.append(n)

        async with asyncio.timeout(30), world.running(train) as connection:
            for n in (0, 1, 2, 3):
                await connection.publish(n)
            await until(lambda: len(done) == 3)
            await until_dead(connection, 1)

    asyncio.run(main())


class Wicked(pydantic.BaseModel):
    n: int

    @pydantic.field_validator("n")
    @classmethod
    def check(cls, value: int) -> int:
        raise SystemExit(1)


def test_what_does_not_decode_in_any_way_is_dead_at_once() -> None:
    async def main() -> None:
        world = World()
        train = Train("t", workers=Workers(total=1))

        @train.on("t")
        async def handle(payload: Wicked) -> None: ...

        async with world.running(train) as connection:
            await connection.publish(Event("x", "t", "s", world.clock(), b'{"n": 1}'))
            (letter,) = await until_dead(connection, 1)
        assert "can't be decoded" in letter.extensions["deadbecause"]

    run(main())


class Card(pydantic.BaseModel):
    number: int


def test_the_input_that_a_check_refuses_stands_in_no_letter_no_log_and_no_journal(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        world = World()
        train = Train("t", workers=Workers(total=2), attempts=2, backoff=0.0)

        @train.on("t")
        async def handle(payload: Card, ctx: Context) -> None:
            ctx.emit("inner", "4111-canary")

        @train.on("inner")
        async def inner(number: str) -> None:
            Card.model_validate({"number": number})

        async with world.running(train) as connection:
            await connection.publish(Event("x", "t", "s", world.clock(), b'{"number": "4111-canary"}'))
            await connection.publish({"number": 1})
            letters = await until_dead(connection, 2)
            assert all("number: Input should be a valid integer" in e.extensions["deadbecause"] for e in letters)
            assert not any("canary" in str(e.extensions) for e in letters)
            assert "canary" not in str(await journal(connection))
        assert "canary" not in str(world.facts)

    with caplog.at_level(logging.DEBUG, "eventwagon"):
        run(main())
    assert "canary" not in caplog.text
    assert "number: Input should be a valid integer" in caplog.text


def test_a_handler_that_swallows_its_cancellation_is_given_up() -> None:
    """It holds neither its worker nor the end of the process."""

    async def main() -> None:
        world, handled, told = World(), list[int](), list[str]()
        train = Train("t", workers=Workers(total=1), handler_timeout=1.0, grace=2.0, attempts=1)

        @train.on("t")
        async def handle(n: int) -> None:
            while n == 0:
                try:
                    await asyncio.sleep(3600)
                except asyncio.CancelledError:
                    told.append("swallowed")
            handled.append(n)

        async with world.running(train) as connection:
            await connection.publish(0)
            await connection.publish(1)
            await until(lambda: handled == [1])
            (letter,) = await until_dead(connection, 1)
            assert "handler_timeout=1" in letter.extensions["deadbecause"]
            await connection.publish(0)
            await asyncio.sleep(0.5)
            left = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - left < 6.0
        assert told

    run(main())


def test_one_that_returns_although_it_was_cut_short_has_failed_all_the_same() -> None:
    async def main() -> None:
        world, attempts = World(), list[int]()
        train = Train("t", workers=Workers(total=1), handler_timeout=1.0, attempts=2, backoff=0.0)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            attempts.append(ctx.attempt)
            try:
                await asyncio.sleep(3600 if ctx.attempt == 1 else 0)
            except asyncio.CancelledError:
                return

        async with world.running(train) as connection:
            await connection.publish(1)
            await until(lambda: attempts == [1, 2])
            await asyncio.sleep(1)
            assert [letter async for letter in connection.dead_letters()] == []

    run(main())


def test_a_worker_whose_thread_outlives_its_timeout_takes_nothing_else() -> None:
    async def main() -> None:  # in real time: threads don't fit virtual time
        world = World(clock=time.time)
        now, most, calls, lock = 0, 0, 0, threading.Lock()
        train = Train("t", workers=Workers(total=1), handler_timeout=0.05, backoff=0.0, grace=0.1)

        @train.on("t")
        def handle(n: int) -> None:
            nonlocal now, most, calls
            with lock:
                now, calls = now + 1, calls + 1
                most = max(most, now)
            time.sleep(0.3)
            with lock:
                now -= 1

        async with asyncio.timeout(30), world.running(train) as connection:
            await connection.publish_many(range(5))
            await until(lambda: calls >= 3)
            told = [entry.fact for entry in await journal(connection) if isinstance(entry.fact, HandlerOverran)]
            assert "handler_timeout" in told[0].because
        assert most == 1

    asyncio.run(main())


def test_context_variables_of_one_event_never_reach_another() -> None:
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")

    async def main() -> None:
        world, seen = World(), list[tuple[int, str]]()
        train = Train("t", workers=Workers(total=2))

        @train.on("t")
        async def handle(n: int) -> None:
            seen.append((n, tenant.get()))
            tenant.set(f"tenant {n}")
            if n % 3 == 0:
                await asyncio.sleep(0.01)
            assert tenant.get() == f"tenant {n}"

        async with world.running(train) as connection:
            await connection.publish_many(range(40))
            await until(lambda: len(seen) == 40)
            (pool,) = [each for each in pools_of(train.name) if each.is_shared]
            await until(lambda: pool.size == 2)
        assert {name for _, name in seen} == {"nobody"}

    run(main())


# --- drivers that fail in ways nobody foresaw -------------------------------------------------


class Cracked(MemoryBroker):
    """Calls named in `fails` raise what no contract knows, for as many times as it says."""

    def __init__(self, fails: dict[str, int], error: Callable[[], BaseException], **given: Any) -> None:
        super().__init__(**given)
        self.fails = fails
        self.error = error

    def hit(self, call: str) -> None:
        if self.fails.get(call, 0) > 0:
            self.fails[call] -= 1
            raise self.error()

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if channel.name:
            self.hit("emit")
        await super().publish(channel, events)

    def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> _CrackedSubscription:
        return _CrackedSubscription(self, channel, visibility, owner)


class _CrackedSubscription(MemorySubscription):
    _broker: Cracked

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        self._broker.hit("receive")
        return await super().receive(limit, timeout)

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        self._broker.hit("settle")
        await super().settle(deliveries)

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None:
        self._broker.hit("release")
        await super().release(deliveries, delay=delay, tried=tried, cleared=cleared)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        self._broker.hit("extend")
        await super().extend(deliveries)


class OfNobody(BaseException):
    """No Exception: what nobody catches by accident."""


@pytest.mark.parametrize(
    "error",
    [TypeError, asyncio.CancelledError, ZeroDivisionError, SystemExit, GeneratorExit, OfNobody],
    ids=lambda e: e.__name__,
)
@pytest.mark.parametrize("call", ["receive", "settle", "release", "extend", "emit"])
def test_a_driver_that_fails_in_an_unforeseen_way_hurts_nobody_for_good(
    call: str, error: Callable[[], BaseException]
) -> None:
    async def main() -> None:
        world, done = World(), set[int]()
        broker = Cracked({call: 3}, error, clock=world.clock)
        train = Train("t", limit=Volume(1000), workers=Workers(total=3), visibility=1.0, backoff=0.05, attempts=8)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            if n % 7 == 0 and ctx.attempt == 1:
                raise ValueError("once")
            await asyncio.sleep(1.5 if n == 5 else 0.0)
            ctx.emit("inner", n)

        @train.on("inner")
        async def inner(n: int) -> None:
            done.add(n)

        async with asyncio.timeout(300), world.running(train, broker=broker) as connection:
            await connection.publish_many(range(50))
            await until(lambda: len(done) == 50)
            await until_settled(connection)
            assert [letter async for letter in connection.dead_letters()] == []
        assert broker.fails == {call: 0}

    run(main())


async def until_settled(connection: Connection) -> None:
    async with asyncio.timeout(60):
        while any(
            depth.published != depth.settled
            for of in (await connection.depths()).values()
            for name, depth in of.items()
            if name != DEAD
        ):
            await asyncio.sleep(0.1)


class Small(MemoryBroker):
    """Refuses what is larger than `most` bytes, as a whole, as a server does."""

    def __init__(self, most: int, **given: Any) -> None:
        super().__init__(**given)
        self.most = most

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if any(event.size > self.most for event in events):
            raise EventTooLarge("larger than the server takes")
        await super().publish(channel, events)


def test_one_emit_that_the_broker_refuses_is_told_apart() -> None:
    async def main() -> None:
        world, done = World(), list[int]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=16), attempts=3, backoff=0.05)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            ctx.emit("inner", "y" * (5000 if n in (3, 30) else 5))
            ctx.emit("other", n)

        @train.on("inner")
        async def inner(text: str) -> None: ...

        @train.on("other")
        async def other(n: int) -> None:
            done.append(n)

        async with world.running(train, broker=Small(1500, clock=world.clock)) as connection:
            await connection.publish_many(range(60))
            await until_settled(connection)
            letters = [letter async for letter in connection.dead_letters()]
            depths = (await connection.depths())[1]
        assert sorted(letter.data for letter in letters) == [b"3", b"30"]
        assert all("emitting to inner" in letter.extensions["deadbecause"] for letter in letters)
        assert {letter.extensions["deadattempts"] for letter in letters} == {"1"}
        assert depths["inner"].settled == 58
        assert set(done) >= set(range(60)) - {3, 30}

    run(main())


@pytest.mark.parametrize("room", [0, 100, 400])
def test_a_dead_letter_always_fits(room: int) -> None:
    """The event alone is as large as the server takes; its reason comes on top."""

    async def main() -> None:
        world = World()
        train = Train("t", workers=Workers(total=1), attempts=1, max_event_bytes=20_000)

        @train.on("t")
        async def handle(text: str) -> None:
            raise ValueError("because " * 200)

        event = Event("x", "t", "/s", world.clock(), b'"' + b"y" * 9000 + b'"', extensions={"tenant": "a" * 50})
        async with world.running(train, broker=Small(event.size + room, clock=world.clock)) as connection:
            await connection.publish(event)
            (letter,) = await until_dead(connection, 1)
        assert letter.extensions["deadbecause"].startswith("ValueError: because")
        assert letter.id == "x"
        assert len(letter.data) > 6000
        if letter.data != event.data:
            assert letter.extensions["deadsize"] == "9002"

    run(main())


class Hanging(MemoryBroker):
    """Does not answer in one channel."""

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if channel.name == "slow":
            await asyncio.sleep(3600)
        await super().publish(channel, events)


def test_an_emit_that_hangs_holds_up_only_its_own() -> None:
    async def main() -> None:
        world, done = World(), list[int]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=4))

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            ctx.emit("slow" if n % 5 == 0 else "fast", n)

        @train.on("slow")
        async def slow(n: int) -> None: ...

        @train.on("fast")
        async def fast(n: int) -> None:
            done.append(n)

        async with world.running(train, broker=Hanging(clock=world.clock)) as connection:
            began = world.clock()
            await connection.publish_many(range(50))
            await until(lambda: len(done) == 40)
            assert world.clock() - began < 5
            depths = (await connection.depths())[1]
            assert depths[""].settled == 40

    run(main())


class SlowToReceive(MemoryBroker):
    """A receive brings what it has claimed only a while later, as over a network."""

    def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> MemorySubscription:
        return _SlowSubscription(self, channel, visibility, owner)


class _SlowSubscription(MemorySubscription):
    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        got = await super().receive(limit, timeout)
        await asyncio.sleep(0.3)
        return got


@pytest.mark.parametrize("moment", [n / 20 for n in range(20)])
def test_a_process_that_ends_gracefully_leaves_nothing_claimed(moment: float) -> None:
    async def main() -> None:
        world = World()
        broker = SlowToReceive(clock=world.clock)
        train = Train("t", limit=Volume(1000), workers=Workers(total=2))

        @train.on("t")
        async def handle(n: int) -> None:
            await asyncio.sleep(0.1)

        async with world.connect(train, broker=broker) as publisher:
            async with world.running(train, broker=broker):
                for n in range(4):
                    await publisher.publish(n)
                await asyncio.sleep(3 + moment)
                await publisher.publish(9)
                await asyncio.sleep(0.01)
            (depth,) = await broker.depth([Channel("t", 1)])
        assert depth.in_flight == 0

    run(main())


# --- suspects ---------------------------------------------------------------------------------


def test_what_a_dead_process_had_in_hand_is_handled_with_nothing_else_beside_it() -> None:
    async def main() -> None:
        world, now, most = World(), set[int](), dict[int, int]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=8), visibility=2.0)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            assert ctx.attempt == 1
            now.add(n)
            for each in now:
                most[each] = max(most.get(each, 0), len(now))
            await asyncio.sleep(0.1)
            for each in now:
                most[each] = max(most.get(each, 0), len(now))
            now.discard(n)

        async with world.connect(train) as publisher:
            await publisher.publish_many(range(5))
            async with world.broker.consume(Channel("t", 1), visibility=1.0) as dead:
                while len(most) < 5:  # it claims five and says nothing any more
                    for delivery in await dead.receive(5, 1.0):
                        most[int(delivery.event.data)] = 0
            await asyncio.sleep(1.5)
            async with world.running(train):
                await publisher.publish_many(range(5, 60))
                await until(lambda: len([n for n, count in most.items() if count]) == 60)
        assert {most[n] for n in range(5)} == {1}
        assert max(most[n] for n in range(5, 60)) == 8

    run(main())


@pytest.mark.parametrize("takes", [0.2, 1.0, 2.0, 4.0])
def test_constant_traffic_holds_up_no_suspect_and_they_hold_up_no_traffic(takes: float) -> None:
    """Half of the workers are always busy, so that there is hardly a moment at which none is."""

    async def main() -> None:
        world, handled, waits = World(), list[int](), list[float]()
        train = Train("t", limit=Volume(10_000), workers=Workers(each=8), visibility=5.0)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            now = asyncio.get_running_loop().time()
            if n < 0:
                handled.append(n)
            else:
                waits.append(now - n / 1000)
            await asyncio.sleep(takes)

        await left_behind(world, train, range(-8, 0))
        loop = asyncio.get_running_loop()
        async with world.running(train) as connection:
            began = loop.time()
            while len(handled) < 8:
                await connection.publish(int(loop.time() * 1000))
                await asyncio.sleep(takes / 4)
            assert loop.time() - began < 20.0 + 16.0 * takes
        waits.sort()
        assert waits[len(waits) * 95 // 100] <= 3.0 + 3.0 * takes

    run(main())


def test_who_waits_to_handle_a_suspect_of_a_channel_that_is_deleted_is_not_accused() -> None:
    async def main() -> None:
        world, began = World(), list[int]()
        train = Train("t", limit=Volume(10_000), workers=Workers(each=3), visibility=5.0)

        @train.on("t")
        async def handle(n: int) -> None:
            began.append(n)
            await asyncio.sleep(5.0)

        await left_behind(world, train, range(6))
        async with world.running(train):
            await until(lambda: bool(began))
            await asyncio.sleep(1.0)
            await world.broker.delete(Channel("t", 1))
            await asyncio.sleep(10.0)
        assert world.of(HandlerOverran) == []

    run(main())


def test_a_suspect_that_snoozed_is_one_no_longer() -> None:
    """Else all others would stand still each time it comes again."""

    async def main() -> None:
        world, beside = World(), list[bool]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=2), visibility=2.0)
        others = 0

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            nonlocal others
            assert ctx.attempt == 1
            if n:
                others += 1
                await asyncio.sleep(100.0)
                others -= 1
                return
            beside.append(others > 0)
            if len(beside) < 3:
                raise Snooze(after=5.0)

        async with world.connect(train) as publisher:
            await publisher.publish(0)
            async with world.broker.consume(Channel("t", 1), visibility=1.0) as dead:
                assert await dead.receive(1, 1.0)
            await asyncio.sleep(1.5)
            async with world.running(train):
                await until(lambda: len(beside) == 1)
                await publisher.publish(1)
                await until(lambda: len(beside) == 3)
        assert beside == [False, True, True]

    run(main())


def test_no_event_waits_at_a_busy_process_of_a_shared_crew_while_another_has_a_free_worker() -> None:
    async def main() -> None:
        world, waits = World(), dict[int, float]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=2))

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            waits[n] = world.clock() - ctx.event.time
            await asyncio.sleep(60.0 if n == 0 else 0.4)

        async with world.running(train), world.running(train) as connection:
            await asyncio.sleep(5)
            for n in range(30):
                await connection.publish(n)
                await asyncio.sleep(0.5)
            await until(lambda: len(waits) == 30)
            assert max(waits.values()) < 0.5, waits

    run(main())


# --- failing handlers are seen ----------------------------------------------------------------


def test_failures_are_logged_with_their_traceback_once_a_minute_and_each_death(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        world = World()
        train = Train("t", workers=Workers(total=1), attempts=3, backoff=0.0)

        @train.on("t")
        async def handle(n: int) -> None:
            raise ValueError("what went wrong")

        async with world.running(train) as connection:
            await connection.publish_many(range(4))
            await until_dead(connection, 4)

    with caplog.at_level(logging.WARNING, logger="eventwagon.worker"):
        run(main())
    records = [r for r in caplog.records if r.name == "eventwagon.worker"]
    warnings = [r for r in records if r.levelno == logging.WARNING]
    errors = [r for r in records if r.levelno == logging.ERROR]
    assert len(warnings) == 1
    assert len(errors) == 4
    assert warnings[0].exc_info is not None
    assert errors[0].exc_info is not None
    assert "worker.py" not in warnings[0].exc_text if warnings[0].exc_text else True
    assert all("what went wrong" in r.getMessage() for r in records)


def test_a_rejected_event_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        train = Train("t", workers=Workers(total=1))

        @train.on("t")
        async def handle(n: int) -> None:
            raise Reject("not for us")

        async with world.running(train) as connection:
            await connection.publish(1)
            (letter,) = await until_dead(connection, 1)
        assert letter.extensions["deadbecause"] == "rejected: not for us"

    with caplog.at_level(logging.ERROR, logger="eventwagon"):
        run(main())
    assert caplog.records == []


def test_refused_in_every_size_is_tried_again_later() -> None:
    """A broker that refuses every dead letter: nothing is settled, nothing is lost, the others go on."""

    class Stubborn(MemoryBroker):
        refuses = True

        async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
            if channel.name == DEAD and self.refuses:
                raise EventRefused("never")
            await super().publish(channel, events)

    async def main() -> None:
        world, done = World(), list[int]()
        broker = Stubborn(clock=world.clock)
        train = Train("t", workers=Workers(total=2), attempts=1)

        @train.on("t")
        async def handle(n: int) -> None:
            if n == 0:
                raise ValueError
            done.append(n)

        async with world.running(train, broker=broker) as connection:
            await connection.publish_many(range(10))
            await until(lambda: len(done) == 9)
            await asyncio.sleep(5)
            broker.refuses = False
            await until_dead(connection, 1)

    run(main())


# --- what fresh eyes found --------------------------------------------------------------------


class SlowDown(Retry):
    def __init__(self, host: str) -> None:
        self.host = host


class Later(Snooze):
    def __init__(self) -> None:
        pass


class WithoutName(type):
    @property
    def __name__(cls) -> str:  # type: ignore[override]
        raise RuntimeError("no name")


class Nameless(Exception, metaclass=WithoutName):
    pass


class Traceless(Exception):
    @property
    def __traceback__(self) -> Any:  # type: ignore[override]
        raise RuntimeError("no traceback")


def later_set(kind: type[Retry] | type[Snooze], after: Any) -> BaseException:
    error = kind(0.05)
    error.after = after
    return error


@pytest.mark.parametrize(
    "error",
    [
        Retry(0.05, because=ValueError("an exception as the reason")),
        Retry(0.05, because=5),  # type: ignore[arg-type]
        Snooze(0.05, because=None),  # type: ignore[arg-type]
        SlowDown("mail"),
        Later(),
        Nameless("x"),
        Traceless("x"),
        *(
            later_set(kind, after)
            for kind in (Retry, Snooze)
            for after in (math.nan, math.inf, -1e9, "5", [1], 1e300, None)
        ),
    ],
    ids=lambda e: f"{object.__repr__(e)[1:].split()[0].rpartition('.')[2]} {getattr(e, 'after', '')}"[:40],
)
def test_odd_retries_and_snoozes_hurt_nobody(error: BaseException) -> None:
    """They are failed attempts, or what they say; the others, those that failed once among them, are handled."""

    async def main() -> None:
        world, done = World(), set[int]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=2), attempts=3, backoff=0.05, visibility=2.0)
        tries = 0

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            nonlocal tries
            if n == 0:
                tries += 1
                if tries > 10:
                    return
                raise error
            if n % 2 and ctx.attempt == 1:
                raise ValueError("once")
            done.add(n)

        async with world.running(train) as connection:
            await connection.publish_many([0, *range(1, 20)])
            await until(lambda: len(done) == 19, seconds=20.0)
            await until_settled(connection)
            left = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - left < 2.0

    run(main())


class Marking(MemoryBroker):
    """Fails to mark a claim as alone, in some way."""

    how: Callable[[], Awaitable[bool]]

    def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> MemorySubscription:
        return _MarkingSubscription(self, channel, visibility, owner)


class _MarkingSubscription(MemorySubscription):
    _broker: Marking

    async def alone(self, delivery: Delivery) -> bool:
        await self._broker.how()
        return await super().alone(delivery)


async def _type_error() -> bool:
    raise TypeError("a driver's own")


async def _stray() -> bool:
    raise asyncio.CancelledError


async def _hangs() -> bool:
    await asyncio.sleep(3600)
    return True


@pytest.mark.parametrize("how", [_type_error, _stray, _hangs])
def test_a_claim_that_can_not_be_marked_holds_up_nobody(how: Callable[[], Awaitable[bool]]) -> None:
    async def main() -> None:
        world, done = World(), set[int]()
        broker = Marking(clock=world.clock)
        broker.how = how
        train = Train("t", limit=Volume(1000), workers=Workers(total=4), visibility=5.0, publish_timeout=3.0)

        @train.on("t")
        async def handle(n: int) -> None:
            done.add(n)

        async with world.connect(train, broker=broker) as publisher:
            await publisher.publish_many(range(2))
            async with broker.consume(Channel("t", 1), visibility=1.0) as dead:
                while not await dead.receive(5, 1.0):
                    pass
            await asyncio.sleep(1.5)
            async with world.running(train, broker=broker):
                await publisher.publish_many(range(2, 40))
                await until(lambda: done >= set(range(2, 40)), seconds=30.0)

                async def at_last() -> bool:
                    return True

                broker.how = at_last
                await until(lambda: done == set(range(40)), seconds=60.0)

    run(main())


def test_a_suspect_whose_thread_goes_on_holds_up_nobody() -> None:
    async def main() -> None:  # in real time: threads don't fit virtual time
        world, done, go_on = World(clock=time.time), set[int](), threading.Event()
        train = Train("t", limit=Volume(1000), workers=Workers(total=3), visibility=5.0, handler_timeout=0.2, grace=0.2)

        @train.on("t")
        def handle(n: int) -> None:
            if n == 0:
                go_on.wait(20)
            done.add(n)

        async with asyncio.timeout(60), world.connect(train) as publisher:
            await publisher.publish(0)
            async with world.broker.consume(Channel("t", 1), visibility=0.5) as dead:
                while not await dead.receive(5, 1.0):
                    pass
            await asyncio.sleep(0.6)
            async with world.running(train):
                await asyncio.sleep(0.5)
                await publisher.publish_many(range(1, 30))
                await until(lambda: done >= set(range(1, 30)), seconds=10.0)
                go_on.set()

    asyncio.run(main())


def test_a_long_handler_beside_a_suspect_holds_up_nobody() -> None:
    async def main() -> None:
        world, waits = World(), dict[int, float]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=8), visibility=60.0)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            waits[n] = world.clock() - ctx.event.time
            await asyncio.sleep(55.0 if n == 1 else 0.05)

        async with world.connect(train) as publisher:
            await publisher.publish(0)
            async with world.broker.consume(Channel("t", 1), visibility=5.0) as dead:
                while not await dead.receive(5, 1.0):
                    pass
                async with world.running(train):
                    await publisher.publish(1)
                    for n in range(2, 100):
                        await publisher.publish(n)
                        await asyncio.sleep(0.2)
                    await until(lambda: len(waits) == 100, seconds=120.0)
        assert max(wait for n, wait in waits.items() if n > 1) < 1.0

    run(main())


@pytest.mark.parametrize("by_wagon", [False, True])
def test_suspects_that_hang_hold_up_others_for_one_timeout_each(by_wagon: bool) -> None:
    """A process dies while handlers hang. Each suspect has its process to itself until it is cut short, and no longer:
    others are handled between it and the next, also if they went back meanwhile, for another process to take."""

    async def main() -> None:
        world, began = World(), list[tuple[float, int]]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=8), handler_timeout=4.0, attempts=1)

        @train.on("t")
        async def handle(n: int) -> None:
            began.append((asyncio.get_running_loop().time(), n))
            await asyncio.sleep(3600.0 if n < 4 else 0.05)

        async with world.connect(train) as publisher, AsyncExitStack() as stack:
            await publisher.publish_many(range(4))
            async with world.broker.consume(Channel("t", 1), visibility=1.0) as dead:
                assert len(await dead.receive(4, 1.0)) == 4
            await asyncio.sleep(1.5)
            await publisher.publish_many(range(4, 300))
            await stack.enter_async_context(world.running(train, work=not by_wagon))
            if by_wagon:
                await stack.enter_async_context(publisher.running(observe=False, wagon=1, workers=8))
            await until(lambda: len({n for _, n in began}) == 300)
        suspects = [at for at, n in began if n < 4]
        assert all(4.0 <= b - a < 4.5 for a, b in pairwise(suspects))
        assert all(sum(n > 3 and a < at < b for at, n in began) > 2 for a, b in pairwise(suspects))

    run(main())


def test_a_channel_that_went_and_came_back_is_served_again() -> None:
    async def main() -> None:
        world, done = World(), list[int]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=2), visibility=3.0)

        @train.on("t")
        async def handle(n: int) -> None:
            done.append(n)

        @train.on("inner")
        async def inner(n: int) -> None: ...

        async with world.running(train) as connection:
            await connection.publish(1)
            await until(lambda: done == [1])
            await world.broker.delete(Channel("t", 1, "inner"))
            await asyncio.sleep(2)
            await world.broker.create(Channel("t", 1, "inner"))
            await asyncio.sleep(10)
            await connection.publish(2)
            await until(lambda: done[-1] == 2, seconds=30.0)
            await until_settled(connection)

    run(main())


def test_a_log_handler_that_raises_hurts_nobody() -> None:
    class Raising(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("no log")

    async def main() -> None:
        world, done = World(), set[int]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=2), attempts=2, backoff=0.05)

        @train.on("t")
        async def handle(n: int) -> None:
            if n == 0:
                raise ValueError
            done.add(n)

        async with world.running(train) as connection:
            await connection.publish_many([0, 0, *range(1, 10)])
            await until(lambda: len(done) == 9)
            await until_dead(connection, 2)

    handler = Raising()
    logging.getLogger("eventwagon").addHandler(handler)
    try:
        run(main())
    finally:
        logging.getLogger("eventwagon").removeHandler(handler)


def test_a_handler_that_holds_the_event_loop_is_told(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:  # in real time
        world, done = World(clock=time.time), list[int]()
        train = Train("t", workers=Workers(total=1), handler_timeout=0.1)

        @train.on("t")
        async def handle(n: int) -> None:
            time.sleep(0.2)  # noqa: ASYNC251 - the mistake
            done.append(n)

        async with world.running(train) as connection:
            await connection.publish(1)
            await until(lambda: done == [1])
            await asyncio.sleep(0.1)

    with caplog.at_level(logging.WARNING, logger="eventwagon.worker"):
        asyncio.run(main())
    assert any("held the event loop" in r.getMessage() for r in caplog.records)


INTERRUPTED = """
import asyncio, sys
from eventwagon import Train, Volume, Workers
from eventwagon.testing.virtual_time import run
from tests.support import World

loop, at = None, 0.0

async def main():
    global loop
    loop, world = asyncio.get_running_loop(), World()
    train = Train("t", limit=Volume(1000), workers=Workers(**{sys.argv[1]: 4}), grace=20.0)

    @train.on("t")
    async def handle(n: int) -> None:
        global at
        if n == 0:
            await asyncio.sleep(1000)
        await asyncio.sleep(0.3)
        if n == 3:
            at = loop.time()
            raise KeyboardInterrupt

    async with world.running(train) as c:
        await c.publish_many(range(8))
        await asyncio.sleep(1000)

try:
    run(main())
except KeyboardInterrupt:
    print(f"interrupted, {loop.time() - at:.3f}")
"""


@pytest.mark.parametrize("kind", ["each", "total"])
def test_an_interrupted_handler_ends_its_process_at_once(kind: str) -> None:
    """In a process of its own, since asyncio leaves pieces behind when a task raises KeyboardInterrupt."""
    root = Path(__file__).resolve().parents[2]
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, kind],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root)])},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    words, _, seconds = ended.stdout.strip().partition(", ")
    assert words == "interrupted"
    assert float(seconds) < 1.0, ended.stdout
