"""A process of a train with budgets: it writes down when each handling begins and ends, by the machine's clock.
Arguments: the URL."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from pathlib import Path

from eventwagon import Context, Train, Volume, Workers

bounded = Train("bounded", limit=Volume(100_000), workers=Workers(each=24), member_ttl=1.5, grace=2.0)


def note(what: str) -> None:
    with (Path(os.environ["HANDLED"]) / str(os.getpid())).open("a") as file:
        file.write(f"{what} {time.monotonic():.6f}\n")


@bounded.on("bounded")
async def spread(n: int, ctx: Context) -> None:
    await ctx.emit("paced", n)
    await ctx.emit("slots", n)


@bounded.on("paced", rate="20/s")
async def paced(_: int) -> None:
    note("paced")


@bounded.on("slots", concurrency=4)
async def slots(_: int) -> None:
    note("begin")
    await asyncio.sleep(0.1)
    note("end")


async def main() -> None:
    async with bounded.connect(sys.argv[1]) as c, c.running():
        print("running", flush=True)
        await c.stopped()


if __name__ == "__main__":
    asyncio.run(main())
