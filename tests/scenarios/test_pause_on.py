"""Wagons that the rule `pause_on` pauses, in a train that runs: what stops, that nothing is lost, who resumes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from eventwagon import Context, PauseOn, Reject, Snooze, Train, Volume, Workers
from eventwagon.contracts.facts import DeliveryPaused, DeliveryResumed
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import RULE
from eventwagon.event import Channel, Event, new_ids
from eventwagon.testing.virtual_time import run
from tests.support import World, until

A_MOMENT = 0.05
"""Seconds for the news of a manifest, in memory."""
LONG = 600.0
"""Seconds after which anything that goes on by itself in a train has done so."""
NOTICED = 5.0
"""Seconds within which an observer has heard of failures."""


class Log:
    """What handlers were called for, and what they finished, by wagon."""

    def __init__(self) -> None:
        self.begun: list[tuple[int, int]] = []
        self.done: set[int] = set()
        self.bad: Callable[[int, int], BaseException | None] = lambda wagon, n: None
        """What the handler raises for this event."""


RULE_ = PauseOn(failures=0.5, of=20)


def program(log: Log, rule: PauseOn | None = RULE_, **settings: Any) -> Train:
    defaults: dict[str, Any] = {"limit": Volume(1000), "workers": Workers(each=2), "breaker": None, "attempts": 50}
    train = Train("t", pause_on=rule, **{**defaults, **settings})

    @train.on("t")
    async def handle(n: int, ctx: Context) -> None:
        log.begun.append((ctx.wagon, n))
        await asyncio.sleep(0.05)
        if (error := log.bad(ctx.wagon, n)) is not None:
            raise error
        log.done.add(n)

    return train


def test_a_wagon_whose_handlings_fail_is_paused_until_somebody_resumes_it_and_nothing_is_lost() -> None:
    async def main() -> None:
        world, log = World(), Log()
        log.bad = lambda wagon, n: RuntimeError("broken") if wagon == 1 else None
        train = program(log)
        async with world.running(train) as c, world.running(program(log), observe=False):
            await c.publish_many(range(100))
            await until(lambda: world.of(DeliveryPaused))
            await asyncio.sleep(A_MOMENT)
            begun = len(log.begun)
            await asyncio.sleep(LONG)
            assert len(log.begun) <= begun + 4  # those in flight
            begun = len(log.begun)
            (fact,) = world.of(DeliveryPaused)
            assert (fact.number, fact.by, fact.by_rule, fact.handled) == (1, RULE, True, 0)
            assert 20 <= fact.failed <= begun
            assert world.of(DeliveryResumed) == []  # no machine does
            await c.publish(100)
            await c.wait_switched(await c.request_switch("the code is good again"))
            await c.publish_many(range(200, 240))
            await until(lambda: log.done.issuperset(range(200, 240)))  # the next wagon works
            assert len([n for wagon, n in log.begun if wagon == 1]) == begun
            for _ in range(2):  # a second time changes nothing
                await c.resume("let us see", wagon=1, by="ada")
            await asyncio.sleep(60.0)
            assert len(world.of(DeliveryPaused)) == 1  # though all fails as before
            assert len(log.begun) > begun + 100
            log.bad = lambda wagon, n: None
            await c.wait_drained(1)
            assert log.done == {*range(101), *range(200, 240)}
            (resumed,) = world.of(DeliveryResumed)
            assert (resumed.number, resumed.by) == (1, "ada")
            assert resumed.seconds > LONG

    run(main())


def test_it_hears_of_failures_soon() -> None:
    async def main() -> None:
        world, log = World(), Log()
        log.bad = lambda wagon, n: RuntimeError("broken")
        async with world.running(program(log), work=False) as c, world.running(program(log), observe=False):
            await c.publish_many(range(1000))
            began = asyncio.get_running_loop().time()
            await until(lambda: world.of(DeliveryPaused))
            assert asyncio.get_running_loop().time() - began < NOTICED

    run(main())


@pytest.mark.parametrize(
    "bad",
    [
        lambda wagon, n: RuntimeError("now and then") if n % 4 == 0 else None,
        lambda wagon, n: Snooze(0.5) if n % 4 else None,
    ],
    ids=["a quarter", "snoozed"],
)
def test_less_than_the_share_pauses_nothing(bad: Callable[[int, int], BaseException | None]) -> None:
    async def main() -> None:
        world, log = World(), Log()
        log.bad = lambda wagon, n: bad(wagon, n) if log.begun.count((wagon, n)) == 1 else None
        async with world.running(program(log, backoff=0.1, backoff_most=0.1)) as c:
            await c.publish_many(range(400))
            await until(lambda: len(log.done) == 400)
            await asyncio.sleep(NOTICED)
            assert world.of(DeliveryPaused) == []

    run(main())


def test_what_a_handler_rejects_counts() -> None:
    """Its events go to the dead letters, which is what the rule is to stop."""

    async def main() -> None:
        world, log = World(), Log()
        log.bad = lambda wagon, n: Reject("no such customer")
        async with world.running(program(log)) as c:
            await c.publish_many(range(1000))
            await until(lambda: world.of(DeliveryPaused))
            await asyncio.sleep(1.0)
            assert len(log.begun) < 1000

    run(main())


def test_messages_that_nobody_can_decode_do_not_count() -> None:
    """They are the mistake of whoever published them, and a thousand of them stop no other event."""

    async def main() -> None:
        world, log = World(), Log()
        async with world.running(program(log)) as c:
            await c.publish_many(range(5))
            now = world.clock()
            foreign = [Event(id_, "t", "/foreign", now, b'"no number"') for id_ in new_ids(200, now)]
            await world.broker.publish(Channel("t", 1), foreign)
            await c.publish_many(range(5, 40))
            await until(lambda: len(log.done) == 40)
            await until(lambda: c.manifest.wagon(1) is not None)
            await asyncio.sleep(NOTICED)
            assert [e.id async for e in c.dead_letters()]
            assert world.of(DeliveryPaused) == []

    run(main())


def test_a_batch_that_fails_counts_once() -> None:
    async def main() -> None:
        world = World()
        begun: list[int] = []
        train = Train("t", workers=Workers(each=1), pause_on=PauseOn(0.5, of=20), breaker=None, attempts=50)

        @train.on("t", batch=10)
        async def handle(numbers: list[int]) -> None:
            begun.append(len(numbers))
            await asyncio.sleep(0.05)
            raise RuntimeError("broken")

        async with world.running(train) as c:
            await c.publish_many(range(1000))
            await until(lambda: world.of(DeliveryPaused))
            (fact,) = world.of(DeliveryPaused)
            assert fact.handled == 0
            assert 20 <= fact.failed <= len(begun)

    run(main())


def test_canary_and_rule_go_together() -> None:
    """New code fails: the train goes back to the old one, and what the new code has got waits instead of dying."""

    async def main() -> None:
        world, old, new = World(), Log(), Log()
        new.bad = lambda wagon, n: RuntimeError("broken")
        v1, v2 = (
            program(log, PauseOn(0.5, of=25), revision=revision, attempts=5)
            for log, revision in ((old, "v1"), (new, "v2"))
        )
        async with world.running(v1) as c, world.running(v2):
            await c.publish_many(range(10))
            await until(lambda: len(old.done) == 10)
            before = await c.request_switch("release", revision="v2", watch_errors=0.2)
            bad = await c.wait_switched(before)
            await c.publish_many(range(100, 200))
            await until(lambda: world.of(DeliveryPaused))
            after = await c.wait_switched(bad)
            assert c.manifest.wagon(after) is not None
            await c.publish_many(range(300, 310))
            await until(lambda: old.done.issuperset(range(300, 310)))
            await asyncio.sleep(LONG / 5)
            wagon = c.manifest.wagon(bad)
            assert wagon is not None
            assert wagon.state is State.DRAINING
            assert [e.id async for e in c.dead_letters()] == []
            new.bad = lambda wagon, n: None
            await c.resume(wagon=bad)
            await c.wait_drained(bad)
            assert new.done == set(range(100, 200))

    run(main())
