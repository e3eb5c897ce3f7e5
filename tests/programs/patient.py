"""A process that works for a train and notes each event that it begins. With `hold` its handlers never end.

    python -m tests.programs.patient URL NOTES [hold]

It prints a line once it runs, and ends when its stdin does.
"""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from eventwagon import Context, Train, Volume, Workers
from eventwagon.connection import Connection

EVENTS = 40
"""More than a process works on at once: the others are fetched ahead, or wait."""


def a_train(notes: Path, *, hold: bool) -> Train:
    train = Train("patient", limit=Volume(1000), workers=Workers(total=4), visibility=60.0, handler_timeout=50.0)

    @train.on("patient")
    async def work(number: int, ctx: Context) -> None:
        with notes.open("a") as file:
            file.write(f"{number} {ctx.attempt} {'held' if hold else 'done'}\n")
        if hold:
            await asyncio.sleep(600)

    return train


def noted(notes: Path, kind: str) -> dict[int, int]:
    """Attempts by number of what was begun."""
    rows = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
    return {int(number): int(attempt) for number, attempt, how in rows if how == kind}


async def main(url: str, notes: Path, hold: bool) -> None:
    async with a_train(notes, hold=hold).connect(url) as connection, connection.running():
        print("running", flush=True)
        await asyncio.to_thread(sys.stdin.read)


@asynccontextmanager
async def working(url: str, notes: Path, *, hold: bool = False) -> AsyncIterator[Process]:
    """Such a process, once it runs; asked to end at the end, or killed if it holds."""
    words = [url, str(notes), *(["hold"] if hold else [])]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.programs.patient", *words, stdin=PIPE, stdout=PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        async with asyncio.timeout(60):
            assert await process.stdout.readline() == b"running\n"
        yield process
    finally:
        if process.returncode is None:
            if hold:
                process.kill()
            process.stdin.close()
        await process.wait()


async def until_noted(notes: Path, kind: str, count: int, *, seconds: float = 60.0) -> float:
    """Seconds until so many were."""
    began = time.monotonic()
    async with asyncio.timeout(seconds):
        while len(noted(notes, kind)) < count:
            await asyncio.sleep(0.01)
    return time.monotonic() - began


async def killed_and_replaced(url: str, notes: Path) -> float:
    """A process is killed with all its workers at work, and another is started: seconds until that one, once it runs,
    has handled all."""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(publishing(url, notes))
        first = await stack.enter_async_context(working(url, notes, hold=True))
        await connection.publish_many(range(EVENTS))
        await until_noted(notes, "held", 4)
        first.kill()
        await first.wait()
        await stack.enter_async_context(working(url, notes))
        took = await until_noted(notes, "done", EVENTS)
        assert set(noted(notes, "done").values()) == {1}, "a death cost an attempt"
        return took


async def killed_beside_another(url: str, notes: Path) -> float:
    """The same, where the other runs already: seconds from the kill."""
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(publishing(url, notes))
        first = await stack.enter_async_context(working(url, notes, hold=True))
        await connection.publish_many(range(EVENTS))
        await until_noted(notes, "held", 4)
        await stack.enter_async_context(working(url, notes))
        first.kill()
        took = await until_noted(notes, "done", EVENTS)
        assert set(noted(notes, "done").values()) == {1}, "a death cost an attempt"
        return took


@asynccontextmanager
async def publishing(url: str, notes: Path) -> AsyncIterator[Connection]:
    async with a_train(notes, hold=False).connect(url, listeners=()) as connection:
        yield connection


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), "hold" in sys.argv[3:]))
