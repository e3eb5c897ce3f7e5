"""Wagons' logs: reads their last lines, and passes them on with the wagon's name before each line."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from ...display.json_lines import is_asked_for, is_in_use, passed_on
from ...display.text import as_line
from .records import older, stands

_LINE = 8192
"""The longest part of a line, in bytes, that is passed on in one piece."""
_LONGEST = 256 * 1024
"""The same of a line of JSON, which can't be cut: it may hold a traceback."""
_FRAMES = 3
"""How many of the innermost frames are shown if a signal ended the interpreter."""
_KEPT = 16
"""How many logs are kept for each train if they have a directory of their own."""


class OutputTail:
    """Passes what is added to a log on to stderr, in whole lines."""

    def __init__(self, path: Path, name: str) -> None:
        self._path = path
        self._name = name
        self._descriptor = os.open(path, os.O_RDONLY)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        self._partial = b""
        self._as_json = is_asked_for() or is_in_use()

    def drain(self) -> None:
        """Pass on what has been added."""
        self._read()
        if not stands(self._descriptor, self._path):  # the log was full, and a new one was begun
            try:
                new = os.open(self._path, os.O_RDONLY)
            except FileNotFoundError:
                return
            self._read()
            os.close(self._descriptor)
            self._descriptor = new
            self._read()

    def close(self) -> None:
        """Pass on the rest and close the log. Don't use the object after that."""
        self.drain()
        os.close(self._descriptor)

    def _read(self) -> None:
        while got := os.read(self._descriptor, 65536):
            *lines, self._partial = (self._partial + got).split(b"\n")
            if len(self._partial) > (_LONGEST if self._as_json else _LINE):
                lines, self._partial = [*lines, self._partial], b""
            text = "".join(f"{self._shown(line.decode(errors='replace'))}\n" for line in lines)
            if text:
                sys.stderr.write(text)

    def _shown(self, line: str) -> str:
        return passed_on(line, self._name) if self._as_json else f"{self._name} | {as_line(line)}"


def last_lines(path: Path, *, since: int = 0, lines: int = 8, most: int = 1000) -> str:
    """The end of a log, as one line of text; empty if there is nothing. `since`: how long it was before; what stood
    there is left out, unless a new log was begun."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            file.seek(max(since if since <= size else 0, size - 16384))
            text = file.read().decode(errors="replace")
    except OSError:
        return ""
    found = [line.strip() for line in text.splitlines() if line.strip()]
    return in_one(_fatal(found) or found[-lines:], most=most)


def _fatal(lines: Sequence[str]) -> Sequence[str]:
    """If the lines end with a report of faulthandler: its first line, and where the interpreter was. The last lines of
    the report say only how the program began. https://docs.python.org/3/library/faulthandler.html"""
    begins = max((n for n, line in enumerate(lines) if line.startswith("Fatal Python error")), default=None)
    if begins is None or not lines[-1].startswith(("File ", "Extension modules")):
        return ()
    dump = lines[begins:]
    current = next((n for n, line in enumerate(dump) if line.startswith("Current thread")), len(dump))
    return [dump[0], *dump[current + 1 : current + 1 + _FRAMES]]


def in_one(lines: Iterable[str], *, most: int = 1000) -> str:
    """Join the lines into one, without secrets."""
    joined = as_line(" / ".join(lines))
    return joined if len(joined) <= most else "… " + joined[-most:]


def keep_newest(directory: Path, train: str) -> None:
    """Remove all logs but those of the train's newest wagons."""
    found = {}
    for path in directory.glob(f"{train}_v*.log"):
        digits = path.stem.removeprefix(f"{train}_v")
        if digits.isdigit():
            found[int(digits)] = path
    for number in sorted(found)[:-_KEPT]:
        found[number].unlink(missing_ok=True)
        older(found[number]).unlink(missing_ok=True)
