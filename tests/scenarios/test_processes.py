"""Several real processes on one SQLite directory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from eventwagon import Train
from eventwagon.contracts.facts import WagonRemoved
from tests.support import journal

ROOT = Path(__file__).parents[2]


def start(job: str, url: str, *arguments: str, handled: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.programs.signups", job, url, *arguments],
        cwd=ROOT,
        env={**os.environ, "HANDLED": str(handled)},
        stdout=subprocess.PIPE,
        text=True,
    )


def lines(handled: Path, name: str) -> list[list[str]]:
    return [line.split() for file in handled.glob(f"{name}-*.txt") for line in file.read_text().splitlines()]


def test_exact_cut_and_nothing_lost_with_four_publishing_and_two_running_processes(tmp_path: Path) -> None:
    """Volume(10_000): wagon 1 holds exactly 10,000, wagon 2 the 10,001st; all are handled once, by both processes."""
    url, handled = f"sqlite:///{tmp_path}/trains", tmp_path / "handled"
    handled.mkdir()
    servers = [start("serve", url, handled=handled) for _ in range(2)]
    try:
        for server in servers:
            assert server.stdout is not None
            assert server.stdout.readline() == "running\n"
        publishers = [start("publish", url, f"p{n}", "3000", handled=handled) for n in range(4)]
        accepted = [int(p.communicate(timeout=120)[0]) for p in publishers]
        assert accepted == [3000] * 4

        async def finish() -> list[WagonRemoved]:
            async with Train("signups").connect(url, listeners=()) as train:
                async with asyncio.timeout(120):
                    await train.wait_drained(1)
                    await train.request_switch("the end")
                    await train.wait_drained(2)
                await train.request_stop("done")
                return [e.fact for e in await journal(train) if isinstance(e.fact, WagonRemoved)]

        removed = {f.wagon.number: f.wagon for f in asyncio.run(finish())}
        assert [s.wait(timeout=60) for s in servers] == [0, 0]
    finally:
        for server in servers:
            if server.poll() is None:
                server.kill()
            server.communicate()
    assert (removed[1].published, removed[2].published) == (10_000, 2_000)
    for name in ("register", "welcome"):
        of = lines(handled, name)
        assert Counter(wagon for _, wagon, _ in of) == {"1": 10_000, "2": 2_000}
        assert len({number for _, _, number in of}) == len({event for event, _, _ in of}) == 12_000
        assert len(list(handled.glob(f"{name}-*.txt"))) == 2
    assert sorted(p.name for p in (tmp_path / "trains" / "signups").iterdir() if p.suffix == ".db") == [
        "ledger.db",
        "train.db",
        "v3.db",
        "v4.db",
    ]
