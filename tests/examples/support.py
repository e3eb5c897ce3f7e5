"""Runs an example as a user does."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Running:
    """`examples/NAME/run.py`, which has just said that all its parts are up."""

    def __init__(self, process: subprocess.Popen[str], errors: Path) -> None:
        assert process.stdout is not None
        self.process, self.errors, self._output = process, errors, process.stdout

    def table(self) -> dict[str, str]:
        """Its rows, once it has ended; fails unless that was with 0."""
        output = self._output.read()
        code = self.process.wait(60)
        assert code == 0, f"exit code {code}\n{output}\n{self.errors.read_text()}"
        return dict(re.findall(r"^  (\S.*?)  +(\S.*)$", output, re.MULTILINE))


@contextmanager
def running(name: str, url: str, folder: Path, *arguments: str) -> Iterator[Running]:
    """Nothing of it is left afterwards."""
    command = [sys.executable, str(ROOT / "examples" / name / "run.py"), "--url", url, *arguments]
    errors = folder / "errors.txt"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=stderr, cwd=folder, text=True, start_new_session=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            assert "are up" in process.stdout.readline(), errors.read_text()
            yield Running(process, errors)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def numbers(text: str) -> list[float]:
    """All that stand in it."""
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]
