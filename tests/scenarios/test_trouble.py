"""Brokers that fail, hang, forget or can't be read, and wagons that never get ready. In virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from eventwagon import Event, Reject, Train, Volume, Workers
from eventwagon.contracts.broker import Depth
from eventwagon.contracts.facts import (
    BoundLifted,
    EventDied,
    OrphanRemoved,
    ProvisioningFailed,
    StepFailed,
    Switched,
    WagonOpened,
    WagonRemoved,
    WorkersLost,
)
from eventwagon.contracts.registry import Registry, peers_of
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.errors import (
    PublishTimeout,
    PublishUncertain,
    StorageBroken,
    TrainFull,
    Unavailable,
)
from eventwagon.event import Channel
from eventwagon.runtime import switcher
from eventwagon.settings import AtCap
from eventwagon.testing.virtual_time import run
from tests.support import SignUp, World, signups, until


class Flaky(MemoryBroker):
    """A memory broker whose publishes fail as the test says: `errors` are raised one by one, after taking effect or
    not."""

    def __init__(self, clock: object) -> None:
        super().__init__(clock=clock)  # type: ignore[arg-type]
        self.errors: list[tuple[Exception, bool]] = []
        self.away = set[str]()

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if channel.name in self.away:
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
            broker.away = {"welcome"}
            await connection.publish(SignUp("a"))
            await asyncio.sleep(100)  # handled long ago, and kept: what it emitted is not stored
            ingress = (await connection.depths())[1][""]
            assert (ingress.published, ingress.settled, ingress.in_flight) == (1, 0, 1)
            broker.away = set()
            await until(lambda: handled == ["a"])
            await until(lambda: len(world.of(StepFailed)) == 1)
        assert "emitting to signups_v1.welcome" in world.of(StepFailed)[0].step

    run(main())


def test_publish_gives_up_at_its_deadline_and_says_why() -> None:
    async def main() -> None:
        world, broker = flaky_world()
        async with world.running(signups([])) as connection:
            await connection.publish(SignUp("a"))
            broker.away = {""}
            with pytest.raises(PublishTimeout, match="the broker is away"):
                await connection.publish(SignUp("b"), timeout=3.0)
            broker.away = set()
            await connection.publish(SignUp("c"))

    run(main())


def test_publish_many_says_how_many_were_stored() -> None:
    async def main() -> None:
        world, broker = flaky_world()

        async def payloads() -> AsyncIterator[SignUp]:
            for i in range(1200):
                if i == 1000:
                    broker.away = {""}
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
            refused = ""
            for i in range(50):
                try:
                    await connection.publish(i, timeout=60.0)
                    accepted += 1
                except TrainFull as e:
                    refused = str(e)
            assert accepted == expected
            assert ("cap of 2" in refused) == (at_cap == "refuse")
            gate.set()
            await connection.wait_drained(1)
            await asyncio.sleep(1)
            await connection.publish(99)
        assert bool(world.of(BoundLifted)) == (at_cap == "fill")

    run(main())


@pytest.mark.parametrize("observe", [False, True])
def test_a_wagon_that_goes_on_past_its_limit_says_that_no_observer_is_alive(observe: bool) -> None:
    async def main() -> None:
        world = World()
        train = signups([], limit=Volume(10), provision_timeout=30.0, hold=1.0)
        async with world.connect(train) as connection, connection.running(observe=observe, work=not observe):
            for i in range(30):
                await connection.publish(SignUp(str(i)))
        because = world.of(BoundLifted)[0].because
        assert because.startswith("publishers were held for 1.")
        assert ("no observer is alive" in because) is not observe
        assert ("eventwagon observe MODULE:TRAIN" in because) is not observe

    run(main())


def test_no_bound_is_lifted_of_a_wagon_that_comes_while_publishers_ask_who_observes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def main() -> None:
        world, asked, came = World(), asyncio.Event(), asyncio.Event()

        async def slow(registry: Registry, train: str) -> Any:
            asked.set()
            await came.wait()
            return await peers_of(registry, train)

        monkeypatch.setattr(switcher, "peers_of", slow)
        train = signups([], limit=Volume(10), hold=1.0)
        async with world.connect(train) as connection, connection.running(observe=True, work=False):
            await connection.publish_many([SignUp(str(i)) for i in range(10)])
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(connection.publish(SignUp("held")))
                await asked.wait()
                async with world.running(signups([], limit=Volume(10), hold=1.0), observe=False):
                    while connection.manifest.active is None or connection.manifest.active.number == 1:
                        await asyncio.sleep(0.01)
                    came.set()
                    await asyncio.sleep(2)
            assert [wagon.capacity for wagon in connection.manifest.wagons if wagon.number == 2] == [10]
        assert not world.of(BoundLifted)

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


def test_a_spare_that_loses_its_workers_has_the_whole_time_to_get_others() -> None:
    """However long it was ready before; two observers look."""

    async def main() -> None:
        world = World()
        settings = {"provision_timeout": 20.0, "spares": 1}
        async with (
            world.running(signups([], **settings), work=False) as observer,
            world.running(signups([], **settings), work=False),
        ):
            async with world.running(signups([], **settings), observe=False):
                await until(lambda: observer.manifest.ready)
                await asyncio.sleep(60)
            await until(lambda: world.of(WorkersLost), seconds=20)
            await asyncio.sleep(19)
            assert not world.of(ProvisioningFailed)
            await asyncio.sleep(2)
            assert {fact.attempt for fact in world.of(ProvisioningFailed)} == {1}
            async with world.running(signups([], **settings), observe=False):
                await until(lambda: observer.manifest.ready)

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


class Unreadable(MemoryBroker):
    """A memory broker in which the depths of some wagons can't be read."""

    broken: frozenset[int] = frozenset()

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        if bad := [c for c in channels if c.wagon in self.broken]:
            raise StorageBroken(f"{bad[0]}: not a database")
        return await super().depth(channels)


def test_one_bad_wagon_does_not_keep_the_others_from_being_looked_after() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        world.broker = broker = Unreadable(clock=world.clock)
        async with world.running(signups(handled)) as connection:
            await connection.publish_many(SignUp(str(i)) for i in range(150))
            broker.broken = frozenset({1})
            await connection.publish_many(SignUp(str(i)) for i in range(150, 350))
            await until(lambda: {f.wagon.number for f in world.of(WagonRemoved)} == {2, 3})
            assert [f.step for f in world.of(StepFailed)] == ["reading signups_v1"]  # once, not at each look
            assert 1 in {w.number for w in connection.manifest.wagons}  # unknown is never empty
            broker.broken = frozenset()
            await connection.wait_drained(3)

    run(main())


def test_away_from_a_broken_active_wagon_by_hand() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        world.broker = broker = Unreadable(clock=world.clock)
        async with world.running(signups(handled)) as connection:
            await connection.publish(SignUp("before"))
            broker.broken = frozenset({1})
            await connection.request_switch("wagon 1 can't be read")
            assert await connection.wait_switched(1) == 2

    run(main())


def test_a_process_without_a_share_of_the_workers_keeps_no_event_from_the_others() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        train = signups(handled, workers=Workers(each=1), spares=0)
        async with world.running(train), world.running(train), world.running(train) as connection:
            await asyncio.sleep(10)  # for the worker to be divided: two of the three have none
            await connection.publish_many(SignUp(str(i)) for i in range(20))
            await until(lambda: len(handled) == 20)
            number = await connection.request_switch()
            async with asyncio.timeout(30):
                await connection.wait_drained(number)

    run(main())


class Hanging(MemoryBroker):
    """A memory broker whose publishes never answer while it hangs."""

    hangs = False

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if self.hangs:
            await asyncio.Event().wait()
        await super().publish(channel, events)


def test_a_deadline_holds_while_the_broker_hangs_and_others_go_on_after() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        world.broker = broker = Hanging(clock=world.clock)
        loop = asyncio.get_running_loop()
        async with world.running(signups(handled)) as connection:
            await connection.publish(SignUp("a"))
            broker.hangs = True
            began = loop.time()
            with pytest.raises(PublishTimeout, match="not answered"):
                await connection.publish(SignUp("b"), timeout=5.0)
            assert loop.time() - began < 5.1
            broker.hangs = False
            await connection.publish(SignUp("c"), timeout=5.0)
            await until(lambda: handled == ["a", "c"])

    run(main())


def test_a_closed_connection_refuses_at_once() -> None:
    async def main() -> None:
        world = World()
        connection = world.connect(signups([]))
        with pytest.raises(Unavailable, match="not open"):
            await connection.publish(SignUp("a"))
        async with connection:
            await connection.publish(SignUp("a"))
        with pytest.raises(Unavailable, match="closed"):
            await connection.publish(SignUp("b"))

    run(main())


class Torn(MemoryBroker):
    """A memory broker that at times does not know a dead-letter channel's figures."""

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        known = await super().depth(channels)
        return [Depth() if c.name == "dead" else d for c, d in zip(channels, known, strict=True)]


def test_dead_letters_of_unknown_number_are_kept_all_the_same() -> None:
    async def main() -> None:
        world = World()
        world.broker = Torn(clock=world.clock)
        train = Train("t", limit=Volume(2), workers=Workers(each=1), spares=1)

        @train.on("t")
        async def handle(what: int) -> None:
            raise Reject

        async with world.running(train) as connection:
            ids = [await connection.publish(n) for n in range(3)]
            await connection.wait_drained(1)
            assert [f.dead for f in world.of(WagonRemoved)] == [2]
            await until(lambda: len(world.of(EventDied)) == 3)
            await asyncio.sleep(1)
            assert {e.id async for e in connection.dead_letters()} == set(ids)

    run(main())


def test_a_channel_that_a_crash_left_half_deleted_does_not_keep_its_wagon_for_ever() -> None:
    """It is still listed, and what stands in it can't be known any more, because it is gone."""

    class HalfDeleting(MemoryBroker):
        def __init__(self) -> None:
            super().__init__()
            self.half = set[Channel]()

        async def delete(self, channel: Channel) -> None:
            await super().delete(channel)
            if channel in self.half or channel.name:
                self.half.discard(channel)
            else:
                self.half.add(channel)
                raise Unavailable("killed in the middle")

        async def channels(self, train: str) -> Sequence[Channel]:
            return [*await super().channels(train), *self.half]

    async def main() -> None:
        world = World()
        world.broker = HalfDeleting()
        handled = list[str]()
        async with world.running(signups(handled, limit=Volume(2))) as connection:
            await connection.publish_many([SignUp(f"{n}@x") for n in range(5)])
            await until(lambda: len(handled) == 5)
            await until(lambda: len(world.of(WagonRemoved)) >= 2)
            await until(lambda: [w.number for w in connection.manifest.wagons] == [3, 4])
        assert any("killed in the middle" in fact.because for fact in world.of(StepFailed))
        assert world.broker.half == set()

    run(main())


def test_events_that_show_again_in_a_half_removed_wagon_keep_it_from_nothing() -> None:
    """A server that is killed may forget what was settled last, when some of the wagon's channels are already deleted.
    It was handled, and a wagon that is being removed has no way back."""

    class Forgetting(MemoryBroker):
        forgot = False

        async def delete(self, channel: Channel) -> None:
            if channel == Channel("signups", 1, "welcome") and not self.forgot:
                self.forgot = True
                again = Event("again", "t", "s", 0.0, b'{"to": "again@x"}')
                await self.publish(channel, [again])
                raise Unavailable("the server is down")
            await super().delete(channel)

    async def main() -> None:
        world = World()
        world.broker = Forgetting()
        handled = list[str]()
        async with world.running(signups(handled)) as connection:
            await connection.publish_many([SignUp(f"{n}@x") for n in range(20)])
            first = await connection.request_switch()
            await connection.wait_switched(first)
            await until(lambda: all(w.number > first for w in connection.manifest.wagons), seconds=600)
        assert sorted(handled) == sorted(f"{n}@x" for n in range(20))
        assert all(channel.wagon != first for channel in await world.broker.channels("signups"))

    run(main())
