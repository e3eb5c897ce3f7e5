"""The past events of a train, read from its archive for replays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from ..contracts.archive import ArchiveFile, OpenArchive
from ..contracts.replay import EventSource, PastEvent
from ..contracts.rows import Row
from ..errors import Unavailable, UsageError
from ..event import Event, wagon_name
from .wagons import of_wagon, openings


class ArchivedEvents:
    """The archived events of one train."""

    def __init__(self, archives: OpenArchive, url: str, train: str) -> None:
        self._open = archives
        self._url = url
        self._train = train

    async def channels(self, wagon: int) -> tuple[str, ...]:
        """See EventSource.channels."""
        return tuple(sorted({f.channel for f in await self._files(wagon)}))

    async def parts(self, wagon: int, channel: str) -> tuple[str, ...]:
        """See EventSource.parts. Events that came late to a wagon have files of their own, which come last."""
        return tuple(f.name for f in await self._files(wagon) if f.channel == channel)

    async def _files(self, wagon: int) -> Sequence[ArchiveFile]:
        archive = self._open(self._url)
        of = of_wagon(await archive.files(self._train), self._train, wagon, archive.where)
        opened = openings(of)
        if len(opened) > 1:
            raise UsageError(
                f"the archive at {archive.where} has {len(opened)} wagons of the name "
                f"{wagon_name(self._train, wagon)}, opened at "
                f"{', '.join(opened)}: move the files of all but one elsewhere"
            )
        return of

    async def events(self, wagon: int, channel: str, parts: Sequence[str]) -> AsyncIterator[Sequence[PastEvent]]:
        """See EventSource.events."""
        archive = self._open(self._url)
        there = {f.name: f for f in await archive.files(self._train)}
        for part in parts:
            if part not in there:
                raise Unavailable(f"{part} is gone from the archive at {archive.where}")
            async for rows in archive.read(there[part]):
                yield [
                    PastEvent(_event(row), row.channel, row.outcome, row.attempts, row.settled_at, row.cut)
                    for row in rows
                ]


def past_events(url: str | None, train: str, archives: OpenArchive) -> EventSource | None:
    """Those of the archive at `url`; None if there is none."""
    return None if url is None else ArchivedEvents(archives, url, train)


def _event(row: Row) -> Event:
    """The event as it was delivered."""
    return Event(row.id, row.type, row.source, row.time, row.data, row.subject, row.content_type, row.extensions)
