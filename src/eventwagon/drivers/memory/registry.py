"""Manifests in this process's memory: for tests and simulation. Nothing survives the process."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence

from ...contracts.facts import Entry
from ...contracts.manifest import Manifest
from ...contracts.registry import Member, Snapshot, out_of_date, sound_member
from .once import MemoryOnce
from .timetable import MemoryTimetable


class MemoryRegistry:
    """A registry in one process. Enter it as often as you like: it keeps its trains as long as the object exists.
    Members' times use the event loop's clock, so they work in virtual time, too. Only the timetable uses `clock`
    (seconds since the epoch), which all drivers get."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.documents: dict[str, _Document] = {}
        """All that is stored, by train: for subclasses, several of which may share it."""
        self.timetable = MemoryTimetable(clock=clock)
        self.once = MemoryOnce(clock=clock)

    async def __aenter__(self) -> MemoryRegistry:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    async def read(self, train: str) -> Snapshot:
        document = self.documents.get(train)
        return document.newest if document else Snapshot(Manifest(train=train), 0)

    async def replace(
        self,
        train: str,
        manifest: Manifest,
        *,
        expect: int,
        entries: Sequence[Entry] = (),
        keep: int = 10_000,
        beyond: int = 0,
    ) -> Snapshot:
        await asyncio.sleep(0)  # a writer in a loop must let others run
        newest = (await self.read(train)).version
        if newest != expect:
            raise out_of_date(train, newest, expect)
        document = self.document_of(train)
        document.append(entries, keep)
        document.put(Snapshot(manifest, max(expect, beyond) + 1))
        return document.newest

    def step_back(self, train: str, to: Snapshot) -> None:
        """Hold this older manifest again, like a store that was restored from a copy."""
        self.document_of(train).put(to)

    def watch(self, train: str) -> _Watch:
        return _Watch(self.document_of(train))

    async def check_in(self, train: str, member: Member, *, ttl: float) -> None:
        document = self.document_of(train)
        now = asyncio.get_running_loop().time()
        document.members[member.name] = (now + ttl, sound_member(member))
        document.forget(now)

    async def members(self, train: str) -> Sequence[Member]:
        document = self.documents.get(train)
        if document is None:
            return []
        document.forget(asyncio.get_running_loop().time())
        return [member for _, (_, member) in sorted(document.members.items())]

    async def append(self, train: str, entries: Sequence[Entry], *, keep: int = 10_000) -> None:
        self.document_of(train).append(entries, keep)

    async def entries(self, train: str, *, last: int | None = None) -> AsyncIterator[Entry]:
        document = self.documents.get(train)
        journal = list(document.journal) if document else []
        for entry in journal if last is None else journal[max(0, len(journal) - last) :]:
            yield entry

    async def delete(self, train: str) -> None:
        if (document := self.documents.get(train)) is not None:
            document.members.clear()
            document.journal.clear()
            document.put(Snapshot(Manifest(train=train), 0))

    async def trains(self) -> Sequence[str]:
        return sorted(train for train, document in self.documents.items() if document.newest.version)

    def document_of(self, train: str) -> _Document:
        """All that is stored for the train; empty for a new one."""
        return self.documents.setdefault(train, _Document(train))


class _Document:
    """Everything stored for one train."""

    def __init__(self, train: str) -> None:
        self.newest = Snapshot(Manifest(train=train), 0)
        self.journal: deque[Entry] = deque()
        self.members: dict[str, tuple[float, Member]] = {}  # alive until, on the loop's clock
        self.watchers: dict[asyncio.Future[None], None] = {}  # a set that keeps its order: runs must be reproducible

    def put(self, snapshot: Snapshot) -> None:
        self.newest = snapshot
        for waiter in self.watchers:
            if not waiter.done():
                waiter.set_result(None)

    def append(self, entries: Sequence[Entry], keep: int) -> None:
        self.journal.extend(entries)
        while len(self.journal) > keep:
            self.journal.popleft()

    def forget(self, now: float) -> None:
        """Drop the members whose time has expired."""
        for name in [name for name, (until, _) in self.members.items() if until <= now]:
            del self.members[name]


class _Watch:
    """It is its own iterator: there is nothing to close, and a cancelled wait loses nothing."""

    def __init__(self, document: _Document) -> None:
        self._document = document
        self._seen = -1

    async def __aenter__(self) -> AsyncIterator[Snapshot]:
        return self

    async def __aexit__(self, *exc: object) -> None:
        pass

    def __aiter__(self) -> AsyncIterator[Snapshot]:
        return self

    async def __anext__(self) -> Snapshot:
        document = self._document
        while document.newest.version == self._seen:
            waiter = asyncio.get_running_loop().create_future()
            document.watchers[waiter] = None
            try:
                await waiter
            finally:
                del document.watchers[waiter]
        self._seen = document.newest.version
        return document.newest
