"""Budgets: how many events of a channel all processes of a train handle at a time and begin in a second. In virtual
time, with several "processes" at one broker and one registry."""

from __future__ import annotations

import asyncio
import io
import math
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any

import msgspec
import pytest
from rich.console import Console

from eventwagon import Budget, Context, Train, UsageError, Volume, Workers
from eventwagon.cli.status import table
from eventwagon.contracts.broker import Delivery
from eventwagon.contracts.registry import BudgetPart, Member
from eventwagon.drivers.memory.broker import MemorySubscription
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import Unavailable
from eventwagon.event import Channel
from eventwagon.orchestrators import aws
from eventwagon.orchestrators.aws.handler import PROBE
from eventwagon.policy.budgets import Waiting
from eventwagon.runtime.budget_shares import BudgetShares
from eventwagon.runtime.budgets import ChannelBudget, Part, Slots, Tokens, Watcher
from eventwagon.runtime.prefetch import WagonPrefetch
from eventwagon.runtime.worker_states import PoolState
from eventwagon.testing.virtual_time import run
from eventwagon.views.train import look
from tests.support import World, pools_of, runtime_of, until


class Meter:
    """Who handles what at a time, in several processes."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self.began: list[tuple[float, str]] = []

    async def handle(self, who: str, seconds: float) -> None:
        self.began.append((asyncio.get_running_loop().time(), who))
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(seconds)
        finally:
            self.now -= 1

    def count(self, since: float, to: float, who: str = "") -> int:
        """How many began in that time, in one process or in all."""
        return sum(since <= at < to and who in ("", by) for at, by in self.began)


def train_of(
    meter: Meter, who: str, seconds: float = 0.1, *, settings: dict[str, Any] | None = None, **options: Any
) -> Train:
    train = Train("t", **{"limit": Volume(100_000), "workers": Workers(each=24), "member_ttl": 2.0, **(settings or {})})

    @train.on("t", **options)
    async def handle(_: int) -> None:
        await meter.handle(who, seconds)

    return train


def watcher_of(pool: PoolState) -> Watcher:
    """Of a channel for which an event always waits."""
    wagon = Waiting(is_new=True, is_replay=False, since=0.0)
    return Watcher(pool, lambda: True, lambda _: None, lambda: None, lambda: None, lambda: wagon, lambda _: 0)


def now() -> float:
    return asyncio.get_running_loop().time()


def test_three_processes_share_a_concurrency() -> None:
    async def main() -> None:
        world, meter = World(), Meter()
        async with AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(world.running(train_of(meter, who, concurrency=4))) for who in "abc"
            ]
            await connections[0].publish_many(range(2000))
            await asyncio.sleep(5)
            began = now()
            await asyncio.sleep(20)
            assert meter.most == 4
            assert meter.count(began, began + 20) >= 0.95 * 20 * 4 / 0.1
            assert all(meter.count(began, began + 20, who) >= 150 for who in "abc")

    run(main())


def test_three_processes_share_a_rate() -> None:
    async def main() -> None:
        world, meter = World(), Meter()
        async with AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(world.running(train_of(meter, who, rate="20/s"))) for who in "abc"
            ]
            await connections[0].publish_many(range(2000))
            await asyncio.sleep(5)
            began = now()
            await asyncio.sleep(40)
            counts = [meter.count(began + n, began + n + 10) for n in range(30)]
            assert all(180 <= count <= 220 for count in counts), counts
            assert all(meter.count(began, began + 40, who) >= 150 for who in "abc")

    run(main())


def test_without_others_one_process_has_all_of_it_at_once() -> None:
    async def main() -> None:
        world, meter = World(), Meter()
        async with world.running(train_of(meter, "a", 1.0, concurrency=4)) as connection:
            began = now()
            await connection.publish_many(range(40))
            await asyncio.sleep(11)
        assert meter.most == 4
        assert len(meter.began) >= 40
        assert meter.began[3][0] - began < 0.5

    run(main())


def test_fewer_than_processes_go_round() -> None:
    async def main() -> None:
        world, meter = World(), Meter()
        async with AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(world.running(train_of(meter, who, concurrency=2))) for who in "abcde"
            ]
            await connections[0].publish_many(range(5000))
            await asyncio.sleep(60)
        assert meter.most == 2
        assert len(meter.began) >= 0.8 * 60 * 2 / 0.1
        assert all(meter.count(0, 60, who) >= 60 for who in "abcde")

    run(main())


@pytest.mark.parametrize("rate", ["6/min", "1/s"])
def test_a_slow_rate_is_kept_by_many(rate: str) -> None:
    async def main() -> None:
        world, meter = World(), Meter()
        per_second = 0.1 if rate == "6/min" else 1.0
        async with AsyncExitStack() as stack:
            connections = [
                await stack.enter_async_context(world.running(train_of(meter, who, rate=rate))) for who in "abc"
            ]
            await connections[0].publish_many(range(200))
            start = now()
            await asyncio.sleep(40 / per_second)
        assert 30 <= len(meter.began) <= 41
        for n in range(30):
            since = start + n / per_second
            assert meter.count(since, since + 10 / per_second) <= 11

    run(main())


def test_batches_keep_to_a_slow_rate_in_all_processes_together() -> None:
    async def main() -> None:
        world, sizes = World(), list[int]()

        def batching() -> Train:
            train = Train("t", limit=Volume(100_000), workers=Workers(each=4), member_ttl=5.0)

            @train.on("t", batch=50, within=0.2, rate="1/s")
            async def handle(some: list[int]) -> None:
                sizes.append(len(some))

            return train

        async with AsyncExitStack() as stack:
            connections = [await stack.enter_async_context(world.running(batching())) for _ in range(3)]
            await connections[0].publish_many(range(5000))
            await asyncio.sleep(300)
            assert 150 <= sum(sizes) <= 300 + 3 * 50, sum(sizes)  # the last batch of each is not made up for yet

    run(main())


def test_a_part_that_grows_is_used_at_once() -> None:
    """After a batch the next event has to wait; if the part has grown meanwhile, only for as long as that needs."""

    async def main() -> None:
        told: list[float] = []
        part = Tokens("rate", 100.0)
        part.watchers.append(watcher_of(PoolState(is_shared=False))._replace(on_room=lambda _: told.append(now())))
        part.until = math.inf
        part.grant(1.0)
        part.begin(51)
        part.grant(0.0)
        assert part.owes
        part.grant(50.0)
        await asyncio.sleep(2.0)
        assert told
        assert 1.0 <= told[0] < 1.2
        assert not part.owes

    run(main())


def test_what_one_process_does_not_need_another_has() -> None:
    """Each process serves what it is given; a budget that one does not use is free for the others soon."""

    async def main() -> None:
        world, meter = World(), Meter()
        one, other = Budget("api", concurrency=4), Budget("api", concurrency=4)
        first, second = train_of(meter, "a", budget=one), train_of(meter, "b", budget=[other])
        second.name = "t2"
        async with world.running(first) as a, world.running(second) as b:
            await a.publish_many(range(200))
            await asyncio.sleep(3)
            await until(lambda: meter.now == 4, seconds=2.0)
            await b.publish_many(range(4000))
            await asyncio.sleep(3)
            began = now()
            await asyncio.sleep(10)
            assert meter.count(began, now(), "b") >= 0.9 * 10 * 4 / 0.1
            await a.publish_many(range(4000))
            await asyncio.sleep(3)
            began = now()
            await asyncio.sleep(10)
            assert meter.count(began, now(), "b") == pytest.approx(200, rel=0.1)
            assert meter.count(began, now(), "a") == pytest.approx(200, rel=0.1)
            assert meter.most == 4

    run(main())


def test_an_idle_train_calls_the_registry_for_no_budget() -> None:
    async def main() -> None:
        world, meter, asked = World(), Meter(), list[str]()
        members = world.registry.members

        async def count(train: str) -> Any:
            asked.append(train)
            return await members(train)

        world.registry.members = count  # type: ignore[method-assign]
        async with world.running(train_of(meter, "a", budget=Budget("api", rate=50))) as connection:
            await connection.publish_many(range(20))
            await asyncio.sleep(10)
            assert len(meter.began) == 20
            asked.clear()
            await asyncio.sleep(60)
            assert "0budgets" not in asked
            assert not await members("0budgets")
            began = now()
            await connection.publish(1)
            await until(lambda: len(meter.began) == 21)
            assert now() - began < 0.2

    run(main())


async def _far(cut: asyncio.Event) -> None:
    if cut.is_set():
        await asyncio.sleep(0.5)
        raise Unavailable("cut off")


class Process:
    """A "process" that can be cut off from the registry: nothing that it says gets through."""

    def __init__(self, world: World, train: Train) -> None:
        self.cut = asyncio.Event()
        self._world, self._train = world, train

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Any]:
        registry, cut = self._world.registry, self.cut

        class Far(type(registry)):  # type: ignore[misc]
            def __init__(self) -> None:
                self.documents = registry.documents

            async def check_in(self, *of: Any, **more: Any) -> None:
                await _far(cut)
                await registry.check_in(*of, **more)

            async def members(self, train: str) -> Any:
                await _far(cut)
                return await registry.members(train)

        async with self._world.connect(self._train, registry=Far()) as c, c.running():
            yield c


@pytest.mark.timeout(60)
def test_a_process_that_is_cut_off_ends_what_it_began_before_others_take_its_part() -> None:
    async def main() -> None:
        world, meter = World(), Meter()
        lost = Process(world, train_of(meter, "lost", 3.0, concurrency=4, attempts=2))
        async with lost.running(), world.running(train_of(meter, "other", 3.0, concurrency=4, attempts=2)) as c:
            await c.publish_many(range(400))
            await asyncio.sleep(10)
            await until(lambda: meter.now == 4, seconds=2.0)
            lost.cut.set()
            cut = now()
            await asyncio.sleep(4)  # twice member_ttl
            began = now()
            await asyncio.sleep(30)
            assert meter.most == 4
            assert meter.count(cut + 2, now(), "lost") == 0
            assert meter.count(began, began + 30, "other") >= 0.9 * 30 * 4 / 3.0
            lost.cut.clear()
            await asyncio.sleep(6)
            began = now()
            await asyncio.sleep(20)
            assert meter.count(began, now(), "lost") >= 10
            assert meter.most == 4

    run(main())


def test_the_part_of_a_killed_process_is_free_once_it_counts_as_gone() -> None:
    async def main() -> None:
        world, meter = World(), Meter()
        killed = Member(name="killed/budgets", budgets={"t/concurrency": BudgetPart(3.0, 3.0, 4.0)})
        await world.registry.check_in("t", killed, ttl=6.0)
        async with world.running(train_of(meter, "a", 0.5, concurrency=4)) as connection:
            await connection.publish_many(range(100))
            await asyncio.sleep(5.9)
            assert meter.most == 1
            await until(lambda: meter.most == 4, seconds=1.5)

    run(main())


@pytest.mark.timeout(60)
def test_while_the_registry_is_away_what_has_a_budget_waits() -> None:
    async def main() -> None:
        world, meter, free = World(), Meter(), list[float]()

        def train(who: str) -> Train:
            made = train_of(meter, who, 1.0, concurrency=4, settings={"attempts": 2})

            @made.on("free")
            async def handle(_: int) -> None:
                free.append(now())

            return made

        both = [Process(world, train(who)) for who in "ab"]
        async with both[0].running() as c, both[1].running():
            await c.publish_many(range(100))
            await asyncio.sleep(5)
            await until(lambda: meter.now == 4, seconds=2.0)
            for each in both:
                each.cut.set()
            away = now()
            await asyncio.sleep(2)
            assert meter.now == 0
            await asyncio.sleep(10)
            assert meter.count(away + 2, now()) == 0
            for each in both:
                each.cut.clear()
            await until(lambda: meter.now == 4, seconds=6.0)
            await asyncio.sleep(40)
        assert len(meter.began) >= 100  # those that were cut short came again
        assert meter.most == 4

    run(main())


def test_a_look_that_came_back_after_the_lease_had_ended_grants_nothing() -> None:
    """What was left then, others may have taken since."""

    class Slow(MemoryRegistry):
        looks = 0

        async def members(self, train: str) -> Any:
            found = await super().members(train)
            self.looks += 1
            if self.looks == 2:
                await asyncio.sleep(1.9)  # longer than the lease, which ends at 1.8 s
            return found

    async def main() -> None:
        world, registry = World(), Slow()
        train = Train("t", member_ttl=2.0)
        part, pool = Slots("concurrency=4 of t", 4), PoolState(is_shared=True)
        pool.target = 8
        part.watchers.append(watcher_of(pool))
        runtime = runtime_of(train, world.broker, clock=world.clock, name="a")
        async with BudgetShares(runtime, registry, "t", {"t/concurrency": part}):
            assert not part.has_room()
            await asyncio.sleep(1.85)
            await registry.check_in(
                "t", Member(name="b", budgets={"t/concurrency": BudgetPart(4.0, 4.0, 4.0)}), ttl=3.0
            )
            for _ in range(250):
                await asyncio.sleep(0.01)
                assert not part.has_room()
            await asyncio.sleep(2)
            assert part.has_room()

    run(main())


@pytest.mark.parametrize("names", ["ab", "aa"])
def test_two_processes_of_one_name_have_one_budget(names: str) -> None:
    async def main() -> None:
        world, parts, most = World(), list[Slots](), list[float]()
        train = Train("t", member_ttl=2.0)
        async with AsyncExitStack() as stack:
            for name in names:
                part, pool = Slots("concurrency=4 of t", 4), PoolState(is_shared=True)
                pool.target = 8
                part.watchers.append(watcher_of(pool))
                runtime = runtime_of(train, world.broker, clock=world.clock, name=name)
                shares = BudgetShares(runtime, world.registry, "t", {"t/concurrency": part})
                await stack.enter_async_context(shares)
                parts.append(part)
            for _ in range(200):
                await asyncio.sleep(0.05)
                most.append(sum(part.held for part in parts))
        assert max(most) == 4
        assert min(part.of for part in parts) == 4
        assert not await world.registry.members("t")

    run(main())


def test_a_process_that_looks_again_and_again_does_not_take_what_another_one_waits_for() -> None:
    async def main() -> None:
        world, parts = World(), list[Slots]()
        train = Train("t", member_ttl=2.0)

        async def begin_for(seconds: float) -> None:
            until = now() + seconds
            while now() < until:
                await asyncio.sleep(0.01)
                for part in parts:
                    if part.has_room():
                        part.begin(1)

        async with AsyncExitStack() as stack:
            for name in "ab":
                part, pool = Slots("concurrency=4 of t", 4), PoolState(is_shared=True)
                pool.target = 8
                part.watchers.append(watcher_of(pool))
                runtime = runtime_of(train, world.broker, clock=world.clock, name=name)
                await stack.enter_async_context(BudgetShares(runtime, world.registry, "t", {"t/concurrency": part}))
                parts.append(part)
                await begin_for(1.5)
            first, second = parts
            assert (first.busy, second.busy) == (4, 0)
            while first.busy:
                first.end()
            for _ in range(5):
                first.on_need()
                await begin_for(0.01)
            await begin_for(1.0)
            assert (first.busy, second.busy) == (2, 2)
            for part in parts:
                while part.busy:
                    part.end()

    run(main())


def test_a_function_that_goes_on_in_its_thread_still_counts() -> None:
    async def main() -> None:
        import threading
        import time

        world, lock, state = World(clock=time.time), threading.Lock(), {"now": 0, "most": 0, "began": 0}
        train = Train("t", limit=Volume(1000), workers=Workers(each=8), attempts=1, grace=0.1)

        @train.on("t", concurrency=2, timeout=0.2)
        def handle(_: int) -> None:
            with lock:
                state["now"] += 1
                state["began"] += 1
                state["most"] = max(state["most"], state["now"])
            time.sleep(0.6)
            with lock:
                state["now"] -= 1

        async with world.running(train) as connection:
            await connection.publish_many(range(8))
            await asyncio.sleep(3)
        assert state["most"] == 2
        assert state["began"] == 8

    asyncio.run(main())


def test_a_suspect_keeps_to_a_budget_that_goes_while_its_claim_is_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marking waits for the broker. Another process may have the budget by then."""
    marked, is_gone, wrong, handled = list[float](), False, 0, 0
    has_room = Slots.has_room
    monkeypatch.setattr(Slots, "has_room", lambda part, pool: not is_gone and has_room(part, pool))
    alone = MemorySubscription.alone

    async def marks(self: MemorySubscription, delivery: Delivery) -> bool:
        nonlocal is_gone
        is_gone = not marked
        marked.append(now())
        return await alone(self, delivery)

    monkeypatch.setattr(MemorySubscription, "alone", marks)

    async def main() -> None:
        nonlocal is_gone
        world, train = World(), Train("t", workers=Workers(each=1))

        @train.on("t", concurrency=1)
        async def handle(_: int) -> None:
            nonlocal wrong, handled
            wrong, handled = wrong + is_gone, handled + 1

        async with world.connect(train) as connection:
            await connection.publish(1)
        async with world.broker.consume(Channel("t", 1), visibility=0.1) as dying:
            await dying.receive(1, 1.0)
        await asyncio.sleep(0.2)
        async with world.running(train):
            await until(lambda: marked)
            await asyncio.sleep(5)
            is_gone = False
            await until(lambda: handled)
        assert (wrong, handled) == (0, 1)
        assert len(marked) == 2

    run(main())


@pytest.mark.parametrize("each", [1, 2, 8])
@pytest.mark.parametrize("options", [{"concurrency": 1}, {"concurrency": 4}, {"rate": 20}], ids=str)
def test_new_events_get_every_second_turn_of_a_budget(options: dict[str, Any], each: int) -> None:
    async def main() -> None:
        world, begun = World(), list[int]()
        train = Train("t", limit=Volume(40), workers=Workers(each=each), spares=1)

        @train.on("t", **options)
        async def handle(_: int, ctx: Context) -> None:
            begun.append(ctx.wagon)
            await asyncio.sleep(0.09)

        async with world.running(train) as connection:
            for _ in range(6):  # a backlog in six wagons
                await connection.publish_many(range(40))
                await asyncio.sleep(0.3)
            before = len(begun)
            await connection.publish_many(range(25))
            await until(lambda: len(begun) >= before + 40, seconds=10)
            new = begun[before : before + 40].count(7)
            half = min(0.5, each / options.get("concurrency", 1))
            assert new in range(int(40 * half) - 3, int(40 * half) + 4)
            await until(lambda: len(begun) == 265, seconds=40)

    run(main())


def test_room_of_a_budget_is_not_kept_for_a_wagon_that_waits_for_another_one() -> None:
    """Events of `slow` wait for a rate of their own; those of `fast`, in the same budget, need not wait for them."""

    async def main() -> None:
        world, handled, budget = World(), Counter[str](), Budget("api", concurrency=4)
        train = Train("t", limit=Volume(100_000), workers=Workers(each=8))

        @train.on("t")
        async def first(number: int, ctx: Context) -> None:
            await ctx.emit("slow" if number < 0 else "fast", number)

        @train.on("fast", budget=budget)
        async def fast(_: int) -> None:
            await asyncio.sleep(0.005)
            handled["fast"] += 1

        @train.on("slow", budget=budget, rate=1)
        async def slow(_: int) -> None:
            await asyncio.sleep(0.005)

        async with world.running(train) as connection:
            await connection.publish_many([-1] * 100)
            await asyncio.sleep(0.5)
            await connection.request_switch()
            await asyncio.sleep(1.0)
            await connection.publish_many(range(4000))
            await asyncio.sleep(5)
            assert handled["fast"] > 3900  # 4,000 at best

    run(main())


def test_a_backlog_goes_on_where_tokens_have_gathered_while_room_was_kept() -> None:
    """The new event begins late, so that more than one token is there by then."""

    async def main() -> None:
        part, begun = Tokens("rate", 100.0), Counter[str]()
        part.until = math.inf
        part.grant(100.0)
        left = {"new": 1, "old": 3}
        budgets = {name: ChannelBudget([part]) for name in left}
        loop = asyncio.get_running_loop()

        def begin(name: str) -> None:
            if left[name] and not budgets[name].blocked:
                budgets[name].begin()
                left[name] -= 1
                begun[name] += 1

        def on_room(name: str, count: int) -> None:
            for _ in range(count):
                loop.call_later(0.015 if name == "new" else 0.0, begin, name)

        async with AsyncExitStack() as stack:
            for name in left:
                watcher = watcher_of(PoolState(is_shared=False))._replace(
                    on_room=partial(on_room, name),
                    wagon=partial(_same, Waiting(is_new=name == "new", is_replay=False, since=0.0)),
                    ready=partial(_left, left, name),
                )
                stack.enter_context(budgets[name].watched(watcher))
            await asyncio.sleep(2)
            assert begun == {"new": 1, "old": 3}

    run(main())


def _left(left: Mapping[str, int], name: str, _: Part) -> int:
    return left[name]


def _note(told: list[str], name: str, _: int) -> None:
    told.append(name)


def _same(wagon: Waiting) -> Waiting:
    return wagon


def test_room_that_is_kept_for_a_wagon_is_lost_to_no_other() -> None:
    """The event for which it is kept may be gone, or its workers may have something else to do."""

    async def main() -> None:
        part, told = Slots("concurrency=2 of t", 2), list[str]()
        part.until = math.inf
        pools = {name: PoolState(is_shared=False) for name in ("old", "new")}
        budgets = {name: ChannelBudget([part]) for name in pools}
        async with AsyncExitStack() as stack:
            for name, pool in pools.items():
                wagon = Waiting(is_new=name == "new", is_replay=False, since=0.0)
                watcher = Watcher(
                    pool,
                    lambda: True,
                    on_room=partial(_note, told, name),
                    on_change=lambda: None,
                    on_lost=lambda: None,
                    wagon=partial(_same, wagon),
                    ready=lambda _: 5,
                )
                stack.enter_context(budgets[name].watched(watcher))
            part.grant(2.0)
            budgets["old"].begin()
            budgets["old"].begin()
            budgets["old"].end()
            kept = [budgets[name].blocked for name in ("old", "new")]
            assert kept == [True, False]
            told.clear()
            await asyncio.sleep(0.1)
            kept = [budgets[name].blocked for name in ("old", "new")]
            assert (kept, told) == ([False, False], ["old", "new"])
            budgets["old"].end()
            budgets["old"].end()
            await asyncio.sleep(0.1)

    run(main())


def test_a_process_that_leaves_keeps_to_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its wagons has fetched events, and workers that wake before these are given back."""
    give_back = WagonPrefetch.give_back

    def woken(self: WagonPrefetch) -> None:
        for pool in pools_of("t"):
            pool.wake_all()
        asyncio.get_running_loop().call_later(0.01, give_back, self)

    monkeypatch.setattr(WagonPrefetch, "give_back", woken)

    async def main() -> None:
        world, meter = World(), Meter()
        settings = {"limit": Volume(50), "workers": Workers(each=8), "spares": 1}
        async with world.running(train_of(meter, "a", 0.1, concurrency=8, settings=settings)) as connection:
            for _ in range(8):
                await connection.publish_many(range(50))
                await asyncio.sleep(0.3)
        assert meter.most == 8

    run(main())


def test_a_channel_at_its_budget_takes_no_workers_from_others() -> None:
    async def main() -> None:
        world, meter, free = World(), Meter(), list[float]()
        train = Train("t", limit=Volume(100_000), workers=Workers(total=4), member_ttl=2.0)

        @train.on("t")
        async def spread(n: int, ctx: Context) -> None:
            await ctx.emit("bounded", n)
            await ctx.emit("free", n)

        @train.on("bounded", concurrency=1)
        async def bounded(_: int) -> None:
            await meter.handle("a", 1.0)

        @train.on("free")
        async def others(_: int, ctx: Context) -> None:
            await asyncio.sleep(0.01)
            free.append(now())

        async with world.running(train) as connection, world.running(train):
            await connection.publish_many(range(300))
            await until(lambda: len(free) == 300, seconds=5.0)
            assert len(meter.began) < 10
            assert meter.most == 1

    run(main())


def test_events_come_again_after_failures_and_no_room_is_lost() -> None:
    async def main() -> None:
        world, meter, handled = World(), Meter(), set[int]()
        train = Train("t", limit=Volume(20), workers=Workers(each=8), spares=1, backoff=0.05, member_ttl=2.0)

        @train.on("t", concurrency=3, timeout=0.5)
        async def handle(n: int, ctx: Context) -> None:
            await meter.handle("a", 0.02)
            if ctx.attempt == 1:
                match n % 5:
                    case 0:
                        raise ValueError
                    case 1:
                        await asyncio.sleep(5)
                    case 2:
                        raise asyncio.CancelledError
            handled.add(n)

        async with world.running(train) as connection:
            await connection.publish_many(range(100))  # five wagons
            await until(lambda: len(handled) == 100)
            assert meter.most == 3
            await connection.publish_many(range(100, 103))
            await until(lambda: len(handled) == 103)

    run(main())


def test_two_budgets_both_hold() -> None:
    async def main() -> None:
        world, meter, inner = World(), Meter(), Meter()
        api = Budget("api", concurrency=3)
        train = Train("t", limit=Volume(100_000), workers=Workers(each=24), member_ttl=2.0)

        @train.on("t", budget=api)
        async def first(n: int, ctx: Context) -> None:
            await ctx.emit("next", n)
            await meter.handle("first", 0.1)

        @train.on("next", budget=api, concurrency=2, rate=5)
        async def second(_: int) -> None:
            inner.began.append((now(), ""))
            inner.most = max(inner.most, inner.now + 1)
            inner.now += 1
            await meter.handle("second", 0.1)
            inner.now -= 1

        async with world.running(train) as connection:
            await connection.publish_many(range(200))
            await asyncio.sleep(60)
        assert meter.most == 3
        assert inner.most <= 2
        assert len(inner.began) == 200
        for n in range(0, 40, 5):
            since = inner.began[0][0] + n
            assert inner.count(since, since + 5) <= 27

    run(main())


def test_status_names_the_channels_that_are_at_their_budget() -> None:
    async def main() -> None:
        world, meter = World(), Meter()
        train = train_of(meter, "a", concurrency=2, budget=Budget("api", rate=1e6))

        @train.on("free", concurrency=5)
        async def free(_: int) -> None: ...

        async with world.running(train) as connection:
            await connection.publish_many(range(200))
            await asyncio.sleep(3)
            view = await look(connection, "memory:")
            assert view.at_budget == {"": ["concurrency=2 of t"]}
            assert [member.roles for member in view.members] == [("observe", "work")]
            said = table(view, Console(width=120, file=io.StringIO()))
            console = Console(width=120, file=io.StringIO())
            console.print(said)
            assert isinstance(console.file, io.StringIO)
            assert "events of the ingress wait for their budget: concurrency=2 of t" in console.file.getvalue()
            await asyncio.sleep(20)
            assert (await look(connection, "memory:")).at_budget == {}

    run(main())


def test_a_train_is_removed_though_a_killed_process_held_a_budget() -> None:
    async def main() -> None:
        world, meter = World(), Meter()
        async with world.running(train_of(meter, "a", concurrency=2)) as connection:
            await connection.publish(1)
            await until(lambda: meter.began)
        gone = Member(name="gone/budgets", budgets={"t/concurrency": BudgetPart(2.0, 2.0, 2.0)})
        await world.registry.check_in("t", gone, ttl=1000.0)
        async with world.connect(train_of(meter, "a", concurrency=2)) as connection:
            assert (await connection.remove()).existed
        assert not await world.registry.members("t")

    run(main())


@pytest.mark.parametrize("of", [float("nan"), float("inf"), -1.0, 0.0, 1e300])
def test_what_strangers_say_of_a_budget_hurts_nobody(of: float) -> None:
    """It may keep a part from others, as any process may, and nothing worse."""

    async def main() -> None:
        world, meter = World(), Meter()
        for name, held, wants in (("x", of, 1.0), ("y", 0.0, of), ("z", of, of)):
            document = world.registry.document_of("t")
            part = msgspec.structs.replace(BudgetPart(0.0, 0.0, 8.0), held=held, wants=wants, of=of)
            budgets = {"t/concurrency": part, "t/rate": part, "": part}
            document.members[name] = (now() + 3.0, Member(name=name, budgets=budgets))
        async with world.running(train_of(meter, "a", concurrency=2, rate=100)) as connection:
            await connection.publish_many(range(20))
            await until(lambda: len(meter.began) == 20, seconds=20.0)
        assert meter.most <= 2

    run(main())


def test_where_programs_differ_the_smallest_counts() -> None:
    async def main() -> None:
        world, meter = World(), Meter()
        async with world.running(train_of(meter, "a", concurrency=8)) as connection:
            await connection.publish_many(range(5000))
            await asyncio.sleep(3)
            assert meter.most == 8
            async with world.running(train_of(meter, "b", concurrency=2)):
                await asyncio.sleep(3)
                meter.most = meter.now
                await asyncio.sleep(10)
                assert meter.most == 2
            await asyncio.sleep(4)
            await until(lambda: meter.now == 8, seconds=2.0)

    run(main())


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Budget("api"), r"Budget\('api'\): give concurrency= or rate="),
        (lambda: Budget("Api", rate=1), "budget name 'Api': use 1 to 48"),
        (lambda: Budget("0", rate=1), "budget name"),
        (lambda: Budget(b"api", rate=1), "budget name"),  # type: ignore[arg-type]
        (lambda: Budget("api", rate="20"), "rate '20': write a number and a unit"),
        (lambda: Budget("api", rate=float("nan")), "must be a number above 0"),
        (lambda: Budget("api", concurrency=True), "must be a whole number"),
        (lambda: Budget("api", concurrency=0), "must be a whole number of at least 1"),
        (lambda: Train("t").on("t", budget="api"), "budget='api': give a Budget"),  # type: ignore[arg-type]
        (lambda: Train("t").on("t", budget=[Budget("a", rate=1), Budget("a", rate=1)]), "'a' is given twice"),
    ],
)
def test_what_is_no_budget_is_refused(make: Callable[[], object], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        make()


def test_two_budgets_of_one_name_must_be_equal() -> None:
    train = Train("t")
    train.on("t", budget=Budget("api", concurrency=3))(_nothing)
    with pytest.raises(UsageError, match=r"budget 'api' is .*concurrency=3.* at another handler"):
        train.on("a", budget=Budget("api", concurrency=4))
    train.on("b", budget=Budget("api", concurrency=3))(_nothing)


def test_where_a_platform_hands_out_the_events_budgets_are_refused() -> None:
    train = Train("t")
    train.on("t")(_nothing)
    mappings = aws.LambdaMappings("function")
    train.connect("sqlite:///nowhere", orchestrator=mappings)
    train.on("a", rate=5)(_nothing)
    with pytest.raises(UsageError, match="handler of 'a': Lambda delivers the events by itself"):
        train.connect("sqlite:///nowhere", orchestrator=mappings)
    function = aws.handler(train, url="sqs://eu-west-1/x")
    try:
        assert "Lambda delivers" in function({PROBE: [""]}, None)["trouble"]
        with pytest.raises(UsageError, match="Lambda delivers"):
            function({"Records": []}, None)
    finally:
        function.close()


async def _nothing(_: int) -> None: ...


@pytest.mark.parametrize("rate", [1e-9, 3000.0, 1e15])
def test_rates_of_any_size(rate: float) -> None:
    async def main() -> None:
        world, meter = World(), Meter()
        async with world.running(train_of(meter, "a", 0.0, rate=rate, concurrency=1_000_000)) as connection:
            await connection.publish_many(range(12_000))
            await asyncio.sleep(2)
            count = meter.count(0.0, now())
            assert count <= 2.3 * rate
            assert count >= min(12_000, 1.6 * rate - 1)

    run(main())
