"""A train whose dead letters are retried by processes that are killed: `python -m tests.programs.mender URL` is such a
process. What it has claimed comes back after two seconds."""

from __future__ import annotations

import asyncio
import sys

from eventwagon import Context, DeadFilter, Train, Volume
from eventwagon.runtime import retrying

mender = Train("mender", limit=Volume(1_000_000), spares=0)
BROKEN = DeadFilter(channel="ship", error="no host")


@mender.on("mender")
async def order(n: int, ctx: Context) -> None:
    await ctx.emit("ship", n)


@mender.on("ship")
async def ship(n: int) -> None:
    pass


async def main(url: str) -> None:
    async with mender.connect(url, listeners=()) as c:
        preview = await c.dead.preview(BROKEN)
        done = await c.dead.retry(preview)
        print(preview.count, done.count, done.left, flush=True)


if __name__ == "__main__":
    retrying._CLAIM, retrying._PATIENCE = 2.0, 10.0  # noqa: SLF001
    asyncio.run(main(sys.argv[1]))
