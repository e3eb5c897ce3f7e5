"""Events for later and schedules, on the memory drivers in virtual time."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from eventwagon import (
    BatchContext,
    Context,
    Event,
    EventRefused,
    PublishError,
    RemovalRefused,
    Train,
    TrainPaused,
    TrainRemoved,
    Unavailable,
    UsageError,
    Volume,
    Wait,
    Workers,
    testing,
)
from eventwagon.contracts.timetable import CHANNEL
from eventwagon.drivers.memory import MemoryBroker, MemoryRegistry
from eventwagon.event import Channel, born
from eventwagon.testing.virtual_time import run
from tests.support import World, until


class Seen:
    """What the handlers of a train have seen: payload, channel, wagon, and how late it was."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.events: list[tuple[Any, str, int, float]] = []
        self.ids: list[str] = []
        self.born: list[float] = []

    def take(self, payload: Any, ctx: Context) -> None:
        self.events.append((payload, ctx.channel, ctx.wagon, round(self.world.clock() - ctx.event.time, 3)))
        self.ids.append(ctx.event.id)
        self.born.append(born(ctx.event))

    @property
    def payloads(self) -> list[Any]:
        return [payload for payload, *_ in self.events]

    @property
    def latest(self) -> float:
        return max(late for *_, late in self.events)


def orders(seen: Seen, *, emits: float | timedelta | None = None, **settings: Any) -> Train:
    train = Train("orders", **{"limit": Volume(5), "workers": Workers(each=2), **settings})

    @train.on("orders")
    async def order(payload: int, ctx: Context) -> None:
        seen.take(payload, ctx)
        if emits is not None and payload < 100:
            await ctx.emit("mail", payload + 100, after=emits)

    @train.on("mail")
    async def mail(payload: int, ctx: Context) -> None:
        seen.take(payload, ctx)
        if payload < 200 and emits is not None:
            await ctx.emit("mail", payload + 100)

    return train


def test_events_come_at_their_time_and_with_their_ids() -> None:
    async def main() -> None:
        world = World()
        seen = Seen(world)
        async with world.running(orders(seen)) as c:
            start = world.clock()
            ids = [
                await c.publish(1, after=60),
                await c.publish(2, after=timedelta(seconds=30)),
                await c.publish(3, at=datetime.fromtimestamp(start + 90, UTC)),
                await c.publish(4, at=start + 45.5, id="mine", subject="s"),
                await c.publish(5, at=start - 1e6),
            ]
            await asyncio.sleep(20)
            assert seen.payloads == [5]
            waiting = await c.later()
            assert waiting.count == 4
            assert waiting.next_at == pytest.approx(start + 30, abs=0.1)
            assert [event.id async for event in c.later_events()] == [ids[1], ids[3], ids[0], ids[2]]
            await asyncio.sleep(100)
            assert seen.payloads == [5, 2, 4, 1, 3]
            assert seen.latest < 0.1
            assert sorted(seen.ids) == sorted(ids)
            assert (await c.later()).count == 0

    run(main())


def test_an_event_for_later_is_as_old_as_its_time() -> None:
    """A promise to new events counts from when it is due, also for what is emitted, and for what that emits."""

    async def main() -> None:
        world = World()
        seen = Seen(world)
        async with world.running(orders(seen, emits=500, limit=Wait(2.0))) as c:
            await c.publish(1, after=1001)
            await asyncio.sleep(1600)
            assert seen.payloads == [1, 101, 201]
            assert seen.latest < 0.2
            assert c.manifest.active is not None
            assert c.manifest.active.number == 1
            start = 1_750_000_000 + 1001
            assert seen.born == [pytest.approx(start + n, abs=1) for n in (0, 500, 500)]

    run(main())


def test_an_observer_that_does_not_work_looks_twice_a_second_while_events_come_to_others() -> None:
    """What waits is often emitted where no observer runs."""

    async def main() -> None:
        world, late = World(), list[float]()
        train = Train("orders", spares=0)

        @train.on("orders")
        async def order(number: int, ctx: Context) -> None:
            if number % 10 == 0:
                await ctx.emit("mail", None, after=0.6)

        @train.on("mail")
        async def mail(_: None, ctx: Context) -> None:
            late.append(world.clock() - ctx.event.time)

        async with world.running(train, work=False), world.running(train, observe=False) as c:
            for number in range(200):
                await c.publish(number)
                await asyncio.sleep(0.37)
        assert len(late) == 20
        assert max(late) < 0.1

    run(main())


def test_what_a_long_handler_emits_for_later_ends_a_rest() -> None:
    async def main() -> None:
        world, late = World(), list[float]()
        train = Train("orders", spares=0)

        @train.on("orders")
        async def order(seconds: float, ctx: Context) -> None:
            await asyncio.sleep(seconds)
            await ctx.emit("mail", None, after=0.4)

        @train.on("mail")
        async def mail(_: None, ctx: Context) -> None:
            late.append(world.clock() - ctx.event.time)

        async with world.running(train) as c:
            for n in range(10):
                await c.publish(5.0 + n * 0.21)
                await asyncio.sleep(15)
            assert len(late) == 10
            assert max(late) < 0.2

    run(main())


def test_what_is_emitted_for_later_goes_to_the_wagon_that_is_active_then() -> None:
    async def main() -> None:
        world = World()
        seen = Seen(world)
        async with world.running(orders(seen, emits=100)) as c:
            assert await c.publish_many(range(12)) == 12
            await until(lambda: c.manifest.active is not None and c.manifest.active.number == 3)
            await c.wait_drained(2)  # nothing that is for later keeps a wagon
            await asyncio.sleep(150)
            assert sorted(seen.payloads) == [*range(12), *range(100, 112), *range(200, 212)]
            assert {wagon for payload, _, wagon, _ in seen.events if payload >= 100}.isdisjoint({1, 2})
            assert {channel for payload, channel, *_ in seen.events if payload >= 100} == {"mail"}

    run(main())


def test_a_handler_that_fails_emits_once() -> None:
    async def main() -> None:
        world, got = World(), []
        train = Train("orders", backoff=5.0)

        @train.on("orders")
        async def order(payload: int, ctx: Context) -> None:
            await ctx.emit("mail", 1, after=1)
            await ctx.emit("mail", 2, after=2)
            await ctx.emit("mail", Event("own", "t", "/s", 0.0, b"3"), after=timedelta(seconds=3))
            await ctx.emit("mail", 4, after=0)
            if ctx.attempt < 3:
                raise ValueError("fails")

        @train.on("mail")
        async def mail(payload: int, ctx: Context) -> None:
            assert CHANNEL not in ctx.event.extensions
            got.append((payload, ctx.event.id))

        async with world.running(train) as c:
            await c.publish(1)
            await asyncio.sleep(60)
        assert [payload for payload, _ in got] == [4, 1, 2, 3]
        assert len({name for _, name in got}) == 4
        assert got[-1][1] == "own"

    run(main())


def test_a_wrong_after_is_a_failure_of_its_handler() -> None:
    async def main() -> None:
        world, errors = World(), []
        train = Train("orders")

        @train.on("orders")
        async def order(payload: int, ctx: Context) -> None:
            for after in (-1, float("nan"), "5", True, timedelta.max):
                try:
                    await ctx.emit("mail", 1, after=after)  # type: ignore[arg-type]
                except UsageError as e:
                    errors.append(str(e))

        @train.on("mail")
        async def mail(payload: int) -> None: ...

        async with world.running(train) as c:
            await c.publish(1)
            await until(lambda: len(errors) == 5)
            assert (await c.later()).count == 0

    run(main())


def test_cancelled_events_do_not_come() -> None:
    async def main() -> None:
        world = World()
        seen = Seen(world)
        async with world.running(orders(seen, emits=60)) as c:
            gone, stays = await c.publish(100, after=10), await c.publish(1, after=10)
            assert await c.cancel(gone)
            assert not await c.cancel(gone)
            await asyncio.sleep(20)
            assert seen.payloads == [1]
            assert not await c.cancel(stays)
            (emitted,) = [event.id async for event in c.later_events()]
            assert await c.cancel(emitted)
            await asyncio.sleep(100)
            assert seen.payloads == [1]
            for wrong in ("", " ", 5, b"x", "a\0b"):
                with pytest.raises(UsageError):
                    await c.cancel(wrong)  # type: ignore[arg-type]

    run(main())


def test_repeated_with_its_id_it_is_kept_once() -> None:
    async def main() -> None:
        world = World()
        seen = Seen(world)
        async with world.running(orders(seen)) as c:
            for after in (10, 20, 30):
                assert await c.publish(1, id="one", after=after) == "one"
            await asyncio.sleep(60)
            assert seen.payloads == [1]
            assert seen.latest < 0.1

    run(main())


def test_a_bad_call_keeps_nothing() -> None:
    async def main() -> None:
        world = World()
        seen = Seen(world)
        async with world.running(orders(seen)) as c:
            with pytest.raises(UsageError, match="not both"):
                await c.publish(1, at=0, after=0)
            with pytest.raises(UsageError, match="no time zone"):
                await c.publish(1, at=datetime(2030, 1, 1))
            with pytest.raises(UsageError, match="ten years"):
                await c.publish(1, at=world.clock() * 1000)
            with pytest.raises(UsageError):
                await c.publish("no int", after=5)
            with pytest.raises(UsageError):
                await c.publish(1, after=5, subject="")
            with pytest.raises(UsageError, match="timeout"):
                await c.publish(1, after=5, timeout=0)
            assert (await c.later()).count == 0
            event = Event("e", "t", "/s", 5.0, b"7")
            assert await c.publish(event, after=5) == "e"
            await asyncio.sleep(10)
            assert seen.payloads == [7]
            assert seen.latest < 0.1

    run(main())


def test_stores_without_a_timetable_are_named() -> None:
    class Plain(MemoryBroker):
        def __init__(self) -> None:
            super().__init__()
            del self.timetable

    class PlainRegistry(MemoryRegistry):
        def __init__(self) -> None:
            super().__init__()
            del self.timetable

    async def main() -> None:
        world, failed = World(), []
        world.broker = Plain()
        train = Train("orders", attempts=1)

        @train.on("orders")
        async def order(payload: int, ctx: Context) -> None:
            try:
                await ctx.emit("mail", 1, after=1)
            except UsageError as e:
                failed.append(str(e))

        @train.on("mail")
        async def mail(payload: int) -> None: ...

        registry = PlainRegistry()
        async with world.connect(train, registry=registry) as c, c.running():
            for call in (lambda: c.publish(1, after=5), c.later, lambda: c.cancel("x")):
                with pytest.raises(UsageError, match="Plain and its registry can't keep events for later: use SQLite"):
                    await call()
            await c.publish(1)
            await until(lambda: failed)
            assert "can't keep events for later" in failed[0]
        train.every(60, name="minute")(lambda: 1)
        async with world.connect(train, registry=registry) as c:
            with pytest.raises(UsageError, match="can't keep events for later"):
                async with c.running():
                    pass
        async with world.connect(train) as c:  # the registry keeps them instead
            assert await c.publish(1, after=5)
            assert (await world.registry.timetable.waiting("orders")).count == 1

    run(main())


def test_it_waits_while_the_train_takes_no_events() -> None:
    async def main() -> None:
        world = World()
        seen = Seen(world)
        async with world.running(orders(seen)) as c:
            soon = await c.publish(1, after=5)
            await c.pause("no more", publishing=True)
            with pytest.raises(TrainPaused):
                await c.publish(2, after=5)
            await asyncio.sleep(60)
            assert (await c.later()).count == 1
            await c.resume()
            await asyncio.sleep(5)
            assert seen.ids == [soon]

    run(main())


def test_a_paused_train_gets_them_and_handles_them_later() -> None:
    async def main() -> None:
        world = World()
        seen = Seen(world)
        async with world.running(orders(seen, emits=1)) as c:
            await c.pause()
            await c.publish(1, after=5)
            await asyncio.sleep(10)
            assert (await c.later()).count == 0
            assert seen.events == []
            await c.resume()
            await asyncio.sleep(5)
            assert seen.payloads == [1, 101, 201]

    run(main())


def test_it_survives_every_process() -> None:
    """Kept by a process that then ends, due while nobody runs, published by another."""

    async def main() -> None:
        world = World()
        seen = Seen(world)
        async with world.connect(orders(seen)) as c:
            await c.publish(1, after=5)
        await asyncio.sleep(100)
        async with world.running(orders(seen)):
            await until(lambda: seen.payloads == [1])

    run(main())


def test_several_observers_publish_each_event_once() -> None:
    async def main() -> None:
        world = World()
        seen = Seen(world)
        train = orders(seen, limit=Volume(10_000), workers=Workers(each=50))
        async with world.running(train) as c, world.running(train), world.running(train):
            for n in range(1200):
                await c.publish(n, after=5 + n % 3)
            await asyncio.sleep(30)
            assert sorted(seen.payloads) == list(range(1200))
            assert seen.latest < 1.0

    run(main())


def test_an_event_that_can_never_be_published_is_dead_and_alone() -> None:
    class Picky(MemoryBroker):
        async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
            if channel.name != "dead":
                for event in events:
                    if event.data == b"3":
                        raise EventRefused("not this one")
                    if event.data == b"4":
                        raise TypeError("a defect")
            await super().publish(channel, events)

    async def main() -> None:
        world = World()
        world.broker = Picky(clock=world.clock)
        seen = Seen(world)
        async with world.running(orders(seen, emits=1)) as c:
            for n in range(6):
                await c.publish(n if n != 5 else 103, after=5)
            await asyncio.sleep(100)
            assert sorted(p for p in seen.payloads if p < 100) == [0, 1, 2]
            dead = [(event.data, event.extensions["deadbecause"]) async for event in c.dead_letters()]
            assert [data for data, _ in dead] == [b"3", b"4"]
            assert all("it was due, and could not be published" in why for _, why in dead)
            assert (await c.later()).count == 0

    run(main())


def test_a_timetable_that_fails_loses_nothing_and_holds_up_nothing() -> None:
    async def main() -> None:
        world = World()
        seen = Seen(world)
        async with world.running(orders(seen)) as c:
            await c.publish(1, after=5)
            broken = {"claim": Unavailable("away"), "remove": Unavailable("away"), "now": Unavailable("away")}
            timetable: Any = world.broker.timetable  # type: ignore[attr-defined]

            def break_it(name: str) -> None:
                async def fail(*_: Any, **__: Any) -> Any:
                    raise broken[name]

                setattr(timetable, name, fail)

            break_it("claim")
            break_it("now")
            asked = asyncio.create_task(c.publish(2, after=5, timeout=30))
            await asyncio.sleep(20)
            await c.publish(3)
            await until(lambda: seen.payloads == [3])
            del timetable.claim, timetable.now
            assert await asked
            await asyncio.sleep(10)
            assert seen.payloads == [3, 1, 2]
            break_it("remove")
            await c.publish(4, after=1)
            await asyncio.sleep(5)
            del timetable.remove
            await asyncio.sleep(30)
            assert set(seen.payloads) == {1, 2, 3, 4}
            assert (await c.later()).count == 0
            assert len({*seen.ids}) == 4  # published again with its id

    run(main())


def test_removing_a_train_counts_what_is_for_later() -> None:
    async def main() -> None:
        world = World()
        seen = Seen(world)
        async with world.connect(orders(seen)) as c:
            for _ in range(3):
                await c.publish(1, after=500)
            with pytest.raises(RemovalRefused, match="3 events for later"):
                await c.remove()
            assert (await c.later()).count == 3
            assert (await c.remove(force=True)).later == 3
            assert (await c.later()).count == 0
            with pytest.raises(TrainRemoved):
                await c.publish(1, after=5)

    run(main())


def test_a_channel_that_is_gone_by_then_ends_in_the_dead_letters() -> None:
    async def main() -> None:
        world = World()
        seen = Seen(world)
        async with world.running(orders(seen, emits=100)) as c:
            await c.publish(1)
            await until(lambda: seen.payloads == [1])
        other = Train("orders", limit=Volume(5), workers=Workers(each=2))

        @other.on("orders")
        async def order(payload: int, ctx: Context) -> None:
            seen.take(payload, ctx)

        async with world.connect(other, redeclare=True) as c, c.running():
            await c.request_switch()
            await c.wait_drained(1)
            await asyncio.sleep(200)
            (letter,) = [event async for event in c.dead_letters()]
            assert letter.data == b"101"
            assert "it was due for channel mail" in letter.extensions["deadbecause"]
            assert seen.payloads == [1]

    run(main())


def minutely(world: World, got: list[float], late: list[float], calls: list[datetime]) -> Train:
    train = Train("orders", workers=Workers(each=2))

    @train.on("orders")
    async def order(payload: float, ctx: Context) -> None:
        assert ctx.event.time == payload
        got.append(payload)
        late.append(world.clock() - payload)

    @train.every("* * * * *")
    async def minute(tick: datetime) -> float | None:
        calls.append(tick)
        return None if tick.minute == 3 else tick.timestamp()

    return train


def test_one_event_a_tick_however_many_processes() -> None:
    async def main() -> None:
        world, got, late, calls = World(), list[float](), list[float](), list[datetime]()
        train = minutely(world, got, late, calls)
        start = world.clock()
        async with world.running(train), world.running(train), world.running(train):
            await asyncio.sleep(230)  # no tick just as it ends
            assert max(late) < 0.6
        ticks = [60.0 * n for n in range(int(start // 60) + 1, int(world.clock() // 60) + 1)]
        assert got == [t for t in ticks if datetime.fromtimestamp(t, UTC).minute != 3]
        assert all(tick.tzinfo is UTC for tick in calls)

    run(main())


def test_of_missed_ticks_only_the_last_one_is_made_up_for() -> None:
    async def main() -> None:
        world, got = World(), list[float]()
        train = minutely(world, got, [], [])
        async with world.running(train):
            await asyncio.sleep(70)
        assert len(got) == 1
        await asyncio.sleep(1000)
        last = world.clock() // 60 * 60
        async with world.running(train):
            await asyncio.sleep(5)
        assert got[1:] == [last]

    run(main())


def test_a_schedule_that_fails_holds_up_no_other() -> None:
    async def main() -> None:
        world, got = World(), list[str]()
        train = Train("orders")

        @train.on("orders")
        async def order(payload: str) -> None:
            got.append(payload)

        @train.on("mail")
        async def mail(payload: str) -> None:
            got.append(f"mail {payload}")

        failures = 0

        @train.every(60)
        async def bad() -> str:
            nonlocal failures
            failures += 1
            raise [ValueError("x"), SystemExit(1), asyncio.CancelledError()][failures % 3]

        @train.every(60)
        async def worse() -> object:
            return object()

        @train.every(timedelta(seconds=60), channel="mail")
        async def good() -> str:
            return "good"

        async with world.running(train) as c:
            await asyncio.sleep(125)
            assert got == ["mail good", "mail good"]
            assert failures > 2
            await c.publish("on")
            await until(lambda: got[-1] == "on")

    run(main())


def test_a_schedule_that_hangs_holds_up_nothing_and_is_called_once() -> None:
    async def main() -> None:
        world, got, calls = World(), list[str](), list[str]()
        train, gate = Train("orders", handler_timeout=30), threading.Event()

        @train.on("orders")
        async def order(payload: str) -> None:
            got.append(payload)

        @train.every(60)
        def hangs() -> str:
            calls.append("hangs")
            gate.wait()
            return "late"

        @train.every(60)
        async def good() -> str:
            return "good"

        try:
            async with world.running(train) as c:
                await until(lambda: got == ["good"], seconds=61)
                await c.publish("on", after=1)
                await asyncio.sleep(1.6)
                assert got == ["good", "on"]
                await asyncio.sleep(300)
                assert calls == ["hangs"]
                assert got.count("good") == 6
        finally:
            gate.set()

    run(main())


def test_a_schedule_for_a_channel_without_a_handler_is_refused() -> None:
    async def main() -> None:
        world = World()
        train = orders(Seen(world))
        train.every(60, name="x", channel="nobody")(lambda: 1)
        async with world.connect(train) as c:
            with pytest.raises(UsageError, match="channel 'nobody' has no handler"):
                async with c.running():
                    pass

    run(main())


def test_middleware_surrounds_it_once() -> None:
    """It sees the event with the time at which it is due, when it is published for later, and not again when it is
    due."""

    async def main() -> None:
        world, seen, tenants = World(), [], []
        train = Train("orders")

        @train.on("orders")
        async def order(payload: int, ctx: Context) -> None:
            tenants.append(ctx.event.extensions["tenant"])

        @train.publish_middleware
        async def mark(events: list[Event], call_next: Any) -> None:
            seen.extend(events)
            await call_next([replace(event, extensions={"tenant": "acme"}) for event in events])

        async with world.running(train) as c:
            name = await c.publish(1, after=60)
            assert [event.id for event in seen] == [name]
            assert seen[0].time == pytest.approx(world.clock() + 60, abs=0.1)
            await asyncio.sleep(70)
        assert tenants == ["acme"]
        assert len(seen) == 1

    run(main())


def test_batches_are_emitted_and_passed_on() -> None:
    """Events for an inner channel pass an ingress whose handler takes batches, and belong to none of them."""

    async def main() -> None:
        world, sizes, got = World(), [], []
        train = Train("orders")

        @train.on("orders", batch=10, within=0.2)
        async def orders(payloads: list[int], ctx: BatchContext) -> None:
            sizes.append(len(payloads))
            for index, payload in enumerate(payloads):
                await ctx.emit("mail", payload, of=index, after=5)

        @train.on("mail", batch=10, within=0.2)
        async def mail(payloads: list[int]) -> None:
            got.extend(payloads)

        async with world.running(train) as c:
            await c.publish_many(range(10))
            await asyncio.sleep(4)
            for n in range(100, 105):
                await c.publish(n, after=1.1)
            await asyncio.sleep(20)
        assert sorted(got) == [*range(10), *range(100, 105)]
        assert sizes == [10, 5]

    run(main())


def test_without_an_event_loop(tmp_path: Path) -> None:
    """From a blocking connection; and with the test kit, which waits for what is due."""
    train = Train("orders")
    with train.connect_blocking(f"sqlite:///{tmp_path}", listeners=()) as c:
        name = c.publish(1, after=timedelta(hours=1))
        kept = c.publish(2, at=datetime.now(UTC) + timedelta(hours=2), id="mine")
        assert kept == "mine"
        assert c.cancel(name)
        assert not c.cancel(name)
        with pytest.raises(UsageError, match="not both"):
            c.publish(3, at=5, after=5)


@pytest.mark.parametrize("how", [run, asyncio.run])
def test_the_test_kit_waits_for_what_is_due(how: Any) -> None:
    async def story() -> None:
        train = Train("orders")

        @train.on("orders")
        async def order(payload: int, ctx: Context) -> None:
            await ctx.emit("mail", payload, after=3600)

        @train.on("mail")
        async def mail(payload: int) -> None: ...

        async with testing.running(train) as t:
            await t.publish(1, after=3600)
            await t.idle()
            assert (t.published(), t.handled()) == ([], [])
            await t.advance(3601)
            await t.idle()
            assert (t.published(), t.handled(), t.handled("mail")) == ([1], [1], [])
            await t.advance(3601)
            await t.idle()
            assert (t.published(), t.handled(), t.emitted("mail"), t.handled("mail")) == ([1], [1], [1], [1])

    how(story())


@pytest.mark.parametrize("how", [run, asyncio.run])
def test_plain_functions_of_schedules(how: Any) -> None:
    """They run in threads, which the test kit's virtual time allows for; one may return an awaitable."""

    async def story() -> None:
        train = Train("orders")

        @train.on("orders")
        async def order(payload: str) -> None: ...

        async def awaited() -> str:
            return "awaited"

        train.every(60, name="plain")(lambda: "plain")
        train.every(60, name="wrapped")(lambda: awaited())

        async with testing.running(train) as t:
            await asyncio.sleep(0.6)  # the first look: a new schedule begins with its next tick
            await t.advance(60)
            await until(lambda: sorted(t.handled()) == ["awaited", "plain"])

    how(story())


def test_a_driver_that_fails_on_an_event_fails_its_caller_only() -> None:
    async def main() -> None:
        world = World()
        seen = Seen(world)
        async with world.running(orders(seen)) as c:
            timetable: Any = world.broker.timetable  # type: ignore[attr-defined]
            add = timetable.add

            async def picky(train: str, events: Sequence[Event]) -> None:
                if events[0].data == b"2":
                    raise TypeError("a defect")
                await add(train, events)

            timetable.add = picky
            outcomes = await asyncio.gather(*(c.publish(n, after=5) for n in (1, 2, 3)), return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [str, PublishError, str]
            await asyncio.sleep(10)
            assert sorted(seen.payloads) == [1, 3]

    run(main())


def test_rows_of_others_in_the_file_keep_nothing_of_ours(tmp_path: Path) -> None:
    """SQLite keeps a value of any type in any column."""
    seen: list[int] = []
    train = Train("orders")

    @train.on("orders")
    async def order(payload: int) -> None:
        seen.append(payload)

    async def main() -> None:
        async with train.connect(f"sqlite:///{tmp_path}") as c, c.running():
            await c.publish(1, after=3600)
            with closing(sqlite3.connect(tmp_path / "orders" / "later.db")) as file:
                for value in ("text", b"\xff", 2**62, float("inf"), -1e300):
                    file.execute("INSERT INTO entry VALUES (?, 1, 1, 0, ?)", (value, value))
                    file.execute("INSERT INTO series VALUES (?, ?)", (value, value))
                file.execute("INSERT INTO entry VALUES ('never', 'x', 'x', 0, 'x')")
                file.commit()
            assert len([event async for event in c.later_events()]) == 7
            assert all(isinstance(name, str) and isinstance(at, float) for name, at in (await c.ticks()).items())
            await c.publish(2, after=0.2)
            async with asyncio.timeout(20):
                while not seen or (await c.later()).count > 2:
                    await asyncio.sleep(0.05)

    asyncio.run(main())
    assert seen == [2]
