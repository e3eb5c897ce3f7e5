"""`export`: the events of archived wagons, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated

import typer

from ..archives import open_archive
from ..contracts.archive import Archive, ArchiveFile
from ..contracts.rows import OUTCOMES
from ..display.text import count as counted
from ..errors import UsageError
from ..event import wagon_name
from ..values import shown
from ..views.archive import row_as_json
from .completion import Anchor
from .console import DEFAULT_URL, Code, Ended, Url, job, json_line, line
from .target import declared_archive, wagon_number


@job
async def export(
    target: Anchor,
    wagon: Annotated[
        str | None,
        typer.Argument(metavar="[WAGON]", help="The wagon, by name (orders_v7) or number; without it: what is there."),
    ] = None,
    url: Url = DEFAULT_URL,
    archive: Annotated[
        str | None,
        typer.Option("--archive", metavar="URL", help="The archive, if it is not the one that the train has now."),
    ] = None,
    channel: Annotated[
        str | None, typer.Option("--channel", metavar="NAME", help="This channel only; the train's name: the ingress.")
    ] = None,
    outcome: Annotated[
        str | None,
        typer.Option("--outcome", metavar="OUTCOME", help="Only what was handled, dead, passed on, or skipped."),
    ] = None,
) -> None:
    """Print the archived events of a wagon as JSON with their data, one a line, and what came of each.

    Without WAGON, list the files of the archive. With --archive and the name of a train, nothing else than the archive
    is asked: the train need not exist any more.
    """
    if outcome is not None and outcome not in OUTCOMES:
        raise UsageError(f"--outcome {shown(outcome)}: give {', '.join(OUTCOMES[:-1])} or {OUTCOMES[-1]}")
    name, place = await declared_archive(target, url, archive)
    number, found = wagon_number(wagon, name, "WAGON"), open_archive(place)
    files = await found.files(name)
    if number is None:
        _list(files, name)
        return
    chosen = [file for file in files if file.number == number]
    if not chosen:
        there = {file.number for file in files}
        known = f"{counted(len(there), 'wagon')} are, up to {wagon_name(name, max(there))}" if there else "no wagon is"
        raise Ended(Code.FAILED, f"{wagon_name(name, number)} is not archived at {found.where}; {known}")
    if channel is not None:
        inner = "" if channel == name else channel
        chosen = [file for file in chosen if file.channel == inner]
        if not chosen:
            raise Ended(Code.FAILED, f"{wagon_name(name, number)} has no archived events of channel {shown(channel)}")
    await _print(found, chosen, outcome)


async def _print(archive: Archive, files: Sequence[ArchiveFile], outcome: str | None) -> None:
    for file in files:
        async with aclosing(archive.read(file)) as batches:
            async for rows in batches:
                for row in rows:
                    if outcome in (None, row.outcome):
                        json_line(row_as_json(row, file.number))


def _list(files: Sequence[ArchiveFile], train: str) -> None:
    for file in files:
        line(f"{wagon_name(train, file.number)}  {file.channel or 'ingress'}  {file.size:,} bytes  {file.name}")
    line(counted(len(files), "file"))
