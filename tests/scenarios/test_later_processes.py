"""Events for later with real processes that are killed: on SQLite here, on Redis in tests/redis/test_later.py."""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import apsw

from eventwagon import Train
from tests.programs.reminders import reminders

ROOT = Path(__file__).parents[2]
_EVENTS = 300
_KILLS = 8


class Line(NamedTuple):
    channel: str
    payload: str
    id: str
    due: float
    at: float


def handled_in(place: Path) -> Path:
    """An empty directory for the processes' notes."""
    (handled := place / "handled").mkdir()
    return handled


def lines(handled: Path) -> list[Line]:
    found = []
    for file in handled.iterdir():
        for line in file.read_text().splitlines():
            channel, payload, name, due, at = line.split()
            found.append(Line(channel, payload, name, float(due), float(at)))
    return found


def start(url: str, handled: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "eventwagon", "run", "tests.programs.reminders:reminders", "--url", url],
        cwd=ROOT,
        env={**os.environ, "HANDLED": str(handled)},
        stderr=subprocess.DEVNULL,
    )


async def nothing_is_lost_by_kills(url: str, handled: Path) -> None:
    """Two processes move and handle what is due; one after the other is killed at any moment and started again."""
    rng = random.Random(5)
    running = [start(url, handled) for _ in range(2)]
    try:
        async with reminders.connect(url, listeners=()) as c:
            ids = dict[str, str]()
            cancelled = list[str]()
            for n in range(_EVENTS):
                name = await c.publish(f"n{n}", after=rng.uniform(1.0, 9.0))
                ids[f"n{n}"] = name
            for n in range(10):
                name = await c.publish(f"c{n}", after=60)
                assert await c.cancel(name)
                cancelled.append(name)
            for kill in range(_KILLS):
                await asyncio.sleep(rng.uniform(0.8, 1.6))
                victim = running[kill % 2]
                victim.kill()
                await asyncio.to_thread(victim.wait)
                running[kill % 2] = start(url, handled)
            wanted = {(channel, payload) for payload in ids for channel in ("-", "again")}
            async with asyncio.timeout(90):
                while {(line.channel, line.payload) for line in lines(handled)}.issuperset(wanted) is False:
                    await asyncio.sleep(0.2)
            async with asyncio.timeout(40):  # one that was killed may have published what it had not removed yet
                while (await c.later()).count > 2:  # a tick, perhaps
                    await asyncio.sleep(0.2)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            await asyncio.to_thread(process.wait)
    found = lines(handled)
    assert all(line.at >= line.due for line in found)
    assert not {line.id for line in found}.intersection(cancelled)
    for channel in ("-", "again"):
        by_payload = {(line.payload, line.id) for line in found if line.channel == channel}
        assert len({payload for payload, _ in by_payload}) == len(by_payload), "a duplicate has another id"
    assert all(line.id == ids[line.payload] for line in found if line.channel == "-" and line.payload in ids)
    twice = sum(count - 1 for count in Counter((line.channel, line.id) for line in found).values())
    ticks = {line.payload: line.id for line in found if line.payload.startswith("t")}
    assert len({*ticks.values()}) == len(ticks)
    assert all(float(payload[1:]) == line.due for line in found if (payload := line.payload) in ticks)
    print(f"{len(found)} lines, {twice} twice, {len(ticks)} ticks in {time.time() - min(x.due for x in found):.0f} s")


def test_nothing_is_lost_by_kills(tmp_path: Path) -> None:
    asyncio.run(nothing_is_lost_by_kills(f"sqlite:///{tmp_path}/trains", handled_in(tmp_path)))


def test_entries_of_others_are_dead_once(tmp_path: Path) -> None:
    """What another program wrote into the file can't be read: it goes to the dead letters, once, with its bytes."""

    async def main() -> None:
        train = Train("others")

        @train.on("others")
        async def handle(_: int) -> None: ...

        async with train.connect(f"sqlite:///{tmp_path}", listeners=()) as c:
            await c.publish(1, after=600)
        db = apsw.Connection(str(tmp_path / "others" / "later.db"))
        db.execute("INSERT INTO entry (key, time, due, event) VALUES (' one', 5, 5, x'00'), ('two', 6, 6, 'text')")
        db.close()
        async with train.connect(f"sqlite:///{tmp_path}", listeners=()) as c, c.running():
            async with asyncio.timeout(30):
                while (await c.later()).count > 1:
                    await asyncio.sleep(0.1)
                while len(dead := [event.data async for event in c.dead_letters()]) < 2:
                    await asyncio.sleep(0.1)
        assert sorted(dead) == [b"\x00", b"text"]

    asyncio.run(main())
