"""Reading a topic without consuming from it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from .native import Native, Result, ResultRefused
from .positions import Position

_PATIENCE = 10.0  # seconds for the next message, which exists


async def messages(native: Native, topic: str, after: Position, last: Position) -> AsyncGenerator[Any, None]:
    """The messages after one position, up to another (included), in order. Raises ResultRefused."""
    if after >= last:
        return
    # a client of its own: at the end of a sealed topic it drops its connection
    client, reader = await native.reader(topic, after)
    try:
        seen: tuple[int, int, int] = (*after, -1)
        while True:
            if not await native.landing.call(reader.has_message_available_async):
                return
            try:
                async with asyncio.timeout(_PATIENCE):
                    message = await native.landing.call(reader.read_next_async)
            except TimeoutError:
                raise ResultRefused(Result.Timeout) from None
            handle = message.message_id()
            place = (handle.ledger_id(), handle.entry_id(), handle.batch_index())
            if place[:2] > last:
                return
            if place > seen:  # after a broken connection some are delivered again
                seen = place
                yield message
    finally:
        native.spawn(native.end(client, reader))
