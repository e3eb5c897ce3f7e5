"""Batches of several processes on a real broker, one of which is killed."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.programs.rows import BATCH, GUILTY, REJECTED, rows
from tests.support import until

COUNT = 1000


def noted(directory: Path, kind: str) -> list[int]:
    return [int(line) for file in directory.glob(f"{kind}-*") for line in file.read_text().split()]


def try_batches(url: str, directory: Path) -> None:
    """Each good row is inserted, each bad one dies alone; a process that is killed amid its batches changes nothing."""
    bad = {n for n in range(COUNT) if n % 100 in (GUILTY, REJECTED)}

    async def publish() -> None:
        async with rows.connect(url, listeners=()) as connection:
            await connection.publish_many(range(COUNT))

    async def judge(process: subprocess.Popen[bytes]) -> None:
        async with rows.connect(url, listeners=()) as connection:
            await until(lambda: len(noted(directory, "sizes")) > 10)
            process.kill()
            await until(lambda: {*noted(directory, "inserted")} == {*range(COUNT)} - bad, seconds=90, step=0.2)
            dead = set[int]()
            async with asyncio.timeout(30):
                while dead != bad:
                    dead = {int(letter.data) async for letter in connection.dead_letters()}
                    assert dead <= bad
                    await asyncio.sleep(0.1)

    asyncio.run(publish())
    command = [sys.executable, "-m", "eventwagon", "run", "tests.programs.rows:rows", "--url", url]
    with ExitStack() as stack:
        processes = []
        for _ in range(2):
            process = subprocess.Popen(command, env={**os.environ, "ROWS": str(directory)})
            processes.append(stack.enter_context(process))
            stack.callback(process.terminate)
        asyncio.run(judge(processes[0]))
    assert max(noted(directory, "sizes")) == BATCH
