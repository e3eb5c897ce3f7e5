"""eventwagon, as its README sets it up. Worker: `eventwagon run`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventwagon import Train, Wait
from eventwagon.workers import parse_workers

from .common import CONCURRENCY, REDELIVER, SLEEP, TUNED, URL, Order, handled
from .publish import Send

WORKERS = os.environ.get("PEER_WORKERS", f"each={CONCURRENCY}")
"""The default; others are measured beside it."""

train = Train(
    "peers",
    limit=Wait(2.0),  # the promise
    workers=parse_workers(WORKERS),
    spares=1,
    visibility=REDELIVER if TUNED else 30.0,  # 30 is the default
)


@train.on("peers")
async def handle(order: Order) -> None:
    if SLEEP:
        await asyncio.sleep(SLEEP)
    handled(order["number"])


@asynccontextmanager
async def sender() -> AsyncIterator[Send]:
    async with train.connect(URL) as connection:
        yield connection.publish
