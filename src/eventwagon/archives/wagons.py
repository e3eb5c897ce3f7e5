"""The files of one wagon, among those of a train."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..contracts.archive import ArchiveFile
from ..contracts.replay import NothingKeptError
from ..display.text import count
from ..event import wagon_name


def of_wagon(files: Iterable[ArchiveFile], train: str, number: int, where: str) -> Sequence[ArchiveFile]:
    """Those of all wagons of that number, with what came late at the end. Raises NothingKeptError."""
    files = list(files)
    found = sorted((f for f in files if f.number == number), key=lambda f: f.name)
    if not found:
        there = {f.number for f in files}
        known = f"{count(len(there), 'wagon')} are, up to {wagon_name(train, max(there))}" if there else "no wagon is"
        raise NothingKeptError(f"{wagon_name(train, number)} is not archived at {where}; {known}")
    return found


def openings(files: Iterable[ArchiveFile]) -> Sequence[str]:
    """When the wagons of these files were opened, as their names say it, the newest last."""
    return sorted({f.opened for f in files if f.opened})
