"""The records about a unit's process, by which any orchestrator on the machine finds it, and which processes run.

Each unit has files in one directory: `want` (what it should serve; written by the orchestrator in charge), `state`
(what it does; written by the process), `run` (how to find what it started; written by processes that start others),
`log` (its output) and `lock`, which the process holds as long as it runs. The lock is the truth: the kernel releases it
however the process ends, and no second process works without it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psutil

from ...contracts.orchestrator import Deployment, WagonSpec

_SAME = 2.0
"""Seconds by which two readings of one process's creation time may differ: it is computed from the wall clock."""
_FILE = re.compile(r"(.+)_v(\d+)\.(?:want|state|run|lock|claims)")
_HALF = re.compile(r".+_v\d+\.(?:want|state|run|claims)-(\d+)")

R = TypeVar("R", bound=msgspec.Struct)


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """What a unit's process should do."""

    owner: str
    """The orchestrator in charge."""
    spec: WagonSpec
    names: Mapping[str, str] = {}
    """The broker's names of the channels, if needed."""
    leave: float | None = None
    """If set, the process must leave; the grace in seconds."""
    trouble: str = ""
    """Why the unit's last process ended."""


class ProcessState(Deployment, frozen=True, kw_only=True):
    """What a unit's process does: a deployment, and which process it is. `pid` and `created` (seconds since the epoch)
    together identify the process for ever."""

    pid: int
    created: float
    owner: str
    """The orchestrator that started it."""
    begun: bool = False
    """True once its program is loaded; from then on it gives a sign of life twice a second."""
    ready: bool = False
    number: int = 0
    """The wagon that it serves; 0: the one that the `want` names."""

    def deployment(self, **changes: Any) -> Deployment:
        """What it does, without the process's identity."""
        fields = {name: getattr(self, name) for name in Deployment.__struct_fields__}
        return Deployment(**{**fields, **changes})


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """How to find and end the processes that a unit's process has started, once it can't say so itself any more."""

    token: str
    """The value of the environment variable RUN in all these processes; no other process has it, whatever its pid."""
    stops: tuple[tuple[str, ...], ...] = ()
    """Commands that end what is no process of this machine (a container)."""


RUN = "EVENTWAGON_RUN"


class UnitFiles:
    """The files of one unit's process."""

    def __init__(self, directory: Path, train: str, unit: int, logs: Path | None = None) -> None:
        self.train, self.unit = train, unit
        stem = f"{train}_v{unit}"
        self.want_path = directory / f"{stem}.want"
        self.state_path = directory / f"{stem}.state"
        self.run_path = directory / f"{stem}.run"
        self.claims_path = directory / f"{stem}.claims"
        self.lock_path = directory / f"{stem}.lock"
        self.log_path = (logs or directory) / f"{stem}.log"
        self._keeps_log = logs is not None

    def want(self) -> Want | None:
        """The unit's `want`; None if the unit is not wanted."""
        return _read(self.want_path, Want)

    def state(self) -> ProcessState | None:
        """The last report of its process; None if there is none yet."""
        return _read(self.state_path, ProcessState)

    def run(self) -> Run | None:
        """How to find what the process started; None if it started nothing, or all of that has ended."""
        return _read(self.run_path, Run)

    def write(self, record: Want | ProcessState | Run) -> None:
        """Replace the file atomically."""
        paths: dict[type, Path] = {Want: self.want_path, ProcessState: self.state_path, Run: self.run_path}
        path = paths[type(record)]
        new = path.with_name(f"{path.name}-{os.getpid()}")
        new.write_bytes(msgspec.json.encode(record))
        new.replace(path)

    def claims_as(self) -> str:
        """The name under which the last process claimed events; empty if there was none. Call it while holding the
        lock."""
        try:
            return self.claims_path.read_text()
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    def will_claim_as(self, name: str) -> None:
        """Record the name under which the unit's processes claim events from now on."""
        new = self.claims_path.with_name(f"{self.claims_path.name}-{os.getpid()}")
        new.write_text(name)
        new.replace(self.claims_path)

    def beat(self) -> tuple[int, ...]:
        """A mark that changes with each sign of life; empty if there is none."""
        return mark(self.state_path)

    def running(self) -> bool:
        """Whether a process holds the unit's lock."""
        return held(self.lock_path)

    def forget_state(self) -> bool:
        """Remove the last report of a process that has ended; otherwise it would look like the next process's report.
        Returns False, without removing it, if a process is running."""
        lock = take(self.lock_path)
        if lock is None:
            return False
        try:
            self.state_path.unlink(missing_ok=True)
        finally:
            os.close(lock)
        return True

    def clear(self) -> bool:
        """Remove all of the unit's files, unless a process holds its lock (again). Idempotent."""
        lock = take(self.lock_path)
        if lock is None:
            return False
        try:
            paths = [self.want_path, self.state_path, self.run_path, self.claims_path]
            if not self._keeps_log:
                paths += [self.log_path, older(self.log_path)]
            for path in (*paths, self.lock_path):
                path.unlink(missing_ok=True)
        finally:
            os.close(lock)
        return True


def units_on_disk(directory: Path, train: str | None) -> Iterator[tuple[str, int]]:
    """The units (train and unit) that have files there; with None, those of all trains."""
    try:
        names = sorted(entry.name for entry in os.scandir(directory))
    except FileNotFoundError:
        return
    found = {(m[1], int(m[2])) for m in map(_FILE.fullmatch, names) if m}
    yield from sorted(pair for pair in found if train is None or pair[0] == train)


def sweep(directory: Path) -> None:
    """Remove what killed orchestrators and processes left behind: their signs of life, and half-written records."""
    for path in directory.glob("*.alive"):
        if not held(path):
            path.unlink(missing_ok=True)
    for path in directory.iterdir():
        match = _HALF.fullmatch(path.name)
        if match and created(int(match[1])) is None:
            path.unlink(missing_ok=True)


def older(log: Path) -> Path:
    """The path of the file that a full log becomes."""
    return log.with_name(log.name + ".1")


def mark(path: Path) -> tuple[int, ...]:
    """A mark that changes when the file is changed or replaced; empty if there is no file."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return ()
    return found.st_mtime_ns, found.st_ino, found.st_size


def _read(path: Path, kind: type[R]) -> R | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.DecodeError):  # a torn file, left by a machine that went down: nothing runs
        return None


# --- locks --------------------------------------------------------------------------------


def take(path: Path) -> int | None:
    """Take the lock, creating its file. Returns a file descriptor that holds the lock until it is closed; None while
    another process holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if stands(descriptor, path):
            return descriptor
        os.close(descriptor)  # its last holder removed the file meanwhile: that lock is worthless


def stands(descriptor: int, path: Path) -> bool:
    """Whether the path still leads to the open file."""
    try:
        there, here = path.stat(), os.fstat(descriptor)
    except FileNotFoundError:
        return False
    return (there.st_ino, there.st_dev) == (here.st_ino, here.st_dev)


def held(path: Path) -> bool:
    """Whether a process holds the lock. The check itself holds it for a moment, shared: so try more than once to take
    it."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


# --- processes ----------------------------------------------------------------------------


def created(pid: int) -> float | None:
    """When the process was created, in seconds since the epoch; None if no process has that pid, or only a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


def is_alive(state: ProcessState) -> bool:
    """Whether the very process that wrote this is running, rather than another one with its pid."""
    since = created(state.pid)
    return since is not None and abs(since - state.created) < _SAME


def kill(state: ProcessState) -> bool:
    """Kill the process that wrote this, and what it started, at once. Returns False, without a signal, if it is
    gone."""
    if not is_alive(state):
        return False
    kill_all(state.pid)
    return True


def kill_all(pid: int) -> None:
    """Send SIGKILL to the process, and to its whole session if it leads one. A process that is gone is no error. Call
    it only if the pid is certainly still that process's."""
    leads = _session(pid) == pid
    send(pid, signal.SIGKILL)  # first: it starts nothing more
    while leads and (others := [other for other in psutil.pids() if other != pid and _runs_in(other, pid)]):
        for other in others:
            send(other, signal.SIGKILL)


def send(pid: int, number: int) -> None:
    """Send a signal. A process that is gone is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def started_by(run: Run) -> list[int]:
    """The running processes of this user that were started in that run. It reads the environment of all the user's
    processes."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            ours = process.uids().effective == os.geteuid() and process.status() != psutil.STATUS_ZOMBIE
            if ours and process.environ().get(RUN) == run.token:
                found.append(process.pid)
    return found


def _session(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except (ProcessLookupError, PermissionError):
        return None


def _runs_in(pid: int, session: int) -> bool:
    return _session(pid) == session and created(pid) is not None


class Stillness:
    """For how long marks have not changed. A gap between two looks counts little: then this process was stopped
    itself."""

    def __init__(self) -> None:
        self._seen: dict[object, tuple[object, float, float]] = {}

    def seconds(self, key: object, mark: object, now: float) -> float:
        """Seconds for which `key` has had this mark. `now` in seconds on a monotonic clock."""
        before, last, still = self._seen.get(key, (mark, now, 0.0))
        still = still + min(1.0, now - last) if before == mark else 0.0
        self._seen[key] = (mark, now, still)
        return still

    def forget(self, *keys: object) -> None:
        """Forget these keys."""
        for key in keys:
            self._seen.pop(key, None)
