"""A train with an inner channel whose wagons are archived, replayed and undone:
`python -m tests.programs.wagons_back URL NAME ARCHIVE EACH` observes and works until it is ended. A wagon takes EACH
events."""

from __future__ import annotations

import asyncio
import sys

from eventwagon import Context, Train, Volume, Workers


def train(name: str, archive: str, each: int) -> Train:
    """Its handlers do nothing but pass the event on."""
    made = Train(name, limit=Volume(2 * each), workers=Workers(each=8), archive=archive)

    @made.on(name)
    async def order(number: int, ctx: Context) -> None:
        await ctx.emit("bill", number)

    @made.on("bill")
    async def bill(number: int) -> None: ...

    @made.undo("bill")
    async def unbill(number: int) -> None: ...

    @made.undo(name)
    async def unorder(number: int) -> None: ...

    return made


async def main(url: str, name: str, archive: str, each: str) -> None:
    """Until it is ended."""
    async with train(name, archive, int(each)).connect(url) as connection, connection.running():
        await connection.stopped()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
