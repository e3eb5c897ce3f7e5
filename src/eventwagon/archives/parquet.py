"""An archive of Parquet files: one for each channel of a wagon."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, suppress
from io import RawIOBase
from itertools import groupby
from operator import attrgetter
from typing import Any

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from ..contracts.archive import ArchivedWagon, ArchiveFile
from ..contracts.rows import Row
from ..display.text import said
from ..errors import StorageBroken
from ..policy.digest import digest_of_encoded, together
from .columns import REPEATED, SCHEMA, batch_of, encoded_ids, rows_of
from .names import name_of
from .objects import Objects, Sink

_GROUP_BYTES, _GROUP_ROWS = 8 << 20, 50_000
"""A channel's rows are written together once they have so many bytes, or are so many."""
_MOST_BYTES = 32 << 20
"""The most bytes of rows that wait in all channels together."""
_READ = 8192
"""The most rows that are read at a time. They are of one group, so their bytes have a bound too."""
_HANDED = 250
"""The most that are made into objects and handed on at a time: pyarrow lets no other thread run meanwhile, a few
milliseconds."""
_FORM = 1
_META = b"eventwagon"
_NAME = re.compile(r"_v(\d{1,18})-(?:(\d{8}T\d{9}Z)|late-[0-9a-f]+)(?:\.([a-z][a-z0-9_-]*))?\.parquet")
"""What comes after the train's name."""


class ParquetArchive:
    """See Archive. Everything that blocks runs in a thread."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    @property
    def where(self) -> str:
        return self._objects.where

    async def prepare(self) -> None:
        await asyncio.to_thread(self._objects.prepare)

    @asynccontextmanager
    async def write(self, wagon: ArchivedWagon) -> AsyncIterator[_Writer]:
        await asyncio.to_thread(self._objects.mark, again=wagon.again)
        files = _WagonFiles(self._objects, wagon)
        thread = ThreadPoolExecutor(1, "eventwagon-archive")  # of its own: after a cancellation its calls stay in order
        try:
            yield _Writer(files, thread)
        finally:
            thread.submit(files.abandon)
            thread.shutdown(wait=False)

    async def files(self, train: str) -> Sequence[ArchiveFile]:
        found = []
        for name, size in await asyncio.to_thread(self._objects.names, train):
            ours = name.startswith(f"{train}/{train}_v")  # copies in other folders, of other trains, are left alone
            parts = _NAME.fullmatch(name.removeprefix(f"{train}/{train}")) if ours else None
            if parts is not None:
                number, opened, channel = int(parts[1]), parts[2] or "", parts[3] or ""
                found.append(ArchiveFile(name=name, number=number, channel=channel, opened=opened, size=size))
        return sorted(found, key=lambda file: (file.number, file.channel, file.name))

    async def read(self, file: ArchiveFile) -> AsyncGenerator[Sequence[Row], None]:
        rows = _rows(self._objects, file.name)
        thread = ThreadPoolExecutor(1, "eventwagon-archive")  # of its own: it closes what it has read to the end
        loop = asyncio.get_running_loop()
        try:
            while (batch := await loop.run_in_executor(thread, next, rows, None)) is not None:
                yield batch
        finally:
            thread.submit(rows.close)
            thread.shutdown(wait=False)


def _rows(objects: Objects, name: str) -> Generator[Sequence[Row]]:
    """The rows of a file, in batches. Blocks."""
    try:
        reading = _Reading(objects, name)
    except FileNotFoundError:
        raise StorageBroken(f"{name} is gone from {objects.where}") from None
    with reading:
        yield from reading.rows(name.partition("/")[0])


class _Writer:
    """See ArchiveWriter."""

    def __init__(self, files: _WagonFiles, thread: ThreadPoolExecutor) -> None:
        self._files = files
        self._thread = thread
        self._adding: Future[None] | None = None
        """The rows that are being added while the caller gets the next ones."""

    async def add(self, rows: Sequence[Row]) -> None:
        await self._added()
        self._adding = self._thread.submit(self._files.add, rows)

    async def finish(self) -> Sequence[ArchiveFile]:
        await self._added()
        return await asyncio.wrap_future(self._thread.submit(self._files.finish))

    async def _added(self) -> None:
        adding, self._adding = self._adding, None
        if adding is not None:
            await asyncio.wrap_future(adding)


class _WagonFiles:
    """The files of a wagon while they are written. Blocks."""

    def __init__(self, objects: Objects, wagon: ArchivedWagon) -> None:
        self._objects = objects
        self._wagon = wagon
        self._open: dict[str, _ChannelFile] = {}

    def add(self, rows: Sequence[Row]) -> None:
        for channel, some in groupby(rows, attrgetter("channel")):
            file = self._open.get(channel)
            if file is None:
                file = self._open[channel] = _ChannelFile(self._objects, self._wagon, channel)
            file.add(list(some))
        while sum(file.bytes for file in self._open.values()) > _MOST_BYTES:
            max(self._open.values(), key=lambda file: file.bytes).flush()

    def finish(self) -> Sequence[ArchiveFile]:
        for file in self._open.values():
            file.check_free()
        done = []
        for channel in sorted(self._open):
            self._open[channel].close()
            done.append(self._open.pop(channel).read_back())
        return done

    def abandon(self) -> None:
        """Leave what is not finished. Idempotent."""
        for file in self._open.values():
            file.abandon()
        self._open.clear()


class _AbandonedError(Exception):
    """The file is not to appear."""


class _ChannelFile:
    """One file while it is written."""

    def __init__(self, objects: Objects, wagon: ArchivedWagon, channel: str) -> None:
        self.rows: list[Row] = []
        """They wait to be written."""
        self.bytes = 0
        self.name = name_of(wagon, channel)
        self._objects = objects
        self._wagon = wagon
        self._channel = channel
        self._count = 0
        self._stack = ExitStack()
        self._sink: Sink | None = None
        self._writer: pq.ParquetWriter | None = None

    def add(self, rows: Sequence[Row]) -> None:
        """Write the rows, or have them wait."""
        self.rows += rows
        self.bytes += sum([len(row.data) for row in rows]) + 200 * len(rows)
        self.bytes += sum(len(k) + len(v) for row in rows if row.extensions for k, v in row.extensions.items())
        if self.bytes >= _GROUP_BYTES or len(self.rows) >= _GROUP_ROWS:
            self.flush()

    def flush(self) -> None:
        """Write what waits, as one row group."""
        if self._writer is None:
            self._sink = self._stack.enter_context(self._objects.writing(self.name))
            self._writer = pq.ParquetWriter(
                self._sink, SCHEMA, compression="zstd", use_dictionary=REPEATED, write_page_checksum=True
            )
        if self.rows:
            self._writer.write_batch(batch_of(self.rows, self._wagon.train, self._wagon.number))
            self._count += len(self.rows)
        self.rows, self.bytes = [], 0

    def check_free(self) -> None:
        """Raise StorageBroken if the name has a file that must not be replaced."""
        try:
            with _Reading(self._objects, self.name) as there:
                found, rows = there.about, there.count
        except FileNotFoundError:
            return
        ours = self._about()
        rest = f"{self.name} in {self._objects.where}: move it away, then the wagon is archived"
        if any(found.get(key) != ours[key] for key in ("train", "wagon", "channel", "opened_at")):
            raise StorageBroken(f"another train's or wagon's file has the name {rest}")
        if rows > self._count + len(self.rows):
            raise StorageBroken(f"a file with {rows:,} rows, more than there are now, has the name {rest}")

    def close(self) -> None:
        """Store the whole file."""
        self.flush()
        assert self._writer is not None  # noqa: S101 - for the type checker
        self._writer.add_key_value_metadata({_META.decode(): json.dumps(self._about())})
        self._writer.close()
        self._stack.close()

    def abandon(self) -> None:
        """The file is not to appear. Idempotent."""
        if self._sink is not None:
            self._sink.is_dropped = True  # Arrow's writer writes its end all the same
        self._stack.__exit__(_AbandonedError, _AbandonedError(), None)

    def read_back(self) -> ArchiveFile:
        """The stored file, as it is read."""
        with _Reading(self._objects, self.name) as there:
            count = digest = 0
            for batch in there.batches(["id"]):
                count += batch.num_rows
                digest = together(digest, digest_of_encoded(encoded_ids(batch), self._channel))
            return ArchiveFile(
                name=self.name,
                number=self._wagon.number,
                channel=self._channel,
                size=there.size,
                count=count,
                digest=digest,
            )

    def _about(self) -> dict[str, Any]:
        wagon = self._wagon
        return {
            "form": _FORM,
            "train": wagon.train,
            "wagon": wagon.number,
            "channel": self._channel,
            "opened_at": wagon.opened_at,
        }


class _Reading:
    """A stored file. Raises FileNotFoundError, StorageBroken."""

    def __init__(self, objects: Objects, name: str) -> None:
        self._where = f"{name} in {objects.where}"
        self._source: RawIOBase = objects.reading(name)
        try:
            self._file = pq.ParquetFile(self._source, page_checksum_verification=True)
        except (pa.ArrowException, OSError, ValueError) as e:
            self._source.close()
            raise StorageBroken(f"{self._where} is no Parquet file: {said(e)}") from e
        self.count: int = self._file.metadata.num_rows

    def __enter__(self) -> _Reading:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close(force=True)
        self._source.close()

    @property
    def size(self) -> int:
        """In bytes."""
        return self._source.seek(0, 2)

    @property
    def about(self) -> dict[str, Any]:
        """What its writer said about it; empty: it is none of ours."""
        with suppress(ValueError, RecursionError):
            found = json.loads((self._file.metadata.metadata or {}).get(_META, b""))
            return found if isinstance(found, dict) else {}
        return {}

    def rows(self, train: str) -> Iterator[Sequence[Row]]:
        """The rows, in batches."""
        for batch in self.batches():
            for start in range(0, batch.num_rows, _HANDED):
                try:
                    rows = rows_of(batch.slice(start, _HANDED), train)
                except (KeyError, TypeError, ValueError, pa.ArrowException) as e:
                    raise StorageBroken(f"{self._where} has not the columns of an archive: {said(e)}") from e
                yield rows

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        try:
            for group in range(self._file.num_row_groups):
                yield from self._file.iter_batches(_READ, row_groups=[group], columns=columns)
        except (pa.ArrowException, OSError, ValueError) as e:
            raise StorageBroken(f"{self._where} can't be read: {said(e)}") from e
