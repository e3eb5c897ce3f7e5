"""The whole train in memory and virtual time: what the pattern promises, and what happens when things go wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections import Counter
from collections.abc import Sequence

import attrs
import msgspec
import pydantic
import pytest

from eventwagon import Context, Event, EventwagonError, Reject, Settings, Train, Volume, Wait, Workers
from eventwagon.brokers.memory import MemoryBroker
from eventwagon.errors import (
    DeclarationDiffers,
    EventTooLarge,
    PublishTimeout,
    PublishUncertain,
    TrainFull,
    Unavailable,
    UsageError,
)
from eventwagon.event import Channel
from eventwagon.facts import (
    BoundLifted,
    EventDied,
    EventRetried,
    OrphanRemoved,
    ProvisioningFailed,
    Switched,
    WagonDrained,
    WagonOpened,
    WagonRemoved,
)
from eventwagon.lifecycle import State
from eventwagon.settings import AtCap
from eventwagon.testing.virtual_time import run
from tests.support import World, journal, until


@dataclasses.dataclass
class SignUp:
    email: str


@dataclasses.dataclass
class Email:
    to: str


def signups(handled: list[str], *, seconds: float = 0.0, **settings: object) -> Train:
    """Sign-up → welcome e-mail; `handled` gets what the last of the chain has seen."""
    defaults: dict[str, object] = {"limit": Volume(100), "workers": Workers(total=4), "spares": 1}
    train = Train("signups", **{**defaults, **settings})  # type: ignore[arg-type]

    @train.on("signups")
    async def register(signup: SignUp, ctx: Context) -> None:
        await asyncio.sleep(seconds)
        await ctx.emit("welcome", Email(signup.email))

    @train.on("welcome")
    async def welcome(email: Email) -> None:
        handled.append(email.to)

    return train


def test_wagons_fill_switch_drain_and_go() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled)) as train:
            assert await train.publish_many(SignUp(str(i)) for i in range(350)) == 350
            await until(lambda: len(handled) == 350)
            await train.wait_drained(3)
            (active, spare) = train.manifest.wagons
            assert (active.number, active.state, spare.state) == (4, State.ACTIVE, State.READY)
        assert sorted(handled, key=int) == [str(i) for i in range(350)]
        records = [f.wagon for f in world.of(WagonRemoved)]
        assert [(w.number, w.published, w.settled) for w in records] == [(1, 100, 100), (2, 100, 100), (3, 100, 100)]
        assert {c.wagon for c in await world.broker.channels("signups")} == {4, 5}

    run(main())


def test_journal_tells_the_story_after_a_restart() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled)) as train:
            await train.publish_many(SignUp(str(i)) for i in range(150))
            await train.wait_drained(1)
        async with world.connect(Train("signups")) as later:
            facts = [e.fact for e in await journal(later)]
        story = [type(f).__name__ for f in facts if getattr(f, "number", getattr(f, "new", 1)) == 1]
        assert story[:3] == ["Declared", "WagonOpened", "Switched"]
        assert {"WagonSealed", "WagonDrained"} <= set(story)
        (removed,) = [f for f in facts if isinstance(f, WagonRemoved)]
        assert removed.wagon.closed_because == "100 of 100 events taken"
        assert removed.wagon.opened_at <= removed.wagon.closed_at <= removed.wagon.sealed_at <= removed.wagon.drained_at  # type: ignore[operator]

    run(main())


def test_exact_cut_with_several_publishing_processes() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        train = signups(handled, limit=Volume(1000))
        async with world.running(train), world.connect(train) as a, world.connect(train) as b:
            async with asyncio.TaskGroup() as tasks:
                for n, publisher in enumerate([a, b]):
                    for i in range(700):
                        tasks.create_task(publisher.publish(SignUp(f"{n}-{i}")))
            await until(lambda: len(handled) == 1400)
            await a.wait_drained(1)
        assert world.of(WagonDrained)[0].published == 1000

    run(main())


def test_newcomers_are_served_while_the_backlog_waits() -> None:
    async def main() -> None:
        world = World()
        waits: dict[int, list[float]] = {}
        train = Train("burst", limit=Wait(2.0), workers=Workers(total=4, floor=0), spares=1)

        @train.on("burst")
        async def handle(n: int, ctx: Context) -> None:
            await asyncio.sleep(0.1)
            waits.setdefault(ctx.wagon, []).append(world.clock() - ctx.event.time)

        async with world.running(train) as connection:
            for i in range(600):  # 80 a second for what 40 a second can serve
                await connection.publish(i)
                await asyncio.sleep(1 / 80)
            await until(lambda: sum(map(len, waits.values())) == 600)
        in_time = sum(w <= 2.0 for wagon in waits.values() for w in wagon)
        assert in_time > 0.9 * (7.5 * 40 + 2 * 40)  # of what 4 workers can do at all; one queue would reach 160

    run(main())


def test_retries_then_dead_letters_that_outlive_their_wagon() -> None:
    async def main() -> None:
        world, attempts = World(), Counter[str]()
        train = Train("t", limit=Volume(4), workers=Workers(each=2), spares=1, attempts=3)

        @train.on("t")
        async def handle(what: str, ctx: Context) -> None:
            attempts[what] += 1
            if what == "poison":
                raise ValueError("can't\nbe")
            if what == "no":
                raise Reject("not for us")
            if what == "second time" and ctx.attempt == 1:
                raise RuntimeError

        async with world.running(train) as connection:
            ids = {what: await connection.publish(what) for what in ("poison", "no", "second time", "fine")}
            await connection.publish("next wagon")
            await connection.wait_drained(1)
            dead = {e.id: e for e in [e async for e in connection.dead_letters()]}
        assert attempts == {"poison": 3, "no": 1, "second time": 2, "fine": 1, "next wagon": 1}
        assert dead.keys() == {ids["poison"], ids["no"]}
        poison = dead[ids["poison"]]
        assert poison.data == b'"poison"'
        assert poison.extensions["deadbecause"] == "ValueError: can't; be"
        assert poison.extensions["deadattempts"] == "3"
        assert poison.extensions["deadwagon"] == "1"
        assert dead[ids["no"]].extensions["deadbecause"] == "rejected: not for us"
        assert world.of(WagonRemoved)[0].dead == 2
        assert len(world.of(EventDied)) == 2
        pauses = [f.pause for f in world.of(EventRetried) if f.attempt == 2]
        assert all(0 <= p <= 1.0 for p in pauses)

    run(main())


def test_what_does_not_decode_goes_to_the_dead_letters_with_its_bytes() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled)) as connection:
            foreign = Event("my-id", "?", "/elsewhere", 1.0, b"\xff not json")
            await connection.publish(foreign)
            await connection.publish({"wrong": "shape"})
            await until(lambda: len(world.of(EventDied)) == 2)
            await asyncio.sleep(1)
            dead = [e async for e in connection.dead_letters()]
        assert [e.data for e in dead if e.id == "my-id"] == [b"\xff not json"]
        assert all("can't be decoded" in e.extensions["deadbecause"] for e in dead)
        assert handled == []

    run(main())


def test_a_handler_that_hangs_is_cut_short_and_tried_again() -> None:
    async def main() -> None:
        world, attempts = World(), list[int]()
        train = Train("t", limit=Volume(10), workers=Workers(each=1), handler_timeout=5.0)

        @train.on("t")
        async def handle(_: int, ctx: Context) -> None:
            attempts.append(ctx.attempt)
            if ctx.attempt == 1:
                await asyncio.Event().wait()

        async with world.running(train) as connection:
            await connection.publish(1)
            await until(lambda: attempts == [1, 2])
        assert "handler_timeout=5" in world.of(EventRetried)[0].because

    run(main())


def test_long_handlers_keep_their_claim() -> None:
    async def main() -> None:
        world, attempts = World(), list[int]()
        train = Train("t", limit=Volume(10), workers=Workers(each=2), visibility=3.0, handler_timeout=60.0)

        @train.on("t")
        async def handle(_: int, ctx: Context) -> None:
            attempts.append(ctx.attempt)
            await asyncio.sleep(30)

        async with world.running(train) as connection:
            await connection.publish(1)
            await asyncio.sleep(40)
        assert attempts == [1]

    run(main())


def test_i8_poison_in_one_wagon_does_not_slow_the_next() -> None:
    async def main() -> None:
        world, waits = World(), list[float]()
        train = Train("t", limit=Volume(50), workers=Workers(each=2), spares=1, attempts=10, handler_timeout=1.0)

        @train.on("t")
        async def handle(what: str, ctx: Context) -> None:
            if what == "poison":
                await asyncio.sleep(3600)
            waits.append(world.clock() - ctx.event.time)

        async with world.running(train) as connection:
            await connection.publish_many("poison" for _ in range(50))
            await connection.publish_many("fine" for _ in range(40))
            await until(lambda: len(waits) == 40)
        assert max(waits) < 0.5

    run(main())


class Flaky(MemoryBroker):
    """A memory broker whose publishes fail as the test says: `errors` are raised one by one, after taking effect or not."""

    def __init__(self, clock: object) -> None:
        super().__init__(clock=clock)  # type: ignore[arg-type]
        self.errors: list[tuple[Exception, bool]] = []
        self.down = False

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if self.down:
            raise Unavailable("the broker is away")
        if self.errors:
            error, after_effect = self.errors.pop(0)
            if after_effect:
                await super().publish(channel, events)
            raise error
        await super().publish(channel, events)


def flaky_world() -> tuple[World, Flaky]:
    world = World()
    world.broker = broker = Flaky(world.clock)
    return world, broker


def test_uncertain_publish_is_a_duplicate_with_the_same_id_never_a_loss() -> None:
    async def main() -> None:
        world, broker = flaky_world()
        handled = list[str]()
        async with world.running(signups(handled)) as connection:
            broker.errors = [(PublishUncertain("?"), True), (PublishUncertain("?"), False), (Unavailable("?"), False)]
            await connection.publish(SignUp("a"))
            await until(lambda: len(handled) == 2)
        assert handled == ["a", "a"]

    run(main())


def test_i6_emits_are_stored_before_the_event_is_settled() -> None:
    async def main() -> None:
        world, broker = flaky_world()
        handled = list[str]()
        async with world.running(signups(handled)) as connection:
            await connection.publish(SignUp("a"))
            await asyncio.sleep(0)
            broker.down = True
            await asyncio.sleep(20)
            depth = (await connection.depths())[1][""]
            assert handled in ([], ["a"])
            if not handled:
                assert depth.settled == 0
            broker.down = False
            await until(lambda: handled == ["a"])

    run(main())


def test_publish_gives_up_at_its_deadline_and_says_why() -> None:
    async def main() -> None:
        world, broker = flaky_world()
        async with world.running(signups([])) as connection:
            await connection.publish(SignUp("a"))
            broker.down = True
            with pytest.raises(PublishTimeout, match="the broker is away"):
                await connection.publish(SignUp("b"), timeout=3.0)
            broker.down = False
            await connection.publish(SignUp("c"))

    run(main())


def test_publish_many_says_how_many_were_stored() -> None:
    async def main() -> None:
        world, broker = flaky_world()

        async def payloads():  # type: ignore[no-untyped-def]
            for i in range(1200):
                if i == 1000:
                    broker.down = True
                yield SignUp(str(i))

        async with world.running(signups([], limit=Volume(10_000))) as connection:
            with pytest.raises(PublishTimeout) as caught:
                await connection.publish_many(payloads(), timeout=2.0)
            assert caught.value.accepted == 1000

    run(main())


@pytest.mark.parametrize(("at_cap", "expected"), [("refuse", 20), ("fill", 50)])
def test_at_the_cap_publishers_are_refused_or_the_wagon_filled_on(at_cap: AtCap, expected: int) -> None:
    async def main() -> None:
        world, gate = World(), asyncio.Event()
        train = Train("t", limit=Volume(10), workers=Workers(each=1), wagons=2, at_cap=at_cap, hold=0.5)

        @train.on("t")
        async def handle(_: int) -> None:
            await gate.wait()

        async with world.running(train) as connection:
            accepted = 0
            try:
                for i in range(50):
                    await connection.publish(i, timeout=60.0)
                    accepted += 1
            except TrainFull as e:
                assert "cap of 2" in str(e)
            assert accepted == expected
            gate.set()
            await connection.wait_drained(1)
            await asyncio.sleep(1)
            await connection.publish(99)
        assert bool(world.of(BoundLifted)) == (at_cap == "fill")

    run(main())


def test_provisioning_that_never_gets_ready_leaves_ingestion_unharmed() -> None:
    async def main() -> None:
        world = World()
        settings = {"provision_timeout": 2.0, "provision_attempts": 2, "hold": 1.0}
        train = signups([], limit=Volume(10), **settings)
        async with world.connect(train) as connection, connection.running(observe=True, work=False):
            for i in range(30):  # nobody works: no second wagon is ever ready
                await connection.publish(SignUp(str(i)))
            await asyncio.sleep(60)
            manifest = connection.manifest
            assert manifest.active is not None
            assert manifest.active.number == 1
        failures = world.of(ProvisioningFailed)
        assert "eventwagon run" in failures[0].because
        assert failures[1].pause is None
        assert world.of(BoundLifted)[0].number == 1
        assert not [f for f in world.of(Switched) if f.old is not None]
        opened = [f.number for f in world.of(WagonOpened)]
        assert len(opened) == len(set(opened)) >= 3  # given up ones are followed by others, under new numbers
        assert len(manifest.wagons) <= 2

    run(main())


def test_workers_are_divided_between_processes_and_moved_when_one_goes() -> None:
    async def main() -> None:
        world, running = World(), Counter[str]()

        def program(name: str) -> Train:
            train = Train("t", limit=Volume(10_000), workers=Workers(total=5), member_ttl=3.0)

            @train.on("t")
            async def handle(_: int) -> None:
                running[name] += 1
                await asyncio.sleep(1.0)
                running[name] -= 1

            return train

        async with world.running(program("a")) as connection:
            async with world.connect(program("b")) as other, other.running(observe=False):
                await asyncio.sleep(5)
                await connection.publish_many(range(60))
                await asyncio.sleep(4.3)
                assert sorted(running.values()) == [2, 3]
            assert running["b"] == 0  # it left gracefully: nothing in flight was ended
            await asyncio.sleep(3.5)
            assert running["a"] == 5
            await until(lambda: not running["a"])
        assert not world.of(EventRetried)

    run(main())


def test_leaving_gives_back_what_was_not_handled_without_counting_an_attempt() -> None:
    async def main() -> None:
        world, attempts = World(), list[int]()

        def program() -> Train:
            train = Train("t", limit=Volume(1000), workers=Workers(total=4))

            @train.on("t")
            async def handle(_: int, ctx: Context) -> None:
                attempts.append(ctx.attempt)
                await asyncio.sleep(0.5)

            return train

        for _ in range(8):
            async with world.running(program()) as connection:
                if not attempts:
                    await connection.publish_many(range(60))
                await asyncio.sleep(0.7)
        async with world.running(program()):
            await until(lambda: len(attempts) == 60)
        assert set(attempts) == {1}

    run(main())


def test_a_handler_that_outlasts_the_grace_is_cut_and_its_event_tried_again() -> None:
    async def main() -> None:
        world, attempts = World(), list[int]()
        train = Train("t", limit=Volume(1000), workers=Workers(total=1), grace=2.0, backoff=0.0)

        @train.on("t")
        async def handle(_: int, ctx: Context) -> None:
            attempts.append(ctx.attempt)
            if ctx.attempt == 1:
                await asyncio.sleep(30)

        async with world.running(train) as connection:
            await connection.publish(1)
            await asyncio.sleep(1)
        async with world.running(train):
            await until(lambda: attempts == [1, 2])

    run(main())


def test_two_programs_that_declare_one_train_differently() -> None:
    async def main() -> None:
        world = World()
        async with world.running(signups([])):
            different = signups([], limit=Volume(7))
            async with world.connect(different) as other:
                with pytest.raises(DeclarationDiffers, match=r"limit=Volume\(100\) there, Volume\(7\) here.*redeclare"):
                    async with other.running():
                        pass
                await other.publish(SignUp("publishing goes on"))
        async with world.connect(different, redeclare=True) as other, other.running():
            assert other.manifest.declared["limit"] == "Volume(7)"

    run(main())


def test_a_publisher_without_handlers_leaves_the_declaration_to_others() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.connect(Train("signups")) as publisher:
            await publisher.publish({"email": "early"})
            async with world.running(signups(handled)) as connection:
                await until(lambda: handled == ["early"])
                assert connection.manifest.channels == ("welcome",)

    run(main())


def test_switch_drain_and_stop_by_hand() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        train = signups(handled, seconds=0.2)
        async with world.connect(train) as connection, connection.running(), world.connect(Train("signups")) as hand:
            await connection.publish_many(SignUp(str(i)) for i in range(20))
            number = await hand.request_switch("deploy")
            assert number == 1
            assert await hand.wait_switched(number) == 2
            await hand.wait_drained(number)
            assert len(handled) == 20
            await hand.request_stop("maintenance")
            async with asyncio.timeout(5):
                await connection.stopped()
        async with world.connect(train) as connection, connection.running():  # starts again as if nothing were
            await connection.publish(SignUp("after"))
            await until(lambda: len(handled) == 21)

    run(main())


def test_any_number_of_observers_hurt_nobody() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        train = signups(handled)
        async with world.running(train), world.running(train), world.running(train, work=False) as connection:
            await connection.publish_many(SignUp(str(i)) for i in range(950))
            await until(lambda: len(handled) == 950)
            await connection.wait_drained(9)
        numbers = [f.number for f in world.of(WagonOpened)]
        assert len(numbers) == len(set(numbers))
        switches = [(f.old, f.new) for f in world.of(Switched)]
        assert len(switches) == len(set(switches)) == 10

    run(main())


def test_what_a_stale_publisher_left_in_a_risen_channel_is_published_anew() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled)) as connection:
            await connection.publish_many(SignUp(str(i)) for i in range(150))
            await connection.wait_drained(1)
            risen = Channel("signups", 1)  # a paused process made the channel again and another published to it
            await world.broker.create(risen)
            await world.broker.publish(risen, [Event("late", "SignUp", "/", world.clock(), b'{"email": "late"}')])
            await until(lambda: "late" in handled, seconds=120)
        assert world.of(OrphanRemoved)
        assert not [c for c in await world.broker.channels("signups") if c.wagon == 1]

    run(main())


class Struct(msgspec.Struct):
    n: int


@attrs.define
class Attrs:
    n: int


class Pydantic(pydantic.BaseModel):
    n: int = pydantic.Field(gt=0)


@dataclasses.dataclass
class Data:
    n: int


@pytest.mark.parametrize(
    ("annotation", "payload"),
    [(Struct, Struct(1)), (Attrs, Attrs(1)), (Pydantic, Pydantic(n=1)), (Data, Data(1)), (dict, {"n": 1}), (bytes, b"\0"), (str, "é"), (list[int], [1])],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_payload_types(annotation: type, payload: object) -> None:
    async def main() -> None:
        world, seen = World(), list[object]()
        train = Train("t", limit=Volume(10), workers=Workers(each=1))

        async def handle(value: object) -> None:
            seen.append(value)

        handle.__annotations__["value"] = annotation
        train.on("t")(handle)
        async with world.running(train) as connection:
            await connection.publish(payload)
            await until(lambda: seen)
        assert seen == [payload]

    run(main())


def test_pydantic_validation_counts() -> None:
    async def main() -> None:
        world = World()
        train = Train("t", limit=Volume(10), workers=Workers(each=1))

        @train.on("t")
        async def handle(value: Pydantic) -> None:
            raise AssertionError(value)

        async with world.running(train) as connection:
            await connection.publish({"n": 0})
            await until(lambda: world.of(EventDied))
        assert "ValidationError" in world.of(EventDied)[0].because

    run(main())


def test_sync_handlers_run_in_threads_and_may_emit_without_await() -> None:
    async def main() -> None:  # in real time: threads don't fit virtual time
        import threading
        import time

        world, seen = World(clock=time.time), list[tuple[str, bool]]()
        train = Train("t", limit=Volume(100), workers=Workers(total=4))

        @train.on("t")
        def handle(n: int, ctx: Context) -> None:
            if n == 3 and ctx.attempt == 1:
                raise StopIteration
            ctx.emit("next", n)

        @train.on("next")
        def collect(n: int) -> None:
            seen.append((str(n), threading.current_thread() is threading.main_thread()))

        train.settings = msgspec.structs.replace(train.settings, backoff=0.0)
        async with world.running(train) as connection:
            await connection.publish_many(range(20))
            await until(lambda: len(seen) == 20)
        assert sorted(int(n) for n, _ in seen) == list(range(20))
        assert not any(main for _, main in seen)

    asyncio.run(main())


def test_a_returned_value_is_ignored_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world, seen = World(), list[int]()
        train = Train("t", limit=Volume(10), workers=Workers(each=1))

        @train.on("t")
        async def handle(n: int) -> list[int]:
            seen.append(n)
            return [n]

        async with world.running(train) as connection:
            await connection.publish_many(range(3))
            await until(lambda: len(seen) == 3)

    with caplog.at_level(logging.WARNING, logger="eventwagon"):
        run(main())
    (record,) = [r for r in caplog.records if "ctx.emit" in r.message]
    assert "returned a list" in record.message


def test_handlers_that_cannot_be_are_refused_when_declared() -> None:
    train = Train("t")
    with pytest.raises(UsageError, match="yield"):

        @train.on("t")
        async def generator(n: int):  # type: ignore[no-untyped-def]
            yield n

    with pytest.raises(UsageError, match=r"\(payload\) or \(payload, ctx\)"):

        @train.on("t")
        async def nothing() -> None: ...

    with pytest.raises(UsageError, match="payload type"):

        @train.on("t")
        async def unknown(n: asyncio.Event) -> None: ...

    @train.on("t")
    async def fine(n: int) -> None: ...

    with pytest.raises(UsageError, match="already"):
        train.on("t")(fine)
    with pytest.raises(UsageError, match="dead"):
        train.on("dead")


def test_emit_says_what_is_wrong() -> None:
    async def main() -> None:
        world, errors = World(), list[EventwagonError]()
        train = Train("t", limit=Volume(10), workers=Workers(each=1), max_event_bytes=1024)

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            for channel, payload in (("nowhere", 1), ("t", 1), ("inner", object()), ("inner", "x" * 2000)):
                try:
                    await ctx.emit(channel, payload)
                except EventwagonError as e:
                    errors.append(e)

        @train.on("inner")
        async def inner(n: int) -> None: ...

        async with world.running(train) as connection:
            with pytest.raises(EventTooLarge, match="max_event_bytes"):
                await connection.publish("x" * 2000)
            with pytest.raises(UsageError, match="can't be published"):
                await connection.publish(object())
            await connection.publish(1)
            await until(lambda: len(errors) == 4)
        assert "there are: inner" in str(errors[0])
        assert "ingress is published to" in str(errors[1])
        assert isinstance(errors[2], UsageError)
        assert isinstance(errors[3], EventTooLarge)

    run(main())


def test_a_program_without_a_handler_for_the_ingress_cannot_work() -> None:
    async def main() -> None:
        async with World().connect(Train("t")) as connection:
            with pytest.raises(UsageError, match=r"@train.on\('t'\)"):
                async with connection.running():
                    pass

    run(main())


def test_i10_nothing_grows_with_wagons_that_were() -> None:
    async def main() -> None:
        import gc

        world, handled = World(), list[str]()
        counts = []
        async with world.running(signups(handled, limit=Volume(2), cooldown=0.0, wagons=100, keep=50)) as connection:
            for round_ in range(6):
                for i in range(80):
                    await connection.publish(SignUp(f"{round_}-{i}"))
                    await asyncio.sleep(0.02)
                await until(lambda n=80 * (round_ + 1): len(handled) >= n)  # type: ignore[misc]
                active = connection.manifest.active
                assert active is not None
                await connection.wait_drained(active.number - 1)
                world.facts.clear()
                gc.collect()
                counts.append((len(gc.get_objects()), len(asyncio.all_tasks())))
        assert connection.manifest.next_number > 200
        assert counts[-1][1] <= counts[1][1] + 5
        assert counts[-1][0] < counts[1][0] * 1.1

    run(main())


def test_settings_are_kept() -> None:
    assert Train("t", wagons=5).settings == Settings(wagons=5)
    with pytest.raises(UsageError, match=r"there are: .*visibility"):
        Train("t", visbility=3)
