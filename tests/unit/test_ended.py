"""Who gives back what an ended process had: once it works, however often it failed before."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest

from eventwagon import Train, Volume, Workers
from eventwagon.contracts.facts import ClaimsReturned, Fact, Listener, StepFailed
from eventwagon.contracts.process import Pod, this_process
from eventwagon.contracts.registry import BudgetPart, Member
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import Unavailable
from eventwagon.event import Channel
from eventwagon.runtime.budget_shares import SHARED, budget_member
from eventwagon.runtime.bulkhead import Bulkhead
from eventwagon.runtime.ended import EndedMembers
from eventwagon.runtime.runtime import Runtime
from eventwagon.runtime.train_state import TrainState
from eventwagon.testing.virtual_time import VirtualClock, run
from tests.support import runtime_of

HERE = this_process()
pytestmark = pytest.mark.skipif(HERE is None, reason="this system does not say enough of its processes")


class Flaky(MemoryBroker):
    failures = 2

    async def reclaim(self, channel: Channel, owner: str) -> int:
        if self.failures:
            self.failures -= 1
            raise Unavailable("no way through")
        return await super().reclaim(channel, owner)


class Broken(MemoryBroker):
    """Raises what no driver may raise, twice."""

    raises: Sequence[BaseException] = (ZeroDivisionError("a driver's own"), asyncio.CancelledError())

    async def reclaim(self, channel: Channel, owner: str) -> int:
        if self.raises:
            error, *self.raises = self.raises
            raise error
        return await super().reclaim(channel, owner)


class Seeing:
    """An orchestrator that has seen the processes in some Pods end."""

    def __init__(self, *uids: str) -> None:
        self.uids = uids

    def why_ended(self, pod: Pod) -> str:
        if pod.uid == "bad":
            raise ZeroDivisionError("an orchestrator's own")
        return "its container ended" if pod.uid in self.uids else ""


@asynccontextmanager
async def two_in_hand(broker: MemoryBroker, registry: MemoryRegistry, clock: VirtualClock) -> AsyncIterator[TrainState]:
    """A train with three events in wagon 1, two of which `box-1` has claimed."""
    train = Train("t", limit=Volume(10), workers=Workers(each=1))
    train.on("t")(lambda payload: None)
    async with train.connect(broker=broker, registry=registry, listeners=(), clock=clock) as connection:
        await connection.publish_many(range(3))
        async with broker.consume(Channel("t", 1), visibility=600, owner="box-1") as consumer:
            assert len(await consumer.receive(2, 1.0)) == 2
        async with TrainState(runtime(broker, clock), registry) as state:
            yield state


def runtime(broker: MemoryBroker, clock: VirtualClock, tell: Listener = lambda _: None, **given: object) -> Runtime:
    return runtime_of(Train("t"), broker, clock=clock, tell=tell, **given)


async def looks(ended: EndedMembers, registry: MemoryRegistry, count: int) -> None:
    """So many, each till all that came of it is done."""
    for _ in range(count):
        async with asyncio.TaskGroup() as tasks:
            ended.look(await registry.members("t"), tasks)


def test_what_fails_is_told_once_and_tried_again_and_the_dead_are_checked_out() -> None:
    assert HERE is not None
    gone = msgspec.structs.replace(HERE, pid=2**22 - 1, started=1)
    told: list[Fact] = []

    async def main() -> None:
        clock = VirtualClock()
        broker, registry = Flaky(clock=clock), MemoryRegistry(clock=clock)
        async with two_in_hand(broker, registry, clock) as state:
            for name, process in (("box-1", gone), ("box-2", HERE), ("box-3", None)):
                await registry.check_in("t", Member(name=name, process=process), ttl=600)
            await looks(EndedMembers(runtime(broker, clock, told.append), state), registry, 5)
            assert [type(fact) for fact in told] == [StepFailed]
            entries = [entry.fact async for entry in registry.entries("t")]
            assert [(f.owner, f.count) for f in entries if isinstance(f, ClaimsReturned)] == [("box-1", 2)]
            assert [member.name for member in await registry.members("t")] == ["box-2", "box-3"]
            (depth,) = await broker.depth([Channel("t", 1)])
            assert (depth.waiting, depth.in_flight) == (3, 0)

    run(main())


def test_what_an_ended_process_held_of_budgets_is_free_at_once() -> None:
    """Of those of its train, and of those that trains share; what others hold stays."""
    assert HERE is not None
    gone = msgspec.structs.replace(HERE, pid=2**22 - 1, started=1)
    scopes, part = ("t", SHARED), BudgetPart(held=1.0, wants=1.0, of=1.0)

    async def main() -> None:
        clock = VirtualClock()
        broker, registry = MemoryBroker(clock=clock), MemoryRegistry(clock=clock)
        async with two_in_hand(broker, registry, clock) as state:
            await registry.check_in("t", Member(name="box-1", process=gone), ttl=600)
            names = [budget_member(name) for name in ("box-1", "box-1", "box-2", "box-1/budgets", "box-10")]
            for scope in scopes:
                for name in names:
                    await registry.check_in(scope, Member(name=name, budgets={"b": part}), ttl=600)
            await looks(EndedMembers(runtime(broker, clock), state), registry, 1)
            for scope in scopes:
                assert {member.name for member in await registry.members(scope)} == {*names[2:]}

    run(main())


def test_what_a_driver_raises_against_its_contract_ends_no_task(caplog: pytest.LogCaptureFixture) -> None:
    """It is logged with its traceback, counted and told; the next look tries again."""
    assert HERE is not None
    gone = msgspec.structs.replace(HERE, pid=2**22 - 1, started=1)
    told: list[Fact] = []

    async def main() -> None:
        clock = VirtualClock()
        broker, registry = Broken(clock=clock), MemoryRegistry(clock=clock)
        async with two_in_hand(broker, registry, clock) as state:
            await registry.check_in("t", Member(name="box-1", process=gone), ttl=600)
            bulkhead = Bulkhead("t")
            ended = EndedMembers(runtime(broker, clock, told.append, bulkhead=bulkhead), state)
            await looks(ended, registry, 4)
            assert bulkhead.caught == 2
            assert [f.because for f in told if isinstance(f, StepFailed)] == [
                "ZeroDivisionError: a driver's own",
                "CancelledError",
            ]
            (depth,) = await broker.depth([Channel("t", 1)])
            assert (depth.waiting, depth.in_flight) == (3, 0)

    run(main())
    assert [r.exc_info is not None for r in caplog.records if "giving back" in r.message] == [True, True]


@pytest.mark.parametrize(
    ("orchestrator", "waiting"), [(Seeing("a"), 3), (Seeing("b"), 1), (Seeing(), 1), (object(), 1), (None, 1)]
)
def test_a_process_in_a_pod_has_ended_when_the_orchestrator_saw_it(orchestrator: object, waiting: int) -> None:
    """Listed still or not any more; of the others nothing is known."""

    async def main() -> None:
        clock = VirtualClock()
        broker, registry = MemoryBroker(clock=clock), MemoryRegistry(clock=clock)
        async with two_in_hand(broker, registry, clock) as state:
            ended = EndedMembers(runtime(broker, clock, orchestrator=orchestrator), state)
            for name, pod in (("box-0", Pod("bad", 0.0)), ("box-1", Pod("a", 0.0)), ("box-2", None)):
                await registry.check_in("t", Member(name=name, pod=pod), ttl=600)
            await looks(ended, registry, 1)
            (depth,) = await broker.depth([Channel("t", 1)])
            assert depth.waiting == waiting
            standing = [member.name for member in await registry.members("t")]
            assert standing == ["box-0", *(["box-1"] if waiting == 1 else []), "box-2"]

    run(main())


def test_an_end_that_is_seen_after_the_member_ran_out_counts_too() -> None:
    async def main() -> None:
        clock = VirtualClock()
        broker, registry, orchestrator = MemoryBroker(clock=clock), MemoryRegistry(clock=clock), Seeing()
        async with two_in_hand(broker, registry, clock) as state:
            ended = EndedMembers(runtime(broker, clock, orchestrator=orchestrator), state)
            await registry.check_in("t", Member(name="box-1", pod=Pod("a", 0.0)), ttl=600)
            await looks(ended, registry, 1)
            await registry.check_in("t", Member(name="box-1"), ttl=0)
            orchestrator.uids = ("a",)
            await looks(ended, registry, 1)
            (depth,) = await broker.depth([Channel("t", 1)])
            assert depth.waiting == 3

    run(main())


def test_a_member_that_goes_on_after_it_was_said_to_have_ended_is_harmed_once() -> None:
    """A clock that was set back may make a process that runs look like the one that ran in its Pod before."""

    async def main() -> None:
        clock = VirtualClock()
        broker, registry = MemoryBroker(clock=clock), MemoryRegistry(clock=clock)
        async with two_in_hand(broker, registry, clock) as state:
            ended = EndedMembers(runtime(broker, clock, orchestrator=Seeing("a")), state)
            await registry.check_in("t", Member(name="box-1", pod=Pod("a", 0.0)), ttl=600)
            await looks(ended, registry, 1)
            await registry.check_in("t", Member(name="box-1", pod=Pod("a", 0.0)), ttl=600)
            async with broker.consume(Channel("t", 1), visibility=600, owner="box-1") as consumer:
                assert await consumer.receive(1, 1.0)
                await looks(ended, registry, 3)
            (depth,) = await broker.depth([Channel("t", 1)])
            assert depth.in_flight == 1
            assert [member.name for member in await registry.members("t")] == ["box-1"]

    run(main())
