"""A train whose lifespan notes in which process it was entered."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

from eventwagon import Context, Train, Volume, Workers

pools = Train("pools", limit=Volume(6), workers=Workers(each=2), grace=5.0)


@pools.lifespan
async def opened() -> AsyncIterator[int]:
    """Stands for a pool of connections."""
    yield os.getpid()


@pools.on("pools")
def note(number: int, ctx: Context) -> None:
    """One line: who opened, who handles."""
    with Path(os.environ["POOLS"]).open("a") as file:
        file.write(f"{ctx.state} {os.getpid()}\n")
