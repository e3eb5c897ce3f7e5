"""A server that a test starts, kills, pauses and starts again: the part that all technologies share."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

_STARTERS = ThreadPoolExecutor(1, "starts-servers")
"""Linux sends a child its death signal when the *thread* that started it ends: this one lives as long as the tests."""

_DIE_WITH_PARENT = """\
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        sys.exit("who started it is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class StartFailed(Exception):
    """The server did not come up; the text has the end of its log."""


class Server:
    """One server process with a folder and ports of its own. All methods block: from a coroutine use
    `asyncio.to_thread`.

    A context manager: started on entering, gone with its folder on leaving. Nothing of it survives this process.
    """

    name = "server"
    patience = 60.0
    """Seconds for a start to succeed, on a loaded machine."""

    def __init__(self, directory: Path | None = None) -> None:
        self.host = "127.0.0.1"
        self.port = 0
        self.directory = Path(tempfile.mkdtemp(prefix=f"eventwagon-{self.name}-", dir=directory))
        self.log = self.directory / f"{self.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    # --- what each technology says ------------------------------------------------------------

    @property
    def url(self) -> str:
        """What eventwagon connects to."""
        raise NotImplementedError

    def command(self) -> Sequence[str]:
        """What to run; writes the configuration first."""
        raise NotImplementedError

    def ready(self) -> bool:
        """It gave a real answer. May raise OSError while it does not."""
        raise NotImplementedError

    # --- what a test does ---------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self._process is not None, f"{self.name} is not running"
        return self._process.pid

    def start(self) -> None:
        """Start it, on the same ports and data as before, and return when it answers. Raises StartFailed."""
        self.launch()
        self.await_ready()

    def kill(self) -> None:
        """SIGKILL to all of it; returns when it is gone. Its data stay. Idempotent."""
        self._end(signal.SIGKILL, 30)

    def stop(self) -> None:
        """SIGTERM, and wait for its clean end. Its data stay. Idempotent."""
        self.resume()
        try:
            self._end(signal.SIGTERM, self.patience)
        except subprocess.TimeoutExpired:
            self._end(signal.SIGKILL, 30)
            raise

    def pause(self) -> None:
        """SIGSTOP: connections stay, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    @property
    def running(self) -> bool:
        """It was started and has not ended (it may be paused)."""
        return self._process is not None and self._process.poll() is None

    def close(self) -> None:
        """Kill it and remove its folder. Idempotent."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def tail(self, lines: int = 40) -> str:
        """The end of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:]) if self.log.exists() else ""

    # --- starting, in two steps ---------------------------------------------------------------

    def launch(self) -> None:
        """Start the process without waiting for its answer."""
        if self.running:
            return
        command = list(self.command())
        with self.log.open("ab") as log:
            self._process = _STARTERS.submit(
                subprocess.Popen,
                [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                start_new_session=True,
            ).result()

    def await_ready(self) -> None:
        """Return when it answers. Raises StartFailed."""
        until = time.monotonic() + self.patience
        pause = 0.01
        while True:
            if not self.running:
                code = self._process.returncode if self._process else None
                raise StartFailed(f"{self.name} ended with exit code {code}; its log {self.log} ends:\n{self.tail()}")
            with contextlib.suppress(OSError):
                if self.ready():
                    return
            if time.monotonic() > until:
                raise StartFailed(
                    f"{self.name}: no answer in {self.patience:g} s; its log {self.log} ends:\n{self.tail()}"
                )
            time.sleep(pause)
            pause = min(0.1, pause * 1.5)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def _end(self, number: signal.Signals, seconds: float) -> None:
        self._signal(number)
        if self._process is not None:
            self._process.wait(seconds)
            self._process = None


class GivenServer(Server):
    """A server that somebody else runs, named by an environment variable: it can't be killed, paused or configured."""

    def __init__(self, variable: str, url: str, host: str, port: int, admin_port: int = 0) -> None:
        self.variable = variable
        self._url = url
        self.host, self.port, self.admin_port = host, port, admin_port

    @property
    def url(self) -> str:
        return self._url

    def _not_ours(self, *_: object) -> None:
        raise RuntimeError(f"{self._url} was given by {self.variable}: a test may not stop it; use own_…")

    launch = start = stop = kill = pause = resume = close = _not_ours
