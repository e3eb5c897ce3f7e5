"""A train whose past events are replayed: `python -m tests.programs.replayed URL ARCHIVE` observes and works until it
is killed."""

from __future__ import annotations

import asyncio
import sys

from eventwagon import Train, Volume, Workers


def train(archive: str) -> Train:
    """Its handler does nothing."""
    made = Train("past", limit=Volume(10**6), workers=Workers(each=8), archive=archive, member_ttl=2.0, visibility=3.0)

    @made.on("past")
    async def handle(number: int) -> None:
        pass

    return made


async def main(url: str, archive: str) -> None:
    """Until it is killed."""
    async with train(archive).connect(url) as connection, connection.running():
        await connection.stopped()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
