"""A train whose handlers are held and watched through files in the directory HELD: for tests of orchestrators."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from eventwagon import Context, Train, Workers

signups = Train("signups", workers=Workers(each=1), handler_timeout=600.0, grace=10.0, attempts=2)
"""What it does with an event is in the event: `hold`, `exit`, `spin` (keeps the interpreter busy), `say`."""


def note(name: str, wagon: int) -> None:
    """One line to the wagon's file of that name."""
    with (Path(os.environ["HELD"]) / f"{name}-{wagon}").open("a") as file:
        file.write(f"{os.getpid()}\n")


@signups.on("signups")
async def register(payload: dict[str, str], ctx: Context) -> None:
    note("began", ctx.wagon)
    match payload.get("do", "hold"):
        case "exit":
            note("exited", ctx.wagon)
            os._exit(3)
        case "spin":
            until = time.monotonic() + float(payload["seconds"])
            while time.monotonic() < until:
                pass
        case "say":
            print(payload["text"])
        case _:
            try:
                while not (Path(os.environ["HELD"]) / "free").exists():
                    await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                note("ended", ctx.wagon)
                raise
    note("finished", ctx.wagon)
