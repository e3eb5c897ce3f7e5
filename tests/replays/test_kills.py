"""Replays whose feeders are killed: on SQLite here, on Redis in tests/redis/test_replays.py."""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import Process
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from eventwagon.archives.opening import open_archive
from eventwagon.archives.past import ArchivedEvents
from eventwagon.contracts.facts import ReplayEnded, WagonRemoved
from eventwagon.contracts.replay import PastEvents
from tests.programs.replayed import train
from tests.support import journal_with

ROOT = Path(__file__).parents[2]


async def each_is_published_once(url: str, archive: str, *, count: int = 6_000, kills: int = 2) -> str:
    """Returns the figures."""
    processes: dict[int, Process] = {}

    async def begin() -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.programs.replayed", url, archive, cwd=ROOT
        )
        processes[process.pid] = process

    async def end() -> None:
        for process in processes.values():
            if process.returncode is None:
                process.kill()
            await process.wait()

    async with AsyncExitStack() as stack, asyncio.timeout(170):
        stack.push_async_callback(end)
        c = await stack.enter_async_context(train(archive).connect(url, listeners=()))
        for _ in range(2):
            await begin()
        await c.publish_many(range(count))
        await c.request_switch()
        while (active := c.manifest.active) is None or active.number < 2:
            await asyncio.sleep(0.05)
        await c.wait_drained(1)
        replay = await c.replays.request(PastEvents(wagon=1), rate=count / 5)
        assert replay.count == count
        for number in range(1, kills + 1):
            feeder, fed = None, 0
            while feeder is None or feeder.returncode is not None or fed < number * count // (kills + 2):
                assert c.replays.standing, "it was over before its feeder was killed"
                (standing,) = c.replays.standing
                feeder = processes.get(int(standing.feeder.rsplit("-", 2)[1])) if standing.feeder else None
                fed = standing.fed
                await asyncio.sleep(0.002)
            feeder.kill()
            await feeder.wait()
            await begin()
        await c.replays.wait(replay.number)
        facts = await journal_with(c, ReplayEnded)
    (ended,) = [f for f in facts if isinstance(f, ReplayEnded)]
    assert (ended.fed, ended.count, ended.because) == (count, count, "")
    published = [f.wagon.published for f in facts if isinstance(f, WagonRemoved) and f.wagon.replay == replay.number]
    assert sum(p or 0 for p in published) == count
    numbers = [f.wagon.number for f in facts if isinstance(f, WagonRemoved) and f.wagon.replay == replay.number]
    assert Counter([i for n in numbers for i in await _ids(archive, n)]) == Counter(await _ids(archive, 1))
    return f"{count:,} events, {kills} feeders killed, {len(published)} wagons: {published}"


async def _ids(archive: str, wagon: int) -> list[str]:
    past = ArchivedEvents(open_archive, archive, "past")
    parts = await past.parts(wagon, "")
    return sorted({each.event.id async for batch in past.events(wagon, "", parts) for each in batch})


@pytest.mark.timeout(180)
def test_each_is_published_once(tmp_path: Path) -> None:
    archive = (tmp_path / "archive").as_uri()
    print(asyncio.run(each_is_published_once(f"sqlite:///{tmp_path}/trains", archive)))
