"""Events for later in this process's memory: for tests and simulation. Nothing survives the process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from heapq import heappop, heappush

import msgspec

from ...contracts.timetable import Due, Waiting, key_of
from ...event import Event


class MemoryTimetable:
    """A timetable in one process. `clock` gives seconds since the epoch, and decides when an event is due."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._trains: dict[str, _Kept] = {}

    async def now(self, train: str) -> float:
        return self._clock()

    async def add(self, train: str, events: Sequence[Event]) -> None:
        await asyncio.sleep(0)  # a caller in a loop must let others run
        self._of(train).add(events)

    async def claim(self, train: str, *, limit: int, most_bytes: int, lease: float) -> Due:
        await asyncio.sleep(0)
        now = self._clock()
        kept = self._trains.get(train, _NOTHING)
        events = kept.claim(now, now + lease, limit, most_bytes)
        keys = list(map(key_of, events))
        return Due(events=events, keys=keys, until=now + lease, now=now, next_at=kept.next_at())

    async def remove(self, train: str, keys: Sequence[str], *, until: float) -> None:
        entries = self._of(train).entries
        for name in keys:
            if (entry := entries.get(name)) is not None and entry.due == until:
                del entries[name]

    async def cancel(self, train: str, keys: Sequence[str]) -> bool:
        entries, now = self._of(train).entries, self._clock()
        cancelled = False
        for name in keys:
            entry = entries.get(name)
            if entry is not None and not (entry.claimed and entry.due > now):
                del entries[name]
                cancelled = cancelled or not entry.claimed
        return cancelled

    async def waiting(self, train: str) -> Waiting:
        kept = self._trains.get(train, _NOTHING)
        return Waiting(count=len(kept.entries), next_at=kept.next_at(), now=self._clock())

    async def entries(self, train: str) -> AsyncIterator[Event]:
        entries = self._trains.get(train, _NOTHING).entries.values()
        for entry in sorted(entries, key=lambda entry: entry.due):
            yield entry.event

    async def latest(self, train: str, series: str) -> float | None:
        return self._trains.get(train, _NOTHING).series.get(series)

    async def latest_of_all(self, train: str) -> Mapping[str, float]:
        return dict(self._trains.get(train, _NOTHING).series)

    async def tick(self, train: str, series: str, at: float, event: Event | None) -> bool:
        kept = self._of(train)
        before = kept.series.get(series)
        if before is not None and at <= before:
            return False
        kept.series[series] = at
        if event is not None and before is not None:
            kept.add([event])
        return True

    def unfinished(self) -> list[tuple[str, Event]]:
        """The events of all trains that are due, claimed ones included: for tests that wait for them."""
        now = self._clock()
        kept = ((train, entry) for train, of in self._trains.items() for entry in of.entries.values())
        return [(train, entry.event) for train, entry in kept if entry.event.time <= now]

    async def clear(self, train: str) -> int:
        return len(self._trains.pop(train, _NOTHING).entries)

    def _of(self, train: str) -> _Kept:
        return self._trains.setdefault(train, _Kept())


class _Entry(msgspec.Struct):
    event: Event
    due: float
    """When it may be claimed: its time, or when its claim ends."""
    claimed: bool = False


class _Kept:
    """What is kept for one train."""

    def __init__(self) -> None:
        self.entries: dict[str, _Entry] = {}
        self.series: dict[str, float] = {}
        self._order: list[tuple[float, int, str]] = []
        """A heap by `due`; stale where an entry is gone, or has another `due`."""
        self._count = 0

    def add(self, events: Sequence[Event]) -> None:
        for event in events:
            if (name := key_of(event)) not in self.entries:
                self._put(name, _Entry(event, event.time))

    def _put(self, name: str, entry: _Entry) -> None:
        self.entries[name] = entry
        self._count += 1
        heappush(self._order, (entry.due, self._count, name))

    def claim(self, now: float, until: float, limit: int, most_bytes: int) -> list[Event]:
        claimed: list[Event] = []
        while len(claimed) < limit and (due := self.next_at()) is not None and due <= now:
            entry = self.entries[self._order[0][2]]
            most_bytes -= entry.event.size
            if claimed and most_bytes < 0:
                break
            _, _, name = heappop(self._order)
            entry.due, entry.claimed = until, True
            self._put(name, entry)
            claimed.append(entry.event)
        return claimed

    def next_at(self) -> float | None:
        while self._order:
            due, _, name = self._order[0]
            entry = self.entries.get(name)
            if entry is not None and entry.due == due:
                return due
            heappop(self._order)
        return None


_NOTHING = _Kept()
