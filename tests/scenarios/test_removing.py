"""`Connection.remove`: a train goes with all that stands for it, or stays as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import pytest

from eventwagon import Context, Reject, Train, Volume, Workers
from eventwagon.contracts.facts import Entry, RemovalAsked, RemovalGivenUp, Switched
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, TrainRemoval, Wagon
from eventwagon.contracts.orchestrator import Deployment, WagonSpec
from eventwagon.contracts.registry import Snapshot
from eventwagon.drivers.memory.broker import MemoryBroker
from eventwagon.drivers.memory.registry import MemoryRegistry
from eventwagon.errors import RemovalRefused, Sealed, StorageBroken, TrainRemoved, Unavailable, UsageError
from eventwagon.event import Channel, Event, new_ids
from eventwagon.runtime.switcher import Switcher
from eventwagon.runtime.train_state import TrainState
from eventwagon.runtime.wagon_channels import WagonChannels
from eventwagon.testing.virtual_time import run
from tests.support import World, runtime_of, until


def program(handled: list[int], **settings: Any) -> Train:
    train = Train("t", **{"limit": Volume(10), "workers": Workers(total=4), "spares": 1, **settings})

    @train.on("t")
    async def first(n: int, ctx: Context) -> None:
        if n < 0:
            raise Reject("below zero")
        await ctx.emit("inner", n)

    @train.on("inner")
    async def inner(n: int) -> None:
        handled.append(n)

    return train


async def nothing_is_left(world: World) -> None:
    assert await world.broker.channels("t") == []
    snapshot = await world.registry.read("t")
    assert snapshot.version == 0
    assert await world.registry.members("t") == []
    assert [entry async for entry in world.registry.entries("t")] == []
    assert await world.registry.trains() == []


def an_event(world: World, data: bytes = b"3") -> Event:
    return Event(new_ids(1, world.clock())[0], "int", "/tests", world.clock(), data)


async def used(world: World, *events: int) -> None:
    """A train that has handled these events in several wagons, and whose processes have ended."""
    handled: list[int] = []
    async with world.running(program(handled)) as c:
        await c.publish_many(events)
        await until(lambda: len(handled) == sum(n >= 0 for n in events))
        await until(lambda: any(w.state == "ready" for w in c.manifest.wagons))


def test_a_train_is_removed_with_all_that_stands_for_it_and_founded_anew() -> None:
    async def main() -> None:
        world, handled = World(), list[int]()
        await used(world, *range(30))
        async with world.connect(Train("t")) as c:
            gone = await c.remove("it is not needed", by="ada")
            assert gone.existed
            assert gone.channels >= 6
            await nothing_is_left(world)
            with pytest.raises(TrainRemoved, match="train t is removed by ada: it is not needed"):
                await c.publish(1)
            assert not (await c.remove()).existed  # again changes nothing
            await nothing_is_left(world)
        async with world.running(program(handled)) as c:
            await c.publish(7)
            await until(lambda: handled == [7])
            assert c.manifest.wagons[0].number == 1

    run(main())


def test_it_is_refused_while_events_are_left_and_nothing_has_changed() -> None:
    async def main() -> None:
        world, handled = World(), list[int]()
        async with world.connect(program(handled)) as c:
            await c.publish_many([1, 2, 3])
            before = await world.registry.read("t")
            with pytest.raises(
                RemovalRefused, match=r"train t is not removed: 3 events in t_v1\. Have the events handled .*--force"
            ):
                await c.remove()
            assert await world.registry.read("t") == before
            await c.publish(4)
        async with world.running(program(handled)) as c:
            await until(lambda: sorted(handled) == [1, 2, 3, 4])

    run(main())


@pytest.mark.parametrize("moved", [False, True])
def test_it_is_refused_while_dead_letters_are_left(moved: bool) -> None:
    """Those of a live wagon, and those that were moved out of one that is gone."""

    async def main() -> None:
        world = World()
        async with world.running(program([])) as c:
            await c.publish_many([1, -1])
            if moved:
                await c.wait_switched(await c.request_switch())
                await c.wait_drained(1)
            await asyncio.sleep(5)
        where = "t.dead" if moved else "t_v1.dead"
        async with world.connect(Train("t")) as c:
            with pytest.raises(
                RemovalRefused,
                match=rf"1 dead letter in {where}\. `eventwagon dead t` shows the dead letters, `dead retry` or",
            ):
                await c.remove()
            assert len([e async for e in c.dead_letters()]) == 1
            await c.remove(force=True)
        await nothing_is_left(world)

    run(main())


def test_it_is_refused_while_a_process_is_alive() -> None:
    async def main() -> None:
        world = World()
        async with world.running(program([])) as c, world.connect(Train("t")) as hand:
            with pytest.raises(RemovalRefused, match=r"a process of it is alive: .*\(observe, work\)\. End them"):
                await hand.remove()
            with pytest.raises(UsageError, match="leave `running"):
                await c.remove()
            await hand.publish(1)
        async with world.connect(Train("t")) as hand:
            await hand.remove(force=True)
        await nothing_is_left(world)

    run(main())


def test_with_force_processes_are_asked_to_end_first() -> None:
    async def main() -> None:
        world, handled = World(), list[int]()

        async def process() -> None:
            async with world.running(program(handled)) as c:
                await c.stopped()

        async with asyncio.TaskGroup() as tasks, world.connect(Train("t")) as hand:
            one, two = tasks.create_task(process()), tasks.create_task(process())
            await hand.publish_many(range(5))
            await until(lambda: len(handled) == 5)
            await hand.remove(force=True)
            assert one.done()
            assert two.done()
            await nothing_is_left(world)

    run(main())


def test_an_observer_that_would_not_end_makes_nothing_anew() -> None:
    """It knows that the train is being removed: it opens nothing, and makes no channel again."""

    async def main() -> None:
        world = World()
        async with world.running(program([])) as c, world.connect(Train("t")) as hand:
            await c.publish_many(range(5))
            await asyncio.sleep(5)
            await hand.remove(force=True, timeout=1.0)
            await asyncio.sleep(120)
            assert await world.broker.channels("t") == []
            assert (await world.registry.read("t")).version == 0
            with pytest.raises(TrainRemoved):
                await c.publish(1)

    run(main())


def test_events_that_are_stored_at_the_last_moment_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that nobody sees, between the look and the seal: the train goes on, with another wagon."""

    async def main() -> None:
        world, handled = World(), list[int]()
        await used(world, 1, 2)
        seal = world.broker.seal
        async with world.connect(Train("t")) as publisher, world.connect(Train("t")) as hand:

            async def late(channel: Channel) -> None:
                monkeypatch.setattr(world.broker, "seal", seal)
                await world.broker.publish(channel, [an_event(world)])
                await seal(channel)

            monkeypatch.setattr(world.broker, "seal", late)
            with pytest.raises(RemovalRefused, match=r"1 event in t_v1"):
                await hand.remove()
            assert len(world.of(RemovalAsked)) == len(world.of(RemovalGivenUp)) == 1
            async with world.running(program(handled)):
                await publisher.publish(4)
                await until(lambda: sorted(handled) == [3, 4])
            assert world.of(Switched)[-1].because == "asked for: a removal was given up"

    run(main())


async def founded(world: World, *wagons: Wagon) -> None:
    """A train whose processes ended with these wagons, all of them empty."""
    for wagon in wagons:
        for name in ("", "dead"):
            await world.broker.create(Channel("t", wagon.number, name))
    manifest = Manifest(train="t", wagons=wagons, next_number=len(wagons) + 1, turns=len(wagons))
    await world.registry.replace("t", manifest, expect=0)


@asynccontextmanager
async def publishing(world: World) -> AsyncIterator[tuple[TrainState, Switcher, WagonChannels]]:
    runtime = runtime_of(Train("t"), world.broker, clock=world.clock, tell=world.facts.append, name="publisher")
    async with TrainState(runtime, world.registry) as state, Switcher(runtime, state) as switcher:
        yield state, switcher, WagonChannels(runtime, state)


def cut_off(number: int) -> Wagon:
    return Wagon(number=number, state=State.DRAINING, opened_at=0.0, created_at=0.0, turn=number, closed_at=1.0)


def active(number: int) -> Wagon:
    return Wagon(number=number, state=State.ACTIVE, opened_at=0.0, created_at=0.0, turn=number)


def without_a_seal_it_is_lost(world: World, patch: pytest.MonkeyPatch, *numbers: int) -> list[int]:
    """From the first deletion on, publishers that have heard of nothing write to these wagons. Fills with those that
    refused it."""
    delete, refused = world.broker.delete, list[int]()

    async def after_the_last_look(channel: Channel) -> None:
        patch.setattr(world.broker, "delete", delete)
        for number in numbers:
            with pytest.raises(Sealed):
                await world.broker.publish(Channel("t", number), [an_event(world)])
            refused.append(number)
        await delete(channel)

    patch.setattr(world.broker, "delete", after_the_last_look)
    return refused


def test_a_wagon_whose_observer_died_before_it_was_sealed_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World()
        await founded(world, cut_off(1), active(2))
        refused = without_a_seal_it_is_lost(world, monkeypatch, 1, 2)
        async with world.connect(Train("t")) as hand:
            await hand.remove()
        assert refused == [1, 2]
        await nothing_is_left(world)

    run(main())


def test_a_wagon_that_became_active_after_the_first_look_is_sealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The switch is stored just before it is that the train is being removed."""

    async def main() -> None:
        world = World()
        await founded(world, active(1))
        refused = without_a_seal_it_is_lost(world, monkeypatch, 1, 2)
        depth = world.broker.depth

        async def switched_meanwhile(channels: Any) -> Any:
            monkeypatch.setattr(world.broker, "depth", depth)
            for name in ("", "dead"):
                await world.broker.create(Channel("t", 2, name))
            known = await world.registry.read("t")
            manifest = Manifest(train="t", wagons=(cut_off(1), active(2)), next_number=3, turns=2)
            await world.registry.replace("t", manifest, expect=known.version)
            return await depth(channels)

        monkeypatch.setattr(world.broker, "depth", switched_meanwhile)
        async with world.connect(Train("t")) as hand:
            await hand.remove()
        assert refused == [1, 2]
        await nothing_is_left(world)

    run(main())


def test_while_a_channel_comes_back_the_train_is_not_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World()
        await founded(world, active(1))
        delete = world.broker.delete

        async def comes_back(channel: Channel) -> None:
            await delete(channel)
            if not channel.name and channel.wagon == 1:
                await world.broker.create(channel)

        async with world.connect(Train("t")) as hand:
            with monkeypatch.context() as patched:
                patched.setattr(world.broker, "delete", comes_back)
                with pytest.raises(Unavailable, match=r"these channels are .*: t_v1\. .*eventwagon remove t"):
                    await hand.remove("old")
            manifest = (await world.registry.read("t")).manifest
            assert manifest.removal is not None
            with pytest.raises(TrainRemoved):
                await hand.publish(1)
            await hand.remove()
        await nothing_is_left(world)

    run(main())


def test_a_channel_that_is_listed_for_a_while_after_its_deletion_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World()
        await founded(world, active(1))
        channels, since = world.broker.channels, list[float]()

        async def lagging(train: str) -> Any:
            now = asyncio.get_running_loop().time()
            found = await channels(train)
            if not found:
                since.append(now)
            return found if found or now > since[0] + 4.0 else [Channel("t", 1)]

        monkeypatch.setattr(world.broker, "channels", lagging)
        async with world.connect(Train("t")) as hand:
            await hand.remove()
        await nothing_is_left(world)

    run(main())


@pytest.mark.parametrize("calls", range(14))
def test_one_that_was_cut_short_is_finished_by_another(calls: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """At each call that changes something."""

    async def main() -> None:
        world = World()
        await used(world, *range(20))
        left = [calls]

        def failing(call: Any) -> Any:
            async def cut(*of: Any, **more: Any) -> Any:
                if not left[0]:
                    raise Unavailable("cut off")
                left[0] -= 1
                return await call(*of, **more)

            return cut

        with monkeypatch.context() as patched:
            for store, names in ((world.broker, ("seal", "delete")), (world.registry, ("replace", "delete"))):
                for name in names:
                    patched.setattr(store, name, failing(getattr(store, name)))
            async with world.connect(Train("t")) as c:
                try:
                    await c.remove()
                except Unavailable:
                    assert not left[0]
        async with world.connect(Train("t")) as c:
            await c.remove()
        await nothing_is_left(world)

    run(main())


def test_a_train_that_is_being_removed_is_founded_by_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        world = World()
        await used(world, 1)

        async def cut(_: str) -> None:
            raise Unavailable("cut off")

        with monkeypatch.context() as patched:
            patched.setattr(world.registry, "delete", cut)
            async with world.connect(Train("t")) as c:
                with pytest.raises(Unavailable):
                    await c.remove("old", by="ada")
        async with world.connect(program([])) as c:
            with pytest.raises(TrainRemoved, match="by ada: old"):
                await c.publish(1)
            with pytest.raises(TrainRemoved, match="`eventwagon remove t` finishes that"):
                async with c.running():
                    pass
            await c.remove()
        await nothing_is_left(world)

    run(main())


def test_a_publisher_that_is_connected_still_brings_nothing_back() -> None:
    """Nobody sees it. Its events are refused, and what it knows of the train is not stored again."""

    async def main() -> None:
        world = World()
        await used(world, 1)
        async with world.connect(Train("t")) as publisher, world.connect(Train("t")) as hand:
            await publisher.publish_many(())
            await hand.remove()
            with pytest.raises(TrainRemoved):
                await publisher.publish(2, timeout=5.0)
            await asyncio.sleep(60)
            await nothing_is_left(world)

    run(main())


@pytest.mark.parametrize("gone", [False, True])
def test_where_the_broker_needs_a_lease_publishers_are_told_too(gone: bool) -> None:
    """While the train is being removed, and once it is gone; then they check in no more."""

    async def main() -> None:
        world = World()
        world.broker = MemoryBroker(clock=world.clock, fences=False)
        await founded(world, active(1))
        async with publishing(world) as (state, switcher, _):
            found = await world.registry.read("t")
            going = msgspec.structs.replace(found.manifest, removal=TrainRemoval(why="old", at=world.clock(), by="ada"))
            await world.registry.replace("t", going, expect=found.version)
            await state.until(lambda m: m.removal is not None)
            if gone:
                await world.registry.delete("t")
            with pytest.raises(TrainRemoved, match="by ada: old"):
                await switcher.publish([an_event(world)], deadline=asyncio.get_running_loop().time() + 5.0)
            assert await world.registry.members("t") == []

    run(main())


@pytest.mark.parametrize("heard", ["before", "while it founds"])
def test_a_train_without_an_active_wagon_that_is_being_removed_is_not_founded(
    heard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its registry has stepped back to before there was one."""

    async def main() -> None:
        world = World()
        removal = TrainRemoval(why="old", at=world.clock(), by="ada")
        bare = Manifest(train="t", epoch=1)
        going = msgspec.structs.replace(bare, removal=removal)
        await world.registry.replace("t", going if heard == "before" else bare, expect=0)
        listed = world.broker.channels

        async def removed_meanwhile(train: str) -> Any:
            monkeypatch.setattr(world.broker, "channels", listed)
            await world.registry.replace("t", going, expect=1)
            return await listed(train)

        async with publishing(world) as (_, switcher, channels):
            if heard != "before":
                monkeypatch.setattr(world.broker, "channels", removed_meanwhile)
                with pytest.raises(TrainRemoved, match="by ada: old"):
                    await channels.bootstrap()
            with pytest.raises(TrainRemoved, match="by ada: old"):
                await switcher.publish([an_event(world)], deadline=asyncio.get_running_loop().time() + 5.0)
        assert await world.broker.channels("t") == []

    run(main())


class Seldom(MemoryRegistry):
    """Its watches look each 30 seconds, and it does not say so."""

    @asynccontextmanager
    async def watch(self, train: str) -> AsyncIterator[AsyncIterator[Snapshot]]:  # type: ignore[override]
        async def looks() -> AsyncIterator[Snapshot]:
            while True:
                yield await self.read(train)
                await asyncio.sleep(30.0)

        async with aclosing(looks()) as found:  # type: ignore[type-var]
            yield found


class SaysSo(Seldom):
    poll = 30.0


def test_publishers_hear_of_it_however_seldom_their_registry_is_asked() -> None:
    async def main() -> None:
        world = World()
        world.registry = SaysSo(clock=world.clock)
        await used(world, 1)
        async with world.connect(Train("t")) as publisher, world.connect(Train("t")) as hand:
            await publisher.publish_many(())
            await hand.remove()
            with pytest.raises(TrainRemoved):
                await publisher.publish(2, timeout=5.0)
            await asyncio.sleep(120)
            await nothing_is_left(world)

    run(main())


def test_a_publisher_that_never_heard_of_it_is_told_when_and_by_whom_it_was_removed() -> None:
    """Nothing is founded anew by one that slept, not even when somebody else has done so since."""

    async def main() -> None:
        world, handled = World(), list[int]()
        world.registry = Seldom(clock=world.clock)
        await used(world, *range(60))  # its version is higher than that of the next one
        why = r"train t is removed by ada: it is not needed \(at [0-9T:-]{19}Z\)\. .* a new connection founds it anew"
        async with world.connect(Train("t")) as publisher, world.connect(Train("t")) as sleeper:
            await publisher.publish_many(())
            await sleeper.publish_many(())
            async with world.connect(Train("t")) as hand:
                await hand.remove("it is not needed", by="ada")
            with pytest.raises(TrainRemoved, match=why):
                await publisher.publish(2, timeout=60.0)
            await nothing_is_left(world)
            async with world.running(program(handled)) as anew:
                await anew.publish(3)
                await until(lambda: handled == [3])
                before = await world.registry.read("t")
                for each in (publisher, sleeper):
                    with pytest.raises(TrainRemoved, match=why):
                        await each.refresh()
                    with pytest.raises(TrainRemoved, match=why):
                        await each.publish(4, timeout=60.0)
                after = await world.registry.read("t")
                assert (before.manifest.epoch, after.manifest.epoch) == (0, 0)
                assert handled == [3]

    run(main())


def test_processes_that_slept_through_a_removal_end() -> None:
    async def main() -> None:
        world = World()
        world.registry = Seldom(clock=world.clock)
        async with world.connect(program([])) as sleeper, sleeper.running(observe=False):
            await sleeper.publish(1)
            await asyncio.sleep(5)
            async with world.connect(Train("t")) as hand:
                await hand.remove(force=True, timeout=1.0)
            await sleeper.stopped()
        await nothing_is_left(world)

    run(main())


@pytest.mark.parametrize("readable", [False, True])
def test_a_train_that_was_founded_anew_outlives_a_registry_that_forgets(readable: bool) -> None:
    """The removal of its predecessor is none of its own."""

    async def main() -> None:
        world, handled = World(), list[int]()
        await used(world, 1)
        async with world.connect(Train("t")) as hand:
            await hand.remove()
        async with world.running(program(handled)) as anew:
            await anew.publish(1)
            await until(lambda: handled == [1])
            if not readable:

                async def refuse(*_: object, **__: object) -> AsyncIterator[Entry]:
                    for _each in (1,):
                        raise StorageBroken("a right is missing")
                    yield Entry(0.0, "", RemovalAsked(train="t", because=""))

                world.registry.entries = refuse  # type: ignore[method-assign]
            await world.registry.delete("t")
            await anew.publish(2, timeout=60.0)
            await until(lambda: handled == [1, 2])
            assert anew.manifest.epoch == 1

    run(main())


class Units:
    """An orchestrator that keeps what it was asked for."""

    def __init__(self) -> None:
        self.units: dict[int, WagonSpec] = {}

    async def __aenter__(self) -> Units:
        return self

    async def __aexit__(self, *_: object) -> None: ...

    async def ensure(self, spec: WagonSpec) -> None:
        self.units[spec.unit] = spec

    async def deployments(self, train: str) -> dict[int, Deployment]:
        return {unit: Deployment(number=spec.number, ready=True) for unit, spec in self.units.items()}

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        self.units.pop(unit, None)


def test_the_orchestrator_s_units_go_too() -> None:
    async def main() -> None:
        world, units = World(), Units()
        async with world.connect(program([]), orchestrator=units) as c, c.running():
            await until(lambda: len(units.units) == 2)
        async with world.connect(program([]), orchestrator=units) as c:
            assert (await c.remove()).units == 2
        assert units.units == {}
        await nothing_is_left(world)

    run(main())


def test_what_was_never_there_is_no_mistake_and_creates_nothing() -> None:
    async def main() -> None:
        world = World()
        async with world.connect(Train("t")) as c:
            gone = await c.remove()
        assert (gone.existed, gone.units) == (False, 0)
        await nothing_is_left(world)

    run(main())


class SilentRegistry(MemoryRegistry):
    """Its watch brings no news, and its journal comes late."""

    @asynccontextmanager
    async def watch(self, train: str) -> AsyncIterator[AsyncIterator[Snapshot]]:  # type: ignore[override]
        async def nothing() -> AsyncIterator[Snapshot]:
            await asyncio.Event().wait()
            yield await self.read(train)

        yield nothing()

    async def entries(self, train: str, *, last: int | None = None) -> AsyncIterator[Entry]:
        await asyncio.sleep(0.1)
        async for entry in super().entries(train, last=last):
            yield entry


def test_two_that_find_at_once_that_their_train_was_removed_are_both_told() -> None:
    async def main() -> None:
        world = World()
        registry = SilentRegistry(clock=world.clock)
        runtime = runtime_of(Train("t"), world.broker, clock=world.clock, tell=world.facts.append, name="publisher")
        async with world.connect(program([]), registry=registry) as founder:
            await founder.publish(1)
            async with TrainState(runtime, registry) as state:
                await founder.remove(force=True, by="somebody")
                outcomes = await asyncio.gather(state.refresh(), state.refresh(), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [TrainRemoved, TrainRemoved]

    run(main())
