"""A train whose wagons are undone: `python -m tests.programs.undone URL ARCHIVE LOG` observes and works until it is
killed. Its undo handlers append a line to LOG."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from eventwagon import Context, Train, Volume, Workers


def train(archive: str, log: str) -> Train:
    """Each event leads to one in an inner channel."""
    made = Train("past", limit=Volume(10**6), workers=Workers(each=8), archive=archive, member_ttl=2.0, visibility=3.0)

    @made.on("past")
    async def handle(number: int, ctx: Context) -> None:
        ctx.emit("bill", number)

    @made.on("bill")
    async def bill(number: int) -> None:
        pass

    def wrote(what: str, number: int) -> None:
        file = os.open(Path(log), os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(file, f"{what} {number}\n".encode())
        finally:
            os.close(file)

    @made.undo("bill")
    async def unbill(number: int) -> None:
        wrote("bill", number)

    @made.undo("past")
    async def back(number: int) -> None:
        wrote("past", number)

    return made


async def main(url: str, archive: str, log: str) -> None:
    """Until it is killed."""
    async with train(archive, log).connect(url) as connection, connection.running():
        await connection.stopped()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
