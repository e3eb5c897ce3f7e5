"""Trains that tests run in Pods. What their handlers do is noted in Redis, where it is reached from everywhere."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from redis.asyncio import Redis

from eventwagon import Context, Elastic, Reject, Train, Volume, Wait, Workers


class Notes:
    """What handlers note in the Redis of a train's URL, apart for each of its prefixes."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        (self._prefix,) = parse_qs(parts.query).get("prefix", ["eventwagon"])
        self.redis: Any = Redis.from_url(urlunsplit(parts._replace(query="")), decode_responses=True)

    async def write(self, name: str, text: str) -> None:
        """One line to those of that name; the Pod's name comes first."""
        await self.redis.rpush(f"{self._prefix}:notes:{name}", f"{socket.gethostname()} {text}")

    async def read(self, name: str) -> list[list[str]]:
        """The lines in their order: each the Pod's name and its words."""
        return [line.split() for line in await self.redis.lrange(f"{self._prefix}:notes:{name}", 0, -1)]

    async def first(self, name: str) -> bool:
        """Whether nobody asked with this name before."""
        return bool(await self.redis.setnx(f"{self._prefix}:notes:{name}", "yes"))

    async def let_go(self) -> None:
        """The handlers of `held` are held no longer."""
        await self.redis.set(f"{self._prefix}:notes:free", "yes")

    async def free(self) -> bool:
        """Whether they were let go."""
        return bool(await self.redis.exists(f"{self._prefix}:notes:free"))


notes = Notes(os.environ.get("EVENTWAGON_URL", "redis://127.0.0.1:6379/0"))
held = Train("held", workers=Workers(each=1), handler_timeout=60.0, visibility=5.0, member_ttl=3.0)
"""Its handlers are held until they are let go."""
claims = Train("claims", workers=Workers(each=2), handler_timeout=120.0, visibility=60.0, member_ttl=3.0, grace=5.0)
"""Its first handler is held until it is let go, whatever becomes of its process; those that come after it are not."""
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
elastic = Train(
    "elastic",
    limit=Wait(5.0),
    workers=Workers(each=Elastic(4, 24)),
    spares=1,
    handler_timeout=20.0,
    member_ttl=3.0,
    grace=5.0,
    keep_warm=5.0,
    provision_timeout=60.0,
)
"""Pods of four; each event takes 0.1 s."""


@held.on("held")
async def hold(payload: dict[str, str], ctx: Context) -> None:
    await notes.write(f"began-{ctx.wagon}", ctx.event.id)
    try:
        while not await notes.free():
            await asyncio.sleep(0.02)
    except asyncio.CancelledError:
        await notes.write(f"ended-{ctx.wagon}", ctx.event.id)
        raise
    await notes.write(f"finished-{ctx.wagon}", ctx.event.id)


@claims.on("claims")
async def claim(number: int, ctx: Context) -> None:
    is_first = await notes.first(f"claimed-{number}")
    await notes.write("claimed", f"{number}")
    while is_first and not await notes.free():
        await asyncio.sleep(0.02)


@burst.on("burst")
async def sign_up(number: int, ctx: Context) -> None:
    if number % 97 == 0:
        raise Reject(f"{number} is a bad number")
    await asyncio.sleep(0.01)
    await notes.write("handled", f"{ctx.wagon} {number}")


@elastic.on("elastic")
async def take(number: int, ctx: Context) -> None:
    await asyncio.sleep(0.1)
    await notes.write("taken", f"{ctx.wagon} {number}")
