"""Adds an event to the outbox, inside of the caller's transaction."""

from __future__ import annotations

import time
from collections.abc import Coroutine
from inspect import isawaitable
from typing import Any

from ..cloudevents import rfc3339
from ..errors import UsageError
from ..event import Event, check_word, checked, new_ids
from ..payload import encode, type_name
from ..values import class_name, is_a
from .table import TABLE, quoted

_COLUMNS = ("id", "aggregatetype", "aggregateid", "type", "payload", "contenttype", "created_at")
_MOST = 1_000_000_000  # bytes: the train's own limit holds when the event is published


def add(
    connection: Any,
    payload: object,
    *,
    subject: str | None = None,
    event_type: str | None = None,
    id: str | None = None,  # noqa: A002 - the attribute's name in CloudEvents
    aggregate: str = "",
    table: str = TABLE,
) -> str:
    """Add an event to the outbox. It is published once the transaction of `connection` is committed, and never if that
    is rolled back. Returns the event's id.

    `connection` is yours: a psycopg 3 Connection or Cursor, or a SQLAlchemy Session or Connection. Nothing is committed
    here. `payload`, `subject` (the key), `event_type` and `id` are as for `Connection.publish`; an `Event` is stored
    with its id, type, subject, time and data. `aggregate` is Debezium's aggregatetype, for which eventwagon has no use.
    Not idempotent: what is added twice is published twice, with the same id if you gave one. Raises UsageError, and
    what the database raises.
    """
    row = _row(payload, subject, event_type, id, aggregate)
    _check(connection)
    if _is_async(connection):
        raise _asynchronous(connection)
    outcome = connection.execute(_statement(table) if _is_sqlalchemy(connection) else _sql(table), row)
    if isawaitable(outcome):  # nothing was done
        if isinstance(outcome, Coroutine):
            outcome.close()
        raise _asynchronous(connection)
    return str(row["id"])


async def add_async(
    connection: Any,
    payload: object,
    *,
    subject: str | None = None,
    event_type: str | None = None,
    id: str | None = None,  # noqa: A002
    aggregate: str = "",
    table: str = TABLE,
) -> str:
    """`add` for a psycopg 3 AsyncConnection or AsyncCursor, or a SQLAlchemy AsyncSession or AsyncConnection."""
    row = _row(payload, subject, event_type, id, aggregate)
    _check(connection)
    if not _is_async(connection):
        raise UsageError(f"outbox.add_async: {class_name(connection)} is not asynchronous: use outbox.add")
    await connection.execute(_statement(table) if _is_sqlalchemy(connection) else _sql(table), row)
    return str(row["id"])


def _row(
    payload: object, subject: str | None, event_type: str | None, event_id: str | None, aggregate: str
) -> dict[str, object]:
    if is_a(payload, Event):
        if subject is not None or event_type is not None or event_id is not None:
            raise UsageError("outbox.add of an Event: it has its own id, type and subject; change them there")
        event: Event = checked(payload, _MOST)
        if event.extensions:
            raise UsageError(f"outbox.add: the table has no column for extension attributes ({min(event.extensions)})")
    else:
        now = time.time()
        data, content_type = encode(payload)
        event = Event(
            new_ids(1, now)[0] if event_id is None else check_word("id", event_id),
            type_name(payload) if event_type is None else check_word("type", event_type),
            "outbox",
            now,
            data,
            None if subject is None else check_word("subject", subject),
            content_type,
        )
    if aggregate:
        check_word("aggregate", aggregate)
    values = (event.id, aggregate, event.subject, event.type, event.data, event.content_type, rfc3339(event.time))
    return dict(zip(_COLUMNS, values, strict=True))


def _sql(table: str) -> str:
    names = ", ".join(_COLUMNS)
    return f"INSERT INTO {quoted(table)} ({names}) VALUES ({', '.join(f'%({name})s' for name in _COLUMNS)})"  # noqa: S608


def _statement(table: str) -> Any:
    from sqlalchemy import text

    names = ", ".join(_COLUMNS)
    values = ", ".join(f"CAST(:{n} AS timestamptz)" if n == "created_at" else f":{n}" for n in _COLUMNS)
    return text(f"INSERT INTO {quoted(table)} ({names}) VALUES ({values})")  # noqa: S608


def _is_sqlalchemy(connection: object) -> bool:
    return any(each.__module__.partition(".")[0] == "sqlalchemy" for each in type(connection).__mro__)


def _is_async(connection: object) -> bool:
    return any(each.__name__.lower().startswith("async") for each in type(connection).__mro__)


def _asynchronous(connection: object) -> UsageError:
    return UsageError(f"outbox.add: {class_name(connection)} is asynchronous: await outbox.add_async")


def _check(connection: object) -> None:
    if not callable(getattr(connection, "execute", None)):
        raise UsageError(
            f"outbox: {class_name(connection)} is no connection: give a psycopg 3 Connection or Cursor, or a "
            "SQLAlchemy Session or Connection; for add_async their asynchronous forms"
        )
