"""Three real processes share a rate and a concurrency; one is killed midway, another one comes later."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

from tests.programs.bounded import bounded

ROOT = Path(__file__).parents[1]
SECONDS = 26.0
KILLED, JOINED = 10.0, 16.0
RATE, CONCURRENCY, WINDOW = 20, 4, 10.0


class Figures(NamedTuple):
    """What the processes did together, once they shared."""

    most: int
    """Handlings under way at a time."""
    mean: float
    fewest: float
    """Events begun per second, in the window in which fewest were."""
    fastest: float
    shares: dict[str, int]
    """Handlings by process."""


async def shared(url: str, directory: Path) -> Figures:
    """Run the processes, and read what they have written."""
    handled = directory / "handled"
    handled.mkdir()
    processes = [_start(url, handled)]
    try:
        await _begun(processes[0])
        processes += [_start(url, handled) for _ in range(2)]
        for process in processes[1:]:
            await _begun(process)
        async with bounded.connect(url, listeners=()) as c:
            await c.publish_many(range(2500))
            start = time.monotonic()
            await asyncio.sleep(KILLED)
            processes[1].kill()
            killed = time.monotonic()
            await asyncio.sleep(JOINED - KILLED)
            processes.append(_start(url, handled))
            await asyncio.sleep(start + SECONDS - time.monotonic())
            end = time.monotonic()
            await c.request_stop()
            codes = [await asyncio.to_thread(p.wait, 60) for p in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    assert [code == 0 for code in codes] == [True, False, True, True], codes
    return _read(handled, str(processes[1].pid), start, killed, end)


def at_a_time(lines: Iterable[str]) -> int:
    """The most handlings that were under way at a time, by what processes have written that all ended well."""
    steps = [(float(at), 1 if what == "begin" else -1) for what, at in map(str.split, lines) if what != "paced"]
    return max(accumulate(step for _, step in sorted(steps)))


def _start(url: str, handled: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "tests.programs.bounded", url]
    environment = {**os.environ, "HANDLED": str(handled)}
    return subprocess.Popen(words, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)


async def _begun(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    assert await asyncio.to_thread(process.stdout.readline) == "running\n"


def _read(handled: Path, dead: str, start: float, killed: float, end: float) -> Figures:
    steps: list[tuple[float, int]] = []
    paced: list[float] = []
    shares: dict[str, int] = {}
    for file in handled.iterdir():
        under_way = 0
        for what, text in (line.split() for line in file.read_text().splitlines()):
            if what == "paced":
                paced.append(float(text))
                continue
            steps.append((float(text), 1 if what == "begin" else -1))
            under_way += steps[-1][1]
            shares[file.name] = shares.get(file.name, 0) + (what == "begin")
        if file.name == dead:
            steps += [(killed, -1)] * under_way
    now = most = 0
    busy, last = 0.0, start
    for moment, step in sorted(steps):
        if start <= moment <= end:
            busy += now * (moment - last)
            last = moment
        now += step
        most = max(most, now)
    windows = []
    since = start + 2.0  # once they share
    while since + WINDOW <= end:
        windows.append(sum(since <= at < since + WINDOW for at in paced) / WINDOW)
        since += 0.25
    return Figures(most, busy / (end - start), min(windows), max(windows), shares)


def check(figures: Figures) -> None:
    """The concurrency was never exceeded, the rate was within a tenth, and all did their part. A machine that has more
    to do than its cores can carry may use less of either."""
    print(figures)
    assert figures.most <= CONCURRENCY
    assert figures.fastest <= 1.1 * RATE
    assert len(figures.shares) == 4
    if os.getloadavg()[0] <= 3 * (os.cpu_count() or 1):
        assert figures.mean >= 0.8 * CONCURRENCY
        assert figures.fewest >= 0.9 * RATE
        assert all(count >= 30 for count in figures.shares.values())
