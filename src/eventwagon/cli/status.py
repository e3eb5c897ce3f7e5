"""`status`: shows the present state of a train's wagons."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ..connection import Connection
from ..contracts.lifecycle import State
from ..display.text import count
from ..views.notes import Level, Note, conditions, later_note, losses, who_is_there
from ..views.train import View, WagonView, look
from ..workers import ORCHESTRATED
from .completion import Anchor
from .console import (
    DEFAULT_URL,
    AsJson,
    Url,
    beside,
    breadth,
    job,
    json_line,
    listing,
    narrowed,
    out,
    span,
    tables,
    words,
)
from .schedules import schedule_lines
from .target import reached

_EVERY = 0.5
COLOURS = {
    State.PROVISIONING: "cyan",
    State.READY: "cyan",
    State.ACTIVE: "bold green",
    State.DRAINING: "yellow",
    State.DRAINED: "dim",
    State.REMOVING: "dim",
    State.FAILED: "red",
}


@job
async def status(
    target: Anchor,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh twice a second, until Ctrl-C.")] = False,
    all_: Annotated[bool, typer.Option("--all", "-a", help="Show removed wagons too, from the journal.")] = False,
) -> None:
    """Show the wagons of a train: state, fill, backlog, workers, and the reason for each state.

    [bold]taken[/bold]: events published to the ingress, and its exact bound if it has one. [bold]waiting[/bold]:
    claimed by no process. [bold]in flight[/bold]: prefetched, or in a handler. [bold]settled[/bold]: done.
    [bold]inside[/bold]: not settled in the inner channels. [bold]workers[/bold]: the wagon's own; of shared workers,
    those that had one of its events at the last check-in. [bold]schedule[/bold]: its last tick on record, and the
    next, if TARGET names the program.

    A figure that the broker does not know is `?`. Dead letters are counted as they are stored: one that a crash has
    stored twice counts as two, and `dead` counts it once. A narrow terminal leaves columns out.
    """
    if not watch:
        async with reached(target, url) as c:
            _print(await look(c, url, removed=all_), as_json)
        return
    with suppress(asyncio.CancelledError):  # Ctrl-C, which is how it ends
        async with reached(target, url) as c:
            await _watch(c, url, as_json, removed=all_)


async def _watch(c: Connection, url: str, as_json: bool, *, removed: bool) -> None:
    console = out()
    if as_json or not console.is_terminal:
        while True:
            _print(await look(c, url, removed=removed), as_json)
            await asyncio.sleep(_EVERY)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            view = await look(c, url, removed=removed)
            live.update(table(view, console, high=console.height), refresh=True)
            await asyncio.sleep(_EVERY)


def _print(view: View, as_json: bool) -> None:
    if as_json:
        json_line(view)
    else:
        console = tables()
        console.print(table(view, console))


def table(view: View, console: Console, *, high: int | None = None) -> RenderableType:
    """Render the view for a person. `high`: leave out wagons in the middle until it fits into so many lines; at least
    two wagons stay."""
    rows = [*view.removed, *view.wagons]
    keep = len(rows) if high is None else min(len(rows), max(2, high))
    while True:
        shown = _table(view, rows, keep, console, None if high is None else max(3, high // 4))
        over = 0 if high is None else len(console.render_lines(shown, pad=False)) - high
        if over <= 0 or keep <= 2:
            return shown
        keep = max(2, keep - max(1, over // 4))


def _table(view: View, rows: list[WagonView], keep: int, console: Console, schedules: int | None) -> RenderableType:
    """With `keep` of the wagons, and so many of the schedules (None: all)."""
    left_out = len(rows) - keep
    if left_out > 0:
        rows = rows[: keep // 2] + rows[len(rows) - (keep - keep // 2) :]
    parts: list[RenderableType] = [_head(view), _wagons(view, rows, console.width)]
    if left_out > 0:
        parts.append(Text(f"  and {count(left_out, 'wagon')} between these", style="dim"))
    parts += _lines(losses(view, rows))
    parts += _lines(later_note(view))
    parts += schedule_lines(view.schedules, view.at, schedules)
    parts += _lines(conditions(view, rows))
    return Group(*parts)


_STYLES: dict[Level, str] = {"bad": "bold red", "alert": "bold yellow", "warn": "yellow", "request": "bold", "info": ""}


def _lines(notes: Iterable[Note]) -> list[Text]:
    return [words(note.text, _STYLES[note.level]) for note in notes]


def _head(view: View) -> Text:
    settings = view.declared
    text = Text(overflow="ellipsis", no_wrap=True)
    workers = f"{ORCHESTRATED!r} by default" if view.elastic_by_default else settings.get("workers", "?")
    declared = (
        f"  limit {settings.get('limit', '?')}, {workers}"
        if settings
        else "  not declared: no program with handlers has run"
    )
    text.append(words(view.train, "bold")).append(words(declared)).append("\n")
    text.append(who_is_there(view), style="" if view.dead == 0 else "red")
    return text


_LEFT_OUT = (">settled", ">inside", ">workers", ">in flight")
"""The columns that are left out if the terminal is too narrow, in this order."""


def _wagons(view: View, rows: Sequence[WagonView], width: int) -> RenderableType:
    """A table of the wagons. The reasons are its last column if they all fit there; otherwise they follow below it.
    Why a wagon is paused follows with the other conditions."""
    coded = any(w.revision for w in rows)
    head = ["wagon", *(["revision"] if coded else []), "state"]
    head += [">taken", ">waiting", ">in flight", ">settled", ">inside", ">workers", ">age"]
    columns, cells = narrowed(head, [_row(w, coded) for w in rows], _LEFT_OUT, width)
    room = width - breadth(columns, cells)
    whys = ["paused" if w.paused and not view.paused else w.reason for w in rows]
    reasons = [words(why) for why in whys]
    if all(why.cell_len <= room for why in reasons):
        return listing((*columns, "why"), [[*row, why] for row, why in zip(cells, reasons, strict=True)], width)
    below = [beside(Text(w.name, "dim"), why) for w, why in zip(rows, whys, strict=True) if why]
    return Group(listing((*columns, ""), [[*row, ""] for row in cells], width), *below)


def _row(w: WagonView, coded: bool) -> list[str | Text]:
    return [
        w.name,
        *([w.revision] if coded else []),
        words(w.state, COLOURS[State(w.state)] if w.state in set(State) else "dim"),
        _count(w.published) + (f"/{w.limit:,}" if w.limit else ""),
        *map(_count, (w.waiting, w.in_flight, w.settled, w.inside, w.workers)),
        span(w.age),
    ]


def _count(n: int | None) -> str:
    return "?" if n is None else f"{n:,}"
