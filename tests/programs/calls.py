"""A train for functions: each event takes a moment, and is noted."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from eventwagon import Elastic, Train, Wait, Workers

calls = Train(
    "calls",
    limit=Wait(10.0),
    workers=Workers(each=Elastic(2, 12)),
    observe_every=0.5,
    lease=1.0,
    keep_drained=1.0,
    member_ttl=3.0,
    visibility=10.0,
)
TAKES = 0.3


@calls.on("calls")
async def handle(number: int) -> None:
    await asyncio.sleep(TAKES)
    with (Path(os.environ["HANDLED"]) / str(os.getpid())).open("a") as file:
        file.write(f"{number}\n")
