"""What handlers publish: to the active wagon of their own train, or of another one; stored with the handler's
outcome. In virtual time, except where threads or processes are needed."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import pytest

from eventwagon import BatchContext, Connection, Context, Event, Reject, StepFailed, Train, Volume, Workers
from eventwagon.contracts.broker import Depth
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.errors import EventRefused, EventTooLarge, Unavailable, UsageError
from eventwagon.event import DEAD, Channel, child_id, published_id
from eventwagon.runtime import publisher as publisher_module
from eventwagon.runtime.handling import begin
from eventwagon.runtime.run_state import RunState
from eventwagon.runtime.threads import Threads
from eventwagon.runtime.train_state import TrainState
from eventwagon.testing.virtual_time import run
from tests.support import World, until

FEW = {"workers": Workers(total=4), "spares": 0}


def pair(seen: dict[str, list[Any]], **billing: Any) -> tuple[Train, Train]:
    """Orders, whose handler publishes an invoice to billing."""
    orders, bills = Train("orders", **FEW), Train("billing", **{**FEW, **billing})  # type: ignore[arg-type]

    @bills.on("billing")
    async def bill(invoice: dict[str, int], ctx: Context) -> None:
        seen["billing"].append((invoice["order"], ctx.wagon, ctx.event))

    @orders.on("orders")
    async def ship(order: int, ctx: Context) -> None:
        seen["orders"].append((order, ctx.wagon, ctx.event))
        await ctx.publish({"order": order}, to=bills)

    return orders, bills


def seen() -> dict[str, list[Any]]:
    return {"orders": [], "billing": []}


def test_another_train_gets_it_with_what_is_inherited() -> None:
    async def main() -> None:
        it, got = World(), seen()
        orders, bills = pair(got)
        async with it.running(orders) as c, it.running(bills):
            parent = await c.publish(7, subject="ada")
            await until(lambda: got["billing"])
        ((order, wagon, event),) = got["billing"]
        assert (order, wagon) == (7, 1)
        assert (event.subject, event.source, event.type) == ("ada", "/eventwagon/orders", "dict")
        assert event.id == published_id(got["orders"][0][2], "billing", 0)
        assert event.id != parent

    run(main())


def test_it_goes_to_the_active_wagon_not_to_the_handlers_own() -> None:
    async def main() -> None:
        it = World()
        wagons: dict[str, int] = {}
        train = Train("t", limit=Volume(3), workers=Workers(each=1), spares=1)
        gate = asyncio.Event()

        @train.on("t")
        async def step(name: str, ctx: Context) -> None:
            wagons[name] = ctx.wagon
            if name == "first":
                await gate.wait()
                await ctx.publish("second")

        async with it.running(train) as c:
            await c.publish("first")
            await c.publish_many(["a", "b", "c"])
            await until(lambda: c.manifest.active is not None and c.manifest.active.number == 2)
            gate.set()
            await until(lambda: "second" in wagons)
            assert wagons["first"] == 1
            assert wagons["second"] == 2
            await c.wait_drained(1)

    run(main())


def test_a_repeated_attempt_publishes_the_same_ids_and_a_failed_one_nothing() -> None:
    async def main() -> None:
        it, got = World(), list[Event]()
        orders, bills = Train("orders", **FEW), Train("billing", **FEW)  # type: ignore[arg-type]
        made: list[list[str]] = []

        @bills.on("billing")
        async def bill(n: int, ctx: Context) -> None:
            got.append(ctx.event)

        @orders.on("orders")
        async def ship(order: int, ctx: Context) -> None:
            for n in range(3):
                await ctx.publish(n, to=bills)
            made.append([event.id for _, event in ctx.emitted])
            if ctx.attempt < 3:
                raise ValueError("not yet")

        async with it.running(orders) as c, it.running(bills):
            await c.publish(1)
            await until(lambda: len(got) >= 3)
            await asyncio.sleep(10)
        assert made[0] == made[1] == made[2]
        assert Counter(event.id for event in got) == Counter(made[0])

    run(main())


def test_each_of_the_chain_is_another_event() -> None:
    event = Event("1", "t", "/s", 0.0, b"")
    ids = {published_id(event, train, n) for train in ("a", "b") for n in range(100)}
    assert len(ids) == 200
    assert all(name[14] == "8" and name[19] in "89ab" and len(name) == 36 for name in ids)


def test_what_it_emits_has_the_same_ids_whenever_it_was_published() -> None:
    parent = Event("1", "t", "/s", 0.0, b"")
    name = published_id(parent, "t", 0)
    first, again = (Event(name, "t", "/s", at, b"") for at in (1_750_000_000.0, 1_750_000_060.0))
    assert child_id(first, "inner", 0) == child_id(again, "inner", 0)
    assert child_id(first, "inner", 0) != child_id(first, "inner", 1)


class Failing(MemoryBroker):
    """Fails for the trains that are named."""

    def __init__(self, clock: Any) -> None:
        super().__init__(clock=clock)
        self.fails: dict[str, Exception] = {}
        self.stored: list[tuple[str, Any]] = []

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if channel.train in self.fails and channel.name != DEAD:
            raise self.fails[channel.train]
        await super().publish(channel, events)
        self.stored += [(str(channel), event.data) for event in events]


def test_it_is_stored_before_the_event_is_settled_and_waits_for_a_train_that_is_away() -> None:
    async def main() -> None:
        it, got = World(), seen()
        it.broker = broker = Failing(it.clock)
        orders, bills = pair(got)
        broker.fails["billing"] = Unavailable("the server is away")
        async with it.running(orders) as c:
            await c.publish(7)
            await until(lambda: got["orders"])
            await asyncio.sleep(60)
            depth = (await c.depths())[1][""]
            assert (depth.published, depth.settled) == (1, 0)
            assert len(got["orders"]) == 1  # it is handled once, and waits
            del broker.fails["billing"]
            await asyncio.sleep(30)
            assert (await c.depths())[1][""].settled == 1
        assert [fact.step for fact in it.of(StepFailed)] == ["publishing to train billing"]
        async with it.running(bills):
            await until(lambda: got["billing"])

    run(main())


def test_one_that_the_broker_refuses_for_good_is_a_dead_letter_of_its_own_event() -> None:
    async def main() -> None:
        it, got = World(), seen()
        it.broker = broker = Failing(it.clock)
        orders, _ = pair(got)
        broker.fails["billing"] = EventRefused("too odd")
        async with it.running(orders) as c:
            await c.publish(7)
            await asyncio.sleep(30)
            (letter,) = [event async for event in c.dead_letters()]
        assert letter.extensions["deadbecause"].startswith("publishing to train billing: ")

    run(main())


def test_one_that_is_refused_for_good_makes_no_duplicates_of_the_others() -> None:
    class Picky(MemoryBroker):
        async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
            if channel.train == "billing" and any(event.data == b"60" for event in events):
                raise EventRefused("not this one")
            await super().publish(channel, events)
            if channel.train == "billing":
                stored.extend(events)

    stored: list[Event] = []

    async def main() -> None:
        it = World()
        it.broker = Picky(clock=it.clock)
        orders, billing = Train("orders"), Train("billing")

        @orders.on("orders", batch=100)
        async def ship(some: list[int], ctx: BatchContext) -> None:
            for i, order in enumerate(some):
                ctx.publish(order, to=billing, of=i)

        async with it.connect(orders) as c:
            await c.publish_many(range(100))
        async with it.running(orders):
            await until(lambda: len({event.id for event in stored}) == 99)
        assert len(stored) == 99

    run(main())


def test_while_the_other_train_is_paused_it_waits() -> None:
    async def main() -> None:
        it, got = World(), seen()
        orders, bills = pair(got)
        async with it.running(orders) as c, it.running(bills) as b:
            await b.pause(publishing=True)
            await asyncio.sleep(5)
            await c.publish(7)
            await asyncio.sleep(60)
            assert got["billing"] == []
            assert (await c.depths())[1][""].settled == 0
            await b.resume()
            await until(lambda: got["billing"])

    run(main())


@pytest.mark.parametrize("count", [1, 3])
def test_who_leaves_gives_back_what_waits_for_a_paused_train(count: int) -> None:
    """Also what is under way: nobody has to wait until its claim expires."""

    async def main() -> None:
        it, got = World(), seen()
        orders, bills = pair(got)
        async with it.running(bills) as b:
            await b.pause(publishing=True)
            await asyncio.sleep(5)
            async with it.running(orders) as c:
                await c.publish_many(range(count))
                await until(lambda: len(got["orders"]) == count)
                await asyncio.sleep(1)
            async with it.connect(orders) as c:
                ingress = (await c.depths())[1][""]
                assert (ingress.waiting, ingress.in_flight, ingress.settled) == (count, 0, 0)
            await b.resume()
            async with it.running(orders):
                await until(lambda: len(got["billing"]) == count)
        assert len({event.id for *_, event in got["billing"]}) == count

    run(main())


def test_the_own_train_refuses_its_handlers_nothing() -> None:
    """At the cap, all wagons wait for events whose handlers publish: a refusal would last for ever."""

    async def main() -> None:
        it, done = World(), set[int]()
        train = Train("t", limit=Volume(2), workers=Workers(each=1), spares=0, wagons=2, at_cap="refuse")
        gate = asyncio.Event()

        @train.on("t")
        async def step(n: int, ctx: Context) -> None:
            await gate.wait()
            done.add(n)
            if n < 10:
                await ctx.publish(n + 10)

        async with it.running(train) as c:
            for n in range(4):
                await c.publish(n)
            await asyncio.sleep(5)
            gate.set()
            await until(lambda: done == {0, 1, 2, 3, 10, 11, 12, 13})
            await asyncio.sleep(60)
            assert [w.number for w in c.manifest.wagons] == [c.manifest.active and c.manifest.active.number]

    run(main())


def test_a_train_that_was_removed_is_founded_anew() -> None:
    async def main() -> None:
        it, got = World(), seen()
        orders, bills = pair(got)
        async with it.running(orders) as c:
            await c.publish(1)
            await until(lambda: got["orders"])
            await asyncio.sleep(5)
            async with it.connect(bills) as b:
                await b.remove(force=True)
            await asyncio.sleep(20)
            await c.publish(2)
            await asyncio.sleep(60)
            assert (await c.depths())[1][""].settled == 2
            async with it.running(bills):
                await until(lambda: got["billing"])
            assert [order for order, _, _ in got["billing"]] == [2]

    run(main())


def test_what_an_ended_process_did_not_store_is_handled_again() -> None:
    async def main() -> None:
        it, got = World(), seen()
        it.broker = broker = Failing(it.clock)
        orders, bills = pair(got, publish_timeout=2.0)
        broker.fails["billing"] = Unavailable("away")
        async with it.running(orders) as c:
            await c.publish(7)
            await until(lambda: got["orders"])
        del broker.fails["billing"]
        async with it.running(orders) as c, it.running(bills):
            await until(lambda: got["billing"])
            await asyncio.sleep(5)
            assert (await c.depths())[1][""].settled == 1
        assert len(got["billing"]) == 1

    run(main())


def test_a_rejected_event_publishes_nothing() -> None:
    async def main() -> None:
        it, got = World(), list[int]()
        train = Train("t", **FEW)  # type: ignore[arg-type]

        @train.on("t")
        async def step(n: int, ctx: Context) -> None:
            got.append(n)
            ctx.publish(n + 1)
            raise Reject("no")

        async with it.running(train) as c:
            await c.publish(1)
            await asyncio.sleep(30)
        assert got == [1]

    run(main())


class NoTrain:
    name = "billing"


@pytest.mark.parametrize("to", ["billing", 7, NoTrain(), object(), Train])
def test_what_is_no_train_is_refused(to: Any) -> None:
    async def main() -> None:
        it, errors = World(), list[BaseException]()
        train = Train("t", **FEW)  # type: ignore[arg-type]

        @train.on("t")
        async def step(n: int, ctx: Context) -> None:
            with pytest.raises(UsageError, match="must be a Train") as error:
                await ctx.publish(n, to=to)
            errors.append(error.value)

        async with it.running(train) as c:
            await c.publish(1)
            await until(lambda: errors)

    run(main())


def test_wrong_payloads_and_attributes_are_refused_at_the_call() -> None:
    async def main() -> None:
        it, bad = World(), list[str]()
        orders, bills = Train("orders", **FEW), Train("billing", max_event_bytes=1024, **FEW)  # type: ignore[arg-type]
        held: list[Context] = []

        @bills.on("billing")
        async def bill(n: int) -> None: ...

        @orders.on("orders")
        async def ship(order: int, ctx: Context) -> None:
            held.append(ctx)
            for payload, options in (
                ("text", {}),
                (float("nan"), {}),
                (Event("1", "t", "/s", 0.0, b"1"), {"subject": "x"}),
                (Event("1", "t", "/s", 0.0, b"1" * 2000), {}),
                (1, {"subject": ""}),
                (1, {"extensions": {"NO": "x"}}),
                (1, {"event_type": "\ud800"}),
            ):
                try:
                    ctx.publish(payload, to=bills, **options)
                except (UsageError, EventTooLarge) as e:
                    bad.append(type(e).__name__)
            assert ctx.emitted == []

        async with it.running(orders) as c:
            await c.publish(1)
            await until(lambda: len(bad) == 7)
            with pytest.raises(UsageError, match="has ended"):
                held[0].publish(1)
        assert bad == ["UsageError"] * 3 + ["EventTooLarge"] + ["UsageError"] * 3

    run(main())


def test_where_no_train_can_be_followed_it_is_refused() -> None:
    async def main() -> None:
        train = Train("t")

        @train.on("t")
        async def step(n: int, ctx: Context) -> None:
            await ctx.publish(n)

        event = Event("1", "int", "/s", 0.0, b"7")
        context = Context(event, 1, "t", 1, "", train.handlers, 1024, lambda: 0.0)
        outcome = begin(train.handlers[""], event, context, RunState(), Threads())
        assert "Lambda" in outcome.because  # type: ignore[union-attr]

    run(main())


def test_from_a_handler_in_a_thread(tmp_path: Path) -> None:
    url = f"sqlite:///{os.path.relpath(tmp_path)}"

    async def main() -> None:  # in real time: threads don't fit virtual time
        done: list[int] = []
        train, other = Train("t", **FEW), Train("u", **FEW)  # type: ignore[arg-type]

        @train.on("t")
        def step(n: int, ctx: Context) -> None:
            ctx.publish(n + 1, to=other)

        @other.on("u")
        def end(n: int) -> None:
            done.append(n)

        async with train.connect(url) as c, c.running(), other.connect(url) as d, d.running():
            await c.publish_many(range(50))
            await until(lambda: sorted(done) == list(range(1, 51)))

    asyncio.run(main())


PROGRAM = """
from eventwagon import Connection, Context, Train, Workers

orders = Train("orders", workers=Workers(each=2), spares=0)
bills = Train("billing", workers=Workers(each=2), spares=0)


@orders.on("orders")
async def ship(n: int, ctx: Context) -> None:
    await ctx.publish(n, to=bills)
    if n < 100:
        await ctx.publish(n + 100)
"""


def test_in_a_process_that_an_orchestrator_has_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is told its wagon, and follows a manifest only to publish."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "publishing_program.py").write_text(PROGRAM)
    monkeypatch.syspath_prepend(str(tmp_path))

    async def main() -> None:
        from publishing_program import bills, orders  # type: ignore[import-not-found]

        from eventwagon.drivers.opening import Program, open_orchestrator

        program = Program("publishing_program.py:orders", "sqlite:///trains", orders.settings)
        infrastructure = open_orchestrator("subprocess:", program)
        async with (
            orders.connect("sqlite:///trains", orchestrator=infrastructure) as c,
            c.running(),
            bills.connect("sqlite:///trains") as b,
        ):
            await c.publish_many(range(10))
            async with asyncio.timeout(60):
                while (await published(b)) != 20:
                    await asyncio.sleep(0.1)

    asyncio.run(main())


async def published(c: Connection) -> int | None:
    await c.refresh()
    return (await c.depths()).get(1, {}).get("", Depth()).published


def test_a_handler_of_batches_publishes_for_each_of_its_events() -> None:
    async def main() -> None:
        it, got = World(), list[int]()
        orders, bills = Train("orders", **FEW), Train("billing", **FEW)  # type: ignore[arg-type]

        @bills.on("billing")
        async def bill(n: int) -> None:
            got.append(n)

        @orders.on("orders", batch=10)
        async def ship(all_of_them: list[int], ctx: BatchContext) -> None:
            for index, n in enumerate(all_of_them):
                await ctx.publish(n * 10, of=index, to=bills)
            with pytest.raises(UsageError, match="of=99 is no index"):
                ctx.publish(1, of=99)

        async with it.running(orders) as c, it.running(bills):
            await c.publish_many(range(30))
            await until(lambda: len(got) >= 30)
            await asyncio.sleep(5)
        assert sorted(got) == [n * 10 for n in range(30)]

    run(main())


def test_a_fake_context_shows_what_was_published() -> None:
    bills = Train("billing")

    @bills.on("billing")
    async def bill(n: int) -> None: ...

    for ctx in (Context.fake(), Context.fake(train=bills)):
        ctx.publish(7, to=bills)
        ctx.publish(8)
        assert ctx.published == [("billing", 7), (ctx.train, 8)]
        assert ctx.emitted == []
        assert [event.data for event in ctx.events] == [b"7", b"8"]
        with pytest.raises(UsageError):
            ctx.publish("text", to=bills)
        with pytest.raises(UsageError, match="must be a Train"):
            ctx.publish(1, to="billing")  # type: ignore[arg-type]


def test_few_trains_are_followed_however_many_are_published_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least recently used are left, but never one that is being published to."""
    followed, most = set[str](), list[int]()

    class Followed(TrainState):
        async def __aenter__(self) -> Self:
            followed.add(self._runtime.train)
            most.append(len(followed))
            return await super().__aenter__()

        async def __aexit__(self, *exc: object) -> None:
            await super().__aexit__(*exc)
            followed.discard(self._runtime.train)

    monkeypatch.setattr(publisher_module, "TrainState", Followed)
    monkeypatch.setattr(publisher_module, "_OPEN_MOST", 3)

    async def main() -> None:
        it, go_on = World(), asyncio.Event()

        class Slow(MemoryBroker):
            async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
                if channel.train == "slow":
                    await go_on.wait()
                await super().publish(channel, events)

        it.broker = Slow(clock=it.clock)
        others = [Train(f"other{n}", **FEW) for n in range(10)]  # type: ignore[arg-type]
        slow = Train("slow", **FEW, publish_timeout=600)  # type: ignore[arg-type]
        orders = Train("orders", workers=Workers(each=1), publish_timeout=600)

        @orders.on("orders")
        async def ship(n: int, ctx: Context) -> None:
            await ctx.publish(n, to=slow if n < 0 else others[n])

        async with it.running(orders) as c:
            await c.publish(-1)
            await until(lambda: "slow" in followed)
            for n in (*range(10), *range(10)):
                await c.publish(n)
                await asyncio.sleep(5)
            assert await taken(it, others) == [2] * 10
            assert followed == {"slow", "other8", "other9"}
            go_on.set()
            await asyncio.sleep(5)
            assert await taken(it, [slow]) == [1]
            assert not it.of(StepFailed)
        assert not followed

    run(main())
    assert max(most) <= 5  # the one that is published to, and one that is being left


async def taken(it: World, trains: Sequence[Train]) -> list[int | None]:
    return [depth.published for depth in await it.broker.depth([Channel(train.name, 1) for train in trains])]
