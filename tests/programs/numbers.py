"""A train that tests run with a process per wagon: each number handled is one line in a file of the handling
process."""

from __future__ import annotations

import os
from pathlib import Path

from eventwagon import Context, Train, Volume, Workers

numbers = Train("numbers", limit=Volume(50), workers=Workers(total=6), spares=1, grace=5.0)


@numbers.on("numbers")
def note(number: str, ctx: Context) -> None:
    """Keep it."""
    with (Path(os.environ["HANDLED"]) / str(os.getpid())).open("a") as file:
        file.write(f"{os.getpid()} {ctx.wagon} {number}\n")
