"""A train for tests of units that live on: each event is noted with its process and wagon, what says `fail` fails."""

from __future__ import annotations

import os
from pathlib import Path

from eventwagon import Context, Train, Volume, Workers

orders = Train(
    "orders",
    limit=Volume(20),
    workers=Workers(each=2),
    observe_every=0.05,
    keep_warm=1.0,
    idle_after=float(os.environ.get("IDLE_AFTER", "0")),
    reuse=bool(os.environ.get("REUSE")),
    attempts=2,
    backoff=0.01,
    grace=5.0,
    member_ttl=2.0,
    visibility=2.0,
)


@orders.on("orders")
async def handle(number: str, ctx: Context) -> None:
    with (Path(os.environ["HANDLED"]) / str(os.getpid())).open("a") as file:
        file.write(f"{os.getpid()} {ctx.wagon} {orders.revision or '-'} {number}\n")
    if orders.revision == "bad":
        raise ValueError("this version fails")
