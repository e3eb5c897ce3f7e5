"""A source in memory: the smallest one that keeps the contract, for the suite itself and for the runner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Self

from eventwagon.bridge import Lag, Record, Source


class MemoryFlow:
    """The records of one flow, those that are committed, and who holds which."""

    claim = 0.0
    ordered = True
    kind: type[MemorySource]

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.committed: set[str] = set()
        self.held: dict[str, object] = {}

    def open(self) -> Source:
        return self.kind(self)

    async def write(self, values: Sequence[bytes]) -> None:
        for value in values:
            self.records.append(Record(position=f"memory/{len(self.records)}", value=value, time=time.time()))

    def free(self) -> list[Record]:
        return [each for each in self.records if each.position not in self.committed | self.held.keys()]


class MemorySource:
    """One reader."""

    name = "memory"

    def __init__(self, flow: MemoryFlow) -> None:
        self.flow = flow

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.flow.held = {position: who for position, who in self.flow.held.items() if who is not self}

    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        until = asyncio.get_running_loop().time() + wait
        while not (found := self.flow.free()[:limit]):
            if asyncio.get_running_loop().time() >= until:
                return []
            await asyncio.sleep(0.01)
        self.flow.held.update((each.position, self) for each in found)
        return found

    async def commit(self, records: Sequence[Record]) -> None:
        for each in records:
            self.flow.committed.add(each.position)
            self.flow.held.pop(each.position, None)

    async def peek(self, limit: int) -> Sequence[Record]:
        return self.flow.free()[:limit]

    async def lag(self) -> Lag:
        left = [each for each in self.flow.records if each.position not in self.flow.committed]
        return Lag(records=len(left), seconds=max(0.0, time.time() - left[0].time) if left else 0.0)


MemoryFlow.kind = MemorySource


@asynccontextmanager
async def memory_flow(kind: type[MemorySource] = MemorySource) -> AsyncIterator[MemoryFlow]:
    flow = MemoryFlow()
    flow.kind = kind
    yield flow
