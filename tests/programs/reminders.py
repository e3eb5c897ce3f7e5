"""A train of events for later that tests run in several processes: each event handled is one line in a file of the
handling process: its channel, payload, id, when it was due and when it was handled."""

from __future__ import annotations

import os
import time
from datetime import datetime
from pathlib import Path

from eventwagon import Context, Train, Volume, Workers

reminders = Train(
    "reminders", limit=Volume(200), workers=Workers(each=4), spares=1, member_ttl=2.0, visibility=3.0, grace=2.0
)


def note(payload: str, ctx: Context) -> None:
    """Keep it."""
    with (Path(os.environ["HANDLED"]) / str(os.getpid())).open("a") as file:
        file.write(f"{ctx.channel or '-'} {payload} {ctx.event.id} {ctx.event.time!r} {time.time()!r}\n")


@reminders.on("reminders")
async def remind(payload: str, ctx: Context) -> None:
    """Note it, and remind once more."""
    note(payload, ctx)
    if payload.startswith("n"):
        await ctx.emit("again", payload, after=1.5)


@reminders.on("again")
async def again(payload: str, ctx: Context) -> None:
    """Note it."""
    note(payload, ctx)


@reminders.every(1)
def tick(at: datetime) -> str:
    """One a second."""
    return f"t{at.timestamp():.0f}"
