"""Many trains of one process on SQLite: they share its threads, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import apsw

from eventwagon import Connection, Train
from eventwagon.drivers.sqlite import SQLiteBroker
from eventwagon.drivers.sqlite.threads import Threads
from eventwagon.event import Channel
from tests.redis.support import events
from tests.support import until

_MOST = 8
"""Threads for any number of idle trains."""


@asynccontextmanager
async def running(directory: Path, name: str, handled: list[str]) -> AsyncIterator[Connection]:
    train = Train(name)

    @train.on(name)
    async def handle(payload: str) -> None:
        handled.append(f"{name} {payload}")

    async with train.connect(f"sqlite:///{directory}?sync=normal", listeners=()) as connection, connection.running():
        await connection.found()
        yield connection


def ours() -> int:
    """The threads of SQLite files."""
    return sum(thread.name.startswith("eventwagon sqlite") for thread in threading.enumerate())


def test_forty_idle_trains_share_a_few_threads_and_leave_none(tmp_path: Path) -> None:
    async def main() -> None:
        handled: list[str] = []
        async with AsyncExitStack() as stack:
            trains = [await stack.enter_async_context(running(tmp_path, f"many{n}", handled)) for n in range(40)]
            await asyncio.sleep(6.0)
            counts = []
            for _ in range(20):
                await asyncio.sleep(0.1)
                counts.append(ours())
            assert 0 < sorted(counts)[10] <= _MOST, counts
            await asyncio.gather(*(train.publish("x") for train in trains))
            await until(lambda: len(handled) == 40)
        assert ours() == 0

    asyncio.run(main())


def test_a_train_that_closes_takes_nothing_from_the_others(tmp_path: Path) -> None:
    async def main() -> None:
        handled: list[str] = []
        async with running(tmp_path, "stays", handled) as stays:
            for turn in range(3):
                async with running(tmp_path, f"goes{turn}", handled) as goes:
                    await goes.publish("x")
                    publishing = [asyncio.create_task(stays.publish(f"{turn} {n}")) for n in range(100)]
                await asyncio.gather(*publishing)
            await until(lambda: sum(each.startswith("stays") for each in handled) == 300)
        assert ours() == 0

    asyncio.run(main())


def test_files_that_others_have_locked_hold_up_no_other_file(tmp_path: Path) -> None:
    """More of them than there are threads at first."""
    locked, free = [Channel(f"locked{n}", 1) for n in range(8)], Channel("free", 1)

    async def main() -> None:
        async with SQLiteBroker(tmp_path, sync="normal") as broker:
            for channel in (*locked, free):
                await broker.create(channel)
            with contextlib.ExitStack() as stack:
                for channel in locked:
                    other = apsw.Connection(str(tmp_path / channel.train / "v1.db"))
                    stack.enter_context(contextlib.closing(other))
                    other.execute("BEGIN IMMEDIATE")
                waiting = [asyncio.create_task(broker.publish(channel, events(1))) for channel in locked]
                await asyncio.sleep(0.05)
                began = time.monotonic()
                for _ in range(10):
                    await broker.publish(free, events(1))
                assert time.monotonic() - began < 3.0
                assert not any(task.done() for task in waiting)
            await asyncio.gather(*waiting)
        assert ours() == 0

    asyncio.run(main())


def test_work_is_never_done_by_two_threads_and_no_wake_is_lost() -> None:
    """Works that are woken all the time, some of which take long."""

    async def main() -> None:
        threads, works = Threads(), []
        done, inside = [0] * 20, [0] * 20
        wanted = [0] * 20

        def step_of(n: int) -> object:
            def step() -> float | None:
                inside[n] += 1
                assert inside[n] == 1
                seen = wanted[n]
                if n < 6 and seen == 50:
                    time.sleep(0.2)
                done[n] = max(done[n], seen)
                inside[n] -= 1
                return None if seen == 100 else 60.0

            return step

        works = [threads.begin(step_of(n)) for n in range(20)]  # type: ignore[arg-type]
        for _ in range(100):
            for n, work in enumerate(works):
                wanted[n] += 1
                work.wake()
            await asyncio.sleep(0.001)
        await until(lambda: done == [100] * 20, seconds=10)
        await threads.close()
        assert ours() == 0

    asyncio.run(main())


def test_what_is_due_twice_at_one_time_is_done_once() -> None:
    """Work that was woken, and is due again at the same time as before."""

    async def main() -> None:
        threads, inside, done = Threads(), 0, 0

        def step() -> float | None:
            nonlocal inside, done
            inside += 1
            assert inside == 1
            time.sleep(0.0005)
            inside -= 1
            done += 1
            return 0.05 if done < 400 else None

        work = threads.begin(step)
        for _ in range(2000):
            work.wake()
            await asyncio.sleep(0.0005)
        await until(lambda: done >= 400, seconds=10)
        await threads.close()
        assert done == 400
        assert ours() == 0

    asyncio.run(main())
