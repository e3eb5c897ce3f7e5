"""One copy of the command, at one wagon."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Mapping
from contextlib import suppress

import msgspec
import psutil

from ....contracts.orchestrator import WagonSpec
from ....display.text import as_line
from ....errors import Unavailable
from .. import RUN, Run, in_one, send, started_by
from .placeholders import environment, placeholders, render
from .ready import CheckIn, Http, Line, Ready, Tcp, ask

_LINE = 8192
"""The longest part of a line, in bytes, that is handled in one piece."""
_PART = 65536
"""Bytes read at once: the capacity of a pipe."""
_ASK_EVERY = (0.1, 1.0)
"""Seconds between two checks whether it is ready, before it is ready and after."""
_KILL_PATIENCE = 10.0


class CommandSpec(msgspec.Struct, frozen=True):
    """The command, as the orchestrator passes it to its supervisors."""

    argv: tuple[str, ...]
    ready: Ready
    stop: tuple[str, ...]
    url: str
    environment: dict[str, str]
    grace: float
    start_timeout: float
    hung_after: float


class Replica:
    """One copy of the command, in its own process group. `close` it once it has `ended`."""

    def __init__(self, plan: CommandSpec, spec: WagonSpec, names: Mapping[str, str], index: int, token: str) -> None:
        self._plan = plan
        self.index = index
        self.number = spec.number
        self.revision = spec.revision
        self.serves = known_to_command(spec, names)
        self._placeholders = placeholders(spec, names, copy=index, port=_free_port(), grace=plan.grace)
        variables = environment(spec, names, self._placeholders, plan.url)
        self._environment = {**os.environ, **plan.environment, **variables, RUN: token}
        self._output: int | None = None
        self._partial = b""
        self._last: deque[str] = deque(maxlen=8)
        self._stopper: subprocess.Popen[bytes] | None = None
        self._loop = asyncio.get_running_loop()
        self.began = self._answered = self._loop.time()
        self.is_ready = isinstance(plan.ready, CheckIn)  # as far as this process can tell
        self.not_ready_because = ""
        self.asked = False
        """True once it was asked to end."""
        self.failed = ""
        """Why it failed; empty if it did not."""
        self.kill_at: float | None = None
        """When it is killed, in the loop's time."""

    def start(self) -> None:
        """Start the copy; call it once. Raises OSError."""
        reading, writing = os.pipe()
        try:
            self._popen = subprocess.Popen(  # noqa: S603 - what the user gave
                [render(part, self._placeholders) for part in self._plan.argv],
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                env=self._environment,
                process_group=0,
            )
        except BaseException:
            os.close(reading)
            raise
        finally:
            os.close(writing)
        os.set_blocking(reading, False)
        self._output = reading
        self._loop.add_reader(reading, self._read)

    def stop_words(self, grace: float) -> tuple[str, ...]:
        """The command that asks it to end; empty if a signal does so."""
        return tuple(render(part, {**self._placeholders, "grace": f"{grace:.0f}"}) for part in self._plan.stop)

    def ask_to_end(self, *, kill_after: float | None = None, failed: str = "") -> None:
        """Ask it to end after its events in progress. After `kill_after` seconds it is killed (None: never).
        Idempotent."""
        if kill_after is not None:
            self.kill_at = min(self.kill_at or float("inf"), self._loop.time() + kill_after)
        self.failed = self.failed or failed
        if self.asked:
            return
        self.asked, self.is_ready = True, False
        if self._plan.stop:
            try:
                grace = self._plan.grace if kill_after is None else kill_after
                self._stopper = start_stop_command(self.stop_words(grace))
                return
            except OSError as e:
                self._note(f"the stop command can't be started: {e}")
        self._signal(signal.SIGTERM)

    def ended(self) -> bool:
        """Whether it has ended, with everything that it started in its process group. Call it repeatedly: it also kills
        what has run out of time."""
        if self._stopper is not None and self._stopper.poll():
            self._note(f"the stop command ended with exit code {self._stopper.returncode}: SIGTERM")
            self._stopper = None
            self._signal(signal.SIGTERM)
        if self.kill_at is not None and self._loop.time() > self.kill_at:
            self._signal(signal.SIGKILL)
        if self._popen.poll() is None:
            return False
        if not _lives(self._popen.pid):
            return True
        if self.kill_at is None:  # its program has ended and left other processes behind
            self._signal(signal.SIGTERM)
            self.kill_at = self._loop.time() + self._plan.grace
        return False

    def why_ended(self) -> str:
        """How it ended, and its last output."""
        code = self._popen.returncode
        how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
        return self._with_last(f"copy {self.index} of the command {how}")

    def close(self) -> None:
        """Pass on its last output. Call it after the end."""
        if self._output is not None:
            self._read()
        if self._output is not None:
            self._close_output()
        if self._partial:
            self._note(self._partial.decode(errors="replace"))
        if self._stopper is not None and self._stopper.poll() is None:
            self._stopper.kill()
            self._stopper.wait()

    async def watch(self) -> None:
        """Check repeatedly whether it is ready, as long as it runs, and record failures."""
        ready, plan = self._plan.ready, self._plan
        while not self.asked and not isinstance(ready, CheckIn):
            now = self._loop.time()
            if isinstance(ready, Http | Tcp):
                why = await ask(ready, self._placeholders)
                self.not_ready_because, is_ready = why, not why
                if is_ready:
                    self._answered = self._loop.time()
                hung = now - self._answered
                self.is_ready = not self.asked and (is_ready or (self.is_ready and hung < 3 * _ASK_EVERY[1]))
            elif not self.is_ready:
                self.not_ready_because = f"no line with {ready.pattern!r} yet"
            if self.is_ready or self._answered > self.began:
                if isinstance(ready, Http | Tcp) and now - self._answered > plan.hung_after:
                    self._fails(f"gave no answer for {plan.hung_after:g} s")
            elif now - self.began > plan.start_timeout:
                self._fails(f"was not ready within {plan.start_timeout:g} s")
            await asyncio.sleep(_ASK_EVERY[self.is_ready])

    def _fails(self, how: str) -> None:
        why = f"copy {self.index} of the command {how} ({self.not_ready_because}) and is ended"
        self.ask_to_end(kill_after=self._plan.grace, failed=self._with_last(why))

    def _with_last(self, text: str) -> str:
        output = in_one(self._last)
        return f"{text}: {output}" if output else text

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._popen.pid, number)

    def _read(self) -> None:
        """Pass on a part of its output at a time, so that a copy that prints much delays nobody."""
        assert self._output is not None  # noqa: S101 - there is no reader then
        got = b""
        with suppress(BlockingIOError):
            got = os.read(self._output, _PART)
            if not got:
                self._close_output()
                return
        *lines, self._partial = (self._partial + got).split(b"\n")
        if len(self._partial) > _LINE:
            lines, self._partial = [*lines, self._partial], b""
        self._note(*(line.decode(errors="replace") for line in lines))

    def _close_output(self) -> None:
        assert self._output is not None  # noqa: S101 - asked before
        self._loop.remove_reader(self._output)
        os.close(self._output)
        self._output = None

    def _note(self, *lines: str) -> None:
        sys.stderr.write("".join(f"[{self.index}] {as_line(line)}\n" for line in lines))
        self._last.extend(line.strip() for line in lines if line.strip())
        ready = self._plan.ready
        if isinstance(ready, Line) and not self.is_ready and not self.asked:
            self.is_ready = any(re.search(ready.pattern, line) for line in lines)


def known_to_command(spec: WagonSpec, names: Mapping[str, str]) -> object:
    """Everything that a command learns about its wagon. It can't learn anything later: if this changes, the command is
    started again."""
    return spec.number, spec.revision, spec.channels, spec.dead_letters, dict(names)


def start_stop_command(command: tuple[str, ...]) -> subprocess.Popen[bytes]:
    """Start the command that ends a copy. Raises OSError."""
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, process_group=0)  # noqa: S603 - what the user gave


async def end_left_over(run: Run, *, grace: float) -> None:
    """End every process of that run that is still alive: ask, wait, kill. Raises Unavailable if that has no effect."""
    loop = asyncio.get_running_loop()
    until = loop.time() + grace
    stoppers = []
    for command in run.stops:
        with suppress(OSError):  # its program is gone: then nothing can be stopped by it either
            stoppers.append(start_stop_command(command))
    asked: set[int] = set()
    while (pids := set(await asyncio.to_thread(started_by, run))) or any(s.poll() is None for s in stoppers):
        late = loop.time() - until
        for pid in pids if late > 0 else pids - asked:
            send(pid, signal.SIGKILL if late > 0 else signal.SIGTERM)
        asked |= pids
        if late > 0:
            for stopper in stoppers:
                stopper.kill()
        if late > _KILL_PATIENCE:
            raise Unavailable(f"processes {sorted(pids)} were left over and can't be ended")
        await asyncio.sleep(0.1)


def _lives(group: int) -> bool:
    """Whether any process of the group is alive."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return any(_group(pid) == group and _runs(pid) for pid in psutil.pids())


def _group(pid: int) -> int | None:
    try:
        return os.getpgid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
