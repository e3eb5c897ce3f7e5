"""`eventwagon bridge`, to be killed between publishing and committing:
`python -m tests.programs.killed_bridge COMMITTED SOURCE TARGET …`. Once it has committed that many records it prints
the numbers of the next ones, which are published, and commits nothing any more."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from functools import partial
from unittest.mock import patch

from eventwagon import Train, Volume
from eventwagon.bridge import Begin, Record, Source, open_source
from eventwagon.cli import bridge, main

orders = Train("orders", limit=Volume(1_000_000))


@orders.on("orders")
async def ship(order: dict[str, int]) -> None: ...


def opened(committed: int, url: str, begin: Begin) -> Source:
    """The source, which commits nothing after so many records."""
    source = open_source(url, begin)
    commit, left = source.commit, committed

    async def commit_until(records: Sequence[Record]) -> None:
        nonlocal left
        if left <= 0:
            print(json.dumps([json.loads(record.value)["n"] for record in records]), flush=True)
            await asyncio.Event().wait()
        await commit(records)
        left -= len(records)

    source.commit = commit_until  # type: ignore[method-assign]
    return source


if __name__ == "__main__":
    committed = int(sys.argv[1])
    sys.argv[1] = "bridge"
    with patch.object(bridge, "open_source", partial(opened, committed)):
        main()
