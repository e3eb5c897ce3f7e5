"""`once=` with real processes that are killed: on SQLite here, on Redis in tests/redis/test_once.py."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from eventwagon import Connection, Event, Train
from eventwagon.contracts.once import once_of
from eventwagon.event import new_ids
from tests.programs.shipments import shipments

ROOT = Path(__file__).parents[2]
_EVENTS = 300
_KILLS = 6
_IN_HAND = 40
"""Handlings of a killed process, at most, that were not recorded: its workers in three wagons, and what they had just
handled."""


def start(url: str, handled: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "eventwagon", "run", "tests.programs.shipments:shipments", "--url", url],
        cwd=ROOT,
        env={**os.environ, "HANDLED": str(handled)},
        stderr=subprocess.DEVNULL,
    )


async def each_is_handled_once(url: str, handled: Path) -> None:
    """Each event is published two or three times, at once and into later wagons, while two processes work and one after
    the other is killed. Nothing is handled twice but what a killed process had in hand."""
    rng = random.Random(7)
    running = [start(url, handled) for _ in range(2)]
    killed = set[int]()
    try:
        async with shipments.connect(url, listeners=()) as c:
            names = new_ids(_EVENTS, time.time())
            copies = [*names, *names, *rng.sample(names, _EVENTS // 3)]
            near = sorted(range(len(copies)), key=lambda at: at % _EVENTS + rng.expovariate(1 / 40))
            for n, place in enumerate(near):
                await c.publish(Event(copies[place], "shipment", "/test", time.time(), b'"x"'))
                if n % (len(near) // _KILLS) == len(near) // _KILLS - 1:
                    victim = running[n % 2]
                    victim.kill()
                    await asyncio.to_thread(victim.wait)
                    killed.add(victim.pid)
                    running[n % 2] = start(url, handled)
                await asyncio.sleep(0.005)
            async with asyncio.timeout(120):
                while (await _left(c)) or len(_lines(handled)) < 2 * _EVENTS:
                    await asyncio.sleep(0.2)
    finally:
        for process in running:
            process.terminate()
        for process in running:
            await asyncio.to_thread(process.wait)
    found = _lines(handled)
    assert len(found) == 2 * _EVENTS
    again = {what: pids for what, pids in found.items() if len(pids) > 1}
    assert all(set(pids[:-1]) <= killed or set(pids[1:]) <= killed for pids in again.values()), again
    assert sum(len(pids) - 1 for pids in again.values()) <= _KILLS * _IN_HAND
    print(f"{len(copies)} published, {len(found)} handled, {len(again)} of them again after a kill")


def _lines(handled: Path) -> dict[tuple[str, str], list[int]]:
    """The processes that handled each event of each channel."""
    found = defaultdict[tuple[str, str], list[int]](list)
    for file in handled.iterdir():
        for line in file.read_text().splitlines():
            channel, name, _ = line.split()
            found[channel, name].append(int(file.name))
    return found


async def _left(c: Connection) -> bool:
    manifest = c.manifest
    depths = [d for w in manifest.wagons for d in await c.broker.depth(manifest.working_channels(w))]
    return any(d.published != d.settled for d in depths)


async def a_late_record_is_not_a_later_trains(url: str, handled: Path) -> None:
    """A process is suspended right after a handler's effect. Its train is removed and founded again under its name; the
    process goes on and records what it had handled. The new train has not handled that."""
    process = start(url, handled)
    try:
        async with shipments.connect(url, listeners=()) as c:
            await c.publish(_shipment("first", b'"stop me"'))
            async with asyncio.timeout(30):
                while len(_lines(handled)) < 2:
                    await asyncio.sleep(0.1)
        await asyncio.to_thread(os.waitpid, process.pid, os.WUNTRACED)
        async with Train("shipments").connect(url, listeners=()) as hand:
            await hand.remove(force=True, timeout=0.1)
        async with shipments.connect(url, listeners=()) as c, asyncio.timeout(60):
            await c.publish(_shipment("second"))  # it is founded before the process goes on
            os.kill(process.pid, signal.SIGCONT)
            await asyncio.to_thread(process.wait)
            record = once_of(c.broker, c.registry)
            assert record is not None
            assert await record.count("shipments"), "a test in which nothing is recorded late proves nothing"
            async with c.running():
                await c.publish(_shipment("first"))
                while len(_lines(handled)) < 4 or await _left(c):
                    await asyncio.sleep(0.1)
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)
    found = _lines(handled)
    mailed_twice = [sorted(pids) for (channel, _), pids in found.items() if channel == "mail" and len(pids) > 1]
    assert mailed_twice == [sorted((process.pid, os.getpid()))]


_THEN = time.time()
"""One time: ids of what is emitted depend on it."""


def _shipment(name: str, payload: bytes = b'"x"') -> Event:
    return Event(name, "shipment", "/test", _THEN, payload)


def test_a_late_record_is_not_a_later_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (handled := tmp_path / "handled").mkdir()
    monkeypatch.setenv("HANDLED", str(handled))
    asyncio.run(a_late_record_is_not_a_later_trains(f"sqlite:///{tmp_path}/trains", handled))


def test_each_is_handled_once(tmp_path: Path) -> None:
    (handled := tmp_path / "handled").mkdir()
    asyncio.run(each_is_handled_once(f"sqlite:///{tmp_path}/trains", handled))
