"""`export`: the events of archived wagons, as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated

import typer

from ..archives import of_wagon, open_archive, openings
from ..contracts.archive import Archive, ArchiveFile
from ..contracts.replay import NothingKeptError
from ..contracts.rows import OUTCOMES
from ..display.text import count as counted
from ..errors import UsageError
from ..event import wagon_name
from ..values import shown
from ..views.archive import row_as_json
from .completion import Anchor
from .console import DEFAULT_URL, Code, Ended, Url, job, json_line, line, say
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
    opened: Annotated[
        str | None,
        typer.Option("--opened", metavar="TIME", help="Of several wagons of the name, the one with this in its files."),
    ] = None,
) -> None:
    """Print the archived events of a wagon as JSON with their data, one a line, and what came of each.

    Without WAGON, list the files of the archive. If the train was removed and founded again, several wagons have one
    name: the one that was opened last is meant, unless --opened names another. With --archive and the name of a train,
    nothing else than the archive is asked: the train need not exist any more.
    """
    if outcome is not None and outcome not in OUTCOMES:
        raise UsageError(f"--outcome {shown(outcome)}: give {', '.join(OUTCOMES[:-1])} or {OUTCOMES[-1]}")
    name, place = await declared_archive(target, url, archive)
    number, found = wagon_number(wagon, name, "WAGON"), open_archive(place)
    if number is None and opened is not None:
        raise UsageError("--opened: give the WAGON that is meant")
    files = await found.files(name)
    if number is None:
        _list(files, name)
        return
    try:
        chosen = _of_one(of_wagon(files, name, number, found.where), wagon_name(name, number), opened)
    except NothingKeptError as e:
        raise Ended(Code.FAILED, str(e)) from None
    if channel is not None:
        inner = "" if channel == name else channel
        chosen = [file for file in chosen if file.channel == inner]
        if not chosen:
            raise Ended(Code.FAILED, f"{wagon_name(name, number)} has no archived events of channel {shown(channel)}")
    await _print(found, chosen, outcome)


def _of_one(files: Sequence[ArchiveFile], name: str, opened: str | None) -> Sequence[ArchiveFile]:
    """Those of the wagon that was opened then; None: of the one that was opened last. What came late has no such time,
    and may be of any."""
    known = openings(files)
    if opened is not None and opened not in known:
        raise Ended(Code.FAILED, f"{name} has no archived events from {shown(opened)}, but of {', '.join(known)}")
    if opened is None and len(known) > 1:
        say(
            f"the archive has {len(known)} wagons of the name {name}, since the train was founded again: this is the "
            f"one opened at {known[-1]}; --opened has the others: {', '.join(known[:-1])}"
        )
    which = known[-1:] if opened is None else [opened]
    return [file for file in files if not file.opened or file.opened in which]


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
