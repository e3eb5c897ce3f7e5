"""Trains whose handlers take 0.1 s: the burst of the benchmark `elastic`, in Pods of four workers."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from redis.asyncio import Redis

from eventwagon import Context, Elastic, Train, Volume, Wait, Workers

URL = os.environ.get("EVENTWAGON_URL", "redis://127.0.0.1:6379/0")
NOTES = "paced-notes"
"""The Redis list of what was handled: number, when the event came, when its handler ended."""
PROMISE = 2.0
"""Seconds from an event's arrival to the end of its handler."""
PER_POD = 4
_redis: Any = Redis.from_url(urlunsplit(urlsplit(URL)._replace(query="")))
_usual: dict[str, Any] = {"spares": 1, "wagons": 8, "provision_timeout": 60.0, "member_ttl": 3.0, "grace": 5.0}

TRAINS = {
    "queue": Train("queue", limit=Volume(1_000_000), workers=Workers(each=3 * PER_POD), **{**_usual, "spares": 0}),
    "fixed": Train("fixed", limit=Wait(PROMISE, cut=0.5), workers=Workers(each=PER_POD), reuse=True, **_usual),
    "elastic": Train(
        "elastic",
        limit=Wait(PROMISE, cut=0.5),
        workers=Workers(each=Elastic(2 * PER_POD, 8 * PER_POD)),
        **{**_usual, "spares": 0},
    ),
}
"""One queue of three fixed Pods, wagons of one Pod each, and elastic wagons of at most eight Pods together."""

STANDING = {"queue": 3, "fixed": 2, "elastic": 2}
"""Pods that are kept when there is nothing to do: those of the active wagon, and of a spare where there is one."""


async def handle(number: int, ctx: Context) -> None:
    await asyncio.sleep(0.1)
    await _redis.rpush(f"{NOTES}:{ctx.train}", f"{number} {ctx.event.time:.4f} {time.time():.4f}")


for _train in TRAINS.values():
    _train.on(_train.name)(handle)
queue, fixed, elastic = TRAINS.values()
