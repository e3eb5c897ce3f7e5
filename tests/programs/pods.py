"""Trains that tests run in Pods. What their handlers do is noted in Redis, where it is reached from everywhere."""

from __future__ import annotations

import asyncio
import os
import socket

from redis.asyncio import Redis

from eventwagon import Context, Reject, Train, Volume, Workers

notes: Redis = Redis.from_url(os.environ.get("EVENTWAGON_URL", "redis://127.0.0.1:6379/0"), decode_responses=True)
held = Train("held", workers=Workers(each=1), handler_timeout=60.0, visibility=5.0, member_ttl=3.0)
"""Its handlers are held until `free` stands there."""
burst = Train(
    "burst",
    limit=Volume(150),
    workers=Workers(each=1),
    spares=1,
    handler_timeout=20.0,
    visibility=5.0,
    grace=5.0,
    member_ttl=3.0,
    provision_timeout=60.0,
)
"""Each sign-up takes a moment; multiples of 97 are rejected for good."""


async def note(name: str, text: str) -> None:
    """One line to the notes of that name; the Pod's name comes first."""
    await notes.rpush(f"notes:{name}", f"{socket.gethostname()} {text}")


@held.on("held")
async def hold(payload: dict[str, str], ctx: Context) -> None:
    await note(f"began-{ctx.wagon}", ctx.event.id)
    try:
        while not await notes.exists("free"):
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        await note(f"ended-{ctx.wagon}", ctx.event.id)
        raise
    await note(f"finished-{ctx.wagon}", ctx.event.id)


@burst.on("burst")
async def sign_up(number: int, ctx: Context) -> None:
    if number % 97 == 0:
        raise Reject(f"{number} is a bad number")
    await asyncio.sleep(0.01)
    await note("handled", f"{ctx.wagon} {number}")
