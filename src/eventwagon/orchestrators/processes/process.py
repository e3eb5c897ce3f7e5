"""One unit's process, as seen by the orchestrator that started it."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

from ...contracts.orchestrator import PLACE
from ...event import wagon_name
from .child import LOGS, OWNER, REVISION
from .logs import OutputTail
from .records import UnitFiles, kill_all


class Launch(NamedTuple):
    """How an orchestrator starts processes."""

    command: tuple[str, ...]
    """The command line, with the revision in place of `{revision}`; the train, the unit and the directory are
    appended."""
    environment: dict[str, str]
    """Variables added to this process's own environment."""
    directory: Path
    logs: Path | None


class UnitProcess:
    """A process, started when this object is created. Nothing is written to its stdin, which ends when this process
    does: so the child notices."""

    def __init__(self, launch: Launch, files: UnitFiles, owner: str, revision: str) -> None:
        environment = {**os.environ, **launch.environment, OWNER: owner}
        if revision:
            environment[REVISION] = revision
        if launch.logs is not None:
            environment[LOGS] = str(launch.logs)
        log = os.open(files.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.log_began = os.fstat(log).st_size
        """The length of the log before this process wrote anything."""
        try:
            self._tail = (
                OutputTail(files.log_path, wagon_name(files.train, files.unit)) if launch.logs is None else None
            )
            self._popen = subprocess.Popen(  # noqa: S603 - the program is our own interpreter's, or what the user gave
                [
                    *(word.replace(PLACE, revision) for word in launch.command),
                    files.train,
                    str(files.unit),
                    str(launch.directory),
                ],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,  # a Ctrl-C at the terminal is for the parent, which ends its children in order
            )
        finally:
            os.close(log)
        self._began = time.monotonic()
        self.hung = ""
        """Why it was killed."""

    @property
    def seconds(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self._began

    def release(self) -> None:
        """Tell the process that nobody needs it any more. Idempotent."""
        if self._popen.stdin is not None and not self._popen.stdin.closed:
            self._popen.stdin.close()

    def ended(self) -> int | None:
        """Its exit code (negative: the signal that killed it) once it has ended, otherwise None. Then its pipe and log
        are closed."""
        code = self._popen.poll()
        if code is not None:
            self.release()
            if self._tail is not None:
                self._tail.close()
                self._tail = None
        return code

    def pass_on(self) -> None:
        """Pass on its output since the last call."""
        if self._tail is not None:
            self._tail.drain()

    def kill(self) -> None:
        """Kill it and what it started, at once. Its pid can't belong to another process yet: nobody has waited for
        it."""
        if self._popen.returncode is None:
            kill_all(self._popen.pid)

    def wait(self) -> None:
        """Return when it has ended. Call it after `kill`."""
        self._popen.wait()
        self.ended()
