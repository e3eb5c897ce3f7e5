"""A publisher whose program declares the train differently: the train's own declaration counts, as the log says. In
virtual time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from eventwagon import Connection, Context, Elastic, Event, Train, Volume, Wait, Workers
from eventwagon.errors import EventTooLarge, TrainFull
from eventwagon.event import CheckedEvents
from eventwagon.settings import Settings
from eventwagon.testing.virtual_time import run
from tests.support import World, until


def of(size: int, name: str = "x") -> Event:
    return Event(name, "t", "/s", 0.0, b"1" * size)


def declaring(**settings: Any) -> Train:
    train = Train("orders", **{"workers": Workers(total=1), "publish_batch": 10, **settings})

    @train.on("orders")
    async def ship(order: int) -> None: ...

    return train


@asynccontextmanager
async def publisher(it: World, theirs: int, ours: int, **settings: Any) -> AsyncIterator[Connection]:
    """A connection of a program with `ours` to a train that was declared with `theirs`."""
    async with it.connect(declaring(max_event_bytes=theirs)) as c:
        await c.found()
    async with it.connect(declaring(max_event_bytes=ours, **settings)) as c:
        yield c


def test_what_the_train_takes_is_published_though_the_program_declares_less(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        it = World()
        async with publisher(it, 100_000, 2000) as c:
            checked = CheckedEvents(100_000)
            checked += [of(50_000, f"c{n}") for n in range(3)]
            await c.publish(of(50_000))
            assert await c.publish_many(checked) == 3
            assert await c.publish_many([of(50_000, "l")]) == 1
            assert await c.publish_many([11] * 3, id=lambda n: "y" * 1500) == 3
            await c.publish(of(50_000, "later"), after=60)
            with pytest.raises(EventTooLarge, match="max_event_bytes=100,000"):
                await c.publish(of(100_000))

    with caplog.at_level(logging.WARNING):
        run(main())
    assert caplog.text.count("max_event_bytes=100000 there, 2000 here): publishing follows the train's own") == 1


def test_what_the_train_does_not_take_is_refused_though_the_program_declares_more() -> None:
    async def main() -> None:
        it = World()
        async with publisher(it, 2000, 100_000) as c:
            checked = CheckedEvents(100_000)
            checked += [of(1000, "a"), of(1000, "b"), of(5000, "c")]
            for call in (c.publish(of(5000)), c.publish(of(5000), after=5), c.publish_many([of(5000)])):
                with pytest.raises(EventTooLarge, match="max_event_bytes=2,000"):
                    await call
            with pytest.raises(EventTooLarge) as refused:
                await c.publish_many(checked)
            assert refused.value.accepted == 2

    run(main())


def test_middleware_may_pass_on_what_the_train_takes() -> None:
    async def main() -> None:
        it, train = World(), declaring(max_event_bytes=2000)

        @train.publish_middleware
        async def larger(events: list[Event], call_next: Any) -> None:
            await call_next([of(50_000, each.id) for each in events])

        async with it.connect(declaring(max_event_bytes=100_000)) as c:
            await c.found()
        async with it.connect(train) as c:
            await c.publish(1)
            await c.publish(1, after=5)

    run(main())


def test_until_the_train_is_declared_the_programs_own_setting_counts() -> None:
    async def main() -> None:
        it = World()
        async with it.connect(Train("orders", max_event_bytes=2000)) as c:
            with pytest.raises(EventTooLarge, match="max_event_bytes=2,000"):
                await c.publish(of(5000))
            await c.publish(of(1000))  # a program that only publishes declares nothing
            with pytest.raises(EventTooLarge):
                await c.publish(of(5000))
            async with it.connect(declaring(max_event_bytes=10_000)) as other, other.running(work=False):
                await until(lambda: c.manifest.declared)
                await c.publish(of(5000))

    run(main())


def test_a_running_process_takes_up_what_is_declared_anew() -> None:
    async def main() -> None:
        it, sizes = World(), list[int]()
        train = Train("orders", workers=Workers(total=1), attempts=1, max_event_bytes=2000)

        @train.on("orders")
        async def ship(size: int, ctx: Context) -> None:
            await ctx.emit("packed", of(size, f"e{size}"))

        @train.on("packed")
        async def pack(event: Event) -> None:
            sizes.append(len(event.data))

        async with it.running(train) as c:
            await c.publish(5000)  # dies: the emit is too large
            anew = Train("orders", workers=Workers(total=1), attempts=1, max_event_bytes=10_000)
            anew.on("orders")(ship)
            anew.on("packed")(pack)
            async with it.connect(anew, redeclare=True) as other, other.running(work=False):
                await until(lambda: c.publishing.now.max_event_bytes == 10_000)
                await c.publish(of(9000))
                await c.publish(6000)
                await until(lambda: sizes)
        assert sizes == [6000]

    run(main())


def test_a_handler_publishes_what_the_other_train_takes_once_that_is_known() -> None:
    async def main() -> None:
        it, errors, seen = World(), list[str](), list[int]()
        bills = Train("billing", workers=Workers(total=1), max_event_bytes=50_000)
        orders = Train("orders", workers=Workers(total=1), attempts=1)

        @bills.on("billing")
        async def bill(event: Event) -> None:
            seen.append(len(event.data))

        @orders.on("orders")
        async def ship(size: int, ctx: Context) -> None:
            try:
                await ctx.publish(of(size, f"e{size}"), to=Train("billing", max_event_bytes=2000))
            except EventTooLarge as e:
                errors.append(str(e))

        async with it.running(orders) as c, it.running(bills):
            await c.publish(1000)
            await until(lambda: seen)
            await c.publish(40_000)
            await until(lambda: len(seen) == 2)
            await c.publish(60_000)
            await until(lambda: errors)
        assert seen == [1000, 40_000]
        assert "max_event_bytes=50,000" in errors[0]

    run(main())


def test_at_a_full_wagon_publishers_do_as_the_train_declares() -> None:
    async def main() -> None:
        it = World()
        full = {"limit": Volume(2), "wagons": 1, "spares": 0}
        async with it.connect(declaring(**full, at_cap="refuse")) as c:
            await c.found()
        async with it.connect(Train("orders", wagons=5, hold=0.1)) as c:
            await c.publish_many([1, 2])
            with pytest.raises(TrainFull, match="the cap of 1 live wagons"):
                await c.publish(3)

    run(main())


def test_settings_that_this_version_cant_read_are_left_out() -> None:
    own = Settings(max_event_bytes=2000, hold=1.0)
    theirs = Settings(max_event_bytes=5000, hold=3.0, publish_timeout=7.0).declared()
    followed = own.publishing(theirs)
    assert (followed.max_event_bytes, followed.hold, followed.publish_timeout) == (5000, 3.0, 30.0)
    assert own.publishing({}) is own.publishing(own.declared()) is own
    for ours in (Settings(spares=3, wagons=10), Settings(limit=Wait(2.0), workers=Workers(each=Elastic(4, 8)))):
        for wagons in (2, 3, 32):
            assert ours.publishing({**ours.declared(), "wagons": str(wagons)}).wagons == wagons
    for text in ("many", "-5", "", "[" * 100_000, "'5'"):
        followed = own.publishing({**theirs, "max_event_bytes": text})
        assert (followed.max_event_bytes, followed.hold) == (2000, 3.0), text[:9]
