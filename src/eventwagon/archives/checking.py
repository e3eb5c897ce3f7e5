"""Whether the files of an archived wagon still are what was archived."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import aclosing

from ..contracts.archive import Archive, ArchivedWagon, ArchiveFile
from ..display.text import count
from ..event import wagon_name
from ..policy.digest import digest_of, together, written
from .names import name_of


async def difference(
    archive: Archive, files: Iterable[ArchiveFile], wagon: ArchivedWagon, rows: int, digest: str
) -> str:
    """Read the wagon's files, which are among `files` of its train, and compare them with what was noted when it was
    archived. Returns what differs, in words; empty: nothing. Rows that came late have files of their own, which are not
    counted. Raises Unavailable, StorageBroken."""
    found = total = 0
    for file in files:
        if file.number == wagon.number and file.name == name_of(wagon, file.channel):
            async with aclosing(archive.read(file)) as batches:
                async for some in batches:
                    found += len(some)
                    total = together(total, digest_of([row.id for row in some], file.channel))
    name = wagon_name(wagon.train, wagon.number)
    if found != rows:
        return f"{name}: {count(rows, 'row')} were archived, {found:,} are at {archive.where}"
    if digest and written(total) != digest:
        at = f"at {archive.where} are not those that were archived"
        return f"{name}: the rows {at}: their digest is {written(total)}, not {digest}"
    return ""
