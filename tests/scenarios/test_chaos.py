"""Real processes killed and stopped at random, and the judge that looks at what is left."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from eventwagon.contracts.registry import Member
from eventwagon.event import DEAD, Channel, Event
from tests.chaos.judge import (
    Books,
    Restored,
    channels_left,
    files_left,
    lost,
    processes_left,
    read_books,
    reused,
    roots,
)
from tests.chaos.plan import ROLES, outages, strikes
from tests.chaos.run import Chaos
from tests.support import World


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("isolated", "switches", "plan"), [(True, 15, 4), (False, 12, 7)], ids=["a process per wagon", "shared workers"]
)
def test_nothing_is_lost_and_nothing_left_over(tmp_path: Path, isolated: bool, switches: int, plan: int) -> None:
    chaos = Chaos(tmp_path, switches=switches + 4, plan=plan, isolated=isolated)  # a wagon may fail and be left out
    verdict = asyncio.run(chaos.run())
    print(verdict)
    assert verdict.good, str(verdict)
    assert verdict.switches >= switches
    assert verdict.accepted > switches * 40
    assert verdict.dead > 0
    assert sum(verdict.kills.values()) > 0
    assert sum(verdict.stops.values()) > 0


def test_a_plan_is_always_the_same_and_strikes_all() -> None:
    first, again, other = (list(itertools.islice(strikes(n), 200)) for n in (1, 1, 2))
    assert first == again != other
    assert {blow.role for blow in first} == set(ROLES)
    assert 0 < sum(blow.stop is None for blow in first) < 200
    downs = list(itertools.islice(outages(1), 200))
    assert downs == list(itertools.islice(outages(1), 200))
    assert {round(down.which) for down in downs} == {0, 1}


def test_the_judge_finds_what_is_lost() -> None:
    accepted = {"a": 1.0, "b": 2.0, "c": 3.0, "d": 4.0}
    books = Books(
        tried={**accepted, "e": 5.0},
        accepted=accepted,
        taken=Counter({"a": 1, "b": 2}),
        confirmed=Counter({"a": 1}),
        opened=Counter(),
    )
    assert lost(books, dead={"c"}) == (("b", "d"), 0)


def test_the_judge_knows_what_an_older_copy_can_not_have() -> None:
    """Accepted before the copy, or tried after the kill: that must be handled."""
    tried = {"before": 1.0, "across": 1.9, "between": 2.5, "late": 2.9, "after": 3.1, "handled": 2.5}
    accepted = {"before": 1.9, "across": 2.1, "between": 2.6, "late": 9.0, "after": 3.2, "handled": 2.6}
    once = Counter(["handled"])
    books = Books(tried, accepted, taken=once, confirmed=once, opened=Counter({"1": 1, "7": 2, "12": 2}))
    assert lost(books, set(), [Restored(2.0, 3.0)]) == (("after", "before"), 3)
    assert lost(books, set()) == (("across", "after", "before", "between", "late"), 0)
    assert reused(books) == (7, 12)


def test_a_chain_whose_second_link_died_is_not_lost() -> None:
    """A killed worker's event is tried again, but not for ever: then it is a dead letter, of whichever link."""
    first = Event("a", "t", "s", 0.0, b'{"poison": true}')
    second = Event("b/confirm/0", "t", "s", 0.0, b'{"of": "b"}')
    assert roots([first, second, Event("c", "t", "s", 0.0, b"\xff")]) == {"a", "b", "b/confirm/0", "c"}


def test_notes_are_read_as_whole_lines(tmp_path: Path) -> None:
    for kind, text in (
        ("tried-1", "a 1.5\nb 2.5\n"),
        ("accepted-1", "a 2.0\n"),
        ("taken-1", "a\n"),
        ("taken-2", "a\n"),
        ("opened-1", "1\n2\n"),
    ):
        (tmp_path / kind).write_text(text)
    assert read_books(tmp_path) == Books(
        {"a": 1.5, "b": 2.5}, {"a": 2.0}, Counter({"a": 2}), Counter(), Counter({"1": 1, "2": 1})
    )


def test_the_judge_finds_what_is_left_over(tmp_path: Path) -> None:
    train, processes = tmp_path / "trains" / "chaos", tmp_path / "processes"
    train.mkdir(parents=True)
    processes.mkdir()
    for name in ("train.db", "own.db", "v3.db", "v4.db"):
        (train / name).touch()
    assert files_left(train, {3, 4}) == processes_left(processes, []) == ()
    (train / "v1.db").touch()
    (train / "v4.db-wal").touch()
    (processes / "chaos_v1.lock").touch()
    assert files_left(train, {3, 4}) == (str(train / "v1.db"), str(train / "v4.db-wal"))
    here = psutil.Process()
    found = processes_left(processes, [(here.pid, here.create_time()), (here.pid, 1.0)])
    assert [what.split(":")[0] for what in found] == [str(processes / "chaos_v1.lock"), f"process {os.getpid()}"]


def test_the_judge_finds_channels_and_members_that_are_left_over() -> None:
    async def main() -> None:
        world = World(clock=time.time)
        async with world.broker as broker, world.registry as registry:
            await broker.create(Channel("chaos", 0, DEAD))
            assert await channels_left("chaos", broker, registry, patience=0.0) == ()
            await broker.create(Channel("chaos", 1))
            await broker.create(Channel("other", 1))
            await registry.check_in("chaos", Member(name="somebody"), ttl=0.2)
            found = await channels_left("chaos", broker, registry, patience=0.0)
            assert found == ("channel chaos_v1", "member somebody")
            assert await channels_left("chaos", broker, registry, patience=0.5) == ("channel chaos_v1",)

    asyncio.run(main())
