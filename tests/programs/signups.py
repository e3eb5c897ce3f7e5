"""A train that tests run as several processes: each handled sign-up is one line in a file of the handling process."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from eventwagon import Context, Train, Volume, Workers

signups = Train("signups", limit=Volume(10_000), workers=Workers(total=8), spares=1, member_ttl=3.0)


def _log(name: str) -> Path:
    return Path(os.environ["HANDLED"]) / f"{name}-{os.getpid()}.txt"


@signups.on("signups")
async def register(number: str, ctx: Context) -> None:
    with _log("register").open("a") as file:
        file.write(f"{ctx.event.id} {ctx.wagon} {number}\n")
    ctx.emit("welcome", number)


@signups.on("welcome")
def welcome(number: str, ctx: Context) -> None:
    with _log("welcome").open("a") as file:
        file.write(f"{ctx.event.id} {ctx.wagon} {number}\n")


async def publish(url: str, name: str, count: int) -> None:
    """Publish `count` sign-ups, some singly at once, some in batches; print the number of accepted ones."""
    async with signups.connect(url, listeners=()) as train:
        async with asyncio.TaskGroup() as tasks:
            for i in range(count // 2):
                tasks.create_task(train.publish(f"{name}-{i}"))
        many = await train.publish_many(f"{name}-{i}" for i in range(count // 2, count))
    print(count // 2 + many)


async def serve(url: str) -> None:
    """Observe and work until asked to stop."""
    async with signups.connect(url, listeners=()) as train, train.running():
        print("running", flush=True)
        await train.stopped()


if __name__ == "__main__":
    job, url, *rest = sys.argv[1:]
    if job == "serve":
        asyncio.run(serve(url))
    else:
        asyncio.run(publish(url, rest[0], int(rest[1])))
