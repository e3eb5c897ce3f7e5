"""`publish`: publishes JSON Lines from a file or stdin, each line as one event."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from ..connection import Connection
from ..display.text import count
from ..errors import EventTooLarge, PublishError, UsageError
from ..event import Event, check_word, checked, new_ids
from ..input_blocks import blocks
from ..metrics.serving import LOOPBACK
from ..payload import type_name
from ..times import When
from ..tracing.exporting import exporting
from ..train import Train
from .completion import Anchor
from .console import DEFAULT_URL, Code, Ended, Url, err, job, line, say
from .fitting import Misfit, decoded
from .later import After, At, asked
from .scraped import MetricsHost, OwnMetricsPort, Scraped
from .target import load_train, reached

_BATCH = 500
_SHOWN = 20  # bad lines that are listed one by one
_BOM = b"\xef\xbb\xbf"


@job
async def publish(
    target: Anchor,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="File of JSON Lines, one event per line; -: stdin.")
    ] = "-",
    url: Url = DEFAULT_URL,
    subject_field: Annotated[
        str, typer.Option(metavar="FIELD", help="Field of the payload that becomes the event's subject.")
    ] = "",
    event_type: Annotated[
        str, typer.Option("--type", metavar="TYPE", help="Event type. Default: the class of the payload.")
    ] = "",
    skip_bad: Annotated[
        bool,
        typer.Option("--skip-bad", help="Skip bad lines, list them at the end, and exit with 1. Default: stop there."),
    ] = False,
    after: After = None,
    at: At = None,
    metrics_port: OwnMetricsPort = None,
    metrics_host: MetricsHost = LOOPBACK,
) -> None:
    """Publish JSON Lines to a train, now or (with --after or --at) later.

    If TARGET is a program, each line must fit the payload type of the ingress handler; a line that does not fit is
    refused here, so that it does not become a dead letter. If TARGET is a train's name, any JSON is sent unchanged. At
    a bad line it stops: the lines before it are published, and the error says how many.
    """
    train = load_train(target) if ":" in target else None
    parse = Parser(train, subject_field, event_type)
    later, scraped = asked(at, after), Scraped(metrics_port, metrics_host)
    meter = scraped.meter
    source, size = _open(file)
    try:
        # a program's train may be founded by publishing to it; a mere name must be one that exists
        with exporting("eventwagon publish"):
            async with (
                scraped.answering(),
                train.connect(url, listeners=(), meter=meter) if train else reached(target, url, meter=meter) as c,
            ):
                await Publishing(c, parse, skip_bad=skip_bad, later=later).run(source, size)
    finally:
        if source:
            os.close(source)


def _open(file: str) -> tuple[int, int | None]:
    """Open the input. Returns its file descriptor (0: stdin) and its size in bytes, None if it is no regular file.
    Raises UsageError if it can't be read."""
    try:
        source = 0 if file == "-" else os.open(Path(file), os.O_RDONLY)
        found = os.fstat(source)
    except OSError as e:
        raise UsageError(f"{file} can't be read: {e.strerror}") from None
    if stat.S_ISDIR(found.st_mode):
        raise UsageError(f"{file} is a directory; give a file of JSON Lines")
    if source == 0 and sys.stdin.isatty():
        say("reading JSON Lines from the terminal; Ctrl-D ends")
    return source, found.st_size if stat.S_ISREG(found.st_mode) else None


class BadLine(Exception):
    """A line is not a valid event; the message says why."""


class Parser:
    """Parses a line of JSON into an event. A call raises BadLine; the constructor raises UsageError if no event may
    have this type."""

    def __init__(self, train: Train | None, subject_field: str, event_type: str) -> None:
        self._handler = train.handlers.get("") if train else None
        self._subject_field = subject_field
        self._type = check_word("type", event_type) if event_type else ""

    def __call__(self, text: bytes, event_id: str, now: float, c: Connection) -> Event:
        try:
            payload = msgspec.json.decode(text)
        except msgspec.DecodeError as e:
            raise BadLine(f"not JSON: {str(e).removeprefix('JSON is malformed: ')}") from None
        except UnicodeDecodeError as e:
            raise BadLine(f"not UTF-8: {e}") from None
        except RecursionError:
            raise BadLine("nested too deep") from None
        event = Event(event_id, self._type or type_name(payload), c.train.source, now, text, self._subject(payload))
        if self._handler is not None:
            try:
                fits = decoded(self._handler, event)
            except Misfit as e:
                raise BadLine(str(e)) from None
            if not self._type and not isinstance(fits, Event | bytes | bytearray | memoryview):
                event = msgspec.structs.replace(event, type=type_name(fits))
        try:
            return checked(event, c.publishing.now.max_event_bytes)
        except (UsageError, EventTooLarge) as e:
            raise BadLine(str(e)) from None

    def _subject(self, payload: object) -> str | None:
        if not self._subject_field:
            return None
        value = payload.get(self._subject_field) if isinstance(payload, dict) else None
        if value is None or isinstance(value, dict | list):
            raise BadLine(f"no field {self._subject_field!r} that could be the subject")
        return value if isinstance(value, str) else msgspec.json.encode(value).decode()


class _Line(NamedTuple):
    number: int
    text: bytes


class Publishing:
    """One run of `publish`: counts the accepted events and collects the bad lines."""

    def __init__(self, c: Connection, parse: Parser, *, skip_bad: bool, later: When | None = None) -> None:
        self._c = c
        self._parse = parse
        self._skip_bad = skip_bad
        self._later = later
        self._accepted = 0
        self._bad: list[tuple[int, str]] = []
        self._bad_count = 0

    async def run(self, source: int, size: int | None) -> None:
        """Publish all of `source`, a file descriptor; `size` is its length in bytes, if known, for the progress bar.
        Raises Ended at a bad line or if publishing fails."""
        console = err()
        progress = Progress(
            TextColumn("publishing"),
            BarColumn(),
            *((DownloadColumn(), TaskProgressColumn(), TimeRemainingColumn()) if size else ()),
            TextColumn("{task.fields[events]}"),
            console=console,
        )
        with progress if console.is_terminal else nullcontext():
            task = progress.add_task("", total=size, events=count(0, "event"))
            try:
                async with blocks(source) as read:
                    rest, number, at = b"", 0, 0
                    while block := await read():
                        at += len(block)
                        *whole, rest = (rest + block).split(b"\n")
                        await self._lines([_Line(number + i, text) for i, text in enumerate(whole, start=1)])
                        number += len(whole)
                        progress.update(task, completed=at, events=count(self._accepted, "event"))
                    if rest.strip():
                        await self._lines([_Line(number + 1, rest)])
                    progress.update(task, completed=at, events=count(self._accepted, "event"))
            except PublishError as e:
                raise Ended(Code.FAILED, f"{e}; {self._so_far()}") from e
        self._report()

    async def _lines(self, lines: list[_Line]) -> None:
        for start in range(0, len(lines), _BATCH):
            part = lines[start : start + _BATCH]
            events: list[Event] = []
            now = time.time() if self._later is None else self._later.due(time.time())
            for (number, raw), event_id in zip(part, new_ids(len(part), now), strict=True):
                text = (raw.removeprefix(_BOM) if number == 1 else raw).strip()
                if not text:
                    continue
                try:
                    events.append(self._parse(text, event_id, now, self._c))
                except BadLine as e:
                    await self._refuse(number, str(e), events)
            await self._send(events)

    async def _refuse(self, number: int, why: str, before: list[Event]) -> None:
        self._bad_count += 1
        if not self._skip_bad:
            await self._send(before)
            raise Ended(Code.FAILED, f"line {number}: {why}; {self._so_far()}")
        if len(self._bad) < _SHOWN:
            self._bad.append((number, why))

    async def _send(self, events: list[Event]) -> None:
        if self._later is not None:
            await self._keep(events, self._later)
            return
        try:
            self._accepted += await self._c.publish_many(events)
        except PublishError as e:
            self._accepted += e.accepted
            raise

    async def _keep(self, events: list[Event], later: When) -> None:
        """Have them kept for later. Raises PublishError for the first that is not."""
        after = later.after if later.at is None else None
        keeping = (self._c.publish(event, at=later.at, after=after) for event in events)
        for outcome in await asyncio.gather(*keeping, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
            self._accepted += 1

    def _so_far(self) -> str:
        return f"accepted before it: {count(self._accepted, 'event')}"

    def _report(self) -> None:
        for number, why in self._bad:
            say(f"line {number}: {why}")
        if self._bad_count > len(self._bad):
            say(f"... and {self._bad_count - len(self._bad):,} bad lines more")
        what = "published" if self._later is None else "kept for later:"
        line(f"{what} {count(self._accepted, 'event')} to {self._c.train.name}")
        if self._bad_count:
            raise Ended(Code.FAILED, f"{count(self._bad_count, 'bad line')} skipped")
