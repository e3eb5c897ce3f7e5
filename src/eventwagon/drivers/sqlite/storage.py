"""Opens SQLite files, refuses what would not be safe, and says what is wrong and what to do.

Files are opened only by apsw, never by `open()`: closing any descriptor of a file drops all POSIX locks that the
process holds on it. For the same reason Python's own `sqlite3` must not be used on them inside the same process.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import apsw
import msgspec

from ...errors import BrokerError, StorageBroken, Unavailable, UsageError

Sync = Literal["full", "normal"]

OLDEST = (3, 51, 3)
_FILE_MODE, _DIRECTORY_MODE = 0o600, 0o700
"""Modes of new files and directories: only their owner may read events."""
BUSY_SECONDS = 10.0  # how long to wait for another process's lock
_SHM_BYTES = 32 << 10
"""What SQLite allocates in a file's `-shm`, also to read."""


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of file: its header and its tables."""

    what: str
    application_id: int
    version: int
    schema: str
    dead: str | None = None
    """A query whether nothing is left in it, so that it may be removed; None: it never is."""
    added: tuple[tuple[str, str, str], ...] = ()
    """Columns (table, name, declaration) that files of earlier releases lack. They have defaults, so those releases can
    still use such a file."""


def check_version(version: str | None = None) -> None:
    """Raise StorageBroken if the SQLite library is too old to be trusted with several writing processes."""
    version = version or apsw.sqlite_lib_version()
    if tuple(int(part) for part in version.split(".")) < OLDEST:
        raise StorageBroken(
            f"SQLite {version} is too old: up to 3.51.2 a WAL reset that meets a checkpoint of another process can "
            f"corrupt the file. Install apsw >= 3.51.3 (it brings its own SQLite)"
        )


# --- files --------------------------------------------------------------------------------


def connect(path: Path, form: Format, *, create: bool, sync: Sync) -> apsw.Connection | None:
    """A connection to the file; None if there is none (or a half-made one) and `create` is false. A new file has no
    tables yet: the first transaction creates them. Raises apsw.Error, OSError, StorageBroken."""
    for _ in range(5):
        db = _open(path)
        if db is None:
            if not create:
                return None
            make_directory(path.parent)
            with _alone(path.parent):
                _make(path)
            continue
        fits = False
        try:
            fits = _known(db, path, form) or create
            if fits:
                _use_wal(db, path)
                db.execute(f"PRAGMA synchronous={sync}; PRAGMA temp_store=memory")
                return db
            if not moved(db):
                return None
        except (apsw.Error, StorageBroken):
            fits = False
            if not moved(db):
                raise
        finally:
            if not fits:
                db.close()
    raise Unavailable(f"{path} is being made and removed by others at the same time: try again")


def _open(path: Path) -> apsw.Connection | None:
    if not os.path.lexists(path):  # asked often where there is none
        return None
    for last in (False, False, True):  # a file that is being created may look unreadable or unwritable at first
        try:
            db = _connection(path, apsw.SQLITE_OPEN_READWRITE)
        except apsw.CantOpenError:
            if not os.path.lexists(path):
                return None
            if last:
                raise
            continue
        if last or not db.readonly("main"):
            return db
        db.close()
    raise AssertionError("unreachable")


def _make(path: Path) -> None:
    """Create an empty file in WAL mode, for this user alone, unless it exists. SQLite gives its mode to its companions.
    Only one process at a time may call it (`_alone`)."""
    if not os.path.lexists(path):
        # Created under another name, which no connection of this process has: see the rule about descriptors above.
        new = path.with_name(f".{path.name}.new")
        new.unlink(missing_ok=True)  # left here by a process that was killed
        os.close(os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL, _FILE_MODE))
        new.rename(path)
    db = _connection(path, apsw.SQLITE_OPEN_READWRITE)
    try:
        if not db.pragma("page_count"):
            _use_wal(db, path)
    finally:
        db.close()


def _connection(path: Path, flags: int) -> apsw.Connection:
    db = apsw.Connection(str(path), flags=flags, statementcachesize=64)
    db.set_busy_timeout(int(BUSY_SECONDS * 1000))
    db.setlk_timeout(int(BUSY_SECONDS * 1000), 0)
    return db


def _known(db: apsw.Connection, path: Path, form: Format) -> bool:
    """Whether the file has our tables; False: it is new or half-made. Raises StorageBroken for another program's
    file."""
    inside = db.in_transaction
    if not inside:  # in one transaction, or it would see half of what another process is creating
        db.execute("BEGIN")
    try:
        tables = db.execute("SELECT EXISTS (SELECT 1 FROM sqlite_schema)").get
        application, version = db.pragma("application_id"), db.pragma("user_version")
    finally:
        if not inside and db.in_transaction:
            db.execute("ROLLBACK")
    if application == form.application_id and version:
        if version > form.version:
            raise StorageBroken(
                f"{path} has schema version {version}, and this eventwagon knows {form.version}: a newer release wrote "
                f"it. Use that release, or another directory"
            )
        return True
    if application or version or tables:
        raise StorageBroken(
            f"{path} is not {form.what} of eventwagon (application id {application:#x}, not {form.application_id:#x}): "
            f"it is left as it is. Move it away, or use another directory"
        )
    return False


def install(db: apsw.Connection, form: Format) -> None:
    """Create the missing tables, within the current transaction."""
    if not db.pragma("user_version"):
        db.execute(form.schema)
        db.execute(f"PRAGMA application_id={form.application_id}; PRAGMA user_version={form.version}")


def upgrade(db: apsw.Connection, form: Format) -> None:
    """Add the missing columns, within the current transaction. Idempotent."""
    for table, column, declaration in form.added:
        if not db.execute("SELECT EXISTS (SELECT 1 FROM pragma_table_info(?) WHERE name=?)", (table, column)).get:
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column} {declaration}")


def _use_wal(db: apsw.Connection, path: Path) -> None:
    """Switch the file to WAL. SQLite does not wait for its lock here, so retry while another process does the same."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            mode = db.execute("PRAGMA journal_mode=wal").get
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.002)
            continue
        if mode != "wal":
            raise StorageBroken(
                f"{path}: SQLite's write-ahead log can't be used there (journal mode stays {mode!r}), most often "
                f"because the file system has no shared memory maps. Use a directory on a local disk"
            )
        return


def moved(db: apsw.Connection) -> bool:
    """Whether the connection's path has another file than the one that it holds open (removed, replaced)."""
    flag = ctypes.c_int(0)
    db.file_control("main", apsw.SQLITE_FCNTL_HAS_MOVED, ctypes.addressof(flag))
    return bool(flag.value)


def remove_dead(path: Path, form: Format) -> None:
    """Remove the file if nothing is left in it (or it is half-made, or only its companions stand). Repeatable.

    The look and the unlink happen under the file's own write lock, so nobody creates into it meanwhile. The main file
    goes first: without it the companions mean nothing, while the reverse could bring back what was deleted.
    """
    if form.dead is None or not path.parent.is_dir():
        return
    with _alone(path.parent):
        db = _open(path)
        if db is not None:
            try:
                db.execute("BEGIN IMMEDIATE")
                if moved(db) or (_known(db, path, form) and not db.execute(form.dead).get):
                    return
                path.unlink()
            finally:
                db.close()
        for suffix in ("-wal", "-shm", "-journal"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


@contextlib.contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Creating and removing files in the directory exclude each other, in all processes: otherwise the companions of a
    removed file, which are removed after it, might be those of a new file of the same name. Raises Unavailable."""
    try:
        import fcntl
    except ImportError:  # without one, a file that is open can't be removed either
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Unavailable(f"{directory} is locked by another process: find it, and try again") from None
            time.sleep(0.002)
        yield
    finally:
        os.close(handle)


def make_directory(directory: Path) -> list[Path]:
    """Create it and its parents, for this user alone, and have their entries on the disk when this returns. Existing
    ones are left as they are. Returns those that were missing, the innermost first."""
    made = []
    while not directory.exists():
        made.append(directory)
        directory = directory.parent
    for child in reversed(made):
        child.mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
    for child in made:
        with contextlib.suppress(OSError):  # some systems can't sync a directory; nothing more can be done there
            handle = os.open(child.parent, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    return made


# --- what went wrong ----------------------------------------------------------------------


def own_fault(error: BaseException) -> bool:
    """Whether one operation's own data is the cause, not the file: others in the same turn need not fail."""
    data = (apsw.TooBigError, apsw.ConstraintError, apsw.MismatchError, apsw.RangeError, apsw.BindingsError)
    return isinstance(error, data) or not isinstance(error, (apsw.Error, OSError, BrokerError))


def explain(error: Exception, path: Path) -> Exception:
    """The contract's error for this one: what is wrong, where, what to do."""
    match error:
        case BrokerError():
            return error
        case apsw.FullError():
            return _full(path)
        case apsw.IOError() | apsw.CantOpenError() if what := _lacking(path.parent):  # so a reader's new -wal, -shm
            return _full(path, what)
        case apsw.BusyError() | apsw.LockedError():
            return Unavailable(
                f"{path} has been locked by another process for {BUSY_SECONDS:.0f} s: find it (a shell, a backup, a "
                f"stopped process) and try again"
            )
        case apsw.ReadOnlyError():
            return StorageBroken(
                f"{path} can't be written: it, its directory or the file system is read-only for this user. Make all "
                f"three writable, or use another directory ({error})"
            )
        case apsw.CorruptError() | apsw.NotADBError():
            return StorageBroken(
                f"{path} is damaged ({error}): move it and its -wal and -shm away together, save what can be read with "
                f"`sqlite3 FILE .recover`, and look at the disk"
            )
        case apsw.CantOpenError():
            return StorageBroken(f"{path} can't be opened: {_why_not(path)} ({error})")
        case apsw.IOError():
            return StorageBroken(f"{path}: the disk or file system failed ({error}): look at its health and logs")
        case apsw.NoMemError() | apsw.InterruptError():
            return Unavailable(f"{path}: {error}: try again")
        case apsw.TooBigError() | apsw.ConstraintError() | apsw.MismatchError() | apsw.BindingsError():
            return UsageError(f"{path}: this can't be stored: {error}")
        case apsw.Error():
            return StorageBroken(f"{path}: unexpected answer of SQLite: {type(error).__name__}: {error}")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return StorageBroken(f"{path}: no space left: free some on the disk of {path.parent}")
        case OSError(errno=errno.EEXIST | errno.ELOOP) if why := leads_nowhere(path):
            return StorageBroken(f"{path} can't be used: {why}")
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS | errno.EMFILE | errno.ENFILE):
            return StorageBroken(f"{path} can't be opened: {_why_not(path)} ({error.strerror})")
        case OSError():
            return StorageBroken(f"{path} can't be used: {error.strerror or error}: mend that or use another directory")
        case _:
            return error


def _full(path: Path, what: str = "space") -> StorageBroken:
    return StorageBroken(
        f"{path}: no {what} left: free some on the disk (or raise the quota) of {path.parent}; nothing that was "
        f"accepted is lost, and all goes on without a restart"
    )


def _lacking(directory: Path) -> str:
    """What its file system has no more of, so that no file can be made there or grow; empty: it has all, or does not
    say."""
    try:
        found = os.statvfs(directory)
    except (OSError, AttributeError):  # the latter on Windows
        return ""
    if found.f_blocks and found.f_bavail * found.f_frsize < _SHM_BYTES:
        return "space"
    return "inodes" if found.f_files and not found.f_favail else ""


def leads_nowhere(path: Path) -> str:
    """What to do about a symbolic link in the path whose target does not exist; empty: there is none."""
    for each in (path, *path.parents):
        if each.is_symlink() and not each.exists():
            to = each.readlink()
            return f"{each} is a symbolic link to {to}, which is not there: mount or make that, or remove the link"
    return ""


def _why_not(path: Path) -> str:
    try:
        if why := leads_nowhere(path):
            return why
        if path.is_dir():
            return "it is a directory, not a file; move it away"
        if not path.parent.is_dir():
            return f"{path.parent} is not a directory; make it one, or use another"
        if not os.access(path.parent, os.W_OK | os.X_OK):
            return f"{path.parent} is read-only for this user; give it write access"
        if path.exists() and not os.access(path, os.R_OK | os.W_OK):
            return "this user may not read and write it; give it access"
    except OSError as e:
        return str(e)
    return "perhaps too many files are open (`ulimit -n`); look at the permissions too"
