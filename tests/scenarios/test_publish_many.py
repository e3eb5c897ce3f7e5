"""`publish_many`: in batches, as a stream comes, and how many were stored, whatever ends it. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import pytest

from eventwagon import Event, Train, Volume, Workers, connection
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.errors import (
    EventRefused,
    EventTooLarge,
    EventwagonError,
    PublishTimeout,
    StorageBroken,
    TrainFull,
    Unavailable,
    UsageError,
)
from eventwagon.event import Channel, CheckedEvents
from eventwagon.testing.virtual_time import run
from tests.support import World


class Keeping(MemoryBroker):
    """Keeps what it stored and when; raises what it is given instead of the call with the event `at`."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[tuple[float, int]] = []
        self.calls: list[int] = []
        self.at = -1
        self.error: Exception | None = None
        self.takes = 0.0

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if self.error is not None and any(event.data == b"%d" % self.at for event in events):
            raise self.error
        await asyncio.sleep(self.takes)
        await super().publish(channel, events)
        now = asyncio.get_running_loop().time()
        self.calls.append(len(events))
        self.stored += [(now, int(event.data)) for event in events]

    @property
    def numbers(self) -> list[int]:
        return [number for _, number in self.stored]


def world() -> tuple[World, Keeping]:
    it = World()
    it.broker = broker = Keeping()
    return it, broker


def train(**settings: object) -> Train:
    return Train("t", **{"limit": Volume(10**6), **settings})  # type: ignore[arg-type]


async def stream(count: int, every: float = 0.0) -> AsyncIterator[int]:
    for i in range(count):
        if every:
            await asyncio.sleep(every)
        yield i


class Surprise(Exception):
    """A user's own."""


def test_a_slow_stream_is_stored_as_it_comes() -> None:
    async def main() -> None:
        it, broker = world()
        async with it.connect(train()) as c:
            await c.found()
            began = asyncio.get_running_loop().time()
            assert await c.publish_many(stream(30, every=1.0)) == 30
        for at, number in broker.stored:
            assert at - began <= number + 1 + 0.11
        assert broker.numbers == list(range(30))

    run(main())


def test_a_quick_stream_travels_in_batches() -> None:
    async def main() -> None:
        it, broker = world()
        async with it.connect(train()) as c:
            assert await c.publish_many(stream(5000, every=0.001)) == 5000
        assert broker.numbers == list(range(5000))
        assert len(broker.calls) < 60

    run(main())


@pytest.mark.parametrize("most", [1, 7, 1000])
@pytest.mark.parametrize("kind", ["list", "iterator", "stream", "quick stream"])
def test_batches_are_those_of_the_setting(kind: str, most: int) -> None:
    async def main() -> None:
        it, broker = world()
        payloads: dict[str, Iterable[int] | AsyncIterator[int]] = {
            "list": list(range(2500)),
            "iterator": iter(range(2500)),
            "stream": stream(2500),
            "quick stream": stream(2500, every=0.0001),
        }
        async with it.connect(train(publish_batch=most)) as c:
            assert await c.publish_many(payloads[kind]) == 2500
        assert broker.numbers == list(range(2500))
        assert max(broker.calls) == (most if kind != "quick stream" else max(broker.calls)) <= most

    run(main())


def test_it_reads_no_further_while_a_batch_is_sent() -> None:
    async def main() -> None:
        it, broker = world()
        broker.takes = 1.0
        given = list[int]()

        async def payloads() -> AsyncIterator[int]:
            for i in range(50):
                given.append(i)
                assert i - len(broker.stored) <= 10
                yield i

        async with it.connect(train(publish_batch=10)) as c:
            assert await c.publish_many(payloads()) == 50

    run(main())


# --- how many were stored -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["iterable", "stream"])
@pytest.mark.parametrize("at", [0, 1, 63, 64, 99, 130])
def test_a_payload_that_can_not_be_published_says_how_many_were(kind: str, at: int) -> None:
    async def main() -> None:
        it, broker = world()

        def some() -> Iterator[object]:
            for i in range(200):
                yield object() if i == at else i

        async def given() -> AsyncIterator[object]:
            for each in some():
                yield each

        async with it.connect(train(publish_batch=100)) as c:
            with pytest.raises(UsageError, match="can't be sent") as caught:
                await c.publish_many(given() if kind == "stream" else some())
            assert caught.value.accepted == at
            assert broker.numbers == list(range(at))

    run(main())


@pytest.mark.parametrize("kind", ["iterable", "stream"])
@pytest.mark.parametrize("error", [Surprise("mine"), KeyError("x"), EventTooLarge("of another train", accepted=77)])
def test_what_the_iterable_raises_says_how_many_were_stored(kind: str, error: Exception) -> None:
    async def main() -> None:
        it, broker = world()

        def some() -> Iterator[int]:
            yield from range(150)
            raise error

        async def given() -> AsyncIterator[int]:
            for each in some():
                yield each

        async with it.connect(train(publish_batch=100)) as c:
            with pytest.raises(type(error)) as caught:
                await c.publish_many(given() if kind == "stream" else some())
            assert caught.value is error
            assert error.accepted == 150  # type: ignore[attr-defined]
            if not isinstance(error, EventwagonError):
                assert any("150" in note for note in error.__notes__)
            assert broker.numbers == list(range(150))

    run(main())


@pytest.mark.parametrize(
    ("error", "raised", "accepted"),
    [
        (EventRefused("never"), EventRefused, 137),
        (StorageBroken("the disk is full"), StorageBroken, 100),
        (Unavailable("away"), PublishTimeout, 100),
        (TypeError("odd"), EventwagonError, 137),
    ],
)
def test_what_publishing_raises_says_how_many_were_stored(
    error: Exception, raised: type[EventwagonError], accepted: int
) -> None:
    async def main() -> None:
        it, broker = world()
        async with it.connect(train(publish_batch=50)) as c:
            broker.at, broker.error = 137, error
            with pytest.raises(raised) as caught:
                await c.publish_many(range(200), timeout=2.0)
            assert caught.value.accepted == accepted
            assert broker.numbers == list(range(accepted))

    run(main())


def test_a_full_train_says_how_many_were_stored() -> None:
    async def main() -> None:
        it, gate = World(), asyncio.Event()
        full = Train("t", limit=Volume(30), workers=Workers(each=1), wagons=2, at_cap="refuse", hold=0.5)

        @full.on("t")
        async def handle(_: int) -> None:
            await gate.wait()

        async with it.running(full) as c:
            with pytest.raises(TrainFull) as caught:
                await c.publish_many(range(200))
            assert caught.value.accepted == 60
            gate.set()

    run(main())


@pytest.mark.parametrize("how", ["task", "timeout"])
def test_a_cancelled_one_says_how_many_were_stored(how: str) -> None:
    async def main() -> None:
        it, broker = world()
        closed = list[int]()

        async def given() -> AsyncIterator[int]:
            try:
                async for i in stream(1000, every=0.01):
                    yield i
            finally:
                await asyncio.sleep(0.1)
                closed.append(1)

        async with it.connect(train()) as c:
            await c.found()
            error: BaseException | None
            if how == "task":
                task = asyncio.create_task(c.publish_many(given()))
                await asyncio.sleep(2.005)
                task.cancel()
                with pytest.raises(asyncio.CancelledError) as cancelled:
                    await task
                error = cancelled.value
            else:
                with pytest.raises(TimeoutError) as late:
                    async with asyncio.timeout(2.005):
                        await c.publish_many(given())
                error = late.value.__cause__
            assert isinstance(error, asyncio.CancelledError)
            assert error.accepted == len(broker.stored)  # type: ignore[attr-defined]
            assert 150 < len(broker.stored) < 200
            assert closed == [1]
            assert any("publish_many had stored" in note for note in error.__notes__)

    run(main())


@pytest.mark.parametrize("steps", [*range(40), 1000])
def test_cancelled_anywhere_it_counts_right_and_closes_the_stream(steps: int) -> None:
    async def main() -> None:
        it, broker = world()
        opened, closed = list[int](), list[int]()

        async def given() -> AsyncIterator[int]:
            opened.append(1)
            try:
                async for i in stream(25):
                    yield i
            finally:
                closed.append(1)

        async with it.connect(train(publish_batch=10)) as c:
            await c.found()
            task = asyncio.create_task(c.publish_many(given()))
            for _ in range(steps + 1):
                await asyncio.sleep(0)
            task.cancel()
            try:
                accepted = await task
            except asyncio.CancelledError as e:
                accepted = getattr(e, "accepted", 0)
            await asyncio.sleep(10)
            assert accepted <= len(broker.stored) <= accepted + 10
            assert closed == opened
            await c.publish_many(range(3))

    run(main())


class Named(NamedTuple):
    name: str
    number: int


# --- the iterable -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payloads",
    [
        "text",
        b"bytes",
        bytearray(b"x"),
        memoryview(b"x"),
        {"a": 1},
        Named("ada", 1),
        3,
        None,
        Event("1", "t", "/", 0.0, b"1"),
    ],
    ids=lambda p: type(p).__name__,
)
def test_one_payload_by_mistake_is_refused(payloads: object) -> None:
    async def main() -> None:
        it, broker = world()
        async with it.connect(train()) as c:
            with pytest.raises(UsageError):
                await c.publish_many(payloads)  # type: ignore[arg-type]
            assert not broker.stored
            assert await c.publish_many([]) == 0
            assert await c.publish_many(stream(0)) == 0

    run(main())


def test_the_whole_iteration_is_one_task_that_knows_the_callers_context() -> None:
    name = ContextVar("name", default="")

    async def main() -> None:
        it, _ = world()
        tasks = set[object]()

        async def given() -> AsyncIterator[int]:
            async with asyncio.timeout(100):
                for i in range(20):
                    assert name.get() == "caller"
                    tasks.add(asyncio.current_task())
                    await asyncio.sleep(0.01)
                    yield i
            tasks.add(asyncio.current_task())

        async with it.connect(train()) as c:
            name.set("caller")
            assert await c.publish_many(given()) == 20
        assert len(tasks) == 1

    run(main())


def test_a_stream_that_fails_while_its_batch_is_refused_is_closed_and_looked_at() -> None:
    async def main() -> None:
        it, broker = world()

        async def given() -> AsyncIterator[int]:
            for i in range(20):
                yield i
            await asyncio.sleep(0.2)
            raise Surprise

        async with it.connect(train()) as c:
            await c.found()
            broker.at, broker.error, broker.takes = 3, EventRefused("never"), 1.0
            with pytest.raises(EventRefused) as caught:
                await c.publish_many(given())
            assert caught.value.accepted == 3

    run(main())


@pytest.mark.parametrize("closing", [False, True])
def test_a_stream_that_exits_ends_its_call_and_no_process(closing: bool) -> None:
    class Exits:
        def __aiter__(self) -> Exits:
            return self

        async def __anext__(self) -> str:
            if closing:
                raise StopAsyncIteration
            raise SystemExit(3)

        async def aclose(self) -> None:
            if closing:
                raise SystemExit(3)

    async def main() -> None:
        world = World()
        async with world.connect(Train("t", limit=Volume(100))) as connection:
            with pytest.raises(SystemExit):
                await connection.publish_many(Exits())
            assert await connection.publish("still there")

    run(main())


# --- functions for attributes ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "stream"])
def test_subjects_and_ids_are_those_of_the_functions(kind: str) -> None:
    async def main() -> None:
        it, _ = world()
        async with it.connect(train(publish_batch=7)) as c:
            payloads = list(range(200)) if kind == "list" else stream(200)
            done = await c.publish_many(
                payloads, subject=lambda n: None if n % 2 else f"s{n}", id=lambda n: f"order-{n}"
            )
            assert done == 200
            found = [event async for event in c.broker.read(Channel("t", 1))]
        assert [(event.id, event.subject) for event in found] == [
            (f"order-{n}", None if n % 2 else f"s{n}") for n in range(200)
        ]

    run(main())


@pytest.mark.parametrize("kind", ["list", "stream"])
@pytest.mark.parametrize("raised", [Surprise, SystemExit, asyncio.CancelledError, UsageError])
def test_a_function_that_fails_is_told_with_the_index(kind: str, raised: type[BaseException]) -> None:
    async def main() -> None:
        it, broker = world()

        def name(n: int) -> str:
            if n == 100:
                raise raised
            return str(n)

        async with it.connect(train(publish_batch=30)) as c:
            await c.found()
            with pytest.raises(raised) as error:
                await c.publish_many(list(range(200)) if kind == "list" else stream(200), id=name)
        assert error.value.accepted == 100  # type: ignore[attr-defined]
        assert any("payload 100" in note for note in error.value.__notes__)
        assert broker.numbers == list(range(100))

    run(main())


@pytest.mark.parametrize(
    ("attribute", "value"),
    [("id", 7), ("id", None), ("id", ""), ("id", "a\nb"), ("id", b"x"), ("subject", 7), ("subject", "\ud800")],
)
def test_a_function_that_returns_what_no_event_may_have(attribute: str, value: object) -> None:
    async def main() -> None:
        it, broker = world()
        async with it.connect(train()) as c:
            with pytest.raises(UsageError, match=f"{attribute}= for payload 3") as error:
                functions: dict[str, Any] = {attribute: lambda n: "ok" if n < 3 else value}
                await c.publish_many(range(10), **functions)
        assert error.value.accepted == 3
        assert broker.numbers == [0, 1, 2]

    run(main())


@pytest.mark.parametrize("wrong", ["customer", 7, True])
def test_what_is_no_function_is_refused(wrong: object) -> None:
    async def main() -> None:
        it, broker = world()
        async with it.connect(train()) as c:
            for attribute in ("subject", "id"):
                with pytest.raises(UsageError, match="must be a function"):
                    await c.publish_many([1], **{attribute: wrong})  # type: ignore[arg-type]
        assert broker.numbers == []

    run(main())


def test_events_have_their_own_attributes() -> None:
    async def main() -> None:
        it, _ = world()
        async with it.connect(train()) as c:
            events = [Event(str(n), "t", "/s", 0.0, b"1") for n in range(3)]
            with pytest.raises(UsageError, match="payload 0 is an Event"):
                await c.publish_many(events, subject=lambda event: "x")

    run(main())


@pytest.mark.parametrize("kind", [list, iter])
def test_events_and_payloads_travel_together(kind: Any) -> None:
    async def main() -> None:
        it, broker = world()
        async with it.connect(train(max_event_bytes=1024)) as c:
            events = [Event(f"id-{n}", "t", "/s", 0.0, b"%d" % n, extensions={"tenant": "7"}) for n in range(200)]
            assert await c.publish_many(kind([*events, 200, *events])) == 401
            assert broker.numbers == [*range(201), *range(200)]
            stored = [event async for event in broker.read(Channel("t", 1))]
            assert stored[:200] == stored[201:] == events
            large = [*events[:70], Event("large", "t", "/s", 0.0, b"1" * 2000)]
            with pytest.raises(EventTooLarge, match="event large") as raised:
                await c.publish_many(kind(large))
            assert raised.value.accepted == 70

    run(main())


def test_events_that_were_checked_are_not_checked_again_unless_for_more_than_the_train_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def once(most: int) -> CheckedEvents:
        events = CheckedEvents(most)
        events += [Event(str(n), "t", "/s", 0.0, b"%d" % n) for n in range(130)]
        return events

    async def main() -> None:
        it, broker = world()
        async with it.connect(train(max_event_bytes=1024, publish_batch=50)) as c:
            checks: list[Event] = []

            def check(event: Event, most: int) -> Event:
                checks.append(event)
                return event

            monkeypatch.setattr(connection, "checked", check)
            assert await c.publish_many(once(1024)) == 130
            assert not checks
            assert await c.publish_many(once(1025)) == 130
            assert len(checks) == 130
            with pytest.raises(UsageError, match="payload 0 is an Event"):
                await c.publish_many(once(1024), subject=lambda event: "x")
        assert broker.numbers == [*range(130), *range(130)]
        assert broker.calls == [50, 50, 30] * 2

    run(main())
