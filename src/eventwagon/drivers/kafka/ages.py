"""Age of waiting events: reads single records for their timestamps."""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from ...errors import BrokerError
from .admin import Admin
from .options import LOGGER
from .reader import Reader, Spot
from .wire import decode

_KEPT = 2000  # remembered times
_PAUSE = 0.05  # s at least between two reads: until then a time is unknown
_PATIENCE = 2.0  # the longest, in s, that a look at figures waits for them


class EventTimes:
    """Reads single events, with a consumer that fetches little."""

    def __init__(self, admin: Admin) -> None:
        few = {"fetch.message.max.bytes": 1024, "queued.min.messages": 1}
        self._reader = Reader(admin, {**admin.options.consumer(wait=5, queued=1024, logger=admin.causes), **few})
        self._known: dict[Spot, float | None] = {}
        self._next = 0.0

    async def times(self, spots: Collection[Spot]) -> dict[Spot, float]:
        """The times of these events, without those that could not be read in time or are no events."""
        unknown = [spot for spot in spots if spot not in self._known]
        now = asyncio.get_running_loop().time()
        if unknown and now >= self._next:  # repeated questions are not to cause repeated reads
            self._next = now + _PAUSE
            try:
                async with asyncio.timeout(_PATIENCE):
                    found = await self._reader.single(unknown)
            except (BrokerError, TimeoutError) as e:
                LOGGER.debug("the times of %d events could not be read: %s", len(unknown), e)
                found = {}
            for spot, message in found.items():
                event = decode(message)
                self._known[spot] = None if event is None else event.time
        times = {spot: at for spot in spots if (at := self._known.get(spot)) is not None}
        while len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
        return times

    async def close(self) -> None:
        """End its consumer."""
        await self._reader.close()
