"""A train with an archive that tests run in several processes, and kill."""

from __future__ import annotations

import os

from eventwagon import Context, Train, Volume, Workers

COUNT = 2000

archived = Train(
    "archived",
    limit=Volume(200),
    workers=Workers(each=4),
    visibility=2.0,
    member_ttl=1.0,
    archive=os.environ.get("ARCHIVE"),
)


@archived.on("archived")
async def first(n: int, ctx: Context) -> None:
    await ctx.emit("inner", n)


@archived.on("inner")
async def inner(n: int) -> None: ...
