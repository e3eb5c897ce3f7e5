"""A train with `once=` that tests run in several processes: each event handled is one line in a file of the handling
process: its channel, id and wagon."""

from __future__ import annotations

import asyncio
import os
import signal
from datetime import timedelta
from pathlib import Path

from eventwagon import Context, Train, Volume, Workers

shipments = Train(
    "shipments",
    limit=Volume(60),
    workers=Workers(each=4),
    spares=1,
    member_ttl=2.0,
    visibility=3.0,
    grace=2.0,
    once=timedelta(hours=1),
)


def note(ctx: Context) -> None:
    """Keep it."""
    with (Path(os.environ["HANDLED"]) / str(os.getpid())).open("a") as file:
        file.write(f"{ctx.channel or '-'} {ctx.event.id} {ctx.wagon}\n")


@shipments.on("shipments")
async def ship(payload: str, ctx: Context) -> None:
    """Note it, and have it mailed."""
    await asyncio.sleep(0.02)
    note(ctx)
    await ctx.emit("mail", payload)


@shipments.on("mail")
async def mail(payload: str, ctx: Context) -> None:
    """Note it, and stand still if told so."""
    note(ctx)
    if payload == "stop me":
        await asyncio.sleep(1.0)  # until it has no transaction open
        os.kill(os.getpid(), signal.SIGSTOP)
