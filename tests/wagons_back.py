"""Wagons archived, exported, replayed and undone, on any broker: what comes out of each step is what went into it."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from eventwagon.archives import open_archive
from eventwagon.connection import Connection
from eventwagon.contracts.facts import ArchiveIncomplete, ReplayEnded, WagonArchived
from eventwagon.contracts.replay import PastEvents
from eventwagon.event import UNDO, UNDO_CHANNEL
from tests.programs.wagons_back import train
from tests.support import journal

_ROOT = Path(__file__).parents[1]


class Contents(NamedTuple):
    """What an archive's or an export's rows of one channel come to, whatever their order."""

    events: int
    digest: int


async def wagons_come_back(url: str, name: str, archive: str, *, wagons: int, each: int, seconds: float) -> str:
    """Publish so many wagons of `each` events and let them be archived; export all; replay all; undo all. Returns the
    figures: events per second of each step, with those of the inner channel, and the peak memory of the process that
    did it."""
    count, figures = wagons * each, []
    rate = _Rate(2 * count)
    async with (
        asyncio.timeout(seconds),
        _process(url, name, archive, each) as process,
        train(name, archive, each).connect(url, listeners=()) as c,
    ):
        for wagon in range(wagons):
            for start in range(wagon * each, (wagon + 1) * each, 1000):
                await c.publish_many(range(start, min(start + 1000, (wagon + 1) * each)))
            await c.wait_switched(await c.request_switch())
        last = await _all_archived(c)
        figures.append(rate("published, handled, archived"))
        went = {n: await _archived(archive, name, n) for n in range(1, last + 1)}
        assert sum(contents[""].events for contents in went.values()) == count
        assert sum(contents["bill"].events for contents in went.values()) == count

        rate.begin()
        for number, contents in went.items():
            assert await _exported(name, archive, number) == contents
        figures.append(rate("exported"))

        rate.begin()
        replays = [await c.replays.request(PastEvents(wagon=number)) for number in went]
        for replay in replays:
            await c.replays.wait(replay.number)
        figures.append(rate("replayed, archived"))
        ended: list[ReplayEnded] = []
        while len(ended) < len(replays):  # an entry may come after the change that it tells of
            facts = [entry.fact for entry in await journal(c)]
            ended = [f for f in facts if isinstance(f, ReplayEnded)]
        assert [(f.fed, f.because) for f in ended] == [(replay.count, "") for replay in replays]
        assert not [f for f in facts if isinstance(f, ArchiveIncomplete)]
        again = await _by_replay(archive, name, last)
        assert again == {replay.name(name): went[replay.of.wagon] for replay in replays}

        rate.begin()
        undos = {}
        for number in went:
            undo = await c.undo.request(number)
            assert await c.undo.wait(undo.number) == ""
            undos[undo.name(name)] = went[number]
        figures.append(rate("undone, archived"))
        assert await _by_undo(archive, name, last) == undos
        figures.append(f"peak memory of the process {_peak(process.pid) / 2**20:,.0f} MiB")
    return f"{count:,} events over {len(went)} wagons: {'; '.join(figures)}"


class _Rate:
    def __init__(self, count: int) -> None:
        self._count = count
        self.begin()

    def begin(self) -> None:
        self._began = time.perf_counter()

    def __call__(self, what: str) -> str:
        return f"{what} {self._count / (time.perf_counter() - self._began):,.0f}/s"


@asynccontextmanager
async def _process(url: str, name: str, archive: str, each: int) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.programs.wagons_back", url, name, archive, str(each), cwd=_ROOT
    )
    try:
        yield process
        assert process.returncode is None
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _all_archived(c: Connection) -> int:
    """Return once all wagons that got events are gone, with the number of the last one."""
    while any(d.published for channels in (await c.depths()).values() for d in channels.values()):
        await asyncio.sleep(0.1)
    return max(e.fact.number for e in await journal(c) if isinstance(e.fact, WagonArchived))


async def _archived(archive: str, name: str, number: int) -> dict[str, Contents]:
    """The rows of a wagon, by channel."""
    place = open_archive(archive)
    contents: dict[str, Contents] = {}
    for file in await place.files(name):
        if file.number == number:
            async for rows in place.read(file):
                for row in rows:
                    assert row.outcome == "handled"
                    _add(contents, row.channel, row.source, row.id, json.loads(row.data))
    return contents


async def _by_replay(archive: str, name: str, last: int) -> dict[str, dict[str, Contents]]:
    """The rows of all wagons after `last`, by the replay that they came from, and by channel."""
    place = open_archive(archive)
    contents: dict[str, dict[str, Contents]] = {}
    for file in await place.files(name):
        if file.number > last:
            async for rows in place.read(file):
                for row in rows:
                    of = contents.setdefault(row.extensions["replay"], {})
                    _add(of, row.channel, row.source, row.id, json.loads(row.data))
    return contents


async def _by_undo(archive: str, name: str, last: int) -> dict[str, dict[str, Contents]]:
    """The rows of all wagons after `last` that went to undo handlers, by the undo, and by the channel in which they had
    been handled."""
    place = open_archive(archive)
    contents: dict[str, dict[str, Contents]] = {}
    for file in await place.files(name):
        if file.number > last:
            async for rows in place.read(file):
                for row in rows:
                    if UNDO in row.extensions:
                        assert row.outcome == "handled"
                        channel = row.extensions[UNDO_CHANNEL].removeprefix(name)
                        of = contents.setdefault(row.extensions[UNDO], {})
                        _add(of, channel, row.source, row.id, json.loads(row.data))
    return contents


async def _exported(name: str, archive: str, number: int) -> dict[str, Contents]:
    """What `eventwagon export` prints, by channel."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "eventwagon", "export", name, str(number), "--archive", archive),
        stdout=PIPE,
        stdin=DEVNULL,
        cwd=_ROOT,
        limit=2**20,
    )
    contents: dict[str, Contents] = {}
    assert process.stdout is not None
    async for line in process.stdout:
        row = json.loads(line)
        channel = "" if row["channel"] == name else row["channel"]
        _add(contents, channel, row["source"], row["id"], row["data"])
    assert await process.wait() == 0
    return contents


def _add(contents: dict[str, Contents], channel: str, source: str, name: str, data: object) -> None:
    count, digest = contents.get(channel, (0, 0))
    one = blake2b(json.dumps([source, name, data]).encode(), digest_size=8).digest()
    contents[channel] = Contents(count + 1, (digest + int.from_bytes(one)) & (2**64 - 1))


def _peak(pid: int) -> int:
    """The most memory that the process has had, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    return int(peak) * 1024
