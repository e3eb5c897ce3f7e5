"""The archiving of a wagon: from the rows that its workers kept at the broker to files in its archive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from itertools import groupby
from operator import attrgetter

import msgspec

from ..contracts.archive import ArchivedWagon, ArchiveFile
from ..contracts.broker import Depth
from ..contracts.facts import ArchiveIncomplete, WagonArchived
from ..contracts.manifest import Wagon
from ..contracts.rows import Row, unpacked
from ..display.text import count as counted
from ..errors import ChannelGone, StorageBroken, Unavailable
from ..event import ARCHIVE, Channel, Event, wagon_name
from ..policy.digest import hashes_of, together, written
from ..policy.edits import archived
from .in_time import in_time
from .runtime import Runtime
from .train_state import TrainState

_BATCH, _BATCH_BYTES = 2000, 4 << 20
"""Rows that are handed to the archive together, and about the most bytes of their data."""


class _Tally:
    """What was read of one wagon's rows, by channel."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        """All of them."""
        self.counts: dict[str, int] = {}
        """Those that were written, each once."""
        self.digests: dict[str, int] = {}
        """The digests of their ids."""
        self.unreadable = 0
        """Messages that hold no rows."""
        self._seen: set[int] = set()
        """A hash of each row that was written, of its channel and of all that tells events apart. 128 bits of it are of
        the id; the others need to tell apart only what has the same id."""

    def new(self, rows: Sequence[Row]) -> Sequence[Row]:
        """Count the rows of one message, and return those that were not seen before: a crash may have left a row
        twice. Events are the same only if everything is that their publisher gave them: two sources may use one id,
        and so may a source."""
        found: list[Row] = []
        seen = self._seen
        for channel, group in groupby(rows, attrgetter("channel")):
            some = list(group)
            self.rows[channel] = self.rows.get(channel, 0) + len(some)
            before, digest = len(found), 0
            for row, of_id in zip(some, hashes_of([row.id for row in some], channel), strict=True):
                mark = of_id + hash((row.outcome, row.source, row.type, row.subject, row.data, row.cut))
                if mark not in seen:
                    seen.add(mark)
                    found.append(row)
                    digest += of_id
            self.counts[channel] = self.counts.get(channel, 0) + len(found) - before
            self.digests[channel] = together(self.digests.get(channel, 0), digest)
        return found


class Archiver:
    """Writes the rows of wagons to their archives. Nothing of that is remembered but in the manifest: a process that
    goes on where another has died begins the wagon's files anew, and nothing is deleted before they are read back."""

    def __init__(self, runtime: Runtime, state: TrainState) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._broker = runtime.broker
        self._state = state
        self._turn = asyncio.Lock()
        """One wagon at a time: the memory of several would not be bounded."""

    async def archive(self, wagon: Wagon) -> None:
        """Write the wagon's rows, unless that is done, and record it in the manifest. Call it when its workers have
        ended. Idempotent. Raises Unavailable while the archive or the broker is away, StorageBroken, UsageError."""
        if not wagon.archive or wagon.archived is not None:
            return
        manifest = self._state.snapshot.manifest
        channel = manifest.rows(wagon)
        working = manifest.working_channels(wagon)
        asked = partial(self._broker.depth, working)
        found = await in_time(asked, self._runtime.settings.publish_timeout, "looking at what was settled in it")
        depths = dict(zip(working, found, strict=True))
        about = ArchivedWagon(train=self._train, number=wagon.number, opened_at=wagon.opened_at)
        facts: list[WagonArchived | ArchiveIncomplete] = []
        try:
            tally, files, where = await self._write(channel, wagon.archive, about)
            gone = False
        except ChannelGone as e:
            if channel in await self._broker.channels(self._train):
                raise Unavailable(f"the rows of {wagon_name(self._train, wagon.number)} can't be read: {e}") from e
            tally, files, where, gone = _Tally(), (), wagon.archive, True
        else:
            facts.append(self._fact(wagon.number, files, where))
        if incomplete := self._incomplete(wagon, tally, {c.name: d for c, d in depths.items()}, gone=gone):
            facts.append(incomplete)
        total = sum(file.count for file in files)
        digest = written(together(*(file.digest for file in files)))
        await self._state.apply(lambda m: archived(m, wagon.number, facts, total, digest))

    async def leftover(self, channel: Channel) -> None:
        """Write the rows of a wagon that the manifest does not know (any more) to files of their own: those that it has
        may hold all others. Idempotent, also after a crash. Raises as `archive`; Unavailable if this program names no
        archive."""
        tally = _Tally()
        try:
            async for message in self._broker.read(channel):
                tally.new(self._rows_in(message, tally))
            if not tally.counts:
                return
            url = self._runtime.settings.archive
            if url is None:
                raise Unavailable(
                    f"{channel} holds rows for an archive, and this program names none; they are kept until one with "
                    "Train(archive=…) observes"
                )
            late = written(together(*tally.digests.values()))[:16]
            about = ArchivedWagon(train=self._train, number=channel.wagon, opened_at=None, late=late)
            _, files, where = await self._write(channel, url, about)
        except ChannelGone:
            return
        await self._state.note(self._fact(channel.wagon, files, where))

    async def _write(
        self, channel: Channel, url: str, about: ArchivedWagon
    ) -> tuple[_Tally, Sequence[ArchiveFile], str]:
        """Write the rows in a channel, and compare what is read back with what was read from the broker. Raises
        ChannelGone."""
        archive = self._runtime.archives(url)
        about = msgspec.structs.replace(about, again=url == self._state.snapshot.manifest.archived_in)
        tally = _Tally()
        async with self._turn, archive.write(about) as writer:
            async for rows in self._batches(channel, tally):
                await writer.add(rows)
            files = await writer.finish()
        found = {file.channel: (file.count, file.digest) for file in files}
        meant = {name: (count, tally.digests[name]) for name, count in tally.counts.items()}
        if found != meant:
            lines = [
                f"{name or 'ingress'}: {meant.get(name, (0, 0))[0]:,} rows written, {found.get(name, (0, 0))[0]:,} read"
                for name in sorted(found.keys() | meant.keys())
                if found.get(name) != meant.get(name)
            ]
            raise StorageBroken(
                f"archive {archive.where}: what {channel} held is read back otherwise: {'; '.join(lines)}"
            )
        return tally, files, archive.where

    async def _batches(self, channel: Channel, tally: _Tally) -> AsyncIterator[Sequence[Row]]:
        """The rows in the channel, each once."""
        batch: list[Row] = []
        size = 0
        async for message in self._broker.read(channel):
            batch += tally.new(self._rows_in(message, tally))
            size += len(message.data)
            if len(batch) >= _BATCH or size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch

    def _rows_in(self, message: Event, tally: _Tally) -> Sequence[Row]:
        try:
            return unpacked(message)
        except ValueError:
            tally.unreadable += 1
            return ()

    def _fact(self, number: int, files: Sequence[ArchiveFile], where: str) -> WagonArchived:
        return WagonArchived(
            train=self._train,
            number=number,
            count=sum(file.count for file in files),
            files=len(files),
            size=sum(file.size for file in files),
            where=where,
            digest=written(together(*(file.digest for file in files))),
        )

    def _incomplete(
        self, wagon: Wagon, tally: _Tally, depths: dict[str, Depth], *, gone: bool
    ) -> ArchiveIncomplete | None:
        """What the archive lacks: events of which the broker counted more settled than there were rows of. They are
        gone. Without such counts a channel of rows that is gone is told, and what could not be read. Repeated rows
        count: an event that was handled twice may have been settled twice."""
        has_totals = self._broker.capabilities.totals
        lacking = {
            name: depth.settled - tally.rows.get(name, 0)
            for name, depth in depths.items()
            if has_totals and depth.settled is not None and depth.settled > tally.rows.get(name, 0)
        }
        channel = Channel(self._train, wagon.number, ARCHIVE)
        why = []
        if lacking:
            of = [f"{counted(count, 'event')} of {name or 'the ingress'}" for name, count in lacking.items()]
            why.append(f"settled without a row: {', '.join(of)}")
        if tally.unreadable:
            why.append(f"{counted(tally.unreadable, 'message')} in {channel} could not be read")
        if gone and not has_totals:
            why.append(f"{channel} is gone, and how many rows it had is not known")
        if not why:
            return None
        return ArchiveIncomplete(
            train=self._train, number=wagon.number, missing=sum(lacking.values()) or None, because="; ".join(why)
        )
