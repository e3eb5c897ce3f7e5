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
import time
from collections.abc import Callable
from contextlib import closing, suppress
from datetime import timedelta
from typing import Any

import msgspec

from .contracts.once import key_of
from .errors import UsageError
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
    emitted BLOB NOT NULL        -- what its handler emitted (MessagePack)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS eventwagon_once_until ON eventwagon_once (until);
"""
_BUSY = 10.0
"""Seconds for which a handler waits for another one's transaction."""
_FORGOTTEN = 100
"""Records that are forgotten, at most, with each new one."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[str, Event]]).decode


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
    path = os.fspath(database)
    window = lasting("in_transaction: remember", remember)

    def decorate(function: Callable[..., None]) -> Callable[[Any, Context], None]:
        signature, wants_context = _signature(function)

        @functools.wraps(function)
        def handle(payload: Any, ctx: Context) -> None:
            call = functools.partial(function, payload)
            with closing(_open(path)) as db:
                _transact(db, ctx, window, (lambda: call(db, ctx)) if wants_context else (lambda: call(db)))

        handle.__signature__ = signature  # type: ignore[attr-defined]  # which Train.on reads
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


def _open(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=_BUSY, isolation_level=None)
    try:
        if not db.execute("SELECT 1 FROM sqlite_schema WHERE name='eventwagon_once_until'").fetchone():
            db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _transact(db: sqlite3.Connection, ctx: Context, window: float, call: Callable[[], None]) -> None:
    key = key_of(f"{ctx.train}/{ctx.channel}", ctx.event)
    db.execute("BEGIN IMMEDIATE")
    try:
        now = time.time()
        known = db.execute("SELECT emitted FROM eventwagon_once WHERE key=? AND until>?", (key, now)).fetchone()
        if known is not None:
            db.execute("ROLLBACK")
            ctx.emitted += _decode(known[0])
            return
        db.set_authorizer(_stays_open)
        call()
        db.set_authorizer(None)
        emitted = b"\x90" if isinstance(ctx, FakeContext) else _encode(ctx.emitted)  # a fake one holds payloads
        db.execute("INSERT OR REPLACE INTO eventwagon_once VALUES (?, ?, ?)", (key, now + window, emitted))
        over = "SELECT key FROM eventwagon_once WHERE until<=? LIMIT ?"
        db.execute(f"DELETE FROM eventwagon_once WHERE key IN ({over})", (now, _FORGOTTEN))  # noqa: S608 - our words
        db.execute("COMMIT")
    except BaseException:
        db.set_authorizer(None)
        with suppress(sqlite3.Error):
            db.execute("ROLLBACK")
        raise


def _stays_open(action: int, *_: object) -> int:
    """No statement of the function's own ends its transaction."""
    return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK
