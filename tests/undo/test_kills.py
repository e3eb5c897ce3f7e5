"""Undos whose processes are killed, on SQLite."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import Process
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from eventwagon.contracts.facts import ReplayEnded, WagonRemoved
from tests.programs.undone import train
from tests.support import journal_with

ROOT = Path(__file__).parents[2]


async def killed_at_work(url: str, archive: str, log: Path, *, count: int = 1_500, kills: int = 2) -> str:
    """Kill a process again and again while a wagon is undone: the one that feeds, or another. Returns the figures."""
    processes: list[Process] = []

    async def begin() -> None:
        args = (sys.executable, "-m", "tests.programs.undone", url, archive, str(log))
        processes.append(await asyncio.create_subprocess_exec(*args, cwd=ROOT))

    async def end() -> None:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async with AsyncExitStack() as stack, asyncio.timeout(170):
        stack.push_async_callback(end)
        c = await stack.enter_async_context(train(archive, str(log)).connect(url, listeners=()))
        for _ in range(2):
            await begin()
        await c.publish_many(range(count))
        await c.request_switch()
        while (active := c.manifest.active) is None or active.number < 2:
            await asyncio.sleep(0.05)
        await c.wait_drained(1)
        undo = await c.undo.request(1)
        for kill in range(kills):
            lines = _lines(log)
            while _lines(log) < lines + count // 4 and c.undo.standing:
                await asyncio.sleep(0.01)
            (standing,) = c.undo.standing or (undo,)
            feeder = next((p for p in processes if p.returncode is None and f"-{p.pid}-" in standing.feeder), None)
            victim = feeder or [p for p in processes if p.returncode is None][kill % 2]
            victim.kill()
            await victim.wait()
            await begin()
        assert await c.undo.wait(undo.number) == ""
        facts = await journal_with(c, ReplayEnded)
    (ended,) = [f for f in facts if isinstance(f, ReplayEnded)]
    assert (ended.fed, ended.count, ended.dead, ended.because) == (2 * count, 2 * count, 0, "")
    published = [f.wagon.published or 0 for f in facts if isinstance(f, WagonRemoved) and f.wagon.undoes == 1]
    assert sum(published) == 2 * count, "each goes to an undo handler's wagon once"
    undone = [line.split() for line in _text(log).splitlines()]
    assert {(what, int(number)) for what, number in undone} == {(w, n) for w in ("bill", "past") for n in range(count)}
    first = next(place for place, (what, _) in enumerate(undone) if what == "past")
    assert {int(number) for what, number in undone[:first] if what == "bill"} == set(range(count)), "children first"
    again = len(undone) - 2 * count
    return f"{2 * count:,} events, {kills} kills, {len(published)} wagons {published}, {again} handled more than once"


def _text(log: Path) -> str:
    return log.read_text() if log.exists() else ""


def _lines(log: Path) -> int:
    return _text(log).count("\n")


@pytest.mark.timeout(180)
def test_children_come_first_whatever_is_killed(tmp_path: Path) -> None:
    archive = (tmp_path / "archive").as_uri()
    print(asyncio.run(killed_at_work(f"sqlite:///{tmp_path}/trains", archive, tmp_path / "log")))
