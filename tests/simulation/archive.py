"""The one archive of a run, with everything that is stored there written down, and how one process reaches it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from unittest import mock

from eventwagon import connection as connection_module
from eventwagon.contracts.archive import Archive, ArchivedWagon, ArchiveFile
from eventwagon.contracts.rows import Row
from eventwagon.policy.digest import digest_of

from .gate import Gate
from .history import Archived
from .loop import PROCESS
from .process import Process
from .truth import Recorder

ARCHIVE_URL = "file:///archive"


class TruthArchive:
    """Writes down each wagon that is stored."""

    def __init__(self, record: Recorder) -> None:
        self._record = record

    async def store(self, wagon: ArchivedWagon, rows: Sequence[Row]) -> Sequence[ArchiveFile]:
        """Store a wagon's files, in the place of those of an earlier attempt."""
        kept = tuple((row.channel, row.id, row.data.decode()[1:-1], row.outcome) for row in rows)
        self._record(Archived, number=wagon.number, late=wagon.late, rows=kept)
        channels = sorted({row.channel for row in rows})
        return [_file(wagon, channel, [row for row in rows if row.channel == channel]) for channel in channels]


def _file(wagon: ArchivedWagon, channel: str, rows: Sequence[Row]) -> ArchiveFile:
    return ArchiveFile(
        name=f"{wagon.number}.{channel}",
        number=wagon.number,
        channel=channel,
        count=len(rows),
        digest=digest_of((row.id for row in rows), channel),
    )


class GatedArchive:
    """The archive as one process has it."""

    where = ARCHIVE_URL

    def __init__(self, gate: Gate, truth: TruthArchive) -> None:
        self._gate = gate
        self._truth = truth

    async def prepare(self) -> None: ...

    @asynccontextmanager
    async def write(self, wagon: ArchivedWagon) -> AsyncIterator[_Writer]:
        yield _Writer(self._gate, self._truth, wagon)

    async def files(self, train: str) -> Sequence[ArchiveFile]:
        """A removal asks whether it answers."""
        return []

    def read(self, file: ArchiveFile) -> AsyncGenerator[Sequence[Row], None]:
        """Nobody asks."""
        raise NotImplementedError


class _Writer:
    def __init__(self, gate: Gate, truth: TruthArchive, wagon: ArchivedWagon) -> None:
        self._gate = gate
        self._truth = truth
        self._wagon = wagon
        self._rows: list[Row] = []

    async def add(self, rows: Sequence[Row]) -> None:
        self._rows += rows

    async def finish(self) -> Sequence[ArchiveFile]:
        return await self._gate.call("archive", lambda: self._truth.store(self._wagon, self._rows))


@contextmanager
def archiving(record: Recorder) -> Iterator[None]:
    """While entered, every process archives there."""
    truth = TruthArchive(record)

    def opened(url: str) -> Archive:
        process = PROCESS.get()
        assert isinstance(process, Process)
        return GatedArchive(Gate(process), truth)

    opener: Callable[[str], Archive] = opened
    with mock.patch.object(connection_module, "open_archive", opener):
        yield
