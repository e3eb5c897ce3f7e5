"""Handlers whose effect happens exactly once, because it is a transaction of one SQLite database that also records the
event.

    @orders.on("orders")
    @in_transaction("shop.db", remember=timedelta(days=7))
    def book(order: Order, db: sqlite3.Connection) -> None:
        db.execute("UPDATE stock SET left = left - 1 WHERE item = ?", (order.item,))

It works with every broker, with or without the train's `once=`.
"""

from __future__ import annotations

import functools
import inspect
import os
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec

from .contracts.once import key_of
from .errors import Snooze, UsageError
from .event import Event
from .payload import name_of
from .runtime.context import Context, FakeContext
from .times import lasting
from .values import is_a, shown

__all__ = ["in_transaction"]

_SCHEMA = """
CREATE TABLE IF NOT EXISTS eventwagon_once (
    key     BLOB PRIMARY KEY,    -- a hash of the train, the channel, and the event's source and id
    until   REAL NOT NULL,       -- when it is forgotten, in seconds since the Unix epoch
    emitted BLOB NOT NULL        -- what its handler emitted, and counts (MessagePack)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS eventwagon_once_until ON eventwagon_once (until);
"""
_BUSY = 10.0
"""Seconds for which a handler waits for another one's transaction."""
_FORGOTTEN = 100
"""Records that are forgotten, at most, with each new one."""
_OURS = 0x657677
"""The first three bytes of the application id of eventwagon's own files."""
_turns: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""By path: who waits in this process waits here. SQLite has its waiters try again after pauses, in no order."""

_encode = msgspec.msgpack.Encoder().encode
_Sent = tuple[list[tuple[str, Event]], dict[str, int]]
"""What the handler emitted, and how many events by place: the ids of what is emitted after it depend on that."""
_decode = msgspec.msgpack.Decoder(_Sent).decode


def in_transaction(
    database: str | os.PathLike[str], *, remember: float | timedelta = timedelta(days=7)
) -> Callable[[Callable[..., None]], Callable[[Any, Context], None]]:
    """Decorator, below `@train.on`: the handler is a plain function `(payload, db)` or `(payload, db, ctx)`, and all
    that it does by `db` (a `sqlite3.Connection` to the file `database`) is one transaction with the record of the
    event. It is committed when the function returns, and rolled back if it raises.

    If the event comes again within `remember` (in seconds or as a timedelta), the function is not called: its effect
    is there. What it emitted is recorded too, and then sent once more with the same ids, for the case that its process
    died before that was stored.

    The transaction begins with BEGIN IMMEDIATE: functions that use the same file run one after the other. They can't
    commit or roll back by themselves; SAVEPOINT works. The record is the table `eventwagon_once`. Raises UsageError for
    another kind of function, and for a wrong `remember`.
    """
    if not is_a(database, str, os.PathLike) or not os.fspath(database):
        raise UsageError(f"in_transaction: the database must be the path of a file, not {shown(database)}")
    path = os.fsdecode(database)
    if path == ":memory:" or path.startswith("file:"):
        raise UsageError(
            f"in_transaction: {shown(path)} is no path of a file: a database in memory ends with its transaction, and "
            "URIs are not supported"
        )
    path = str(Path(path).absolute())  # handlers may change the working directory
    window = lasting("in_transaction: remember", remember)

    def decorate(function: Callable[..., None]) -> Callable[[Any, Context], None]:
        signature, wants_context = _signature(function)

        @functools.wraps(function)
        def handle(payload: Any, ctx: Context) -> None:
            call = functools.partial(function, payload)
            with _turn(path), closing(_open(path)) as db:
                _transact(db, ctx, window, (lambda: call(db, ctx)) if wants_context else (lambda: call(db)))

        handle.__signature__ = signature  # type: ignore[attr-defined]  # which Train.on reads
        handle.takes_one_event = "in_transaction"  # type: ignore[attr-defined]  # which Train.on reads, too
        return handle

    return decorate


def _signature(function: Callable[..., None]) -> tuple[inspect.Signature, bool]:
    """The signature that Train.on is to see, and whether the function takes the context. Raises UsageError."""
    where = f"handler {name_of(function)!r}"
    if not callable(function) or isinstance(function, type):
        raise UsageError(f"{where} is no function: write @in_transaction(…) between @train.on and the function")
    if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function):
        raise UsageError(f"{where}: in a transaction it must be a plain function (def), which runs in a thread")
    try:
        given = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError) as e:
        raise UsageError(f"{where} has no signature that can be read: {e}") from e
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    if len(given) not in (2, 3) or any(parameter.kind not in plain for parameter in given):
        raise UsageError(f"{where}: in a transaction give it (payload, db) or (payload, db, ctx)")
    ctx = inspect.Parameter("ctx", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Context)
    if given[0].name == "ctx":
        raise UsageError(f"{where}: the name 'ctx' is the context's: call its payload something else")
    return inspect.Signature([given[0].replace(default=inspect.Parameter.empty), ctx]), len(given) == 3


@contextmanager
def _turn(path: str) -> Iterator[None]:
    turn = _turns[path]
    if not turn.acquire(timeout=_BUSY):
        raise Snooze(1.0, f"other handlers of this process have kept {path} for {_BUSY:g} s")
    try:
        yield
    finally:
        turn.release()


def _open(path: str) -> sqlite3.Connection:
    try:
        # without cached statements: each is prepared, and so authorized, when it is executed
        db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, cached_statements=0)
    except sqlite3.OperationalError as e:
        raise sqlite3.OperationalError(f"{path}: {e}") from e
    try:
        if db.execute("PRAGMA application_id").fetchone()[0] >> 8 == _OURS:
            raise UsageError(f"in_transaction: {path} is a file of eventwagon's own: use another one for your data")
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name='eventwagon_once_until'").fetchone():
            db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _transact(db: sqlite3.Connection, ctx: Context, window: float, call: Callable[[], None]) -> None:
    key = key_of(f"{ctx.train}/{ctx.channel}", ctx.event)
    try:
        db.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError as e:
        if e.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        raise Snooze(1.0, f"other processes have kept the database for {_BUSY:g} s") from e
    try:
        now = time.time()
        known = db.execute("SELECT emitted FROM eventwagon_once WHERE key=? AND until>?", (key, now)).fetchone()
        if known is not None:
            db.execute("ROLLBACK")
            ctx.emit_again(*_decode(known[0]))
            return
        db.set_authorizer(_only_within(db))
        emitted, before = len(ctx.emitted), None if isinstance(ctx, FakeContext) else ctx.counts
        call()
        _must_be_open(db)
        db.set_authorizer(None)
        sent: _Sent = ([], {}) if before is None else (ctx.emitted[emitted:], _added(before, ctx.counts))
        db.execute("INSERT OR REPLACE INTO eventwagon_once VALUES (?, ?, ?)", (key, now + window, _encode(sent)))
        over = "SELECT key FROM eventwagon_once WHERE until<=? LIMIT ?"
        db.execute(f"DELETE FROM eventwagon_once WHERE key IN ({over})", (now, _FORGOTTEN))  # noqa: S608 - our words
        db.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            db.set_authorizer(None)
            db.execute("ROLLBACK")
        raise


def _added(before: dict[str, int], after: dict[str, int]) -> dict[str, int]:
    return {place: count - before.get(place, 0) for place, count in after.items()}


def _must_be_open(db: sqlite3.Connection) -> None:
    """SQLite itself rolls back after some errors, and the function may have caught the error."""
    try:
        is_open = db.in_transaction
    except sqlite3.ProgrammingError:
        is_open = False  # it has closed the connection
    if not is_open:
        raise sqlite3.OperationalError(
            "the handler's transaction was rolled back before the handler returned (by OR ROLLBACK, RAISE(ROLLBACK), "
            "close() or a failure such as a full disk): nothing of it is kept. Let that error pass, or use OR ABORT"
        )


def _only_within(db: sqlite3.Connection) -> Callable[..., int]:
    """An authorizer: no statement of the function's own ends its transaction, and none runs after SQLite ended it."""

    def authorize(action: int, *_: object) -> int:
        refused = action == sqlite3.SQLITE_TRANSACTION or not db.in_transaction
        return sqlite3.SQLITE_DENY if refused else sqlite3.SQLITE_OK

    return authorize
