"""Dead letters that are retried by processes which are killed: on SQLite here, on Redis in
tests/redis/test_dead_letters.py."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from eventwagon import Connection, DeadFilter, DeadLettersLost, Event
from eventwagon.event import DEAD, Channel, new_ids
from eventwagon.runtime.dead_letters import died
from tests.programs.mender import BROKEN, mender
from tests.support import journal

ROOT = Path(__file__).parents[2]
_LETTERS = 10_000
_OTHERS = 300
_BATCH = 500


def letters() -> list[Event]:
    """Dead letters of an inner channel, and others among them that nobody means."""
    made = []
    for n, name in enumerate(new_ids(_LETTERS + _OTHERS, 1_700_000_000.0)):
        event = Event(name, "int", "/shop", 1_700_000_000.0 + n / 1000, b"%d" % n, f"s{n}", extensions={"tenant": "t"})
        because = "ValueError: 7" if n % (_LETTERS // _OTHERS + 1) == 0 else f"ConnectionError: no host {n}"
        made.append(died(event, "ship", 1, because, 5, 1_700_000_100.0)[1])
    return made


async def none_is_lost_by_kills(url: str, *, kills: int = 2) -> str:
    """Returns the figures."""
    rng, made = random.Random(7), letters()
    meant = {e.id: e for e in made if "no host" in e.extensions["deadbecause"]}
    async with mender.connect(url, listeners=()) as c:
        await c.publish(0)  # founds it
        first = {event.id async for event in c.broker.read(Channel("mender", 1))}
        await c.broker.publish(Channel("mender", 1, DEAD), made)
        assert (await c.dead.preview(BROKEN)).count == len(meant)
        begun, killed = time.monotonic(), 0
        for _ in range(kills):
            killed += await _killed_in_between(url, c, rng.randrange(1000, 4000))
        killing = time.monotonic() - begun
        begun = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.programs.mender", url, cwd=ROOT, stdout=subprocess.PIPE
        )
        said, _ = await asyncio.wait_for(process.communicate(), 120)
        last = time.monotonic() - begun
        counted, done, left = map(int, said.split())
        assert (counted, left) == (done, 0)
        published = [e async for e in c.broker.read(Channel("mender", 1)) if e.id not in first]
        times = Counter(event.id for event in published)
        assert set(times) == set(meant)
        assert max(times.values()) <= 1 + kills
        assert len(published) - len(meant) <= kills * _BATCH
        for event in published:
            old = meant[event.id]
            own = {"tenant": "t", "laterchannel": "ship", "deadattempts": "5", "deadretries": "1"}
            assert event == msgspec.structs.replace(old, extensions=own)
        stayed = [letter.event.id async for letter in c.dead.list()]
        assert sorted(stayed) == sorted(e.id for e in made if e.id not in meant)
        async with c.running(work=False):
            await asyncio.sleep(1)
        assert not [e.fact for e in await journal(c) if isinstance(e.fact, DeadLettersLost)]
    return (
        f"{len(meant):,} retried, {killed} of {kills} killed in between ({killing:.1f} s), the last took {last:.1f} s "
        f"for {done:,}, {len(published) - len(meant)} published twice"
    )


async def _killed_in_between(url: str, c: Connection, after: int) -> bool:
    """Kill a retry when it has published so many."""
    before = (await c.depths())[1][""].published or 0
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.programs.mender", url, cwd=ROOT, stdout=subprocess.DEVNULL
    )
    while process.returncode is None and ((await c.depths())[1][""].published or 0) < before + after:
        await asyncio.sleep(0.002)
    if is_alive := process.returncode is None:
        process.kill()
    await process.wait()
    return is_alive


@pytest.mark.timeout(180)
def test_none_is_lost_by_kills(tmp_path: Path) -> None:
    print(asyncio.run(none_is_lost_by_kills(f"sqlite:///{tmp_path}/trains")))


async def some_are_retried(url: str) -> None:
    """Two of three among others, out of order; the others stay, and can be had later."""
    made = [each for each in letters() if int(each.data) < 60]
    meant = sorted(e.id for e in made if "no host" in e.extensions["deadbecause"] and int(e.data) % 3)
    async with mender.connect(url, listeners=()) as c:
        first = await c.publish(0)
        await c.broker.publish(Channel("mender", 1, DEAD), made)
        preview = await c.dead.preview(DeadFilter(ids=meant))
        assert preview.count == len(meant)
        done = await c.dead.retry(preview)
        assert (done.count, done.left) == (len(meant), 0)
        assert sorted([e.id async for e in c.broker.read(Channel("mender", 1)) if e.id != first]) == meant
        rest = {letter.event.id async for letter in c.dead.list()}
        assert rest == {e.id for e in made} - {*meant}
        dropped = await c.dead.drop(await c.dead.preview(DeadFilter(all=True)))
        assert (dropped.count, dropped.left) == (len(rest), 0)
        assert not [letter async for letter in c.dead.list()]


def test_some_are_retried(tmp_path: Path) -> None:
    asyncio.run(some_are_retried(f"sqlite:///{tmp_path}/trains"))
