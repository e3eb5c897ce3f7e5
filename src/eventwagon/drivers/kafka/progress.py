"""The progress of channels as a consumer group's offsets, so that usual tools show their lag."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from ...errors import BrokerError
from .group import Group
from .offsets import Place
from .options import LOGGER
from .wagon import KafkaWagon

_EVERY = 1.0  # s between two commits
_LOOK = 10  # commits from one look at the partitions of others to the next


class Progress:
    """Commits, for each partition that this process owns, the offset before which every event is settled; now and then
    also for those of others for which nobody does, since their processes were not told the group. The group gets no
    members: nobody joins it, and its offsets decide nothing."""

    def __init__(self, group: Group, live: Callable[[], Sequence[KafkaWagon]]) -> None:
        self._group = group
        self._live = live
        self._committed: dict[Place, int] = {}
        self._others: dict[Place, int] = {}
        """What was committed of the partitions of others at the last look."""
        self._trouble = ""

    async def run(self) -> None:
        """Commit what has changed, for ever."""
        turn = 0
        while True:
            await asyncio.sleep(_EVERY)
            turn += 1
            now = self._now(own=True)
            new = {place: offset for place, offset in now.items() if self._committed.get(place) != offset}
            try:
                if turn % _LOOK == 0:
                    new |= await self._left_alone()
                if new:
                    await self._group.commit(new)
            except BrokerError as e:
                if str(e) != self._trouble:
                    LOGGER.warning("the progress of channels is not shown: %s", e)
                self._trouble = str(e)
                continue
            self._trouble, self._committed = "", now

    async def _left_alone(self) -> dict[Place, int]:
        """The progress of others' partitions whose committed offset is behind and has not moved since the last look."""
        theirs = self._now(own=False)
        known = await self._group.committed(theirs) if theirs else {}
        before, self._others = self._others, known
        return {
            place: offset
            for place, offset in theirs.items()
            if known.get(place, 0) < offset and known.get(place, 0) == before.get(place)
        }

    def _now(self, *, own: bool) -> dict[Place, int]:
        """The offset before which all is settled, in each partition that this process owns, or in each other one of the
        channels that it consumes."""
        return {
            (feed.topic, p): wagon.channel(name).partition(p).first_unsettled()
            for wagon in self._live()
            for name, feed in wagon.feeds.items()
            for p in range(feed.partition_count)
            if (p in feed.lanes) == own
        }
