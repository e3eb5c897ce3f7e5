"""An archive in memory, for trains in virtual time: threads of a real one would not wait for it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from unittest import mock

import msgspec

from eventwagon import connection
from eventwagon.contracts.archive import Archive, ArchivedWagon, ArchiveFile
from eventwagon.contracts.rows import Row
from eventwagon.errors import Unavailable
from eventwagon.policy.digest import digest_of


class MemoryArchive:
    """What is finished is kept in `stored`, by name. While `away`, nothing can be written."""

    def __init__(self) -> None:
        self.stored: dict[str, tuple[ArchiveFile, list[Row]]] = {}
        self.written = 0
        """How often a wagon was finished."""
        self.away = False
        self.fails = False
        """It answers, and nothing can be written."""
        self.spoils: Callable[[ArchiveFile], ArchiveFile] = lambda file: file
        """What is read back in the place of what was written."""
        self.on_finished: Callable[[], None] = lambda: None

    @property
    def where(self) -> str:
        return "memory"

    async def prepare(self) -> None: ...

    @asynccontextmanager
    async def write(self, wagon: ArchivedWagon) -> AsyncIterator[_Writer]:
        yield _Writer(self, wagon)

    async def files(self, train: str) -> Sequence[ArchiveFile]:
        if self.away:
            raise Unavailable("the archive is away")
        return [file for file, _ in self.stored.values()]

    async def read(self, file: ArchiveFile) -> AsyncGenerator[Sequence[Row], None]:
        yield self.stored[file.name][1]

    @property
    def rows(self) -> list[tuple[int, Row]]:
        """All rows, each with its wagon."""
        return [(file.number, row) for file, rows in self.stored.values() for row in rows]

    def open(self, url: str) -> Archive:
        return self


class _Writer:
    def __init__(self, archive: MemoryArchive, wagon: ArchivedWagon) -> None:
        self._archive = archive
        self._wagon = wagon
        self._rows: dict[str, list[Row]] = {}

    async def add(self, rows: Sequence[Row]) -> None:
        if self._archive.away:
            raise Unavailable("the archive is away")
        for row in rows:
            self._rows.setdefault(row.channel, []).append(row)

    async def finish(self) -> Sequence[ArchiveFile]:
        if self._archive.away:
            raise Unavailable("the archive is away")
        if self._archive.fails:
            raise Unavailable("the archive is full")
        files = []
        for channel, rows in self._rows.items():
            wagon = self._wagon
            name = f"{wagon.train}_v{wagon.number}-{wagon.opened_at}-{wagon.late}.{channel}"
            file = ArchiveFile(
                name=name,
                number=wagon.number,
                channel=channel,
                opened="" if wagon.opened_at is None else f"{wagon.opened_at}",
                size=sum(len(row.data) for row in rows),
                count=len(rows),
                digest=digest_of((row.id for row in rows), channel),
            )
            self._archive.stored[name] = file, rows
            files.append(self._archive.spoils(file))
        self._archive.written += 1
        self._archive.on_finished()
        return files


@contextmanager
def in_memory() -> Iterator[MemoryArchive]:
    """While entered, connections archive here, whatever URL they are given."""
    archive = MemoryArchive()
    with mock.patch.object(connection, "open_archive", archive.open):
        yield archive


def less(file: ArchiveFile) -> ArchiveFile:
    """A file that lost a row on its way."""
    return msgspec.structs.replace(file, count=file.count - 1)
