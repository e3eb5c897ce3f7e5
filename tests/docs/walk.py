"""Walks through a document as a reader does: saves its files, types its commands, compares what is printed.

Marks above blocks, besides `file: NAME`:

- `terminal: N`: a command that goes on, typed into terminal N; what ran there has been ended with Ctrl-C.
- `terminal: N ends`: what runs in terminal N is killed before the block.
- `fails`: its last command ends with an error.
- `output`: what the block above prints, in order, in parts; numbers and times may differ. A command that only looks is
  repeated until it prints that. `output: without WORD`: and nothing with this word.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO

from tests.docs.documents import ROOT, all_blocks, name

WALKED = {
    "docs/howto/choose-a-limit.md": "tests/docs/test_choosing.py",
    "docs/howto/move-a-kafka-topic.md": "tests/bridge/test_moving.py",
    "docs/howto/move-a-redis-stream.md": "tests/bridge/test_moving.py",
    "docs/howto/move-an-sqs-queue.md": "tests/bridge/test_moving.py",
    "docs/tutorial.md": "tests/redis/test_tutorial.py",
}
"""The documents, and the tests that walk through them."""

PATIENCE = 40.0
"""Seconds that a command has to print what the document says, on a loaded machine."""
_LOOKS = ("status", "why", "dead list", "audit")
_NOT_TYPED = ("pip ", "python -m venv", ". .venv")
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_NAME = re.compile(r"\b[\w.-]+-\d+-[0-9a-f]{4}\b")
_NUMBER = re.compile(r"(?<![A-Za-z_\d])-?\d[\d.,:]*")


def shape(text: str) -> str:
    """Without numbers, times, names of processes and the width of columns."""
    return " ".join(_NUMBER.sub("#", _NAME.sub("NAME", _ANSI.sub("", text))).split())


def missing(expected: str, printed: str) -> list[str]:
    """The expected lines that are not there, in this order."""
    lines, left = [shape(line) for line in printed.splitlines()], []
    for line in expected.splitlines():
        found = next((n for n, each in enumerate(lines) if shape(line) in each), None)
        if found is None:
            left.append(line)
        else:
            lines = lines[found + 1 :]
    return left


class Walk:
    """In a directory of its own. `places`: what stands in the document, and what it is here; also in what is printed.
    `without`: parts of commands that are not typed. `saved`: what stands in files, and what is saved instead."""

    def __init__(
        self,
        document: str,
        directory: Path,
        *,
        places: Mapping[str, str] | None = None,
        without: Sequence[str] = (),
        saved: Mapping[str, str] | None = None,
    ) -> None:
        self._document, self._directory = ROOT / document, directory
        self._places, self._without = dict(places or {}), (*_NOT_TYPED, *without)
        self._saved = dict(saved or {})
        self._terminals: dict[str, tuple[subprocess.Popen[str], Path, IO[str]]] = {}
        here = {key: value for key, value in os.environ.items() if not key.startswith("EVENTWAGON_")}
        path = f"{Path(sys.executable).parent}{os.pathsep}{here['PATH']}"
        self._environment = {**here, "PATH": path, "COLUMNS": "250"}
        self._last: list[str] = []
        self._printed = ""
        self._log: Path | None = None
        self._where = ""

    def __enter__(self) -> Walk:
        return self

    def __exit__(self, *_: object) -> None:
        for terminal in list(self._terminals):
            self._end(terminal, signal.SIGINT)

    def go(self) -> None:
        """To the end of the document."""
        for block in all_blocks(self._document):
            self._where = f"{name(self._document)}:{block.line}"
            kind, _, what = block.mark.partition(": ")
            if block.kind == "python" and kind == "file":
                text = block.text
                for there, here in self._saved.items():
                    text = text.replace(there, here)
                (self._directory / what).write_text(text)
            elif block.kind == "python":
                self._type([f"{shlex.quote(sys.executable)} -c {shlex.quote(block.text)}"], fails=False)
            elif block.kind == "sh":
                self._sh(block.text, kind, what)
            elif kind == "output":
                self._compare(block.text, what.removeprefix("without "))

    @property
    def printed(self) -> str:
        """What the commands since the latest block have printed."""
        return self._printed

    def _sh(self, text: str, kind: str, what: str) -> None:
        typed = text.replace("\\\n", " ")
        for there, here in self._places.items():
            typed = typed.replace(there, here)
        lines = [line for line in typed.splitlines() if not any(part in line for part in self._without)]
        if kind == "terminal" and not what.endswith(" ends"):
            (line,) = lines
            self._start(what, line)
            return
        if kind == "terminal":
            self._end(what.removesuffix(" ends"), signal.SIGKILL)
        if lines:
            self._log, self._printed = None, ""
        self._type(lines, fails=kind == "fails")

    def _type(self, lines: Sequence[str], *, fails: bool) -> None:
        for line in lines:
            words = shlex.split(line, comments=True)
            if words[:1] == ["export"]:
                key, _, value = words[1].partition("=")
                self._environment[key] = value
                continue
            done = self._run(line)
            assert done.returncode == 0 or fails, f"{self._where}: {line}: {done.stdout}"
            self._last, self._printed = [*self._last[-20:], line], self._printed + done.stdout
        assert not fails or done.returncode, f"{self._where}: it did not fail"

    def _run(self, line: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-c", line],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
            check=False,
        )

    def _start(self, terminal: str, line: str) -> None:
        if terminal in self._terminals:
            self._end(terminal, signal.SIGINT)
        log = self._directory / f"terminal-{terminal}.log"
        file = log.open("w")
        process = subprocess.Popen(
            ["bash", "-c", f"exec {line}"],
            cwd=self._directory,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._terminals[terminal] = (process, log, file)
        self._log = log
        self._until(lambda: "Ctrl-C ends it" in log.read_text(), lambda: f"{line}: {log.read_text()}")

    def _end(self, terminal: str, how: signal.Signals) -> None:
        process, _, file = self._terminals.pop(terminal)
        process.send_signal(how)
        try:
            process.wait(PATIENCE)
        finally:
            process.kill()
            file.close()

    def _compare(self, expected: str, without: str) -> None:
        def printed() -> str:
            text = self._printed if self._log is None else self._log.read_text()
            for there, here in self._places.items():
                text = text.replace(here, there)
            return text

        def there() -> bool:
            if not missing(expected, printed()) and (not without or without not in printed()):
                return True
            if self._log is None and any(f"eventwagon {look}" in self._last[-1] for look in _LOOKS):
                before, self._printed = self._printed, self._run(self._last[-1]).stdout
                if not without:  # what the commands before it printed stays
                    self._printed = before + self._printed
            return False

        self._until(there, lambda: f"{missing(expected, printed())} (without {without!r}) not in:\n{printed()}")

    def _until(self, true: Callable[[], bool], said: Callable[[], str]) -> None:
        end = time.monotonic() + PATIENCE
        while not true():
            assert time.monotonic() < end, f"{self._where}: {said()}"
            time.sleep(0.1)
