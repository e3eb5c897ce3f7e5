"""The past events of a train, read from its archive for replays."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from ..contracts.archive import OpenArchive, Row
from ..contracts.replay import PastEvent
from ..display.text import count
from ..errors import UsageError
from ..event import Event, wagon_name


class ArchivedEvents:
    """The archived events of one train. An event of which the archive has no data can't be replayed and is left out, as
    is one that was passed on to its own channel: it is there."""

    def __init__(self, archives: OpenArchive, url: str, train: str) -> None:
        self._open = archives
        self._url = url
        self._train = train

    async def events(self, wagon: int, channel: str) -> AsyncIterator[Sequence[PastEvent]]:
        """See EventSource.events. Events that came late to a wagon have files of their own, which come last."""
        archive = self._open(self._url)
        files = await archive.files(self._train)
        of = sorted((f for f in files if f.number == wagon), key=lambda f: f.name)
        if not of:
            there = {f.number for f in files}
            raise UsageError(
                f"{wagon_name(self._train, wagon)} is not archived at {archive.where}"
                + (f"; {count(len(there), 'wagon')} are, up to {wagon_name(self._train, max(there))}" if there else "")
            )
        for file in of:
            if file.channel != channel:
                continue
            async for rows in archive.read(file):
                yield [
                    PastEvent(_event(row), row.channel, row.outcome, row.attempts)
                    for row in rows
                    if not row.cut and row.outcome != "passed"
                ]


def _event(row: Row) -> Event:
    """The event as it was delivered."""
    return Event(row.id, row.type, row.source, row.time, row.data, row.subject, row.content_type, row.extensions)
