"""`once=`: what was handled is not handled again within the window. On the memory drivers in virtual time."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from eventwagon import (
    BatchContext,
    Context,
    DeadFilter,
    Event,
    EventsSkipped,
    Reject,
    Train,
    UsageError,
    Volume,
    Workers,
)
from eventwagon.contracts.broker import Delivery
from eventwagon.contracts.once import Standing, key_of
from eventwagon.drivers.memory import MemoryBroker
from eventwagon.drivers.memory.broker import MemorySubscription
from eventwagon.drivers.memory.once import MemoryOnce
from eventwagon.errors import DeclarationDiffers, Unavailable
from eventwagon.event import Channel
from eventwagon.metrics import Metrics
from eventwagon.orchestrators import aws
from eventwagon.orchestrators.aws.handler import PROBE
from eventwagon.runtime.bulkhead import Bulkhead
from eventwagon.runtime.once import Once, OnceGuard
from eventwagon.settings import Settings
from eventwagon.testing.virtual_time import run
from eventwagon.views.notes import conditions
from eventwagon.views.train import look
from tests.support import World, until

DAY = timedelta(days=1)


def event(name: str, source: str = "/shop") -> Event:
    return Event(name, "order", source, 1.7e9, f'"{name}"'.encode())


def counting(**settings: Any) -> tuple[Train, list[str]]:
    """A train and the ids that its handler saw."""
    train, seen = Train("orders", once=DAY, **settings), list[str]()

    @train.on("orders")
    async def ship(payload: str, ctx: Context) -> None:
        seen.append(ctx.event.id)

    return train, seen


async def idle(world: World) -> None:
    """Return once everything that was published is settled."""
    queues = world.broker.queues  # type: ignore[attr-defined]

    async def settled() -> bool:
        return all(
            depth.published == depth.settled
            for depth in await world.broker.depth([c for c in list(queues) if c.name != "dead"])
        )

    while not await settled():
        await asyncio.sleep(0.1)


def test_what_is_published_again_is_skipped_in_any_wagon() -> None:
    async def main() -> None:
        world = World()
        train, seen = counting(limit=Volume(2))
        async with world.running(train) as c:
            await c.publish(event("a"))
            await until(lambda: seen == ["a"])
            await asyncio.sleep(1)
            await c.publish(event("a"))
            await c.publish(event("b"))  # fills the first wagon
            await c.publish(event("a"))
            await c.publish(event("c"))
            await c.publish(event("a", source="/other"))  # another event: CloudEvents' source tells them apart
            await idle(world)
            assert sorted(seen) == ["a", "a", "b", "c"]
            skipped = world.of(EventsSkipped)
            assert [(fact.id, fact.channel) for fact in skipped] == [("a", "")] * 2
            assert sum(fact.count for fact in skipped) == 2
            assert {fact.number for fact in skipped} == {1, 2}
            assert await world.broker.once.count("orders") == 4  # type: ignore[attr-defined]

    run(main())


def test_of_copies_at_the_same_time_one_is_handled() -> None:
    """In one batch, in two wagons, and in two processes: the others wait until it is done."""

    async def main() -> None:
        world = World()
        train = Train("orders", once=DAY, limit=Volume(2), workers=Workers(each=4))
        seen, at_once, most = list[str](), 0, 0

        @train.on("orders")
        async def ship(payload: str, ctx: Context) -> None:
            nonlocal at_once, most
            at_once += 1
            most = max(most, at_once)
            await asyncio.sleep(3.0)
            at_once -= 1
            seen.append(ctx.event.id)

        async with world.running(train) as c, world.running(train, observe=False):
            for _ in range(6):
                await c.publish(event("a"))
            await idle(world)
            assert (seen, most) == (["a"], 1)
            assert sum(fact.count for fact in world.of(EventsSkipped)) == 5

    run(main())


def test_a_copy_is_handled_if_the_first_one_failed() -> None:
    async def main() -> None:
        world = World()
        train = Train("orders", once=DAY, attempts=3, backoff=0.1)
        attempts = list[int]()

        @train.on("orders")
        async def ship(payload: str, ctx: Context) -> None:
            attempts.append(ctx.attempt)
            if len(attempts) < 3:
                raise ValueError("not yet")

        async with world.running(train) as c:
            await c.publish(event("a"))
            await c.publish(event("a"))
            await idle(world)
            assert len(attempts) == 3

    run(main())


def test_dead_letters_are_not_handled_and_go_once_when_they_are_retried() -> None:
    async def main() -> None:
        world = World()
        train = Train("orders", once=DAY, attempts=1)
        seen, works = list[str](), False

        @train.on("orders")
        async def ship(payload: str, ctx: Context) -> None:
            seen.append(ctx.event.id)
            if not works:
                raise Reject("closed")

        async def retry() -> None:
            await c.dead.retry(await c.dead.preview(DeadFilter(all=True)))
            await idle(world)

        async with world.running(train) as c:
            await c.publish(event("a"))
            await c.publish(event("a"))  # dies, too: the first one was not handled
            await idle(world)
            assert seen == ["a", "a"]
            await retry()
            assert seen == ["a"] * 3
            works = True
            await retry()
            assert seen == ["a"] * 4
            await c.publish(event("a"))
            await idle(world)
            assert seen == ["a"] * 4
            assert [fact.count for fact in world.of(EventsSkipped)] == [1]

    run(main())


def test_what_was_handled_and_not_settled_is_skipped_when_it_comes_again() -> None:
    """Its process dies between the record and settling, as far as the broker can see."""

    left = 1

    class Forgetful(MemorySubscription):
        async def settle(self, deliveries: Sequence[Delivery]) -> None:
            nonlocal left
            if left:
                left -= 1
                return
            await super().settle(deliveries)

    class Broker(MemoryBroker):
        def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> MemorySubscription:
            return Forgetful(self, channel, visibility, owner)

    async def main() -> None:
        world = World()
        world.broker = Broker(clock=world.clock)
        train = Train("orders", once=DAY, visibility=2.0)
        shipped, mailed = list[str](), list[str]()

        @train.on("orders")
        async def ship(payload: str, ctx: Context) -> None:
            shipped.append(ctx.event.id)
            await ctx.emit("mail", payload)

        @train.on("mail")
        async def mail(payload: str) -> None:
            mailed.append(payload)

        async with world.running(train) as c:
            await c.publish(event("a"))
            await asyncio.sleep(10.0)
            await idle(world)
        assert (shipped, mailed, left) == (["a"], ["a"], 0)

    run(main())


def test_after_the_window_it_is_handled_again() -> None:
    async def main() -> None:
        world = World()
        train, seen = counting(visibility=2.0)
        train = Train("orders", once=60, visibility=2.0)

        @train.on("orders")
        async def ship(payload: str, ctx: Context) -> None:
            seen.append(ctx.event.id)

        async with world.running(train) as c:
            for pause in (0.0, 59.0, 2.0):
                await asyncio.sleep(pause)
                await c.publish(event("a"))
                await idle(world)
            assert seen == ["a", "a"]

    run(main())


def test_batches_channels_and_events_for_later() -> None:
    async def main() -> None:
        world = World()
        train = Train("orders", once=DAY)
        shipped, mailed = list[str](), list[str]()

        @train.on("orders", batch=10, within=0.2)
        async def ship(payloads: list[str], ctx: BatchContext) -> None:
            for index, each in enumerate(ctx.events):
                shipped.append(each.id)
                await ctx.emit("mail", each, of=index)  # the same event: another channel is another matter
                await ctx.emit("mail", payloads[index], of=index, after=5)

        @train.on("mail")
        async def mail(payload: str, ctx: Context) -> None:
            mailed.append(payload)

        async with world.running(train) as c:
            for _ in range(2):
                for name in "abcab":
                    await c.publish(event(name))
                await c.publish(event("d"), after=2)
                await asyncio.sleep(10)
            await idle(world)
            assert sorted(shipped) == ["a", "b", "c", "d"]
            assert sorted(mailed) == ["a", "a", "b", "b", "c", "c", "d", "d"]

    run(main())


def test_while_the_record_is_away_nothing_is_handled_and_nothing_is_lost() -> None:
    class Away(MemoryOnce):
        away: type[BaseException] | None = None

        async def claim(self, *args: Any, **more: Any) -> Sequence[Standing]:
            self._check()
            return await super().claim(*args, **more)

        async def record(self, *args: Any, **more: Any) -> None:
            self._check()
            await super().record(*args, **more)

        def _check(self) -> None:
            if self.away is not None:
                raise self.away("away")

    async def main(error: type[BaseException]) -> None:
        world = World()
        world.broker.once = once = Away(clock=world.clock)  # type: ignore[attr-defined]
        train, seen = counting(visibility=5.0)
        async with world.running(train) as c:
            once.away = error
            for name in "abc":
                await c.publish(event(name))
            await asyncio.sleep(30)
            assert seen == []
            once.away = None
            await idle(world)
            assert sorted(seen) == ["a", "b", "c"]

    run(main(Unavailable))
    run(main(TypeError))


class Failing(MemoryOnce):
    """A record whose calls fail as they are told."""

    claiming: BaseException | None = None
    recording: BaseException | None = None
    hangs = 0
    """How many recordings never end."""

    async def claim(self, *args: Any, **more: Any) -> Sequence[Standing]:
        if self.claiming is not None:
            raise self.claiming
        return await super().claim(*args, **more)

    async def record(self, *args: Any, **more: Any) -> None:
        if self.hangs:
            self.hangs -= 1
            await asyncio.Event().wait()
        if self.recording is not None:
            raise self.recording
        await super().record(*args, **more)


def failing() -> tuple[World, Failing]:
    world = World()
    world.broker.once = once = Failing(clock=world.clock)  # type: ignore[attr-defined]
    return world, once


@pytest.mark.parametrize("away", [15.0, 25.0])
def test_what_others_handled_while_the_record_was_away_is_not_handed_out(away: float) -> None:
    """The record is there again before the next event would be handed out, or after."""

    async def main() -> None:
        world, once = failing()
        train, seen = Train("orders", once=DAY, visibility=5.0, workers=Workers(total=1)), list[str]()

        @train.on("orders")
        async def ship(payload: str) -> None:
            seen.append(payload)
            await asyncio.sleep(20.0)

        async with world.running(train) as c:
            key = key_of("", event("b"), c.manifest.once_since)
            for name in "ab":
                await c.publish(event(name))
            await until(lambda: seen == ["a"])
            await asyncio.sleep(1.0)
            assert list(await once.claim("orders", [key], holder="x", lease=1.0)) == [Standing.CLAIMED]
            once.claiming = Unavailable("away")
            await asyncio.sleep(10.0)
            assert await MemoryOnce.claim(once, "orders", [key], holder="x", lease=1.0) == [Standing.OURS]
            await MemoryOnce.record(once, "orders", [key], window=1000.0)
            await asyncio.sleep(away - 10.0)
            once.claiming = None
            await idle(world)
            assert seen == ["a"]
            assert sum(fact.count for fact in world.of(EventsSkipped)) == 1

    run(main())


def test_a_claim_lasts_as_long_as_its_handler_whatever_becomes_of_the_broker() -> None:
    class Slow(MemorySubscription):
        async def extend(self, deliveries: Sequence[Delivery]) -> None:
            await super().extend(deliveries)
            await asyncio.sleep(60.0)

    class Broker(MemoryBroker):
        def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> MemorySubscription:
            return Slow(self, channel, visibility, owner)

    async def main() -> None:
        world = World()
        world.broker = Broker(clock=world.clock)
        train, seen = Train("orders", once=DAY, visibility=3.0), list[str]()

        @train.on("orders")
        async def ship(payload: str) -> None:
            seen.append(payload)
            await asyncio.sleep(20.0)

        async with world.running(train) as c:
            await c.publish(event("a"))
            await until(lambda: seen == ["a"])
            for _ in range(9):
                await asyncio.sleep(2.0)
                once = world.broker.once
                found = await once.claim(
                    "orders", [key_of("", event("a"), c.manifest.once_since)], holder="x", lease=1.0
                )
                assert list(found) == [Standing.CLAIMED]
            await idle(world)

    run(main())


def test_a_record_with_a_defect_does_not_have_events_handled_for_ever() -> None:
    async def main() -> None:
        world, once = failing()
        train, seen = counting(visibility=3.0)
        once.recording = TypeError("a defect")
        async with world.running(train) as c:
            await c.publish(event("a"))
            await idle(world)
            await asyncio.sleep(30.0)
            assert seen == ["a"]

    run(main())


def test_who_leaves_records_what_waits_to_be_recorded() -> None:
    async def main() -> None:
        world, once = failing()
        train, seen = counting(grace=1.0)
        async with world.running(train) as c:
            once.hangs = 1
            await c.publish(event("a"))
            await until(lambda: once.hangs == 0)
            for name in "bc":
                await c.publish(event(name))
            await until(lambda: len(seen) == 3)
        async with world.running(train):
            await idle(world)
        assert seen.count("b") == seen.count("c") == 1

    run(main())


def test_a_claim_that_was_given_up_is_not_taken_again_while_the_broker_is_away() -> None:
    """The event failed, and the broker does not take it back yet: a copy of it may be handled elsewhere."""

    class Away(MemorySubscription):
        async def release(self, *args: Any, **more: Any) -> None:
            raise Unavailable("away")

    class Broker(MemoryBroker):
        def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> MemorySubscription:
            return Away(self, channel, visibility, owner)

    async def main() -> None:
        world = World()
        world.broker = Broker(clock=world.clock)
        train, seen = Train("orders", once=DAY, visibility=3.0), list[str]()

        @train.on("orders")
        async def ship(payload: str) -> None:
            seen.append(payload)
            raise RuntimeError("not yet")

        async with world.running(train) as c:
            await c.publish(event("a"))
            await until(lambda: seen == ["a"])
            await asyncio.sleep(10.0)
            found = await world.broker.once.claim(
                "orders", [key_of("", event("a"), c.manifest.once_since)], holder="x", lease=1.0
            )
            assert list(found) == [Standing.OURS]

    run(main())


def test_an_event_that_was_recorded_here_is_not_taken_for_lost() -> None:
    async def main() -> None:
        world = World()
        record = MemoryOnce(clock=world.clock)
        guard = OnceGuard(
            Once(record, 100.0), Channel("t", 1), lease=30.0, bulkhead=Bulkhead("test"), since=lambda: 0.0
        )
        first, second = Delivery(event("a"), 1, 1), Delivery(event("b"), 1, 2)
        await guard.admit([first, second], within=1.0)
        await guard.record([first])
        await record.record("t", [key_of("", second.event)], window=100.0)  # by another process
        assert await guard.keep([first, second]) == {id(second): Standing.HANDLED}

    run(main())


def test_a_train_without_it_keeps_no_record() -> None:
    async def main() -> None:
        world = World()
        train, seen = Train("orders"), list[str]()

        @train.on("orders")
        async def ship(payload: str) -> None:
            seen.append(payload)

        async with world.running(train) as c:
            await c.publish(event("a"))
            await c.publish(event("a"))
            await idle(world)
            assert seen == ["a", "a"]
            assert await world.broker.once.count("orders") == 0  # type: ignore[attr-defined]

    run(main())


def test_skipped_events_are_counted() -> None:
    async def main() -> None:
        world = World()
        train, _ = counting()
        meter = Metrics(clock=world.clock)
        async with world.connect(train, meter=meter) as c, c.running():
            await c.publish(event("a"))
            await idle(world)
            await c.publish(event("a"))
            await idle(world)
            async with asyncio.timeout(30):
                while not any(a.skipped for m in await world.registry.members("orders") for a in m.attachments):
                    await asyncio.sleep(0.5)
            notes = conditions(await look(c, "memory://"), ())
            assert "once: these processes skipped 1 event that had been handled" in [note.text for note in notes]
            (family,) = [each for each in meter.collect() if each.instrument.name == "eventwagon.events.skipped"]
            assert list(family.series.values()) == [1]

    run(main())


def test_a_removed_train_is_forgotten() -> None:
    async def main() -> None:
        world = World()
        train, seen = counting()
        for _ in range(2):
            async with world.running(train) as c:
                await c.publish(event("a"))
                await idle(world)
            async with world.connect(train) as c:
                await c.remove()
        assert seen == ["a", "a"]

    run(main())


class _NoRecord:
    """A broker that keeps no record, and delegates all else."""

    once = None

    def __init__(self, inner: MemoryBroker) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass


def test_it_needs_a_record() -> None:
    world = World()
    broker: Any = _NoRecord(MemoryBroker())
    registry: Any = _NoRecord(world.registry)  # type: ignore[arg-type]
    train, _ = counting()
    with pytest.raises(UsageError, match="needs a record of handled events, which _NoRecord can't keep"):
        train.connect(broker=broker, registry=registry)
    train.connect(broker=broker, registry=world.registry)  # the registry has one
    Train("orders", once=DAY).connect(broker=broker, registry=registry)  # this program only publishes


@pytest.mark.parametrize(
    "value", [0, -1, True, float("nan"), float("inf"), 1e300, "1h", [], timedelta(0), timedelta(days=-1), 10**12, 5]
)
def test_a_wrong_window_is_refused(value: Any) -> None:
    with warnings.catch_warnings(), pytest.raises(UsageError, match="once"):
        warnings.simplefilter("ignore")
        Train("orders", once=value)


def test_all_programs_agree_on_the_window() -> None:
    assert Settings(once=DAY).once == 86_400.0
    assert Settings(once=DAY).declared()["once"] == Settings(once=86_400).declared()["once"] == "86400.0"

    async def main() -> None:
        world = World()
        async with world.running(counting()[0]):
            pass
        other = Train("orders")

        @other.on("orders")
        async def ship(payload: str) -> None:
            raise NotImplementedError

        with pytest.raises(DeclarationDiffers, match=r"once=86400\.0 there, None here"):
            async with world.running(other):
                pass

    run(main())


def test_where_a_platform_hands_out_the_events_it_is_refused() -> None:
    train, _ = counting()
    with pytest.raises(UsageError, match="Lambda delivers the events by itself, so once= can't be kept to"):
        train.connect("sqlite:///nowhere", orchestrator=aws.LambdaMappings("function"))
    function = aws.handler(train, url="sqs://eu-west-1/x")
    try:
        assert "once= can't be kept to" in function({PROBE: [""]}, None)["trouble"]
        with pytest.raises(UsageError, match="Lambda delivers"):
            function({"Records": []}, None)
    finally:
        function.close()
