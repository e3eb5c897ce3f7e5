"""A train with a handler of batches that tests run in several processes: each row that was inserted is one line in a
file of its process, as is the size of each batch."""

from __future__ import annotations

import os
import time
from pathlib import Path

from eventwagon import BatchContext, Context, Failed, Reject, Train, Volume, Workers

GUILTY, REJECTED, ONCE = 13, 17, 19
"""The remainders by 100 of rows that make their batch fail, that are rejected, and that fail at first."""

BATCH = 20

rows = Train("rows", limit=Volume(700), workers=Workers(each=3), attempts=3, backoff=0.1, visibility=2.0)


def note(kind: str, *values: int) -> None:
    with (Path(os.environ["ROWS"]) / f"{kind}-{os.getpid()}").open("a") as file:
        file.writelines(f"{value}\n" for value in values)


@rows.on("rows", batch=BATCH, within=0.2)
def insert(some: list[int], ctx: BatchContext) -> None:
    note("sizes", len(some))
    time.sleep(0.02)
    if any(n % 100 == GUILTY for n in some):
        raise ValueError("the whole batch")
    bad: dict[int, BaseException] = {}
    for index, n in enumerate(some):
        if n % 100 == REJECTED:
            bad[index] = Reject("this row")
        elif n % 100 == ONCE and ctx.attempt == 1:
            bad[index] = ValueError("this row, at first")
        else:
            ctx.emit("inserted", n, of=index)
    if bad:
        raise Failed(bad)


@rows.on("inserted")
async def inserted(n: int, ctx: Context) -> None:
    note("inserted", n)
