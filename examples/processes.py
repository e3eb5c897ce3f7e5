"""What the `run.py` of each example shares: processes that end with it, waiting with a deadline, a table. To copy an
example you need nothing of this."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from eventwagon import Connection, EventwagonError

ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60.0
"""Seconds that a start, or the rest of a burst, may take on a loaded machine."""
LAUNCH = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
if os.getppid() == int(sys.argv[1]):
    os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""On Linux: run `python …` so that it is killed when the process of this id, which started it, is gone. Not SIGTERM: it
comes once for each thread of that process, and a second one is a hard exit anyway."""


class Broken(Exception):
    """What the example promises did not hold, in one sentence."""


class Processes:
    """OS processes that end when this block is left. They are in sessions of their own: Ctrl-C in a terminal reaches
    the example alone, which then ends them, each with one SIGTERM. If the example itself is killed (SIGKILL), Linux
    kills them, too; elsewhere they stay, and so does one that changes its user, as mosquitto does for root. Their
    output goes to files in a temporary folder, which is removed; where one fails to start, the error has the end of
    it."""

    def __init__(self) -> None:
        self._running: dict[str, asyncio.subprocess.Process] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="eventwagon-example-", ignore_cleanup_errors=True)
        self.folder = Path(self._folder.name)
        """For the files of the example's parts."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        try:
            for process in self._running.values():
                _signal(process, signal.SIGTERM)
            with suppress(TimeoutError):
                async with asyncio.timeout(10):
                    for process in self._running.values():
                        await process.wait()
        finally:  # also where a second Ctrl-C cut the waiting short
            for process in self._running.values():
                _signal(process, signal.SIGKILL)
            self._folder.cleanup()

    async def start(self, name: str, *command: str, environment: Mapping[str, str] | None = None) -> None:
        """Start `python …` in the project's folder, under a name of your choice."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        launch = ["-I", "-S", "-c", LAUNCH, str(os.getpid())] if sys.platform == "linux" else []
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                *launch,
                *command,
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": path, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    async def kill(self, name: str) -> None:
        """SIGKILL: it can finish nothing. Returns once it is gone."""
        process = self._running.pop(name)
        _signal(process, signal.SIGKILL)
        await process.wait()

    async def at_work(self, *trains: Connection) -> int:
        """How many of these processes work for the trains, for each train; not those that somebody else has started.
        Where the system does not say which process is which, all count."""
        pids = {process.pid for process in self._running.values()}
        members = [member for train in trains for member in await train.members() if member.attachments]
        return sum(member.process is None or member.process.pid in pids for member in members)

    def check(self) -> None:
        """Raise Broken if a process has ended by itself, with the last line that it wrote."""
        for name, process in self._running.items():
            if (code := process.returncode) is not None:
                lines = self.log(name).strip().splitlines() or ["nothing"]
                how = f"ended with exit code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"
                raise Broken(f"the process {name!r} {how}; the last that it wrote: {lines[-1]}")

    def log(self, name: str) -> str:
        """What it has written so far."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    async def until(self, what: str, holds: Callable[[], Awaitable[bool]], seconds: float = PATIENCE) -> None:
        """Ask until it holds. Raises Broken after `seconds`, or if a process has ended by itself meanwhile."""
        deadline = time.monotonic() + seconds
        while not await holds():
            self.check()
            if time.monotonic() > deadline:
                raise Broken(f"not within {seconds:g} s: {what}")
            await asyncio.sleep(0.05)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.send_signal(number)


async def nobody_else(*trains: Connection, seconds: float = 10.0) -> None:
    """Raises Broken if processes that somebody else has started run one of the trains. One that was killed counts as
    running until its lease is over, so this waits for some seconds."""
    deadline = time.monotonic() + seconds
    for train in trains:
        while running := [member for member in await train.members() if member.attachments]:
            if time.monotonic() > deadline:
                name = train.manifest.train
                raise Broken(f"{len(running)} processes run the train {name!r} at this URL: stop them first")
            await asyncio.sleep(0.1)


def free_port() -> int:
    """A port of this machine on which nothing listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def percentile(values: Iterable[float], percent: float) -> float:
    """The smallest value that at least `percent` of a hundred do not exceed; NaN if there is none."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)] if ordered else math.nan


def table(title: str, rows: Sequence[tuple[str, object]]) -> str:
    """The rows with their values in one column, below a title."""
    width = max(len(name) for name, _ in rows)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in rows)])


def arguments(description: str | None, *, events: int, what: str) -> argparse.ArgumentParser:
    """The options that each example has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--url", required=True, type=_redis, help="a Redis or Valkey: redis://127.0.0.1:6379/0")
    parser.add_argument("--events", type=_positive, default=events, help=f"{what} (default: {events})")
    return parser


def _redis(url: str) -> str:
    if not url.startswith(("redis://", "rediss://", "unix://")):
        raise argparse.ArgumentTypeError(f"{url!r}: the example keeps data of its own there, too: write redis://…")
    return url


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:9]) <= 100_000):
        raise argparse.ArgumentTypeError(f"{text!r}: write a whole number from 1 to 100000")
    return int(text)


def run(example: Coroutine[object, object, None]) -> int:
    """Run an example's main function; return the exit code. SIGTERM and SIGHUP end it as Ctrl-C does."""

    async def main() -> None:
        if task := asyncio.current_task():
            with suppress(NotImplementedError, AttributeError):  # Windows
                for number in (signal.SIGTERM, signal.SIGHUP):  # SIGHUP: the terminal was closed
                    if signal.getsignal(number) == signal.SIG_DFL:  # nohup: it is ignored
                        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
        try:
            await example
        except* (Broken, EventwagonError) as group:  # of a TaskGroup: its first is enough
            error: BaseException = group
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise Broken(str(error)) from error

    try:
        asyncio.run(main())
    except Broken as e:
        print(f"BROKEN: {e}", file=sys.stderr)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted", file=sys.stderr)
        return 130
    return 0
