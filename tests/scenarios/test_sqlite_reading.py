"""Reading a channel of SQLite to its end, as the archive does: how much of it is in memory at a time."""

from __future__ import annotations

import asyncio
import tracemalloc
from pathlib import Path

from eventwagon.event import Event
from tests.sqlite import INNER, broker_with

_LARGE = b"x" * (1 << 20)


def test_of_a_channel_of_large_events_a_few_are_in_memory(tmp_path: Path) -> None:
    async def main() -> tuple[list[str], int]:
        async with broker_with(tmp_path, INNER) as broker:
            for n in range(40):
                await broker.publish(INNER, [Event(str(n), "T", "/s", 1.0, _LARGE)])
            tracemalloc.start()
            try:
                found = [event.id async for event in broker.read(INNER)]
                return found, tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()

    found, most = asyncio.run(main())
    assert found == [str(n) for n in range(40)]
    assert most < 16 * len(_LARGE)
