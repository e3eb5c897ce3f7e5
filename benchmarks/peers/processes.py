"""A framework's worker and publisher as processes, and what the worker noted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from .frameworks import ROOT, Installed

_live: dict[int, subprocess.Popen[bytes]] = {}
"""What was started and not ended, by its process group."""


def end_all(number: int, _: object) -> None:
    """A signal's handler: kill what was started, and end at once, as the measurement runs in a thread."""
    for process in list(_live.values()):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    os._exit(128 + number)


class Published(msgspec.Struct, frozen=True):
    """What a publisher says at its end. Times in seconds; `begin` on the wall clock."""

    begin: float
    seconds: float
    accepted: list[int]
    lag: float
    """The farthest that it was behind its schedule."""
    errors: int
    error: str | None


class Trouble(Exception):
    """A framework's process did not do what it should; the text has the end of its log."""


class Bench:
    """One framework at one Redis server of its own, with a folder for its logs."""

    def __init__(self, at: Installed, url: str, directory: Path, *, sleep: float = 0.0, tuned: bool = True) -> None:
        self.at = at
        self.log = directory / "handled"
        self.log.touch()
        self._output = directory / "output"
        self._environment = {
            **os.environ,
            "PEER_URL": url,
            "PEER_LOG": str(self.log),
            "PEER_SLEEP": str(sleep),
            "PEER_TUNED": str(int(tuned)),
            "PYTHONPATH": str(ROOT),
            "EVENTWAGON_URL": url,
            "PYTHONWARNINGS": "ignore",
            **at.framework.environment,
        }

    def start_worker(self) -> subprocess.Popen[bytes]:
        """One worker, in a process group of its own."""
        with self._output.open("ab") as output:
            process = subprocess.Popen(
                self.at.worker(),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        _live[process.pid] = process
        return process

    @contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """One that ends gracefully (SIGTERM) on leaving, or is killed after 15 s."""
        process = self.start_worker()
        try:
            yield process
        finally:
            end(process)

    def publish(
        self, numbers: Sequence[int], arrivals: Sequence[float] | None = None, *, warm: bool = True
    ) -> Published:
        """Publish these and wait for it. Raises Trouble."""
        process = self._start_publisher(numbers, arrivals, warm)
        try:
            told, _ = process.communicate(timeout=180)
        except subprocess.TimeoutExpired:
            raise self.trouble("the publisher did not end in 180 s") from None
        finally:
            kill(process)
        if process.returncode:
            raise self.trouble(f"the publisher ended with {process.returncode}")
        return msgspec.json.decode(told.splitlines()[-1], type=Published)

    @contextmanager
    def trickle(self, first: int) -> Iterator[None]:
        """Meanwhile an event a second, numbered from `first`."""
        seconds = range(180)
        process = self._start_publisher([first + n for n in seconds], [float(n) for n in seconds], False)
        try:
            yield
        finally:
            kill(process)

    def _start_publisher(
        self, numbers: Sequence[int], arrivals: Sequence[float] | None, warm: bool
    ) -> subprocess.Popen[bytes]:
        with self._output.open("ab") as output:
            process = subprocess.Popen(
                self.at.publisher(),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=output,
                start_new_session=True,
            )
        _live[process.pid] = process
        assert process.stdin is not None
        plan = {"numbers": list(numbers), "arrivals": list(arrivals) if arrivals else None, "warm": warm}
        process.stdin.write(json.dumps(plan).encode())
        process.stdin.close()
        process.stdin = None
        return process

    def handled(self) -> list[tuple[int, float]]:
        """Each handling that was finished: the event's number and the time. Events of the warming up are left out."""
        lines = self.log.read_bytes().splitlines()
        found = [(int(number), float(at)) for number, at in (line.split() for line in lines)]
        return [(number, at) for number, at in found if number >= 0]

    def wait_handled(self, numbers: Sequence[int], seconds: float) -> dict[int, float]:
        """When each was handled first, as soon as all were or the time is up."""
        until = time.monotonic() + seconds
        wanted = set(numbers)
        while True:
            first: dict[int, float] = {}
            for number, at in self.handled():
                if number in wanted:
                    first.setdefault(number, at)
            if len(first) == len(wanted) or time.monotonic() > until:
                return first
            time.sleep(0.1)

    def warm_up(self) -> None:
        """Return when the worker that runs has handled events. Raises Trouble."""
        until = time.monotonic() + 45
        while True:
            seen = self.log.stat().st_size
            # a group that reads from now on needs one that comes after it began
            self.publish([], warm=True)
            settled = time.monotonic() + 3
            while time.monotonic() < settled:
                if self.log.stat().st_size > seen:
                    self._settle()
                    return
                time.sleep(0.05)
            if time.monotonic() > until:
                raise self.trouble("the worker handled nothing in 45 s")

    def _settle(self) -> None:
        """Until all of the warming up was handled."""
        size = -1
        while size != (size := self.log.stat().st_size):
            time.sleep(0.5)

    def trouble(self, what: str) -> Trouble:
        """An error with the end of the framework's output."""
        tail = self._output.read_text(errors="replace").splitlines()[-25:] if self._output.exists() else []
        return Trouble("\n".join([f"{self.at.framework.name}: {what}; its output ends:", *tail]))


def end(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, and SIGKILL to its group after 15 s. Idempotent."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(15)
    kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to the worker and all its children: what the end of a container does. Idempotent."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(30)
    _live.pop(process.pid, None)
