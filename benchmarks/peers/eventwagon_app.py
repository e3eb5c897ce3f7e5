"""eventwagon, as its README sets it up. Worker: `eventwagon run`."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from eventwagon import Train, Wait, Workers

from .common import CONCURRENCY, REDELIVER, SLEEP, TUNED, URL, Order, handled
from .publish import Send

FLOOR = int(os.environ.get("PEER_FLOOR", "1"))
"""The default and the README's own is 1; 0 is measured beside it."""

train = Train(
    "peers",
    limit=Wait(2.0),  # the promise
    workers=Workers(total=CONCURRENCY, floor=FLOOR),
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
