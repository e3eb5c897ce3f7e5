"""Own workers of many wagons in one process: bounded, the active wagon first."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon import Context, Train, Volume, Workers
from eventwagon.contracts.lifecycle import LIVE, State
from eventwagon.errors import UsageError
from eventwagon.policy.scheduling import within
from eventwagon.testing.virtual_time import run
from eventwagon.workers import parse_workers
from tests.support import World, until


def test_the_first_have_all_of_theirs_and_the_others_one() -> None:
    assert within(12, {9: 8, 3: 8, 4: 8, 10: 8}) == {9: 8, 3: 2, 4: 1, 10: 1}
    assert within(8, {9: 8, 3: 8, 4: 8}) == {9: 8, 3: 1, 4: 1}
    assert within(None, {9: 8, 3: 8}) == {9: 8, 3: 8}
    assert within(12, {9: 0, 3: 8}) == {9: 0, 3: 8}


@given(st.integers(1, 100), st.lists(st.integers(0, 20), max_size=40))
def test_together_they_have_no_more_than_the_bound_and_nobody_more_than_he_wants(most: int, wants: list[int]) -> None:
    wanted = dict(enumerate(wants))
    got = within(most, wanted)
    assert all((got[n] > 0) == (wanted[n] > 0) and got[n] <= wanted[n] for n in wanted)
    assert not wants or got[0] == wants[0]
    assert sum(got.values()) == min(sum(wants), max(most, sum(wants[:1]) + sum(n > 0 for n in wants[1:])))


def test_the_bound_is_64_or_twice_each_unless_it_is_given() -> None:
    assert Workers(each=8).in_process == 64
    assert Workers(each=50).in_process == 100
    assert Workers(each=8, most=16).in_process == 16
    assert Workers(total=8).in_process is None
    assert parse_workers("each=8, most=16") == Workers(each=8, most=16)
    assert repr(Workers(each=8, most=16)) == "Workers(each=8, most=16)"


@pytest.mark.parametrize("wrong", [{"total": 8, "most": 16}, {"each": 8, "most": 4}, {"each": 8, "most": 0}])
def test_a_bound_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match="most"):
        Workers(**wrong)


def test_many_live_wagons_in_one_process_run_no_more_handlers_than_the_bound() -> None:
    """Wagons of 20 events, four workers each, at most ten in the process, handlers of 0.5 s, 20 events a second: six
    wagons live in the end. The active one has its four."""
    running, at_work = dict[int, int](), list[int]()

    async def scenario() -> None:
        train = Train("t", limit=Volume(20), workers=Workers(each=4, most=10), wagons=20, cooldown=0.0)
        world = World()

        @train.on("t")
        async def handle(number: int, ctx: Context) -> None:
            running[ctx.wagon] = running.get(ctx.wagon, 0) + 1
            at_work.append(sum(running.values()))
            await asyncio.sleep(0.5)
            running[ctx.wagon] -= 1

        async with world.connect(train) as c, c.running():
            for number in range(190):
                await c.publish(number)
                await asyncio.sleep(0.05)
            assert {a.number: a.workers for a in c.attachments}[10] == 4
            assert len(c.manifest.in_state(State.DRAINING)) >= 3
            await until(lambda: len(c.manifest.in_state(*LIVE)) == 2)

    run(scenario())
    assert len(at_work) == 190
    assert max(at_work) == 10


def test_not_even_in_a_burst_of_switches_with_slow_handlers() -> None:
    """Wagons of 8 events and handlers of 6 s: those that were cut off have theirs under way when the next begins."""
    running, at_work, done = [0], list[int](), list[int]()

    async def scenario() -> None:
        train = Train("t", limit=Volume(8), workers=Workers(each=8, most=10), wagons=40, cooldown=0.0, spares=2)
        world = World()

        @train.on("t")
        async def handle(number: int, ctx: Context) -> None:
            running[0] += 1
            at_work.append(running[0])
            await asyncio.sleep(6)
            running[0] -= 1
            done.append(number)

        async with world.connect(train) as c, c.running():
            for number in range(120):
                await c.publish(number)
                await asyncio.sleep(0.03)
            await until(lambda: len(done) == 120, seconds=200)

    run(scenario())
    assert max(at_work) == 10
    assert sorted(done) == list(range(120))
