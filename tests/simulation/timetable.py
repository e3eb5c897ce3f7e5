"""The one timetable of a run, with everything that it keeps written down, and how one process reaches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial

from eventwagon.contracts.timetable import CHANNEL, Due, Waiting, key_of
from eventwagon.drivers.memory.timetable import MemoryTimetable
from eventwagon.event import Event

from .gate import Gate
from .history import Kept
from .truth import EPOCH, Recorder
from .truth import key_of as payload_of


class TruthTimetable(MemoryTimetable):
    """A memory timetable that writes down what it keeps."""

    def __init__(self, record: Recorder) -> None:
        super().__init__(clock=lambda: EPOCH + asyncio.get_running_loop().time())
        self._record = record

    async def add(self, train: str, events: Sequence[Event]) -> None:
        known = {key_of(event) async for event in self.entries(train)}
        await super().add(train, events)
        for event in events:
            if key_of(event) not in known:
                channel = event.extensions.get(CHANNEL, "")
                due = round(event.time - EPOCH, 6)
                self._record(Kept, channel=channel, id=event.id, key=payload_of(event), due=due)

    def count(self, train: str) -> int:
        """How many events it keeps."""
        return len(self._of(train).entries)


class GatedTimetable:
    """The timetable as one process has it."""

    def __init__(self, gate: Gate, truth: TruthTimetable) -> None:
        self._gate = gate
        self._truth = truth

    async def now(self, train: str) -> float:
        return await self._gate.call("time", partial(self._truth.now, train))

    async def add(self, train: str, events: Sequence[Event]) -> None:
        await self._gate.call("keep", partial(self._truth.add, train, events), events=events)

    async def claim(self, train: str, *, limit: int, most_bytes: int, lease: float) -> Due:
        effect = partial(self._truth.claim, train, limit=limit, most_bytes=most_bytes, lease=lease)
        return await self._gate.call("claim", effect)

    async def remove(self, train: str, keys: Sequence[str], *, until: float) -> None:
        await self._gate.call("forget", partial(self._truth.remove, train, keys, until=until))

    async def cancel(self, train: str, keys: Sequence[str]) -> bool:
        return await self._gate.call("forget", partial(self._truth.cancel, train, keys))

    async def waiting(self, train: str) -> Waiting:
        return await self._gate.call("time", partial(self._truth.waiting, train))

    async def entries(self, train: str) -> AsyncIterator[Event]:
        async for event in self._truth.entries(train):
            yield event

    async def latest(self, train: str, series: str) -> float | None:
        return await self._gate.call("time", partial(self._truth.latest, train, series))

    async def latest_of_all(self, train: str) -> Mapping[str, float]:
        return await self._gate.call("time", partial(self._truth.latest_of_all, train))

    async def tick(self, train: str, series: str, at: float, event: Event | None) -> bool:
        return await self._gate.call("keep", partial(self._truth.tick, train, series, at, event))

    async def clear(self, train: str) -> int:
        return await self._gate.call("forget", partial(self._truth.clear, train))
