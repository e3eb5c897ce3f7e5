"""The record of handled events in this process's memory: for tests and simulation. Nothing survives the process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from heapq import heappop, heappush

from ...contracts.once import Standing


class MemoryOnce:
    """A record in one process. `clock` gives seconds since the epoch."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._trains: dict[str, _Kept] = {}

    async def claim(self, train: str, keys: Sequence[bytes], *, holder: str, lease: float) -> Sequence[Standing]:
        await asyncio.sleep(0)  # a caller in a loop must let others run
        kept, now = self._of(train), self._clock()
        kept.forget(now)
        return [kept.claim(key, holder, now, now + lease) for key in keys]

    async def record(self, train: str, keys: Sequence[bytes], *, window: float) -> None:
        await asyncio.sleep(0)
        kept, now = self._of(train), self._clock()
        kept.forget(now)
        for key in keys:
            kept.put(key, "", now + window)

    async def release(self, train: str, keys: Sequence[bytes], *, holder: str) -> None:
        entries = self._trains.get(train, _Kept()).entries
        for key in keys:
            if key in entries and entries[key][0] == holder:
                del entries[key]

    async def count(self, train: str) -> int:
        return sum(not holder for holder, _ in self._trains.get(train, _Kept()).entries.values())

    async def clear(self, train: str) -> None:
        self._trains.pop(train, None)

    def _of(self, train: str) -> _Kept:
        return self._trains.setdefault(train, _Kept())


class _Kept:
    """What is kept for one train."""

    def __init__(self) -> None:
        self.entries: dict[bytes, tuple[str, float]] = {}
        """By key: who has claimed it, or nobody if it was handled; and until when that counts."""
        self._order: list[tuple[float, bytes]] = []
        """A heap by that time; stale where the entry is gone, or has another."""

    def put(self, key: bytes, holder: str, until: float) -> None:
        self.entries[key] = holder, until
        heappush(self._order, (until, key))

    def claim(self, key: bytes, holder: str, now: float, until: float) -> Standing:
        by, end = self.entries.get(key, (holder, now))
        if by != holder and end > now:
            return Standing.CLAIMED if by else Standing.HANDLED
        self.put(key, holder, until)
        return Standing.OURS

    def forget(self, now: float) -> None:
        """Forget what no longer counts."""
        order = self._order
        while order and order[0][0] <= now:
            until, key = heappop(order)
            if (entry := self.entries.get(key)) is not None and entry[1] == until:
                del self.entries[key]
