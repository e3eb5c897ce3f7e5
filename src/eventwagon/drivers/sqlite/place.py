"""Whether a directory is suitable for SQLite files that several processes share; it is refused with a reason if it is
not."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

from ...errors import StorageBroken
from .storage import Format, check_version, connect, explain, install, leads_nowhere, make_directory

_PROBE = Format(what="a probe", application_id=0x65767770, version=1, schema="CREATE TABLE probe (x)", dead="SELECT 1")
_PREFIX = ".probe-"
_PROBE_SECONDS = 3600.0
"""A probe that is older than this is not in use."""

_logger = logging.getLogger("eventwagon")

_NETWORK = """
    afs beegfs ceph cifs coda fhgfs glusterfs gpfs lustre ncpfs nfs nfs3 nfs4 orangefs pvfs2 smb2 smb3 smbfs
    fuse.ceph fuse.cephfs fuse.glusterfs fuse.juicefs fuse.nfs fuse.rclone fuse.s3fs fuse.smbnetfs fuse.sshfs
"""


_made: dict[Path, list[Path]] = {}
"""What this process had to create for a driver's directory, the innermost first."""


class Place:
    """A driver's directory: checked once, created only when something is to be stored in it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._fit = False
        self._lock = threading.Lock()

    def check(self, *, make: bool) -> None:
        """Raise StorageBroken unless the directory is suitable; a missing one is created, or left missing. May be
        called in any thread."""
        with self._lock:
            if not self._fit and (make or os.path.lexists(self.directory)):
                if made := prepare(self.directory):
                    _made[self.directory] = made
                self._fit = True
                if hint := open_to_others(self.directory):
                    _logger.info("%s", hint)

    def clear(self, train: str) -> None:
        """Remove the train's own directory if nothing is left in it, and then those above it that this process has
        created."""
        with self._lock, contextlib.suppress(OSError):
            for directory in (self.directory / train, *_made.get(self.directory, ())):
                with contextlib.suppress(FileNotFoundError):
                    directory.rmdir()
            _made.pop(self.directory, None)
            self._fit = False


def open_to_others(directory: Path) -> str:
    """A hint if other users of the machine may read the directory; else empty."""
    try:
        mode = stat.S_IMODE(directory.stat().st_mode)
    except OSError:
        return ""
    if os.name != "posix" or not mode & 0o077:
        return ""
    return (
        f"{directory} has mode {mode:04o}: other users may look into it. What eventwagon makes there is for this user "
        f"alone (0700, 0600), what stood there before is left as it is: `chmod -R go= {directory}` closes all of it"
    )


def prepare(directory: Path) -> list[Path]:
    """Create the directory if it is missing, and raise StorageBroken unless SQLite files are safe in it. Returns what
    was created, the innermost first."""
    check_version()
    try:
        made = make_directory(directory)
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, "not a directory")
    except OSError as e:
        why = leads_nowhere(directory) or f"{e.strerror or e}: choose another"
        raise StorageBroken(f"{directory} can't be used as a directory: {why}") from e
    kind = file_system(directory)
    if kind in _NETWORK.split():
        raise StorageBroken(
            f"{directory} is on a network file system ({kind}): SQLite's write-ahead log needs memory shared between "
            "all its processes, so events would be lost or damaged there. Use a local disk, or another broker between "
            "hosts"
        )
    _clear_probes(directory)
    probe = directory / f"{_PREFIX}{uuid.uuid4().hex}.db"
    try:
        with contextlib.closing(_connect_probe(probe)) as first, contextlib.closing(_connect_probe(probe)) as second:
            first.execute("BEGIN IMMEDIATE")
            install(first, _PROBE)
            second.set_busy_timeout(0)
            second.setlk_timeout(0, 0)
            if begins(second) or not locks_hold(probe.with_suffix(".lock")):
                raise StorageBroken(
                    f"locks don't hold in {directory}: two writers were let in at once, so events would be lost or "
                    f"damaged. Use a local disk"
                )
            first.execute("COMMIT")
    except (apsw.Error, OSError) as e:
        raise explain(e, probe) from e
    finally:
        for suffix in ("", "-wal", "-shm", "-journal"):
            with contextlib.suppress(OSError):
                probe.with_name(probe.name + suffix).unlink(missing_ok=True)
    return made


def _clear_probes(directory: Path) -> None:
    """Remove the probes of processes that were killed."""
    long_ago = time.time() - _PROBE_SECONDS
    with contextlib.suppress(OSError):
        for path in directory.glob(f"{_PREFIX}*"):
            with contextlib.suppress(OSError):
                if path.stat().st_mtime < long_ago:
                    path.unlink()


def _connect_probe(path: Path) -> apsw.Connection:
    db = connect(path, _PROBE, create=True, sync="normal")
    assert db is not None, "asked to create"  # noqa: S101 - for mypy
    return db


def begins(db: apsw.Connection) -> bool:
    """Whether a write transaction can begin: no other connection has one."""
    try:
        db.execute("BEGIN IMMEDIATE")
    except apsw.BusyError:
        return False
    return True


def locks_hold(path: Path) -> bool:
    """Whether the system refuses a second writer's lock on `path`, which is created and removed again.

    SQLite knows its own connections within one process and asks the system only once, so this asks the system itself,
    by locks that belong to a file descriptor. True if the system has no such locks.
    """
    if sys.platform == "win32":
        return True
    import fcntl

    command: Any = getattr(fcntl, "F_OFD_SETLK", None)
    if command is None or sys.platform != "linux":
        return True
    whole = _flock(fcntl.F_WRLCK)
    first = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        second = os.open(path, os.O_RDWR)
        try:
            fcntl.fcntl(first, command, whole)
            try:
                fcntl.fcntl(second, command, whole)
            except OSError as e:
                return e.errno in (errno.EAGAIN, errno.EACCES)
            return False
        except OSError as e:
            if e.errno == errno.EINVAL:  # an old kernel has no such locks
                return True
            raise
        finally:
            os.close(second)
    finally:
        os.close(first)
        path.unlink(missing_ok=True)


def _flock(kind: int) -> bytes:
    """`struct flock` over the whole file, in 64-bit Linux's layout."""
    import struct

    return struct.pack("hhqqi4x", kind, os.SEEK_SET, 0, 0, 0)


def file_system(directory: Path, mounts: str | None = None) -> str | None:
    """The type of the directory's file system (`ext4`, `nfs4`, …); None if the system does not say."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mountinfo").read_text(errors="surrogateescape")
        except OSError:
            return None
    place = os.path.realpath(directory)
    best, found = -1, None
    for point, kind in _mounts(mounts):
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # of mounts on the same point, the last one is on top
            best, found = len(point), kind
    return found


def _mounts(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        if separator and len(fields) > 4:
            point = fields[4]
            for escaped, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
                point = point.replace(escaped, plain)
            yield point, after.split(" ", 1)[0]
