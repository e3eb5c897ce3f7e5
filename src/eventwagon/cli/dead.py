"""`dead`: the events that could not be handled: shown, published again, deleted, exported."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, NamedTuple

import typer
from rich.text import Text

from ..connection import Connection
from ..display.text import count as counted
from ..display.text import local_time
from ..errors import UsageError
from ..event import wagon_name
from ..policy.letters import RETRIES, DeadFilter, DeadGroup, DeadLetter, DeadPreview
from ..runtime.retrying import DeadDone
from ..values import shown
from ..views.letters import began, letter_of
from ..views.retrying import done_with, left_out, stayed
from .completion import dead_words
from .console import DEFAULT_URL, AsJson, Code, Ended, Url, beside, ending, json_line, line, out, say
from .steer import By, Reason
from .target import check_wagon, reached, wagon_number
from .times import time_given

_SHOWN = 200
"""The most characters that are shown of a dead letter's data."""
_GROUPS = 20
"""The most groups that are shown before a question."""
_VERBS = ("list", "show", "retry", "drop", "export")
_NO_IDS = ("list",)
_NEEDS_FILTER = ("retry", "drop", "export")


class _Asked(NamedTuple):
    """What the command line says."""

    verb: str
    """Empty: the short form, `dead TARGET`."""
    target: str
    ids: tuple[str, ...]
    url: str
    wagon: str | None
    channel: str | None
    type: str | None
    subject: str | None
    error: str | None
    since: str | None
    until: str | None
    all: bool

    def filter_for(self, train: str) -> DeadFilter | None:
        """None: nothing is given. Raises UsageError."""
        channel = "" if self.channel == train else self.channel
        given = (self.wagon, channel, self.type, self.subject, self.error, self.since, self.until)
        if not self.ids and not self.all and all(each is None for each in given):
            return None
        return DeadFilter(
            ids=self.ids,
            wagon=wagon_number(self.wagon, train),
            channel=channel,
            type=self.type,
            subject=self.subject,
            error=self.error,
            since=time_given("--since", self.since),
            until=time_given("--until", self.until),
            all=self.all,
        )


def dead(
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[list|show|retry|drop|export] TARGET [ID]...",
            help="What to do, the train (module:attribute, or its name), and which events by id. "
            "TARGET alone lists all dead letters.",
            autocompletion=dead_words,
        ),
    ],
    url: Url = DEFAULT_URL,
    wagon: Annotated[
        str | None,
        typer.Option("--wagon", metavar="WAGON", help="Those that died in this wagon, by name (orders_v7) or number."),
    ] = None,
    channel: Annotated[
        str | None,
        typer.Option(
            "--channel", metavar="NAME", help="Those that died in this channel; the train's name: in the ingress."
        ),
    ] = None,
    event_type: Annotated[str | None, typer.Option("--type", metavar="TYPE", help="Those of this type.")] = None,
    subject: Annotated[
        str | None, typer.Option("--subject", metavar="SUBJECT", help="Those with this subject.")
    ] = None,
    error: Annotated[
        str | None,
        typer.Option("--error", metavar="TEXT", help="Those whose reason contains this, in upper or lower case."),
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", metavar="TIME", help="Those that died at this time or later: 2027-01-31T18:00:00Z."),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Those that died before this time.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All of them.")] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="With retry or drop: do it without asking at the terminal.")
    ] = False,
    number: Annotated[
        int | None,
        typer.Option("--count", min=0, metavar="NUMBER", help="With retry or drop: only if it is so many letters."),
    ] = None,
    retries: Annotated[
        int,
        typer.Option("--retries", min=1, metavar="NUMBER", help="Leave out what was retried so often, and died again."),
    ] = RETRIES,
    payload: Annotated[bool, typer.Option("--payload", help="With show: show the data too.")] = False,
    reason: Reason = "by hand",
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Show the dead letters of a train (which event failed, where and why), publish them again, or delete them.

    [bold]list[/bold] shows them in groups by channel and error. [bold]show[/bold] shows each, without its data.
    [bold]retry[/bold] publishes them again, with the same ids, into the channel in which they died. [bold]drop[/bold]
    deletes them. [bold]export[/bold] prints them as JSON with their data, one a line.

    retry and drop count first, ask, and do exactly what was counted; if the letters have changed since, they do
    nothing. They and export need a filter, or --all. If there is no dead letter with an ID that is given, it exits
    with 1.
    """
    with ending():
        verb, target, ids = _understood(words)
        asked = _Asked(verb, target, ids, url, wagon, channel, event_type, subject, error, since, until, every)
        if verb in ("retry", "drop"):
            _ordered(asked, yes=yes, number=number, retries=retries, reason=reason, by=by, as_json=as_json)
        elif yes or number is not None:
            raise UsageError("--yes and --count go with retry and drop")
        elif verb == "list":
            asyncio.run(_list(asked, as_json))
        else:
            asyncio.run(_show(asked, as_json=as_json or verb == "export", payload=payload or verb in ("", "export")))


def _understood(words: Sequence[str]) -> tuple[str, str, tuple[str, ...]]:
    """The verb, the target and the ids. Raises UsageError."""
    if words[0] not in _VERBS:
        if len(words) > 1:
            raise UsageError(f"dead {' '.join(map(shown, words))}: say what to do first: {', '.join(_VERBS)}")
        return "", words[0], ()
    if len(words) == 1:
        raise UsageError(f"dead {words[0]}: name the TARGET: module:attribute, or the name of a train")
    if words[0] in _NO_IDS and len(words) > 2:
        raise UsageError(f"dead {words[0]} takes no ids: `dead show {words[1]} {words[2]}`")
    return words[0], words[1], tuple(words[2:])


async def _letters(c: Connection, asked: _Asked) -> AsyncIterator[DeadLetter]:
    """Each letter once, even if a crash has stored it twice."""
    seen = set[tuple[object, ...]]()
    where = asked.filter_for(c.train.name)
    if where is None and asked.verb in _NEEDS_FILTER:
        raise _empty(asked.verb)
    async for letter in c.dead.list(where):
        if letter.mark not in seen:
            seen.add(letter.mark)
            yield letter


def _empty(verb: str) -> UsageError:
    return UsageError(
        f"dead {verb}: say which: an ID, --wagon, --channel, --type, --subject, --error, --since, --until, or --all"
    )


def _check_found(asked: _Asked, count: int, c: Connection) -> None:
    """Raise Ended if letters were named by id, and there is none of them; UsageError if there never was their wagon."""
    if count:
        return
    train = c.train.name
    if asked.ids:
        raise Ended(Code.FAILED, f"train {train!r} has no such dead letter: {asked.filter_for(train)}")
    check_wagon(c.manifest, wagon_number(asked.wagon, train))


async def _list(asked: _Asked, as_json: bool) -> None:
    async with reached(asked.target, asked.url) as c:
        where = asked.filter_for(c.train.name)
        found = (await c.dead.preview(where or DeadFilter(all=True))).groups
        _check_found(asked, len(found), c)
        for group in found:
            if as_json:
                json_line(group)
            else:
                _print(*_of_group(group, c.train.name))
        if not as_json:
            total = sum(group.count for group in found)
            groups = f" in {counted(len(found), 'group')}" if found else ""
            line(f"{counted(total, 'dead letter')}{groups}")


async def _show(asked: _Asked, *, as_json: bool, payload: bool) -> None:
    async with reached(asked.target, asked.url) as c:
        count = 0
        async for letter in _letters(c, asked):
            count += 1
            if as_json:
                found = letter_of(letter.event)
                json_line(found if payload else {**found, "data": None, "bytes": len(letter.event.data)})
            else:
                _print(*_of_letter(letter, c.train.name, payload))
        _check_found(asked, count, c)
        if not as_json:
            line(counted(count, "dead letter"))


# --- retry and drop ------------------------------------------------------------------------------


def _ordered(
    asked: _Asked, *, yes: bool, number: int | None, retries: int, reason: str, by: str | None, as_json: bool
) -> None:
    """Count, ask, and do what was counted. It is not connected while it asks."""
    preview, train = asyncio.run(_previewed(asked, retries))
    count = preview.retried if asked.verb == "retry" else preview.count
    if number not in (None, count):
        raise Ended(Code.FAILED, f"{counted(count, 'dead letter')}, not {number:,}: nothing was done")
    if not as_json:
        for group in preview.groups[:_GROUPS]:
            _print(*_of_group(group, train))
        if (more := len(preview.groups) - _GROUPS) > 0:
            line(f"and {counted(more, 'more group')}")
    for note in left_out(preview) if asked.verb == "retry" else ():
        say(note)
    if not count:
        _tell(asked.verb, DeadDone(count=0, refused=0, left=0), as_json)
        return
    doing = "publish {} again, with the same ids" if asked.verb == "retry" else "delete {} for good"
    question = doing.format(counted(count, "dead letter"))
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError(f"this would {question}: say --yes")
        if not typer.confirm(f"{question[0].upper()}{question[1:]}?", err=True):
            raise Ended(Code.FAILED, "nothing was done")
    done = asyncio.run(_carried_out(asked, preview, reason, by))
    _tell(asked.verb, done, as_json)
    if left := stayed(done):
        raise Ended(Code.FAILED, left)


async def _previewed(asked: _Asked, retries: int) -> tuple[DeadPreview, str]:
    async with reached(asked.target, asked.url) as c:
        where = asked.filter_for(c.train.name)
        if where is None:
            raise _empty(asked.verb)
        preview = await c.dead.preview(where, retries=retries)
        _check_found(asked, preview.count, c)
        return preview, c.train.name


async def _carried_out(asked: _Asked, preview: DeadPreview, reason: str, by: str | None) -> DeadDone:
    async with reached(asked.target, asked.url) as c:
        order = c.dead.retry if asked.verb == "retry" else c.dead.drop
        return await order(preview, reason, by=by)


def _tell(verb: str, done: DeadDone, as_json: bool) -> None:
    if as_json:
        json_line(done)
    else:
        line(done_with(verb, done))


# --- for a person --------------------------------------------------------------------------------


def _print(head: str, title: str, *rest: str) -> None:
    console = out()
    if console.is_terminal:
        console.print(beside(Text(head), title))
        for text in rest:
            console.print(beside(Text("  "), text))
        return
    line(f"{head}  {title}")
    for text in rest:
        line(f"  {text}")


def _of_group(group: DeadGroup, train: str) -> tuple[str, ...]:
    low, high = group.wagons
    wagons = _wagon(train, low) if low == high else f"{_wagon(train, low)} to {_wagon(train, high)}"
    return (
        f"{group.count:>7,}",
        f"{group.channel or 'ingress'}, {wagons}, {local_time(group.first_at)} to {local_time(group.last_at)}",
        group.because,
        f"newest {group.newest}",
    )


def _of_letter(letter: DeadLetter, train: str, payload: bool) -> tuple[str, ...]:
    """The time, the event, the reason, and the beginning of its data."""
    event, x = letter.event, letter.event.extensions
    channel = f"{'undo of ' if letter.was_undone else ''}{letter.channel or 'ingress'}"
    where = f"{_wagon(train, x.get('deadwagon', '?'))} {channel}"
    subject = f", subject {event.subject}" if event.subject is not None else ""
    chain_began = began(event)
    chain = f", of a chain that began {local_time(chain_began)}" if chain_began is not None else ""
    attempts = counted(letter.attempts, "attempt") if letter.attempts or x.get("deadattempts") == "0" else "? attempts"
    retried = f", retried {counted(letter.retries, 'time')}" if letter.retries else ""
    return (
        local_time(letter.died_at or event.time),
        f"{where}, {attempts}{retried}  {event.id}{subject}{chain}",
        letter.because,
        f"{event.type} {data_shown(event.data)}" if payload else f"{event.type}, {counted(len(event.data), 'byte')}",
    )


def data_shown(data: bytes) -> str:
    """The beginning of an event's data, for a person."""
    text = data[: 4 * _SHOWN].decode(errors="backslashreplace")[:_SHOWN]
    return text + (f" … ({len(data):,} bytes)" if len(data) > 4 * _SHOWN or len(text) == _SHOWN else "")


def _wagon(train: str, number: object) -> str:
    """Where it died. What could not even be published was in no wagon."""
    return wagon_name(train, number) if str(number) != "0" else "no wagon"
