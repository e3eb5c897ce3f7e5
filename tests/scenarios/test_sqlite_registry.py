"""What is special to the SQLite registry: several processes and views, files, clocks."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import threading
import time
from pathlib import Path

import pytest

from eventwagon.contracts.facts import Entry, StopRequested
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.registry import Member
from eventwagon.drivers.sqlite.registry import SQLiteRegistry
from eventwagon.errors import Conflict, Unavailable

spawn = multiprocessing.get_context("spawn")


def manifest(stops: int = 0) -> Manifest:
    return Manifest(train="signups", stops=stops)


def entries(count: int) -> list[Entry]:
    return [Entry(float(n), "me", StopRequested(train="signups", because=str(n))) for n in range(count)]


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def count_up(directory: Path, times: int) -> None:
    """A process that raises `stops` by one, again and again, by compare-and-swap."""

    async def main() -> None:
        async with SQLiteRegistry(directory) as registry:
            done = 0
            while done < times:
                found = await registry.read("signups")
                more = manifest(found.manifest.stops + 1)
                try:
                    await registry.replace("signups", more, expect=found.version, entries=entries(1))
                except Conflict:
                    continue
                done += 1

    asyncio.run(main())


def test_compare_and_swap_between_processes_loses_no_change(tmp_path: Path) -> None:
    async def main() -> None:
        async with SQLiteRegistry(tmp_path) as registry, registry.watch("signups") as changes:
            processes = [spawn.Process(target=count_up, args=(tmp_path, 40)) for _ in range(3)]
            for process in processes:
                process.start()
            seen = [await anext(changes)]
            while seen[-1].manifest.stops < 120:
                async with asyncio.timeout(20):
                    seen.append(await anext(changes))
            assert [s.version for s in seen] == sorted({s.version for s in seen})
            assert (await registry.read("signups")).manifest.stops == 120
            assert len([entry async for entry in registry.entries("signups")]) == 120
            for process in processes:
                await asyncio.to_thread(process.join)
                assert process.exitcode == 0

    asyncio.run(main())


def test_reading_and_watching_what_is_not_there_creates_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with SQLiteRegistry(tmp_path, poll=0.01) as registry, SQLiteRegistry(tmp_path) as other:
            assert await registry.read("signups") == await registry.read("signups")
            assert await registry.members("signups") == []
            assert [entry async for entry in registry.entries("signups")] == []
            with pytest.raises(Conflict, match="version 0, not 7"):
                await registry.replace("signups", manifest(), expect=7)
            await registry.check_in("signups", Member(name="a"), ttl=0)
            async with registry.watch("signups") as changes:
                assert (await anext(changes)).version == 0
                assert os.listdir(tmp_path) == []  # noqa: PTH208
                waiting = asyncio.ensure_future(anext(changes))
                await asyncio.sleep(0.05)
                assert os.listdir(tmp_path) == []  # noqa: PTH208
                stored = await other.replace("signups", manifest(1), expect=0)
                assert await asyncio.wait_for(waiting, 60) == stored

    asyncio.run(main())


def test_many_watchers_share_one_thread_and_all_wake(tmp_path: Path) -> None:
    async def main() -> None:
        async with SQLiteRegistry(tmp_path) as registry, SQLiteRegistry(tmp_path) as other:
            await registry.replace("signups", manifest(), expect=0)
            watches = [registry.watch("signups") for _ in range(50)]
            changes = [await watch.__aenter__() for watch in watches]
            for change in changes:
                await anext(change)
            threads = threading.active_count()
            waiting = [asyncio.ensure_future(anext(change)) for change in changes]
            await asyncio.sleep(0.1)
            assert threading.active_count() == threads
            began = time.monotonic()
            await other.replace("signups", manifest(1), expect=1)
            assert {snapshot.version for snapshot in await asyncio.gather(*waiting)} == {2}
            assert time.monotonic() - began < 2
            for watch in watches:
                await watch.__aexit__(None, None, None)

    asyncio.run(main())


def test_a_refused_replacement_leaves_no_entries(tmp_path: Path) -> None:
    async def main() -> None:
        async with SQLiteRegistry(tmp_path) as registry:
            await registry.replace("signups", manifest(), expect=0, entries=entries(2))
            with pytest.raises(Conflict, match="train signups is at version 1, not 0: read it again"):
                await registry.replace("signups", manifest(), expect=0, entries=entries(2))
            assert len([entry async for entry in registry.entries("signups")]) == 2

    asyncio.run(main())


def test_the_journal_is_read_in_pages_and_bounded(tmp_path: Path) -> None:
    async def main() -> None:
        async with SQLiteRegistry(tmp_path) as registry:
            await registry.append("signups", entries(1700), keep=1200)
            found = [entry.at async for entry in registry.entries("signups")]
            assert found == [float(n) for n in range(500, 1700)]
            assert [entry.at async for entry in registry.entries("signups", last=3)] == [1697.0, 1698.0, 1699.0]
            assert await registry.trains() == []  # a journal alone is no train

    asyncio.run(main())


def test_a_clock_set_back_keeps_no_dead_member_alive(tmp_path: Path) -> None:
    async def main() -> None:
        clock = Clock()
        async with SQLiteRegistry(tmp_path, clock=clock) as registry:
            for name in ("dead", "living"):
                await registry.check_in("signups", Member(name=name), ttl=10)
            clock.now -= 3600
            assert len(await registry.members("signups")) == 2  # nobody knows yet
            clock.now += 6
            await registry.check_in("signups", Member(name="living"), ttl=10)
            clock.now += 6
            assert [member.name for member in await registry.members("signups")] == ["living"]

    asyncio.run(main())


def test_leaving_refuses_those_that_watch_and_stays_left(tmp_path: Path) -> None:
    async def main() -> None:
        threads = threading.active_count()
        registry = SQLiteRegistry(tmp_path)
        async with registry:
            await registry.replace("signups", manifest(), expect=0)
            async with registry.watch("signups") as changes:
                await anext(changes)
                waiting = asyncio.ensure_future(anext(changes))
                await asyncio.sleep(0.05)
                await registry.__aexit__()
                with pytest.raises(Unavailable, match="closed"):
                    await waiting
        with pytest.raises(Unavailable, match="not open"):
            await registry.read("signups")
        assert threading.active_count() <= threads + 1  # the loop's own helper

    asyncio.run(main())
