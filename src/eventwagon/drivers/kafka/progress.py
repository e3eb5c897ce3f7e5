"""The progress of channels as a consumer group's offsets, so that usual tools show their lag."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ...errors import BrokerError
from .admin import Admin, Place
from .options import LOGGER
from .wagon import KafkaWagon

_EVERY = 1.0  # s between two commits


class Progress:
    """Commits, for each partition that this process owns, the offset before which every event is settled. The group
    gets no members: nobody joins it, and nothing is read from it."""

    def __init__(self, admin: Admin, group: str, live: Callable[[], Sequence[KafkaWagon]]) -> None:
        self._admin = admin
        self._group = group
        self._live = live
        self._committed: dict[Place, int] = {}
        self._trouble = ""

    async def run(self) -> None:
        """Commit what has changed, for ever."""
        while True:
            await asyncio.sleep(_EVERY)
            now = self._now()
            if new := {place: offset for place, offset in now.items() if self._committed.get(place) != offset}:
                try:
                    await self._admin.commit(self._group, new)
                except BrokerError as e:
                    if str(e) != self._trouble:
                        LOGGER.warning("the progress of channels is not shown: %s", e)
                    self._trouble = str(e)
                    continue
            self._trouble, self._committed = "", now

    def _now(self) -> dict[Place, int]:
        return {
            (feed.topic, p): wagon.channel(name).partition(p).first_unsettled()
            for wagon in self._live()
            for name, feed in wagon.feeds.items()
            for p in feed.lanes
        }
