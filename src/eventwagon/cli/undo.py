"""`undo`: what a wagon has handled is taken back by the train's undo handlers."""

from __future__ import annotations

import asyncio
import sys
from typing import Annotated

import typer

from ..connection import Connection
from ..contracts.replay import Replay
from ..display.text import count as counted
from ..errors import UsageError
from ..event import wagon_name
from ..runtime.undos import UndoPreview
from ..views.replays import JobView, job_of, replay_in_words
from ..views.undos import preview_in_words
from .completion import Anchor
from .console import DEFAULT_URL, AsJson, Code, Ended, Url, ending, json_line, line, paragraph
from .steer import By, Reason
from .target import reached, wagon_number


def undo(
    target: Anchor,
    wagon: Annotated[
        str | None,
        typer.Argument(
            metavar="[WAGON]", help="The wagon, by name (orders_v7) or number; without it, lists the undos."
        ),
    ] = None,
    url: Url = DEFAULT_URL,
    partial: Annotated[
        bool,
        typer.Option(
            "--partial", help="Leave as they are channels without an undo handler, and events that the archive lacks."
        ),
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Though the wagon was undone before.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would be undone.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking at the terminal.")] = False,
    resume: Annotated[
        int | None,
        typer.Option("--resume", metavar="NUMBER", help="Let this undo, which has stopped, try again and go on."),
    ] = None,
    without_failed: Annotated[
        bool, typer.Option("--without-failed", help="With --resume: leave what could not be undone, and go on.")
    ] = False,
    cancel: Annotated[
        int | None, typer.Option("--cancel", metavar="NUMBER", help="Undo nothing more of this undo.")
    ] = None,
    reason: Reason = "by hand",
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Have taken back what a wagon is known to have handled, by the train's undo handlers: the newest events first,
    children before their parents. The wagon must be gone, and in the archive.

    Shows what would be undone, by channel, and what would not, and asks. The train does it, and this command may end.
    The undo stops if an event can't be undone; --resume lets it go on. With --json, for the list and for --dry-run,
    each undo is one line.
    """
    with ending():
        options = {"--partial": partial, "--again": again, "--dry-run": dry_run, "--yes": yes}
        given = [name for name, is_given in options.items() if is_given]
        if given and wagon is None:
            raise UsageError(f"{', '.join(given)}: give the WAGON that is to be undone")
        if wagon is not None and (resume is not None or cancel is not None):
            raise UsageError("--resume and --cancel take no WAGON: give the undo's number")
        if resume is not None and cancel is not None:
            raise UsageError("--resume or --cancel, not both")
        if without_failed and resume is None:
            raise UsageError("--without-failed goes with --resume")
        if as_json and (resume is not None or cancel is not None or (wagon is not None and not dry_run)):
            raise UsageError("--json goes with the list of undos, or with a WAGON and --dry-run")
        if resume is not None:
            asyncio.run(_resume(target, url, resume, reason, by, without_failed=without_failed))
        elif cancel is not None:
            asyncio.run(_cancel(target, url, cancel, reason, by))
        elif wagon is None:
            asyncio.run(_list(target, url, as_json))
        elif as_json:
            preview, _, _ = asyncio.run(_previewed(target, url, wagon))
            json_line(JobView(kind="undo", wagon=preview.wagon, count=preview.count, preview=preview))
        else:
            _undo(target, url, wagon, reason, by, partial=partial, again=again, dry_run=dry_run, yes=yes)


def _undo(
    target: str,
    url: str,
    wagon: str,
    reason: str,
    by: str | None,
    *,
    partial: bool,
    again: bool,
    dry_run: bool,
    yes: bool,
) -> None:
    """Count, ask, and request it. It is not connected while it asks."""
    preview, train, standing = asyncio.run(_previewed(target, url, wagon))
    for each in preview_in_words(preview, train):
        paragraph(each)
    name = wagon_name(train, preview.wagon)
    if dry_run:
        paragraph(f"{counted(preview.count, 'event')} of {name} would be undone, in {counted(preview.slices, 'wagon')}")
        return
    if preview.lacking and not partial:
        lacking = ", ".join(preview.lacking)
        raise UsageError(f"no undo handler for {lacking}: --partial leaves these channels as they are")
    if preview.unknown and not partial:
        raise UsageError(
            f"the archive lacks {counted(preview.unknown, 'event')} of {name}, which can't be undone: --partial leaves "
            "them as they are"
        )
    if standing and not again:
        raise UsageError(f"{name} is being undone, by undo {standing}: `eventwagon undo {train}` shows how far it is")
    if preview.undone and not again:
        raise UsageError(f"{name} was undone before: --again undoes it once more")
    question = f"undo {counted(preview.count, 'event')} of {name}"
    if preview.count and not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"this would {question}: say --yes")
        if not typer.confirm(f"{question[0].upper()}{question[1:]}?", err=True):
            raise Ended(Code.FAILED, "nothing was done")
    made = asyncio.run(_requested(target, url, preview, reason, by, partial=partial, again=again))
    paragraph(f"undo {made.number} of {name} is requested: `eventwagon undo {train}` shows how far it is")


async def _previewed(target: str, url: str, wagon: str) -> tuple[UndoPreview, str, int]:
    """The preview, the train's name, and the number of the undo of this wagon that is not over; 0: there is none."""
    async with reached(target, url) as c:
        number = wagon_number(wagon, c.train.name, "WAGON")
        assert number is not None  # noqa: S101 - for the type checker: a wagon is given
        preview = await c.undo.preview(number)
        standing = next((each.number for each in c.undo.standing if each.undo and each.undo.wagon == number), 0)
        return preview, c.train.name, standing


async def _requested(
    target: str, url: str, preview: UndoPreview, reason: str, by: str | None, *, partial: bool, again: bool
) -> Replay:
    async with reached(target, url) as c:
        return await c.undo.request(preview.wagon, reason, partial=partial, again=again, by=by)


async def _resume(target: str, url: str, number: int, reason: str, by: str | None, *, without_failed: bool) -> None:
    async with reached(target, url) as c:
        count = await c.undo.resume(number, reason, without_failed=without_failed, by=by)
    paragraph(f"undo {number} goes on" + (f", first with {counted(count, 'event')} once more" if count else ""))


async def _cancel(target: str, url: str, number: int, reason: str, by: str | None) -> None:
    async with reached(target, url) as c:
        done = await c.undo.cancel(number, reason, by=by)
    line(f"undo {number} is cancelled" if done else f"no undo {number} runs or waits: nothing was cancelled")


async def _list(target: str, url: str, as_json: bool) -> None:
    async with reached(target, url) as c:
        _print(c, as_json)


def _print(c: Connection, as_json: bool) -> None:
    standing = c.undo.standing
    if as_json:
        for each in standing:
            json_line(job_of(each, c.manifest))
        return
    if not standing:
        paragraph(f"nothing is undone now; `eventwagon why {c.train.name}` tells of undos that are over")
    for each in standing:
        paragraph(replay_in_words(each, c.manifest))
