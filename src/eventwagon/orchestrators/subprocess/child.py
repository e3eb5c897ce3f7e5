"""What runs in a wagon's process: it follows its `want`, says what it does in its `state`, and ends with its parent."""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import importlib.util
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from types import ModuleType
from typing import Protocol, cast

import msgspec

from ...broker import Broker
from ...errors import EventwagonError, UsageError
from ...orchestrator import Deployment, Orchestrator
from ...probe import probe
from ...settings import Settings
from .records import State, WagonFiles, Want, created, mark, older, stands, take

URL = "EVENTWAGON_URL"
OWNER = "EVENTWAGON_OWNER"
LOGS = "EVENTWAGON_LOGS"
TAKEN = 75
"""The exit code of a process that found another at its wagon."""
MARGIN = 2.0
"""Seconds beyond the grace for giving back what is in hand, and for the interpreter's own end."""
LOG_BYTES = 512 * 1024
"""A log that has grown to this becomes the older one."""
_TICK = 0.05
_BEAT = 0.5
_LOCK_PATIENCE = 5.0


class Served(Protocol):
    """What is used of a train."""

    name: str
    settings: Settings

    def working(self, url: str) -> AbstractAsyncContextManager[tuple[Broker, Orchestrator]]: ...


def main(arguments: Sequence[str]) -> int:
    """Serve one wagon until asked to leave it, until the parent has ended, or SIGTERM. Returns the exit code."""
    target, name, number, directory = arguments
    logs = os.environ.pop(LOGS, "")
    files = WagonFiles(Path(directory), name, int(number), Path(logs) if logs else None)
    lock = _take_patiently(files.lock_path)
    if lock is None:
        return TAKEN
    os.register_at_fork(after_in_child=lambda: os.close(lock))  # a handler's own children must not hold the wagon
    pid = os.getpid()
    state = State(pid=pid, created=created(pid) or 0.0, owner=os.environ.pop(OWNER, ""))
    files.write(state)
    faulthandler.enable()
    logging.basicConfig(level=logging.INFO, format="%(levelname)-7s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it would say every request
    try:
        train = load(target)
        if train.name != name:
            raise UsageError(f"{target} is train {train.name!r}, not {name!r}")
        url = os.environ.pop(URL, "")
        asyncio.run(_Child(files, lock, state, train, url).run())
    except EventwagonError as e:
        sys.stderr.write(f"{type(e).__name__}: {e}\n")
        return 1
    finally:
        if stands(lock, files.lock_path):
            files.state_path.unlink(missing_ok=True)
            if files.want() is None:  # nobody will look here again
                files.lock_path.unlink(missing_ok=True)
    return 0


def _take_patiently(path: Path) -> int | None:
    """Others look at the lock now and then, which holds it for a moment."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        lock = take(path)
        if lock is not None or time.monotonic() > deadline:
            return lock
        time.sleep(0.01)


def load(target: str) -> Served:
    """The train that `module:attribute` or `path/to/file.py:attribute` names. Raises UsageError."""
    where, colon, attribute = target.rpartition(":")
    if not colon or not where:
        raise UsageError(f"target {target!r}: write module:attribute, say app:signups, or path/to/file.py:signups")
    sys.path.insert(0, str(Path.cwd()))
    found: object = _from_file(Path(where)) if where.endswith(".py") else importlib.import_module(where)
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise UsageError(f"target {target!r}: {where} has no {attribute!r}")
        found = getattr(found, part)
    if not hasattr(found, "working"):
        raise UsageError(f"target {target!r} is a {type(found).__name__}, not a Train")
    return cast(Served, found)


def _from_file(path: Path) -> ModuleType:
    path = path.resolve()
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"{path} can't be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module  # annotations are looked up there
    spec.loader.exec_module(module)
    return module


class _Child:
    def __init__(self, files: WagonFiles, lock: int, state: State, train: Served, url: str) -> None:
        self._files = files
        self._lock = lock
        self._state = state
        self._train = train
        self._url = url
        self._leaving = asyncio.Event()
        self._grace = train.settings.grace
        self._want: Want | None = None
        self._want_mark: tuple[int, ...] | None = None
        self._proven = False
        self._beat_at = 0.0
        self._trouble = ""
        self._probe_at = 0.0

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._leave)
        threading.Thread(target=self._outlive, args=(loop,), name="eventwagon parent", daemon=True).start()
        async with self._train.working(self._url) as (broker, local):
            while not self._leaving.is_set():
                await self._look(broker, local)
                try:
                    async with asyncio.timeout(_TICK):
                        await self._leaving.wait()
                except TimeoutError:
                    continue
            self._say(ready=False, trouble="it is leaving")
            self._end_within(self._grace + MARGIN)
            await local.remove(self._train.name, self._files.number, grace=self._grace)

    def _leave(self) -> None:
        self._leaving.set()

    def _outlive(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own, so that it works while the event loop is blocked: stdin ends when the parent does."""
        while os.read(0, 64):
            pass
        try:
            loop.call_soon_threadsafe(self._leave)
        except RuntimeError:
            return  # the loop is closed: it has left
        time.sleep(self._grace + MARGIN)
        os._exit(1)

    def _end_within(self, seconds: float) -> None:
        timer = threading.Timer(seconds, os._exit, args=(1,))
        timer.daemon = True
        timer.start()

    async def _look(self, broker: Broker, local: Orchestrator) -> None:
        """Bring the workers to what is wanted, and say how things stand."""
        self._read_want()
        if self._want is None:
            return
        if self._want.leave is not None:
            self._grace = self._want.leave
            self._leaving.set()
            return
        await local.ensure(self._want.spec)
        found = (await local.deployments(self._train.name)).get(self._files.number)
        if found is not None:
            await self._prove(broker, found)
            self._say(ready=found.ready and self._proven, workers=found.workers, trouble=found.trouble or self._trouble)
        self._beat()

    def _read_want(self) -> None:
        standing = mark(self._files.want_path)
        if standing != self._want_mark:
            self._want, self._want_mark = self._files.want(), standing
        if self._want is None:
            self._leaving.set()  # nobody wants anything of this wagon any more

    async def _prove(self, broker: Broker, found: Deployment) -> None:
        """Attached is not yet served: see `probe`. Anew each time that the consumers were attached anew."""
        if not found.ready:
            self._proven = False
            return
        now = asyncio.get_running_loop().time()
        if self._proven or now < self._probe_at:
            return
        try:
            await probe(broker, self._train.name, self._files.number)
        except EventwagonError as e:
            self._trouble, self._probe_at = f"the probe failed: {e}", now + 0.5
        else:
            self._trouble, self._proven = "", True

    def _say(self, *, ready: bool, trouble: str, workers: int | None = None) -> None:
        new = msgspec.structs.replace(
            self._state,
            begun=True,
            ready=ready,
            workers=self._state.workers if workers is None else workers,
            trouble=trouble,
        )
        if new != self._state or not mark(self._files.state_path):
            with suppress(OSError):  # a full disk must not end the wagon: it is said when there is room
                self._files.write(new)
                self._state = new

    def _beat(self) -> None:
        now = asyncio.get_running_loop().time()
        if now < self._beat_at:
            return
        self._beat_at = now + _BEAT
        if not stands(self._lock, self._files.lock_path):
            self._leaving.set()  # the directory was removed under it: another process may be at the wagon now
            return
        with suppress(OSError):  # as above
            self._turn_log()
            os.utime(self._files.state_path)

    def _turn_log(self) -> None:
        """Keep the log bounded: what is full becomes the older one."""
        if os.fstat(2).st_size < LOG_BYTES or not stands(2, self._files.log_path):
            return
        self._files.log_path.replace(older(self._files.log_path))
        new = os.open(self._files.log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        for descriptor in (1, 2):
            os.dup2(new, descriptor)
        os.close(new)
