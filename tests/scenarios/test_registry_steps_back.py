"""A registry that comes back with an older manifest, and wagons whose channels have vanished. In virtual time."""

from __future__ import annotations

import asyncio
import logging

import msgspec
import pytest

from eventwagon import Connection, Context, Train, Volume, Workers
from eventwagon.contracts.facts import (
    ChannelThreatened,
    EventsLost,
    EventsRescued,
    RegistrySteppedBack,
    Switched,
    log,
)
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.registry import Snapshot
from eventwagon.errors import Displaced, StorageBroken
from eventwagon.event import DEAD, Channel
from eventwagon.policy.edits import bootstrap, created
from eventwagon.testing.virtual_time import run
from eventwagon.views.train import look
from tests.support import SignUp, World, journal, signups, state_of, until
from tests.unit.plans import manifest, wagon


def numbers(world: World) -> list[int]:
    """The wagons that became active, in that order."""
    return [fact.new for fact in world.of(Switched)]


def warned(world: World, words: str) -> bool:
    """Whether a listener that logs has warned in these words."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    logger = logging.getLogger("eventwagon")
    logger.addHandler(handler)
    try:
        for fact in world.facts:
            log(fact)
    finally:
        logger.removeHandler(handler)
    return any(words in r.getMessage() and r.levelno == logging.WARNING for r in records)


async def switched(connection: Connection, count: int = 1) -> None:
    for _ in range(count):
        active = connection.manifest.active
        number = active.number if active else 0
        await connection.request_switch("by hand")
        await until(lambda n=number: (a := connection.manifest.active) is not None and a.number > n)  # type: ignore[misc]


def test_an_older_manifest_is_taken_over_by_all_and_no_number_is_used_twice() -> None:
    """Over two switches: an observer, a worker and a publisher that only follow go on with it, and what was left in
    wagons that it does not know is handled."""

    async def main() -> None:
        world, handled = World(), list[str]()
        async with (
            world.running(signups(handled), observe=True, work=False) as observer,
            world.running(signups(handled), observe=False, work=True) as worker,
            world.connect(signups(handled)) as publisher,
        ):
            await publisher.publish(SignUp("a"))
            await until(lambda: handled == ["a"])
            await until(lambda: len(observer.manifest.wagons) == 2)
            older = await world.registry.read("signups")
            await switched(observer, 2)
            await publisher.publish(SignUp("b"))
            await until(lambda: handled == ["a", "b"])
            used = max(w.number for w in observer.manifest.wagons)
            newest = (await world.registry.read("signups")).version
            world.registry.step_back("signups", older)
            began = asyncio.get_running_loop().time()
            everybody = observer, worker, publisher
            await until(lambda: all(c.manifest.epoch == 1 for c in everybody), seconds=5.0)
            await publisher.publish(SignUp("c"))
            await until(lambda: "c" in handled, seconds=10.0)
            assert asyncio.get_running_loop().time() - began < 10.0
            stored = await world.registry.read("signups")
            assert stored.version > newest
            await until(lambda: all(c.manifest == stored.manifest for c in everybody), seconds=0.1)
            assert observer.manifest.stepped_back_to == older.version
            before = numbers(world)
            await switched(observer, 2)
            new = numbers(world)[len(before) :]
            assert min(new) > used, (used, new)
            await publisher.publish(SignUp("d"))
            await until(lambda: "d" in handled, seconds=10.0)
            told = [e.fact for e in await journal(observer) if isinstance(e.fact, RegistrySteppedBack)]
            assert [(f.known >= newest - 2, f.found) for f in told] == [(True, older.version)]

            assert warned(world, "it was restored from an older copy")

    run(main())


def test_events_in_wagons_that_the_older_manifest_does_not_know_are_published_anew() -> None:
    """Those of inner channels, too."""

    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled, spares=0), observe=True, work=False) as observer:
            await observer.publish(SignUp("a"))
            older = await world.registry.read("signups")
            async with world.running(signups(handled, spares=0), observe=False, work=True):
                await switched(observer)
            active = observer.manifest.active
            assert active is not None
            await observer.publish(SignUp("b"))
            (letter,) = [e async for e in world.broker.read(Channel("signups", active.number))]
            inner = msgspec.structs.replace(letter, id="inner", data=b'{"to": "c"}')
            await world.broker.publish(Channel("signups", active.number, "welcome"), [inner])
            world.registry.step_back("signups", older)
            async with world.running(signups(handled, spares=0), observe=False, work=True):
                await until(lambda: {"a", "b", "c"} <= set(handled))
            assert active.number not in {c.wagon for c in await world.broker.channels("signups")}
            assert sum(f.count for f in world.of(EventsRescued)) == 2

    run(main())


def test_a_registry_that_has_lost_everything_is_founded_again_under_new_numbers() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled)) as connection:
            await connection.publish(SignUp("a"))
            await switched(connection)
            used = max(w.number for w in connection.manifest.wagons)
            world.registry.step_back("signups", Snapshot(Manifest(train="signups"), 0))
            await connection.publish(SignUp("b"))
            await until(lambda: "b" in handled, seconds=20.0)
            manifest = connection.manifest
            assert manifest.epoch == 1
            assert manifest.declared
            assert min(w.number for w in manifest.wagons) > used

    run(main())


def test_a_registry_restored_while_nobody_ran_is_lived_with() -> None:
    """The active wagon that it names was sealed since, or is gone. The first publish asks for the next one."""

    async def main(gone: bool) -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled)) as connection:
            await connection.publish(SignUp("a"))
            await until(lambda: handled == ["a"])
            older = await world.registry.read("signups")
        first = Channel("signups", 1)
        if gone:
            await world.broker.delete(first)
        else:
            await world.broker.seal(first)
        world.registry.step_back("signups", older)
        async with world.running(signups(handled)) as connection:
            await connection.publish(SignUp("b"))
            await until(lambda: handled == ["a", "b"])
            await until(lambda: connection.manifest.wagon(1) is None, seconds=60.0)

    run(main(gone=True))
    run(main(gone=False))


def test_the_active_wagons_channel_vanishes() -> None:
    """Left for the next one at once, and what was in it is told as lost, with how many those were."""

    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled), observe=True, work=False) as connection:
            for name in "abc":
                await connection.publish(SignUp(name))
            await asyncio.sleep(2.0)
            await world.broker.delete(Channel("signups", 1))
            view = await look(connection, "memory:")
            assert [t for t in view.threatened if t.startswith("signups_v1 has vanished from the broker")]
            async with world.running(signups(handled), observe=False, work=True):
                began = asyncio.get_running_loop().time()
                await connection.publish(SignUp("d"))
                assert asyncio.get_running_loop().time() - began < 5.0
                await until(lambda: handled == ["d"])
                await until(lambda: world.of(EventsLost), seconds=20.0)
                assert [(f.number, f.count, f.total) for f in world.of(EventsLost)] == [(1, 3, 3)]
                await until(lambda: connection.manifest.wagon(1) is None, seconds=60.0)
                assert EventsLost in {type(e.fact) for e in await journal(connection)}

        assert warned(
            world, "signups_v1 lost 3 events, which disappeared without being settled: signups_v1 has vanished"
        )

    run(main())


def test_an_inner_channel_vanishes() -> None:
    """It is made anew, what is in the ingress is handled, and what went with it is told."""

    async def main() -> None:
        world, train = World(), Train("t", limit=Volume(1000), workers=Workers(total=2))
        mailed, gate = list[int](), asyncio.Event()

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            await ctx.emit("mail", n)

        @train.on("mail")
        async def mail(n: int) -> None:
            await gate.wait()
            mailed.append(n)

        async with world.running(train) as connection:
            await connection.publish_many(range(3))
            await asyncio.sleep(2.0)
            await world.broker.delete(Channel("t", 1, "mail"))
            gate.set()
            await connection.publish_many(range(10, 15))
            # those that were handled while it was away come again when their claims have expired
            await until(lambda: set(range(10, 15)) <= set(mailed), seconds=60.0)
            await until(lambda: world.of(EventsLost), seconds=30.0)
            assert [(f.number, f.count) for f in world.of(EventsLost)] == [(1, 3)]
            assert [f.channel for f in world.of(ChannelThreatened)] == ["mail"]
            await connection.request_switch("by hand")
            await until(lambda: connection.manifest.wagon(1) is None, seconds=60.0)

    run(main())


@pytest.mark.parametrize("error", [StorageBroken, Displaced])
def test_an_inner_channel_vanishes_and_its_creation_fails(error: type[StorageBroken]) -> None:
    """A disk that fails may work again, and costs the wagon nothing. Where something else is in the channel's place,
    its creation is tried once, and the wagon that lacks it is left."""

    async def main() -> None:
        world, train = World(), Train("t", limit=Volume(1000), workers=Workers(total=2))
        handled, tried = list[int](), list[str]()

        @train.on("t")
        async def handle(n: int) -> None:
            handled.append(n)

        for name in ("mail", "post"):

            @train.on(name)
            async def inner(n: int) -> None: ...

        create = world.broker.create

        async def refused(channel: Channel, *, capacity: int | None = None) -> None:
            if channel == Channel("t", 1, "mail") and (error is Displaced or len(tried) < 20):
                tried.append(channel.name)
                raise error("not now")
            await create(channel, capacity=capacity)

        async with world.running(train) as connection:
            await connection.publish(1)
            await until(lambda: handled == [1])
            world.broker.create = refused  # type: ignore[method-assign]
            for name in ("mail", "post"):
                await world.broker.delete(Channel("t", 1, name))
            await asyncio.sleep(60.0)
            await connection.publish(2)
            await until(lambda: handled == [1, 2])
            active = connection.manifest.active
            assert active is not None
            if error is Displaced:
                assert active.number == 2
                assert tried == ["mail"]
                assert connection.manifest.wagon(1) is None
            else:
                assert active.number == 1
                assert len(tried) == 20
                assert {c.name for c in await world.broker.channels("t")} >= {"", "mail", "post"}

    run(main())


def test_an_ingress_that_vanishes_takes_nothing_with_it_that_inner_channels_hold() -> None:
    """Whether the workers were there already, or come when it is gone."""

    async def main(*, attached: bool) -> None:
        world, train = World(), Train("t", limit=Volume(1000), workers=Workers(total=9))
        mailed, gate = list[int](), asyncio.Event()

        @train.on("t")
        async def handle(n: int, ctx: Context) -> None:
            await ctx.emit("mail", n)

        @train.on("mail")
        async def mail(n: int) -> None:
            await gate.wait()
            mailed.append(n)

        async with world.running(train, observe=True, work=False) as observer:
            await observer.publish_many(range(5))
            async with world.running(train, observe=False, work=True):
                await asyncio.sleep(2.0)
                if attached:
                    await world.broker.delete(Channel("t", 1))
                    gate.set()
                    await until(lambda: set(mailed) == set(range(5)), seconds=300.0)
            if not attached:
                await world.broker.delete(Channel("t", 1))
                gate.set()
            async with world.running(train, observe=False, work=True):
                await until(lambda: set(mailed) == set(range(5)), seconds=300.0)
                await until(lambda: observer.manifest.wagon(1) is None, seconds=300.0)

    run(main(attached=True))
    run(main(attached=False))


def test_late_news_of_an_older_manifest_is_no_step_back() -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        async with world.running(signups(handled)) as connection:
            await connection.publish(SignUp("a"))
            older = await world.registry.read("signups")
            await switched(connection)
            async with state_of(world, signups([])) as state:
                assert state.snapshot.version > older.version
                state.see(older)
                await state.refresh()
                assert state.snapshot.manifest.epoch == 0
            assert connection.manifest.epoch == 0
            assert not world.of(RegistrySteppedBack)

    run(main())


def test_a_first_wagon_that_is_ready_or_failed_already_is_no_dead_end() -> None:
    """After a step back to before it was active an observer may have seen its workers first."""
    settings = signups([]).settings
    for first in (wagon(1, State.READY), wagon(1, State.FAILED)):
        step = bootstrap(settings, manifest(first), (), 1000.0, bounds=False)
        if first.state is State.FAILED:
            assert [w.number for w in step.manifest.wagons] == [1, 2]
            step = bootstrap(settings, created(step.manifest, 2, 1000.0), (), 1000.0, bounds=False)
        active = step.manifest.active
        assert active is not None
        assert active.number == step.manifest.next_number - 1


def test_a_train_founded_again_uses_no_number_of_which_channels_are_left() -> None:
    """The only wagon that the older manifest knows is given up, and who opens the next may be no observer."""

    async def main() -> None:
        world, handled = World(), list[str]()
        older = manifest(wagon(1, State.FAILED, created_at=None), train="signups", epoch=1)
        world.registry.step_back("signups", Snapshot(older, 5))
        await world.broker.create(Channel("signups", 2, DEAD))
        async with world.connect(signups(handled)) as publisher:
            await publisher.publish(SignUp("a"))
            active = publisher.manifest.active
            assert active is not None
            assert active.number == 3

    run(main())


def test_at_the_cap_what_a_failed_wagon_holds_is_no_reason_to_wait_for_ever() -> None:
    """The active wagon was sealed in the lost time, and the other one held events and is given up: what stands there
    waits for a wagon that takes events, and none could be opened before it was removed."""

    async def main() -> None:
        world, handled = World(), list[str]()
        app = signups(handled, spares=0, wagons=2, provision_timeout=1.0, provision_attempts=1)
        async with world.running(app, observe=True, work=False) as observer:
            await observer.publish(SignUp("a"))
            (letter,) = [e async for e in world.broker.read(Channel("signups", 1))]
            await observer.request_switch("by hand")
            await until(lambda: len(observer.manifest.wagons) == 2)
            older = await world.registry.read("signups")
            await until(lambda: observer.manifest.wagons[1].created_at is not None)
            await world.broker.seal(Channel("signups", 1))
            lost = msgspec.structs.replace(letter, id="lost", data=b'{"email": "b"}')
            await world.broker.publish(Channel("signups", 2), [lost])
            world.registry.step_back("signups", older)
            await until(lambda: bool(observer.manifest.in_state(State.FAILED)), seconds=20.0)
            async with world.running(signups(handled, spares=0, wagons=2), observe=False, work=True):
                await until(lambda: {"a", "b"} <= set(handled), seconds=30.0)
                await observer.publish(SignUp("c"))
                await until(lambda: "c" in handled, seconds=10.0)
            assert 2 not in {c.wagon for c in await world.broker.channels("signups")}
            assert sum(f.count for f in world.of(EventsRescued)) == 1

    run(main())
