"""Where features meet: middleware and events for later, budgets and batches, blocking connections, the test kit."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from eventwagon import (
    BatchContext,
    Budget,
    Context,
    Event,
    EventDied,
    Failed,
    Next,
    Train,
    UsageError,
    Volume,
    Workers,
    testing,
)
from eventwagon.cloudevents import BATCH
from eventwagon.testing.virtual_time import run
from tests.support import World, until


def train_of(**settings: Any) -> Train:
    return Train("t", **{"limit": Volume(100_000), "workers": Workers(each=8), "backoff": 0.1, **settings})


def now() -> float:
    return asyncio.get_running_loop().time()


def stamped(train: Train) -> list[Event]:
    """Everything that passes the middleware around publishing, which adds a tenant."""
    passed: list[Event] = []

    @train.publish_middleware
    async def stamp(events: list[Event], call_next: Next) -> None:
        passed.extend(events)
        await call_next([msgspec.structs.replace(e, time=1.0, extensions={"tenant": "acme"}) for e in events])

    return passed


# --- events for later and the middleware around publishing --------------------------------------------


@pytest.mark.parametrize("after", [5, -1])
def test_what_is_published_for_later_passes_when_it_is_kept_and_its_time_stays(after: int) -> None:
    async def main() -> None:
        world, train, seen = World(), train_of(), list[tuple[str, Mapping[str, str], float]]()
        passed = stamped(train)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            seen.append((ctx.event.id, ctx.event.extensions, now()))

        async with world.running(train) as connection:
            due, began = world.clock() + after, now()
            name = await connection.publish(1, at=due)
            assert [event.id for event in passed] == [name]
            if after > 0:
                assert passed[0].time == due
                assert [event.extensions async for event in connection.later_events()] == [{"tenant": "acme"}]
            await until(lambda: seen)
            assert seen[0][:2] == (name, {"tenant": "acme"})
            assert seen[0][2] - began == pytest.approx(max(0, after), abs=0.3)
            assert len(passed) == 1

    run(main())


def test_what_the_middleware_does_not_pass_on_is_not_kept_and_what_it_raises_is_raised() -> None:
    async def main() -> None:
        world, train = World(), train_of()

        @train.publish_middleware
        async def picky(events: list[Event], call_next: Next) -> None:
            if events[0].data == b"2":
                await call_next(events)
                raise ValueError("afterwards")
            if events[0].data == b"3":
                await call_next([])

        @train.on("t")
        async def handle(n: int) -> None: ...

        async with world.running(train) as connection:
            assert await connection.publish(1, after=60)
            assert (await connection.later()).count == 0
            with pytest.raises(ValueError, match="afterwards") as raised:
                await connection.publish(2, after=60)
            assert (raised.value.accepted, (await connection.later()).count) == (1, 1)  # type: ignore[attr-defined]
            with pytest.raises(UsageError, match="same events"):
                await connection.publish(3, after=60)
            assert (await connection.later()).count == 1

    run(main())


def test_what_a_schedule_makes_passes_and_what_handlers_send_does_not() -> None:
    async def main() -> None:
        world, train, seen = World(), train_of(), list[tuple[str, str, Mapping[str, str]]]()
        passed, ticks = stamped(train), list[float]()

        @train.every(10)
        async def tick(at: datetime) -> str:
            ticks.append(at.timestamp())
            return "tick"

        @train.on("t")
        async def handle(what: str, ctx: Context) -> None:
            seen.append(("", what, ctx.event.extensions))
            if what == "tick":
                assert ctx.event.time == ticks[0]
                ctx.emit("inner", "emitted")
                ctx.publish("published")

        @train.on("inner")
        async def inner(what: str, ctx: Context) -> None:
            seen.append(("inner", what, ctx.event.extensions))

        async with world.running(train):
            await until(lambda: len(seen) >= 3)
        acme = {"tenant": "acme"}  # inherited by what handlers send
        assert sorted(seen)[:3] == [("", "published", acme), ("", "tick", acme), ("inner", "emitted", acme)]
        assert {event.data for event in passed} == {b'"tick"'}

    run(main())


def test_a_tick_that_the_middleware_does_not_pass_on_is_left_out() -> None:
    async def main() -> None:
        world, train, seen = World(), train_of(), list[int]()
        calls: list[int] = []

        @train.publish_middleware
        async def first_only(events: list[Event], call_next: Next) -> None:
            calls.append(1)
            if len(calls) == 2:
                raise ValueError("simulated")
            if len(calls) > 2:
                await call_next(events)

        @train.every(60, channel="inner")
        async def tick() -> int:
            return len(calls)

        @train.on("t")
        async def handle(n: int) -> None: ...

        @train.on("inner")
        async def inner(n: int) -> None:
            seen.append(n)

        async with world.running(train):
            await until(lambda: len(calls) == 1, seconds=100)
            await asyncio.sleep(30)
            assert (len(calls), seen) == (1, [])
            await asyncio.sleep(60)
            assert len(calls) == 3  # it failed, and was called again
            await until(lambda: seen == [2])

    run(main())


# --- blocking connections -----------------------------------------------------------------------------


def test_a_blocking_connection_publishes_for_later_and_cancels(tmp_path: Path) -> None:
    url, train = f"sqlite:///{tmp_path}", Train("t")
    passed = stamped(train)

    @train.on("t")
    async def handle(n: int) -> None: ...

    with train.connect_blocking(url) as c:
        first = c.publish(1, after=timedelta(hours=1))
        second = c.publish(2, at=datetime(2027, 1, 1, tzinfo=UTC), id="two", timeout=5)
        assert (second, [event.id for event in passed]) == ("two", [first, "two"])
        assert [c.cancel(first), c.cancel(first), c.cancel("two")] == [True, False, True]
        third = c.publish(3, at=1)  # over: now
        assert [event.id for event in passed][2:] == [third]
        with pytest.raises(UsageError, match="not both"):
            c.publish(1, at=1, after=1)
        with pytest.raises(UsageError):
            c.publish(1, after=float("nan"))
        with pytest.raises(UsageError):
            c.cancel(7)  # type: ignore[arg-type]


# --- budgets and batches ------------------------------------------------------------------------------


def test_a_batch_takes_as_many_of_the_rate_as_it_has_events() -> None:
    async def main() -> None:
        world, batches = World(), list[tuple[float, int]]()
        trains = []
        for _ in "ab":
            train = train_of(member_ttl=2.0)

            @train.on("t", batch=200, rate="20/s")
            async def handle(some: list[int]) -> None:
                batches.append((now(), len(some)))

            trains.append(train)
        async with world.running(trains[0]) as connection, world.running(trains[1]):
            await connection.publish_many(range(6000))
            began = now()
            await asyncio.sleep(200)
            took = [(at - began, many) for at, many in batches]
            assert max(many for _, many in took) == 200
            for upto in (50, 100, 150, 200):
                total = sum(many for at, many in took if at < upto)
                assert 20 * upto * 0.75 <= total <= 20 * upto + 2 * 200 + 20, took

    run(main())


def test_a_concurrency_counts_calls() -> None:
    async def main() -> None:
        world, train, sizes, busy = World(), train_of(member_ttl=2.0), list[int](), [0, 0]

        @train.on("t", batch=50, concurrency=2)
        async def handle(some: list[int]) -> None:
            sizes.append(len(some))
            busy[:] = [busy[0] + 1, max(busy[1], busy[0] + 1)]
            await asyncio.sleep(1)
            busy[0] -= 1

        async with world.running(train) as connection:
            await connection.publish_many(range(500))
            await until(lambda: sum(sizes) == 500 and not busy[0])
        assert busy[1] == 2
        assert sizes.count(50) >= 9, sizes  # the first may begin as soon as there is room

    run(main())


def test_a_budget_takes_a_rate_in_words_and_gives_a_number() -> None:
    budget = Budget("bank", rate="120/min")
    rate: float | None = budget.rate
    assert rate == 2.0
    assert budget == Budget("bank", None, 2) and hash(budget) == hash(Budget("bank", rate=2.0))  # noqa: PT018
    with pytest.raises(AttributeError):
        budget.rate = 3.0  # type: ignore[misc]


# --- which failures of batches are retried ------------------------------------------------------------


def test_dead_on_counts_for_a_batch_only_when_it_is_clear_who_is_to_blame() -> None:
    async def main() -> None:
        world, train, batches = World(), train_of(attempts=5), list[list[int]]()

        @train.on("t", batch=4, within=0, dead_on=ValueError, retry_on=(ValueError, KeyError))
        async def handle(some: list[int]) -> None:
            batches.append(some)
            if 2 in some:
                raise ValueError("two")

        async with world.running(train) as connection:
            await connection.publish_many(range(4))
            await asyncio.sleep(10)
        assert sorted(map(len, batches)) == [1, 1, 1, 1, 4]
        assert [died.because for died in world.of(EventDied)] == ["ValueError: two (dead_on)"]
        assert [died.attempts for died in world.of(EventDied)] == [2]

    run(main())


def test_dead_on_counts_for_each_event_that_failed_names() -> None:
    async def main() -> None:
        world, train, batches = World(), train_of(attempts=3), list[list[int]]()

        @train.on("t", batch=4, within=0, dead_on=ValueError, retry_on=(ValueError, OSError))
        async def handle(some: list[int]) -> None:
            batches.append(some)
            errors: dict[int, Exception] = {0: ValueError("0"), 1: OSError("1"), 2: KeyError("2")}
            if bad := {i: errors[n] for i, n in enumerate(some) if n in errors}:
                raise Failed(bad)

        async with world.running(train) as connection:
            await connection.publish_many(range(4))
            await asyncio.sleep(10)
        assert batches == [[0, 1, 2, 3], [1], [1]]
        assert [(died.because, died.attempts) for died in world.of(EventDied)] == [
            ("ValueError: 0 (dead_on)", 1),
            ("KeyError: '2' (not in retry_on)", 1),
            ("OSError: 1", 3),
        ]

    run(main())


@pytest.mark.parametrize("names", [True, False])
def test_of_a_message_of_several_only_the_named_event_dies(names: bool) -> None:
    async def main() -> None:
        world, train, calls = World(), train_of(attempts=3), list[list[int]]()

        @train.on("t", batch=10, within=0, dead_on=ValueError)
        async def handle(some: list[int]) -> None:
            calls.append(some)
            if len(calls) == 1:
                raise Failed({1: ValueError("one")}) if names else ValueError("one of them")

        each = [{"specversion": "1.0", "id": str(n), "source": "/x", "type": "int", "data": n} for n in range(3)]
        async with world.running(train) as connection:
            await connection.publish(Event("b", "batch", "/elsewhere", 1.0, json.dumps(each).encode(), None, BATCH))
            await asyncio.sleep(10)
        died = [(d.id, d.because) for d in world.of(EventDied)]
        assert died == ([("1", "ValueError: one (dead_on)")] if names else [])
        assert calls == ([[0, 1, 2]] if names else [[0, 1, 2]] * 2)

    run(main())


def test_a_timeout_of_a_batch_counts_only_for_one_that_is_alone() -> None:
    async def main() -> None:
        world, train, batches = World(), train_of(attempts=5), list[list[int]]()

        @train.on("t", batch=3, within=0, timeout=1, dead_on=TimeoutError)
        async def handle(some: list[int]) -> None:
            batches.append(some)
            if 1 in some:
                await asyncio.sleep(60)

        async with world.running(train) as connection:
            await connection.publish_many(range(3))
            await asyncio.sleep(30)
        assert sorted(map(len, batches)) == [1, 1, 1, 3]
        (died,) = world.of(EventDied)
        assert "(dead_on)" in died.because

    run(main())


# --- the test kit ---------------------------------------------------------------------------------------


def everything() -> tuple[Train, list[Any]]:
    train, log = Train("kit"), list[Any]()

    @train.middleware
    async def around(ctx: Context | BatchContext, call_next: Next) -> None:
        log.append(("around", ctx.channel))
        await call_next()

    @train.every(3600)
    def hourly() -> str:
        return "tick"

    @train.on("kit", timeout=5, attempts=2, concurrency=2)
    async def first(what: str, ctx: Context) -> None:
        if what == "one":
            ctx.emit("rows", 1)
            ctx.emit("review", {"n": 1}, after=timedelta(days=14))
            ctx.publish("two")
        if what == "hangs" and ctx.attempt == 1:
            await asyncio.sleep(60)

    @train.on("rows", batch=10, within=0.2, budget=Budget("db", rate="100/s"))
    async def rows(some: list[int], ctx: BatchContext) -> None:
        log.append(some)

    @train.on("review")
    def review(what: dict[str, int]) -> None: ...

    return train, log


def test_the_test_kit_runs_all_of_it() -> None:
    async def main() -> None:
        train, log = everything()
        passed = stamped(train)
        async with testing.running(train) as kit:
            name = await kit.publish("one")
            await kit.publish("hangs")
            later = await kit.publish("three", after=60)
            await kit.idle()
            assert sorted(kit.handled()) == ["hangs", "one", "two"]
            assert (kit.handled("rows"), kit.emitted("rows"), kit.handled("review")) == ([1], [1], [])
            assert [1] in log and ("around", "rows") in log  # noqa: PT018
            assert kit.attempts(name) == 1
            await kit.advance(61)
            await kit.idle()
            assert "three" in kit.handled() and later in [event.id for event in kit.events()]  # noqa: PT018
            await kit.advance(3601)
            await kit.idle()
            assert kit.handled().count("tick") >= 1
            await kit.advance(14 * 86_400.0)
            await kit.idle()
            assert (kit.handled("review"), kit.emitted("review")) == ([{"n": 1}], [{"n": 1}])
            assert set(kit.published()) == {"one", "two", "three", "hangs", "tick"}
            assert {event.extensions["tenant"] for event in kit.events()} == {"acme"}
        assert len(passed) >= 4

    testing.run(main())


def test_a_fake_context_publishes() -> None:
    billing = Train("billing", max_event_bytes=2000)

    @billing.on("billing")
    async def bill(n: int) -> None: ...

    train, _ = everything()
    for ctx, own in ((Context.fake(), "test"), (Context.fake(train=train), "kit")):
        ctx.publish("two", subject="s")
        ctx.publish(3, to=billing)
        ctx.emit("rows", 1)
        assert ctx.emitted == [("rows", 1)]
        assert ctx.published == [(own, "two"), ("billing", 3)]
        assert [event.subject for event in ctx.events] == ["s", None, None]
        with pytest.raises(UsageError):
            ctx.publish("no number", to=billing)
        with pytest.raises(UsageError, match="must be a Train"):
            ctx.publish(1, to="billing")  # type: ignore[arg-type]
        assert len(ctx.published) == 2
    with pytest.raises(UsageError):
        Context.fake(train=train).publish(3)


def test_while_time_is_real_the_test_kit_waits_for_what_is_due() -> None:
    async def main() -> None:
        train, _ = everything()
        async with testing.running(train) as kit:
            await kit.publish("one")
            await kit.publish("three", after=60)
            await kit.idle()
            assert "three" not in kit.handled()
            await kit.advance(61)
            await kit.idle()
            assert "three" in kit.handled()
            await kit.advance(timedelta(days=15).total_seconds())
            await kit.idle()
            assert kit.handled("review") == [{"n": 1}]
            async with asyncio.timeout(30):
                while "tick" not in kit.handled():
                    await asyncio.sleep(0.05)

    asyncio.run(main())
