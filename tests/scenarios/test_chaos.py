"""Real processes killed and stopped at random, and the judge that looks at what is left."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from pathlib import Path

import psutil
import pytest

from eventwagon.testing.chaos.judge import Books, left_over, lost, read_books
from eventwagon.testing.chaos.plan import ROLES, strikes
from eventwagon.testing.chaos.run import Chaos


@pytest.mark.slow
@pytest.mark.parametrize(
    ("isolated", "switches", "plan"), [(True, 50, 4), (False, 25, 7)], ids=["a process per wagon", "shared workers"]
)
def test_nothing_is_lost_and_nothing_left_over(tmp_path: Path, isolated: bool, switches: int, plan: int) -> None:
    chaos = Chaos(tmp_path, switches=switches, plan=plan, isolated=isolated)
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


def test_the_judge_finds_what_is_lost() -> None:
    books = Books(
        tried={"a", "b", "c", "d", "e"},
        accepted={"a", "b", "c", "d"},
        taken=Counter({"a": 1, "b": 2}),
        confirmed=Counter({"a": 1}),
    )
    assert lost(books, dead={"c"}) == ("b", "d")


def test_notes_are_read_as_whole_lines(tmp_path: Path) -> None:
    for kind, text in (("tried-1", "a\nb\n"), ("accepted-1", "a\n"), ("taken-1", "a\n"), ("taken-2", "a\n")):
        (tmp_path / kind).write_text(text)
    assert read_books(tmp_path) == Books({"a", "b"}, {"a"}, Counter({"a": 2}), Counter())


def test_the_judge_finds_what_is_left_over(tmp_path: Path) -> None:
    trains, processes = tmp_path / "trains", tmp_path / "processes"
    (trains / "chaos").mkdir(parents=True)
    processes.mkdir()
    for name in ("train.db", "own.db", "v3.db", "v4.db"):
        (trains / "chaos" / name).touch()
    assert left_over(trains, processes, {3, 4}, []) == ()
    (trains / "chaos" / "v1.db").touch()
    (trains / "chaos" / "v4.db-wal").touch()
    (processes / "chaos_v1.lock").touch()
    here = psutil.Process()
    found = left_over(trains, processes, {3, 4}, [(here.pid, here.create_time()), (here.pid, 1.0)])
    assert [what.split(":")[0] for what in found] == [
        str(trains / "chaos" / "v1.db"),
        str(trains / "chaos" / "v4.db-wal"),
        str(processes / "chaos_v1.lock"),
        f"process {os.getpid()}",
    ]
