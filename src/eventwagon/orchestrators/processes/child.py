"""The common part of every unit's process: it follows its `want`, writes its `state`, and ends with its parent."""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import msgspec

from ...contracts.orchestrator import Deployment
from ...display.json_lines import JsonFormatter, is_asked_for
from ...display.text import LogFormatter, as_line
from ...errors import EventwagonError
from .records import ProcessState, UnitFiles, Want, created, mark, older, stands, take

OWNER = "EVENTWAGON_OWNER"
LOGS = "EVENTWAGON_LOGS"
REVISION = "EVENTWAGON_REVISION"
TAKEN = 75
"""The exit code of a process that found its unit's lock held by another process."""
SENT_HOME = 76
"""The exit code of a process that ended because no workers are wanted at present."""
MARGIN = 2.0
"""Seconds beyond the grace, for giving back events and for the interpreter to exit."""
LOG_BYTES = 512 * 1024
"""The size at which a log becomes the older one and a new one begins."""
_TICK = 0.05
_BEAT = 0.5
_LOCK_PATIENCE = 5.0
_COUNTS = ("handled", "failed", "uncounted", "skipped", "work", "in_hand")
"""What changes all the time: it is written with a beat only."""


class Follower:
    """A unit's process, while it holds the unit's lock. `grace`: seconds for handlers in flight when it must leave; the
    `want` may set another value."""

    def __init__(self, files: UnitFiles, lock: int, state: ProcessState) -> None:
        self.files = files
        self.grace = 30.0
        self.want: Want | None = None
        self.leaving = asyncio.Event()
        self._lock = lock
        self._state = state
        self._want_mark: tuple[int, ...] | None = None
        self._beat_at = 0.0

    @asynccontextmanager
    async def attending(self, grace: float) -> AsyncIterator[None]:
        """While entered, SIGTERM, SIGINT and the parent's end set `leaving`."""
        self.grace = grace
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.leaving.set)
        threading.Thread(target=self._outlive, args=(loop,), name="eventwagon parent", daemon=True).start()
        yield

    async def looks(self) -> AsyncIterator[Want]:
        """Yield the `want`, read twenty times a second, until it is time to leave."""
        while not self.leaving.is_set():
            self._read_want()
            if self.want is not None and self.want.leave is None:
                yield self.want
                self._beat()
            with suppress(TimeoutError):
                async with asyncio.timeout(_TICK):
                    await self.leaving.wait()

    def say(self, *, ready: bool, trouble: str, found: Deployment | None = None) -> None:
        """Write the state if it has changed; `found` is what runs."""
        new = msgspec.structs.replace(self._state, begun=True, ready=ready, trouble=trouble)
        if found is not None:
            fields = msgspec.structs.asdict(found)
            if not self._beat_due() and found.number == self._state.number:  # counts change all the time
                fields |= {name: getattr(self._state, name) for name in _COUNTS}
            new = msgspec.structs.replace(new, **{**fields, "ready": ready, "trouble": trouble})
        if new != self._state or not mark(self.files.state_path):
            with suppress(OSError):  # a full disk must not end the unit: write it when there is room
                self.files.write(new)
                self._state = new

    def end_within(self, seconds: float) -> None:
        """Report that the process leaves and is no longer ready; it is ended after this time in any case."""
        self.say(ready=False, trouble="it is leaving")
        timer = threading.Timer(seconds, os._exit, args=(1,))
        timer.daemon = True
        timer.start()

    def _outlive(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set `leaving` when the parent ends, which ends stdin, and exit after the grace in any case. Runs in a thread,
        so that it works even if the event loop is blocked."""
        while os.read(0, 64):
            pass
        try:
            loop.call_soon_threadsafe(self.leaving.set)
        except RuntimeError:
            return  # the loop is closed: it has left
        time.sleep(self.grace + MARGIN)
        os._exit(1)

    def _read_want(self) -> None:
        standing = mark(self.files.want_path)
        if standing != self._want_mark:
            self.want, self._want_mark = self.files.want(), standing
        if self.want is None:
            self.leaving.set()  # nobody wants anything of this unit any more
        elif self.want.leave is not None:
            self.grace = self.want.leave
            self.leaving.set()

    def _beat_due(self) -> bool:
        return asyncio.get_running_loop().time() >= self._beat_at

    def _beat(self) -> None:
        if not self._beat_due():
            return
        self._beat_at = asyncio.get_running_loop().time() + _BEAT
        if not stands(self._lock, self.files.lock_path):
            self.leaving.set()  # the directory was removed: another process may be at the unit now
            return
        with suppress(OSError):  # as above
            self._turn_log()
            os.utime(self.files.state_path)

    def _turn_log(self) -> None:
        """Keep the log bounded: a full file becomes the older one."""
        if os.fstat(2).st_size < LOG_BYTES or not stands(2, self.files.log_path):
            return
        self.files.log_path.replace(older(self.files.log_path))
        new = os.open(self.files.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for descriptor in (1, 2):
            os.dup2(new, descriptor)
        os.close(new)


def follow(train: str, unit: str, directory: str, begin: Callable[[Follower], Coroutine[object, object, int]]) -> int:
    """Hold the unit's lock, call `begin` outside of any event loop, and run its result. Returns the exit code."""
    logs = os.environ.pop(LOGS, "")
    files = UnitFiles(Path(directory), train, int(unit), Path(logs) if logs else None)
    lock = _take_patiently(files.lock_path)
    if lock is None:
        return TAKEN
    os.register_at_fork(after_in_child=lambda: os.close(lock))  # a handler's own child processes must not hold the lock
    pid = os.getpid()
    revision = os.environ.get(REVISION, "")
    state = ProcessState(pid=pid, created=created(pid) or 0.0, owner=os.environ.pop(OWNER, ""), revision=revision)
    files.write(state)
    faulthandler.enable()
    try:
        running = begin(Follower(files, lock, state))
        _set_up_logging()
        return asyncio.run(running)
    except EventwagonError as e:
        sys.stderr.write(as_line(f"{type(e).__name__}: {e}") + "\n")
        return 1
    finally:
        if stands(lock, files.lock_path):
            files.state_path.unlink(missing_ok=True)
            if files.want() is None:  # nobody will look here again
                files.lock_path.unlink(missing_ok=True)


def _set_up_logging() -> None:
    """Set up logging, unless the program, which is loaded by now, has done so."""
    if not logging.getLogger("eventwagon").hasHandlers():
        handler = logging.StreamHandler()
        handler.setFormatter(JsonFormatter() if is_asked_for() else LogFormatter("%(levelname)-7s %(message)s"))
        logging.basicConfig(handlers=[handler])  # other packages' from WARNING on
        logging.getLogger("eventwagon").setLevel(logging.INFO)


def _take_patiently(path: Path) -> int | None:
    """Try several times to take the lock: other processes test it now and then, which holds it for a moment."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        lock = take(path)
        if lock is not None or time.monotonic() > deadline:
            return lock
        time.sleep(0.01)
