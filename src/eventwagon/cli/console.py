"""Shared by all commands: output to stdout and stderr, formatting, exit codes, and one clear line for a user's
mistake."""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import sys
import traceback
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from enum import IntEnum
from typing import Annotated, Any, ParamSpec

import msgspec
import typer
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from ..display.text import as_line, escaped, indented, said, without_middle
from ..display.text import span as span
from ..errors import EventwagonError, UsageError
from ..runtime.bulkhead import is_long, shown

_P = ParamSpec("_P")

DEFAULT_URL = "sqlite:///.eventwagon"

Url = Annotated[
    str,
    typer.Option("--url", "-u", envvar="EVENTWAGON_URL", metavar="URL", help="URL of the broker and registry."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


_PIPED = 10_000
"""Columns of a table that no terminal shows: enough for its longest reason."""


class Code(IntEnum):
    """The exit code of a command."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_IN_TIME = 3
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 done · 1 failed (broker, registry, data) · 2 wrong usage (command line, program) · "
    "3 not done in time · 130 interrupted."
)


class Ended(Exception):
    """Raised to end a command with the exit code `code`; the message, if any, is printed to stderr as one line."""

    def __init__(self, code: Code, message: str = "") -> None:
        super().__init__(message)
        self.code = code


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError instead of exiting: `ending` handles it."""
        raise BrokenPipeError


def out() -> Console:
    """A console on stdout, for results. Created at each call, since `sys.stdout` may have been replaced."""
    return _Console(highlight=False)


def tables() -> Console:
    """The same for tables: what is piped into another program is not wrapped or cut, unless COLUMNS says so."""
    console = out()
    if not console.is_terminal and not os.environ.get("COLUMNS"):
        console.width = _PIPED
    return console


def err() -> Console:
    """A console on stderr, for progress, notes and logs."""
    return _Console(stderr=True, highlight=False)


def say(message: str) -> None:
    """Print a note to stderr: one line, without markup, control characters and secrets. On a terminal it wraps as a
    `paragraph` does."""
    text = as_line(f"eventwagon: {message}")
    lines = _wrapped(text, err()) if sys.stderr.isatty() else [text]
    print("\n".join(lines), file=sys.stderr, flush=True)


def line(text: str = "") -> None:
    """Print one line of a result to stdout, with control characters escaped."""
    sys.stdout.write(escaped(text) + "\n")


def paragraph(text: str) -> None:
    """Print one line of a result to stdout. A terminal that is too narrow for it gets several: it wraps between words,
    and the further ones are indented by four more characters."""
    console = out()
    for each in _wrapped(text, console) if console.is_terminal else [escaped(text)]:
        sys.stdout.write(each + "\n")


def _wrapped(text: str, console: Console) -> list[str]:
    """The text in as many lines as a terminal of that width needs."""
    body = words(text.lstrip(" "))
    indent = " " * (len(text) - len(text.lstrip(" ")))
    if len(indent) + body.cell_len <= console.width:
        return [f"{indent}{body}"]
    first, *rest = body.wrap(console, max(12, console.width - len(indent) - 4), overflow="fold")
    return [each.rstrip() for each in (f"{indent}{first}", *(f"{indent}    {each}" for each in rest))]


def json_line(value: object) -> None:
    """Print `value` to stdout as one line of JSON. Characters that are not printable are escaped as `\\u….`, which
    means the same."""
    found = msgspec.json.encode(value).decode()
    if not found.isprintable():
        found = "".join(c if c.isprintable() else _in_json(c) for c in found)
    sys.stdout.write(found + "\n")


def _in_json(character: str) -> str:
    units = character.encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def words(text: str, style: str = "") -> Text:
    """Text from outside, made safe for a terminal: on one line, without markup and control characters."""
    return Text(escaped(text), style)


def beside(head: Text, text: str) -> RenderableType:
    """`text` in a column to the right of `head`. It wraps inside this column, so that no part of it can pass for
    another line."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(head, words(text))
    return grid


def breadth(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> int:
    """The width of these columns in a `listing`, in characters, including the gap after each."""
    heads = [len(name.removeprefix(">")) for name in columns]
    return sum(max([head, *(cell_len(str(row[i])) for row in rows)]) + 2 for i, head in enumerate(heads))


def narrowed(
    columns: Sequence[str], rows: Sequence[Sequence[str | Text]], left_out: Sequence[str], width: int
) -> tuple[list[str], list[list[str | Text]]]:
    """The columns and rows of a `listing` without as many of the columns `left_out`, the first of them first, as it
    takes to fit into the width; without all of them if nothing helps."""
    for least in range(len(left_out) + 1):
        shown = [i for i, name in enumerate(columns) if name not in left_out[:least]]
        names, cells = [columns[i] for i in shown], [[row[i] for i in shown] for row in rows]
        if breadth(names, cells) <= width:
            break
    return names, cells


def listing(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], width: int) -> Table:
    """A plain table. Columns whose name begins with `>` are aligned to the right. The last column is truncated to what
    is left of `width` characters."""
    cells = [[cell if isinstance(cell, Text) else words(cell) for cell in row] for row in rows]
    names = [name.removeprefix(">") for name in columns]
    room = max(12, width - breadth(columns[:-1], cells))
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 1))
    for name, column in zip(names, columns, strict=True):
        table.add_column(name, justify="right" if column.startswith(">") else "left", no_wrap=True)
    for row in cells:
        row[-1].truncate(room, overflow="ellipsis")
        table.add_row(*row)
    return table


def debugging() -> bool:
    """Whether tracebacks are wanted, by `--debug` or by the environment variable EVENTWAGON_DEBUG."""
    return os.environ.get("EVENTWAGON_DEBUG", "") not in ("", "0")


def job(main: Callable[_P, Coroutine[Any, Any, None]]) -> Callable[_P, None]:
    """Decorator that makes a coroutine function a command: runs it in an event loop, and handles its errors as `ending`
    does."""

    @functools.wraps(main)
    def command(*args: _P.args, **kwargs: _P.kwargs) -> None:
        with ending():
            asyncio.run(main(*args, **kwargs))

    return command


class ending:  # noqa: N801 - used as a statement: `with ending():`
    """Turns an error of the body into a line on stderr and an exit code. The traceback of an unexpected error comes
    before the line."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: object) -> None:
        if error is None:
            try:
                sys.stdout.flush()
            except OSError as unflushed:
                if not _is_unwritable(unflushed):
                    raise
                error = unflushed
            else:
                return
        causes = list(_leaves(error))
        if debugging():
            _print_traceback(error)
        if unwritable := [e for e in causes if _is_unwritable(e)]:
            _forget_stdout()
            if not isinstance(unwritable[0], BrokenPipeError):
                say(f"the output can't be written: {unwritable[0]}")
            raise typer.Exit(Code.FAILED) from None
        if isinstance(error, typer.Abort):  # Ctrl-C or Ctrl-D at a question, in whose line the cursor is
            print(file=sys.stderr)
        if any(isinstance(e, KeyboardInterrupt | asyncio.CancelledError | typer.Abort) for e in causes):
            say("interrupted")
            raise typer.Exit(Code.INTERRUPTED) from None
        if isinstance(error, SystemExit | GeneratorExit | typer.Exit):
            return
        if not all(isinstance(e, EventwagonError | Ended) for e in causes):
            if not debugging():
                _print_traceback(error)
            say(f"unexpected, please report it: {said(error)}")
            raise typer.Exit(Code.FAILED) from None
        for e in dict.fromkeys(map(str, causes)):
            if e:
                say(e)
        raise typer.Exit(max(_code(e) for e in causes)) from None


def _print_traceback(error: BaseException) -> None:
    """Print the traceback to stderr, without secrets, and indented so that none of its lines can pass for one of
    ours."""
    lines = traceback.format_exception(*shown(error)) if is_long(error) else traceback.format_exception(error)
    print(indented(without_middle("".join(lines))), file=sys.stderr, flush=True)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for e in error.exceptions:
            yield from _leaves(e)
    else:
        yield error


def _code(error: BaseException) -> Code:
    if isinstance(error, Ended):
        return error.code
    return Code.USAGE if isinstance(error, UsageError) else Code.FAILED


def _is_unwritable(error: BaseException) -> bool:
    """Whether the reader of stdout has gone, or the disk to which it is written is full."""
    return isinstance(error, BrokenPipeError) or (
        isinstance(error, OSError)
        and error.filename is None
        and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    )


def _forget_stdout() -> None:
    """Redirect stdout to the null device once it can't be written, so that flushing it at exit can't fail again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
