"""Wagons that come and go, on any broker: nothing grows with those that were."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
from collections.abc import Awaitable, Callable, Sized
from typing import NamedTuple

from eventwagon import Train, Volume, Workers

_EACH = 10
"""Events of a wagon."""
_LIVE = 15
"""Wagons that may be live at a time: below the cap, so that none waits for it."""
_KEPT = 50
"""Entries of the journal, so that it is full by the first look."""


class Left(NamedTuple):
    """What is left when all wagons but the active one and the spare are gone."""

    threads: int
    blocks: int
    """Of Python's memory."""
    server: object
    """What the server holds, and does when nothing happens."""


async def wagons_gone(
    url: str, name: str, *, first: int, last: int, server: Callable[[], Awaitable[object]]
) -> tuple[Left, Left]:
    """Open, fill, work off and remove wagons; what is left after `first` and after `last` of them."""
    train = Train(
        name,
        limit=Volume(_EACH),
        workers=Workers(total=4),
        spares=1,
        observe_every=0.05,
        hold=60.0,
        keep=_KEPT,
        keep_drained=0.0,
    )

    @train.on(name)
    async def handle(payload: dict[str, int]) -> None:
        pass

    looks = []
    async with train.connect(url, listeners=()) as connection, connection.running():
        await connection.found()
        for number in range(1, last + 1):
            await connection.publish_many([{"number": number}] * _EACH)
            await connection.wait_switched(number)
            await connection.wait_drained(number - _LIVE)
            if number in (first, last):
                await connection.wait_drained(number)
                await _only_two_left(connection.depths)
                held = await server()
                gc.collect()
                looks.append(Left(threading.active_count(), sys.getallocatedblocks(), held))
    before, after = looks
    return before, after


async def _only_two_left(depths: Callable[[], Awaitable[Sized]]) -> None:
    """Return once the wagons that are drained are removed."""
    async with asyncio.timeout(60):
        while len(await depths()) > 2:
            await asyncio.sleep(0.05)
