"""A process that claims events and then hangs, to be killed.

    python -m tests.programs.claimer URL TRAIN COUNT VISIBILITY OWNER [alone]

It consumes from the ingress of wagon 1, prints for each event its payload, its attempt and whether it is a suspect, and
an empty line at the end. With `alone` it says so of what it has.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventwagon.drivers.opening import open_drivers
from eventwagon.event import Channel

Claimed = list[tuple[str, int, bool]]
"""Payload, attempt, suspect."""


async def main(url: str, train: str, count: int, visibility: float, owner: str, alone: bool) -> None:
    async with (
        open_drivers(url).broker as broker,
        broker.consume(Channel(train, 1), visibility=visibility, owner=owner) as consumer,
    ):
        left = count
        while left:
            for d in await consumer.receive(left, 30.0):
                assert not alone or await consumer.alone(d)
                print(d.event.data.decode().strip(), d.attempt, int(d.suspect))
                left -= 1
        print(flush=True)
        await asyncio.sleep(600)


@asynccontextmanager
async def claiming(
    url: str, train: str, count: int, *, visibility: float = 600.0, owner: str = "", alone: bool = False
) -> AsyncIterator[tuple[Process, Claimed]]:
    """Such a process once it has its events, and what they are. Killed at the end."""
    words = [url, train, str(count), str(visibility), owner, *(["alone"] if alone else [])]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.programs.claimer", *words, stdout=PIPE, stdin=PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(60):
            lines = (await process.stdout.readuntil(b"\n\n")).decode().split("\n")
        rows = [line.split() for line in lines if line]
        yield process, [(data, int(attempt), suspect == "1") for data, attempt, suspect in rows]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


if __name__ == "__main__":
    u, t, n, v, o, *more = sys.argv[1:]
    asyncio.run(main(u, t, int(n), float(v), o, bool(more)))
