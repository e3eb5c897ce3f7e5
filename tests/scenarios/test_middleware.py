"""Middleware: around handlers and around publishing."""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from typing import Any

import msgspec
import pytest

from eventwagon import (
    BatchContext,
    Context,
    Event,
    EventDied,
    EventTooLarge,
    EventwagonError,
    Failed,
    Next,
    Reject,
    Snooze,
    Train,
    UsageError,
    Volume,
    Workers,
)
from eventwagon.cloudevents import BATCH
from eventwagon.contracts.facts import EventRetried, EventSnoozed
from eventwagon.event import new_ids
from eventwagon.testing.virtual_time import run
from tests.support import World, until

WHO: ContextVar[str] = ContextVar("WHO", default="nobody")


def train_of(**settings: Any) -> Train:
    return Train("t", **{"limit": Volume(10_000), "workers": Workers(each=2), "backoff": 0.1, **settings})


# --- around handlers --------------------------------------------------------------------------


def test_the_first_is_the_outermost_and_each_sees_the_context() -> None:
    async def main() -> None:
        world, train, said = World(), train_of(), list[str]()

        @train.on("t")
        async def early(n: int) -> None:  # declared before the middleware
            said.append(f"handler {n}")

        @train.lifespan
        async def opened() -> AsyncIterator[str]:
            yield "pool"

        @train.middleware
        async def outer(ctx: Context, call_next: Next) -> None:
            said.append(f"outer {ctx.event.data.decode()} {ctx.attempt} {ctx.wagon} {ctx.channel!r} {ctx.state}")
            await call_next()
            said.append("outer ends")

        @train.middleware
        async def inner(ctx: Context, call_next: Next) -> None:
            said.append("inner")
            await call_next()
            said.append("inner ends")

        async with world.running(train) as connection:
            await connection.publish(7)
            await until(lambda: "outer ends" in said)
        assert said == ["outer 7 1 1 '' pool", "inner", "handler 7", "inner ends", "outer ends"]

    run(main())


@pytest.mark.parametrize("wants_context", [True, False])
def test_sync_handlers_run_in_their_thread_and_see_context_variables(wants_context: bool) -> None:
    async def main() -> None:  # in real time: threads don't fit virtual time
        world, train, seen = World(clock=time.time), train_of(), list[tuple[str, bool]]()

        @train.middleware
        async def named(ctx: Context, call_next: Next) -> None:
            token = WHO.set("middleware")
            try:
                await call_next()
            finally:
                WHO.reset(token)

        def note() -> None:
            seen.append((WHO.get(), threading.current_thread() is threading.main_thread()))

        def plain(n: int) -> None:
            note()

        def with_context(n: int, ctx: Context) -> None:
            note()

        train.on("t")(with_context if wants_context else plain)
        async with world.running(train) as connection:
            await connection.publish_many(range(5))
            await until(lambda: len(seen) == 5)
        assert seen == [("middleware", False)] * 5
        assert WHO.get() == "nobody"

    asyncio.run(main())


def test_async_handlers_see_context_variables_and_the_next_event_does_not() -> None:
    async def main() -> None:
        world, train, seen = World(), train_of(), list[str]()

        @train.middleware
        async def named(ctx: Context, call_next: Next) -> None:
            seen.append(f"before {WHO.get()}")
            WHO.set("middleware")  # and never reset
            await call_next()

        @train.on("t")
        async def handle(n: int) -> None:
            await asyncio.sleep(0)
            seen.append(WHO.get())

        async with world.running(train) as connection:
            await connection.publish_many(range(5))
            await until(lambda: len(seen) == 10)
        assert sorted(seen) == ["before nobody"] * 5 + ["middleware"] * 5

    run(main())


def test_exceptions_pass_through_and_keep_their_meaning() -> None:
    async def main() -> None:
        world, train, seen = World(), train_of(attempts=2), list[str]()

        @train.middleware
        async def watching(ctx: Context, call_next: Next) -> None:
            try:
                await call_next()
            except BaseException as e:
                seen.append(f"{type(e).__name__} at {ctx.attempt}")
                raise

        @train.on("t")
        async def handle(what: str, ctx: Context) -> object:
            if what == "fails":
                raise ValueError("simulated")
            if what == "returned":
                return Reject("returned")
            if what == "snooze" and len(seen) < 5:
                raise Snooze(1.0, "later")
            if what == "exit":
                raise SystemExit(3)
            return None

        async with world.running(train) as connection:
            for what in ("fails", "returned", "snooze", "exit"):
                await connection.publish(what)
            await until(lambda: len(world.of(EventDied)) == 3)
            await until(lambda: world.of(EventSnoozed))
        assert sorted(seen)[:2] == ["Reject at 1", "Snooze at 1"]
        assert {fact.because for fact in world.of(EventDied)} == {
            "ValueError: simulated",
            "rejected: returned",
            "SystemExit: 3",
        }

    run(main())


def test_what_a_middleware_raises_is_as_if_the_handler_had_raised_it() -> None:
    async def main() -> None:
        world, train, handled = World(), train_of(), list[int]()

        @train.middleware
        async def gate(ctx: Context, call_next: Next) -> object:
            match int(ctx.event.data):
                case 1:
                    raise Reject("not you")
                case 2 if ctx.attempt == 1:
                    raise ValueError("once")
                case 3:
                    return Reject("returned")
            return await call_next()

        @train.on("t")
        async def handle(n: int) -> None:
            handled.append(n)

        async with world.running(train) as connection:
            await connection.publish_many(range(5))
            await until(lambda: len(handled) == 3 and len(world.of(EventDied)) == 2)
        assert sorted(handled) == [0, 2, 4]
        assert {fact.because for fact in world.of(EventDied)} == {"rejected: not you", "rejected: returned"}
        assert [fact.because for fact in world.of(EventRetried)] == ["ValueError: once"]

    run(main())


def test_an_event_that_is_not_passed_on_counts_as_handled_and_so_does_one_whose_error_is_held_back() -> None:
    async def main() -> None:
        world, train, handled, emitted = World(), train_of(), list[int](), list[str]()

        @train.middleware
        async def filtering(ctx: Context, call_next: Next) -> None:
            if ctx.channel or ctx.event.data != b"1":
                try:
                    await call_next()
                except ValueError:
                    await ctx.emit("errors", ctx.event.id)

        @train.on("t")
        async def handle(n: int) -> None:
            handled.append(n)
            if n == 2:
                raise ValueError("held back")

        @train.on("errors")
        async def errors(which: str) -> None:
            emitted.append(which)

        async with world.running(train) as connection:
            ids = [await connection.publish(n) for n in range(3)]
            await until(lambda: emitted)
            await asyncio.sleep(5)
            depths = (await connection.depths())[1]
        assert sorted(handled) == [0, 2]
        assert emitted == [ids[2]]
        assert {(depth.published, depth.settled) for depth in depths.values()} == {
            (3, 3),
            (1, 1),
            (0, 0),
        }  # nothing is dead
        assert not world.of(EventRetried)

    run(main())


def test_a_batch_passes_once() -> None:
    async def main() -> None:
        world, train, seen, done = World(), train_of(), list[int](), list[int]()

        @train.middleware
        async def counting(ctx: Context | BatchContext, call_next: Next) -> None:
            if isinstance(ctx, BatchContext):
                seen.append(len(ctx.events))
                with pytest.raises(Failed):
                    await call_next()
                raise Failed({0: Reject("by the middleware")})
            await call_next()

        @train.on("t", batch=10, within=0.1)
        async def rows(some: list[int], ctx: BatchContext) -> None:
            for index, n in enumerate(some):
                ctx.emit("done", n, of=index)
            raise Failed({3: ValueError("n")})

        @train.on("done")
        async def collect(n: int) -> None:
            done.append(n)

        async with world.running(train) as connection:
            await connection.publish_many(range(10))
            await until(lambda: len(done) == 9)
        assert seen == [10]
        assert sorted(done) == [*range(1, 10)]

    run(main())


def test_each_event_of_a_message_passes_and_what_can_not_be_decoded_does_not() -> None:
    async def main() -> None:
        world, train, seen = World(), train_of(), list[str]()

        @train.middleware
        async def noting(ctx: Context, call_next: Next) -> None:
            seen.append(ctx.event.id)
            await call_next()

        @train.on("t")
        async def handle(n: int) -> None: ...

        parts = [b'{"specversion":"1.0","id":"%d","type":"x","source":"/x","data":%d}' % (n, n) for n in range(3)]
        async with world.running(train) as connection:
            ids = new_ids(2, 1.0)
            await connection.publish(Event(ids[0], "x", "x", 1.0, b"[" + b",".join(parts) + b"]", content_type=BATCH))
            await connection.publish(Event(ids[1], "x", "x", 1.0, b"rubbish"))
            await until(lambda: world.of(EventDied))
            await until(lambda: len(seen) == 3)
        assert seen == ["0", "1", "2"]

    run(main())


def test_a_timeout_covers_the_middleware_too() -> None:
    async def main() -> None:
        world, train, seen = World(), train_of(handler_timeout=1.0, attempts=1), list[str]()

        @train.middleware
        async def slow(ctx: Context, call_next: Next) -> None:
            try:
                await call_next()
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        @train.on("t")
        async def handle(n: int) -> None: ...

        async with world.running(train) as connection:
            await connection.publish(1)
            await until(lambda: world.of(EventDied))
        assert seen == ["cancelled"]

    run(main())


@pytest.mark.parametrize("how", ["twice", "not awaited", "left in a task", "with arguments"])
def test_wrong_use_of_next_fails_the_event_and_says_so(how: str) -> None:
    async def main() -> None:
        world, train, handled = World(), train_of(attempts=1), list[int]()
        left = list[asyncio.Task[None]]()

        @train.middleware
        async def wrong(ctx: Context, call_next: Next) -> None:
            match how:
                case "twice":
                    await call_next()
                    await call_next()
                case "not awaited":
                    call_next()  # type: ignore[unused-coroutine]
                case "left in a task":
                    left.append(asyncio.create_task(call_next()))
                    await asyncio.sleep(0)
                case "with arguments":
                    await call_next(ctx)

        @train.on("t")
        async def handle(n: int) -> None:
            await asyncio.sleep(1)
            handled.append(n)

        async with world.running(train) as connection:
            await connection.publish(1)
            await until(lambda: world.of(EventDied))
            for task in left:
                await task
        because = world.of(EventDied)[0].because
        if how == "with arguments":
            assert "call_next takes no argument" in because
        else:
            assert "called call_next " + ("twice" if how == "twice" else "and did not wait for it") in because
        assert len(handled) == (how in ("twice", "left in a task"))

    run(main())


def test_next_may_be_awaited_in_other_ways() -> None:
    async def main() -> None:
        world, train, handled = World(), train_of(), list[int]()

        @train.middleware
        async def waiting(ctx: Context, call_next: Next) -> None:
            await asyncio.wait_for(call_next(), 5)

        @train.middleware
        async def tasks(ctx: Context, call_next: Next) -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(call_next())

        class Counting:
            async def __call__(self, ctx: Context, call_next: Next) -> None:
                await call_next()

        train.middleware(Counting())
        train.middleware(functools.partial(lambda_like, 1))

        @train.on("t")
        async def handle(n: int) -> None:
            await asyncio.sleep(0.1)
            handled.append(n)

        async with world.running(train) as connection:
            await connection.publish_many(range(4))
            await until(lambda: len(handled) == 4)

    run(main())


async def lambda_like(_: int, ctx: Context, call_next: Next) -> None:
    await call_next()


@pytest.mark.parametrize("decorate", ["middleware", "publish_middleware"])
def test_what_is_no_middleware_is_refused(decorate: str) -> None:
    train = train_of()
    register: Any = getattr(train, decorate)

    def plain(ctx: object, call_next: object) -> None: ...
    async def one(ctx: object) -> None: ...
    async def three(ctx: object, call_next: object, more: object) -> None: ...
    async def keywords(*, ctx: object, call_next: object) -> None: ...
    async def generator(ctx: object, call_next: object) -> AsyncIterator[int]:
        yield 1

    for wrong in (plain, one, three, keywords, generator, 3, None, "name", Context):
        with pytest.raises(UsageError, match=r"^middleware .*: async def \w+\(\w+, call_next\)$"):
            register(wrong)

    async def right(ctx: object, call_next: object) -> None: ...

    assert register(right) is right
    with pytest.raises(UsageError, match="registered already"):
        register(right)


def test_a_failure_is_logged_from_the_middleware_on(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world, train = World(), train_of()

        @train.middleware
        async def through(ctx: Context, call_next: Next) -> None:
            await call_next()

        @train.on("t")
        async def handle(n: int) -> None:
            raise ValueError("simulated")

        async with world.running(train) as connection:
            await connection.publish(1)
            await until(lambda: world.of(EventRetried))

    with caplog.at_level(logging.WARNING):
        run(main())
    assert "in handle\n" in caplog.text
    assert "handling.py" not in caplog.text.partition("in through")[0]


# --- around publishing --------------------------------------------------------------------------


def test_publishing_passes_in_order_and_events_may_be_changed() -> None:
    async def main() -> None:
        world, train, said, got = World(), train_of(publish_batch=4), list[str](), list[str]()

        @train.publish_middleware
        async def outer(events: list[Event], call_next: Next) -> None:
            said.append(f"outer {len(events)}")
            await call_next([msgspec.structs.replace(event, extensions={"trace": "abc"}) for event in events])
            said.append("stored")

        @train.publish_middleware
        async def inner(events: list[Event], call_next: Next) -> None:
            said.append(f"inner {events[0].extensions['trace']}")
            await call_next(events)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            got.append(ctx.event.extensions["trace"])

        async with world.running(train) as connection:
            assert await connection.publish(1)
            assert await connection.publish_many(range(6)) == 6
            await until(lambda: len(got) == 7)
        assert said == [line for n in (1, 4, 2) for line in (f"outer {n}", "inner abc", "stored")]
        assert set(got) == {"abc"}

    run(main())


def test_what_is_not_passed_on_is_not_stored() -> None:
    async def main() -> None:
        world, train, got = World(), train_of(), list[int]()

        @train.publish_middleware
        async def dropping(events: list[Event], call_next: Next) -> None:
            if events[0].data != b"1":
                await call_next(events)

        @train.on("t")
        async def handle(n: int) -> None:
            got.append(n)

        async with world.running(train) as connection:
            for n in range(3):
                await connection.publish(n)
            await until(lambda: len(got) == 2)
            assert (await connection.depths())[1][""].published == 2

    run(main())


@pytest.mark.parametrize(
    "change",
    [
        lambda events: events[:-1],
        lambda events: [*events, events[0]],
        lambda events: [*reversed(events)],
        lambda events: [msgspec.structs.replace(event, id="x" + event.id) for event in events],
        lambda events: None,
        lambda events: "ab",
        lambda events: [1, 2],
        lambda events: [msgspec.structs.replace(event, subject="\n") for event in events],
        lambda events: [msgspec.structs.replace(event, extensions={"Bad-Name": "x"}) for event in events],
    ],
)
def test_events_that_may_not_be_passed_on(change: Any) -> None:
    async def main() -> None:
        world, train = World(), train_of()

        @train.publish_middleware
        async def changing(events: list[Event], call_next: Next) -> None:
            await call_next(change(events))

        @train.on("t")
        async def handle(n: int) -> None:
            raise AssertionError(n)

        async with world.running(train) as connection:
            with pytest.raises(UsageError) as refused:
                await connection.publish_many(range(2))
            assert refused.value.accepted == 0
            assert (await connection.depths())[1][""].published == 0

    run(main())


def test_an_event_that_a_middleware_makes_too_large() -> None:
    async def main() -> None:
        world, train = World(), train_of(max_event_bytes=2000)

        @train.publish_middleware
        async def growing(events: list[Event], call_next: Next) -> None:
            await call_next([msgspec.structs.replace(event, data=b" " * 3000) for event in events])

        async with world.running(train, work=False) as connection:
            with pytest.raises(EventTooLarge):
                await connection.publish(1)

    run(main())


@pytest.mark.parametrize("before", [True, False])
def test_what_it_raises_publish_raises_and_says_how_many_were_stored(before: bool) -> None:
    async def main() -> None:
        world, train = World(), train_of(publish_batch=2)

        @train.publish_middleware
        async def failing(events: list[Event], call_next: Next) -> None:
            if b"3" in [event.data for event in events]:
                if not before:
                    await call_next(events)
                raise LookupError("the middleware's own")
            await call_next(events)

        @train.on("t")
        async def handle(n: int) -> None: ...

        async with world.running(train) as connection:
            with pytest.raises(LookupError) as raised:
                await connection.publish_many(range(6))
            assert raised.value.accepted == (2 if before else 4)  # type: ignore[attr-defined]
            assert (await connection.depths())[1][""].published == (2 if before else 4)

    run(main())


def test_errors_of_the_broker_pass_through_with_what_was_accepted() -> None:
    async def main() -> None:
        world = World()
        train = train_of(limit=Volume(3), wagons=1, at_cap="refuse", hold=0.1)
        seen = list[BaseException]()

        @train.publish_middleware
        async def watching(events: list[Event], call_next: Next) -> None:
            try:
                await call_next(events)
            except EventwagonError as e:
                seen.append(e)
                raise RuntimeError("another") from e

        @train.on("t")
        async def handle(n: int) -> None: ...

        async with world.running(train, work=False) as connection:
            with pytest.raises(RuntimeError) as raised:
                await connection.publish_many(range(6))
        assert len(seen) == 1
        assert raised.value.accepted == 3  # type: ignore[attr-defined]

    run(main())


def test_one_that_is_registered_while_an_event_is_handled_is_for_the_next() -> None:
    async def main() -> None:
        world, train, said = World(), train_of(), list[str]()

        async def late(ctx: Context, call_next: Next) -> None:
            said.append("late")
            await call_next()

        @train.middleware
        async def first(ctx: Context, call_next: Next) -> None:
            said.append("first")
            if late not in train.around_handling:
                train.around_handling.insert(0, late)  # as traces and structured logs do
            await call_next()

        @train.on("t")
        async def handle(n: int) -> None:
            said.append(f"handler {n}")

        async with world.running(train) as connection:
            await connection.publish(1)
            await until(lambda: "handler 1" in said)
            await connection.publish(2)
            await until(lambda: "handler 2" in said)
        assert said == ["first", "handler 1", "late", "first", "handler 2"]

    run(main())


def test_the_attribute_that_names_a_channel_for_later_may_not_be_added() -> None:
    """A worker would store the event in that channel instead of handling it."""

    async def main() -> None:
        world, train, handled = World(), train_of(), list[str]()

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            handled.append(ctx.channel)

        @train.on("mail")
        async def mail(n: int, ctx: Context) -> None:
            handled.append(ctx.channel)

        @train.publish_middleware
        async def redirect(events: list[Event], call_next: Next) -> None:
            await call_next([msgspec.structs.replace(e, extensions={"laterchannel": "mail"}) for e in events])

        async with world.running(train) as connection:
            for given in ({}, {"after": 5.0}):
                with pytest.raises(UsageError, match="laterchannel is taken"):
                    await connection.publish(1, **given)  # type: ignore[arg-type]
            with pytest.raises(UsageError, match="laterchannel is taken") as e:
                await connection.publish_many([1, 2])
            assert e.value.accepted == 0
            await asyncio.sleep(10)
            assert (await connection.later()).count == 0
        assert handled == []

    run(main())
