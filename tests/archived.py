"""A train whose wagons are archived, on any broker, in any archive: for the tests on real servers."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from eventwagon import Connection, Context, Reject, Train, Volume, Workers
from eventwagon.archives import open_archive
from eventwagon.contracts.facts import ArchiveIncomplete, Fact, WagonArchived
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.rows import Row
from eventwagon.event import ARCHIVE
from tests.programs.archived import COUNT, archived
from tests.support import until

_SETTLED = (State.READY, State.ACTIVE)


async def rows_at(url: str, train: str) -> list[Row]:
    """All rows of a train."""
    archive = open_archive(url)
    return [row for file in await archive.files(train) async for rows in archive.read(file) for row in rows]


async def lives_and_is_archived(name: str, url: str, archive: str, count: int = 60, **settings: Any) -> None:
    """Each event that it handles, in several wagons, has one row for each channel; nothing else has, and no channel of
    rows is left but those of wagons that live."""
    facts: list[Fact] = []
    train = Train(
        name, **{"limit": Volume(20), "workers": Workers(total=4), "archive": archive, "keep_drained": 0.5, **settings}
    )

    @train.on(name)
    async def first(n: int, ctx: Context) -> None:
        if n % 10 == 9:
            raise Reject("a nine")
        await ctx.emit("inner", n)

    @train.on("inner")
    async def inner(n: int) -> None: ...

    async with train.connect(url, listeners=[facts.append]) as c, c.running():
        await c.publish_many(range(count))
        async with asyncio.timeout(120):
            await c.wait_switched(await c.request_switch())
            await until(lambda: all(w.state in _SETTLED for w in c.manifest.wagons), seconds=120, step=0.1)
        async with asyncio.timeout(30):  # a broker may list what it has just deleted
            while await _stand(c) != {w.number for w in c.manifest.wagons}:
                await asyncio.sleep(0.1)
    rows = await rows_at(archive, name)
    found = Counter((row.channel, row.outcome, int(row.data)) for row in rows)
    assert set(found.values()) == {1}
    assert {n for channel, outcome, n in found if channel == "" and outcome == "handled"} == {
        n for n in range(count) if n % 10 != 9
    }
    assert {n for channel, outcome, n in found if outcome == "dead"} == {n for n in range(count) if n % 10 == 9}
    assert {n for channel, outcome, n in found if channel == "inner"} == {n for n in range(count) if n % 10 != 9}
    assert all(row.attempts == 1 and row.time <= row.settled_at and row.source for row in rows)
    written = [fact for fact in facts if isinstance(fact, WagonArchived)]
    assert sum(fact.count for fact in written) == len(rows)
    assert not [fact for fact in facts if isinstance(fact, ArchiveIncomplete)]


async def _stand(connection: Connection) -> set[int]:
    """The wagons that have channels of rows."""
    return {each.wagon for each in await connection.broker.channels(connection.train.name) if each.name == ARCHIVE}


def processes_die_and_all_is_archived(url: str, archive: str) -> None:
    """Two processes observe and work; one after the other is killed, twice: each event has one row in the end."""

    async def judge(processes: list[subprocess.Popen[bytes]], begin: Callable[[], subprocess.Popen[bytes]]) -> None:
        async with Train(archived.name).connect(url, listeners=()) as connection:
            await until(lambda: connection.manifest.declared, seconds=60, step=0.1)
            for turn in range(4):
                for start in range(turn * COUNT // 4, (turn + 1) * COUNT // 4, 50):
                    await connection.publish_many(range(start, start + 50))
                    await asyncio.sleep(0.02)
                processes[turn].kill()
                processes.append(begin())
            async with asyncio.timeout(120):
                while await are_left(connection):
                    await asyncio.sleep(0.2)
            await connection.wait_switched(await connection.request_switch())
            await until(lambda: all(w.state in _SETTLED for w in connection.manifest.wagons), seconds=90, step=0.1)
            said = [entry.fact async for entry in connection.journal()]
        assert not [fact for fact in said if isinstance(fact, ArchiveIncomplete)]
        rows = await rows_at(archive, archived.name)
        found = Counter((row.channel, int(row.data)) for row in rows)
        assert {n for channel, n in found if channel == ""} == {*range(COUNT)}
        assert {n for channel, n in found if channel == "inner"} == {*range(COUNT)}
        assert set(found.values()) == {1}

    async def are_left(connection: Connection) -> bool:
        depths = await connection.depths()
        return any(d.published != d.settled for n, of in depths.items() if n for d in of.values())

    command = [sys.executable, "-m", "eventwagon", "run", "tests.programs.archived:archived", "--url", url]
    with ExitStack() as stack:

        def begin() -> subprocess.Popen[bytes]:
            process = subprocess.Popen(command, env={**os.environ, "ARCHIVE": archive})
            stack.enter_context(process)
            stack.callback(process.terminate)
            return process

        asyncio.run(judge([begin(), begin()], begin))
