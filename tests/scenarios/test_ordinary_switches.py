"""An ordinary switch warns of nothing, and each process tells each switch, whoever made it."""

from __future__ import annotations

import asyncio
import logging

import pytest

from eventwagon import Lag, Volume, Workers
from eventwagon.contracts.facts import Discarded, Switched, SwitchRefused, SwitchSeen, log
from eventwagon.testing.virtual_time import run
from tests.support import Deaf, SignUp, World, signups, until


@pytest.mark.parametrize("spares", [0, 1])
def test_ordinary_switches_warn_of_nothing(caplog: pytest.LogCaptureFixture, spares: int) -> None:
    async def main() -> None:
        world, handled = World(), list[str]()
        train = signups(handled, limit=Volume(20), spares=spares, seconds=0.01)
        async with (
            train.connect(broker=world.broker, registry=world.registry, clock=world.clock) as c,
            c.running(),
            train.connect(broker=world.broker, registry=world.registry, clock=world.clock) as d,
            d.running(),
        ):
            for n in range(100):
                await (c, d)[n % 2].publish(SignUp(str(n)))
                await asyncio.sleep(0.03)
            await c.wait_switched(await c.request_switch())
            await until(lambda: len(handled) == 100)
            await c.wait_drained(4)
            assert c.manifest.turns >= 5

    with caplog.at_level(logging.INFO, "eventwagon"):
        run(main())
    assert [r.getMessage() for r in caplog.records if r.levelno > logging.INFO] == []


def test_a_switch_that_is_not_made_for_long_is_warned_of() -> None:
    async def main() -> list[SwitchRefused]:
        world = World()
        train = signups([], spares=0, provision_timeout=20.0)
        told: list[SwitchRefused] = []

        def listen(fact: object) -> None:
            if isinstance(fact, SwitchRefused):
                told.append(fact)

        options = {"broker": world.broker, "registry": world.registry, "clock": world.clock, "listeners": [listen]}
        async with train.connect(**options) as c, c.running(work=False):  # type: ignore[arg-type]
            await c.request_switch()
            await asyncio.sleep(25)
        return told

    told = run(main())
    assert [f.lasted > 0 for f in told if f.passing][:1] == [False]
    assert any(f.lasted >= 20 for f in told)


def test_each_process_tells_each_switch_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world = World()
        heard: list[list[object]] = [[], [], []]
        train = signups([], limit=Volume(1000))

        def connect(n: int):  # type: ignore[no-untyped-def]
            return train.connect(
                broker=world.broker, registry=world.registry, clock=world.clock, listeners=[heard[n].append, log]
            )

        async with connect(0) as a, a.running(), connect(1) as b, b.running(), connect(2) as c:
            await c.publish(SignUp("a"))
            for _ in range(6):
                old = await c.request_switch("a release")
                await c.wait_switched(old)
                await asyncio.sleep(2)
        for facts in heard:
            switches = [(f.old, f.new) for f in facts if isinstance(f, Switched | SwitchSeen) and f.old is not None]
            assert [old for old, _ in switches] == [1, *(new for _, new in switches[:-1])]
            assert len(switches) == 6
            assert all("a release" in f.because for f in facts if isinstance(f, SwitchSeen))
        assert sum(isinstance(f, Switched) and f.old is not None for facts in heard for f in facts) == 6

    with caplog.at_level(logging.INFO, "eventwagon"):
        run(main())
    assert sum("switched from signups_v1 to signups_v" in line for line in caplog.messages) == 3


def test_switches_that_were_not_seen_one_by_one_are_summed_up() -> None:
    async def main() -> None:
        world = World()
        heard: list[object] = []
        train = signups([], limit=Volume(1000))
        async with (
            world.running(train) as a,
            train.connect(
                broker=world.broker, registry=Deaf(world.registry), clock=world.clock, listeners=[heard.append]
            ) as late,
        ):
            await a.publish(SignUp("a"))
            await late.refresh()
            for _ in range(3):
                await a.wait_switched(await a.request_switch())
            await late.refresh()
        (fact,) = [f for f in heard if isinstance(f, SwitchSeen)]
        assert (fact.old, fact.skipped) == (1, 2)

    run(main())


def test_a_wagon_that_was_wanted_until_now_is_kept_warm_from_now_on() -> None:
    """Not from when it became ready: the next wave may come at once."""

    async def main() -> None:
        world = World()
        train = signups([], limit=Lag(10), workers=Workers(total=8), spares=0, keep_warm=10.0, seconds=20.0)
        async with world.running(train) as c:
            for n in range(6):
                await c.publish(SignUp(str(n)))
            await asyncio.sleep(19)
            assert [w.number for w in c.manifest.ready] == [2]
            await asyncio.sleep(10)
            assert [w.number for w in c.manifest.ready] == [2]
            await until(lambda: not c.manifest.ready)
            (put_away,) = world.of(Discarded)
            assert put_away.because == "it was ready for 10 s and not needed"

    run(main())
