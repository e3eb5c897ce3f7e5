"""An outbox in PostgreSQL: rows that are published are deleted.

A batch is locked (FOR UPDATE SKIP LOCKED) in a transaction that stays open until the batch is committed, and that
deletes it then. So a row is never passed over because its transaction committed late, as a cursor would do, several
bridges share the work, and a dead bridge's rows are free at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Self, cast
from urllib.parse import urlencode

import psycopg
from psycopg import errors, sql

from ...backoff import Backoff
from ...contracts.address import Address
from ...display.text import said
from ...errors import StorageBroken, Unavailable, UsageError
from ...event import check_word
from ...outbox.table import TABLE, create_table, notified, quoted
from ..source import Begin, Lag, Record

_NEEDED = ("id", "type", "payload")
_READ = (*_NEEDED, "aggregateid", "contenttype", "created_at")
_COUNTED = 1_000_000
_POLL = 1.0
"""Seconds after which the table is looked at without a notification: not every table has the trigger."""


def open_postgresql(address: Address, begin: Begin) -> PostgresOutbox:
    """The source of `postgresql://user:password@host:5432/database?table=outbox`, with the options of libpq. Raises
    UsageError."""
    if begin is not None:
        raise address.wrong("an outbox has no positions: leave --from out; what is in the table is published")
    options = {name: value for name, value in address.options.items() if name != "table"}
    table = address.options.get("table", TABLE)
    quoted(table)
    path = address.path.strip("/")
    url = f"postgresql://{address.host}/{path}" + (f"?{urlencode(options)}" if options else "")
    name = check_word("source", f"postgresql://{address.host.rpartition('@')[2]}/{path}/{table}")
    return PostgresOutbox(url, table, name=name, clock=address.clock)


class PostgresOutbox:
    """Reads with a connection for each batch that is under way."""

    def __init__(self, url: str, table: str, *, name: str, clock: Callable[[], float]) -> None:
        self.name = name
        self._url, self._table, self._clock = url, table, clock
        self._batches: dict[Any, list[Any]] = {}
        """The connections whose transactions hold rows, and the keys of these rows that are not committed."""
        self._idle: list[Any] = []
        self._columns: dict[str, str] = {}
        """The table's columns and their types."""
        self._listening: asyncio.Task[None] | None = None
        self._bell = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._idle.append(await self._connect())
        try:
            self._columns = await self._described(self._idle[0])
        except BaseException:
            await self.__aexit__()
            raise
        self._listening = asyncio.create_task(self._listen())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait([self._listening])
        for connection in [*self._batches, *self._idle]:
            await connection.close()
        self._batches.clear()
        self._idle.clear()

    @property
    def _key(self) -> str:
        """The column by which rows are deleted."""
        return "seq" if "seq" in self._columns else "id"

    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        """See Source."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while True:
            self._bell.clear()
            found = await self._lock(limit)
            if found or (left := until - loop.time()) <= 0:
                return found
            with suppress(TimeoutError):
                async with asyncio.timeout(min(left, _POLL)):
                    await self._bell.wait()

    async def _lock(self, limit: int) -> list[Record]:
        """Up to `limit` rows that nobody holds, in a transaction of their own. Our other batches are held by other
        connections."""
        connection = self._idle.pop() if self._idle else await self._connect()
        async with self._explained("reading", connection):
            rows = await self._rows(connection, limit, "FOR UPDATE SKIP LOCKED")
            if rows:
                self._batches[connection] = [row["key"] for row in rows]
            else:
                await connection.rollback()
                self._idle.append(connection)
        return [self._record(row, connection) for row in rows]

    async def commit(self, records: Sequence[Record]) -> None:
        """See Source. A batch of which only a part is committed is free for a moment: what another bridge takes then is
        published twice, with the same ids."""
        done: dict[Any, list[Any]] = {}
        for record in records:
            done.setdefault(record.token[0], []).append(record.token[1])
        for connection, keys in done.items():
            if connection not in self._batches:
                continue  # the connection broke: the rows were free at once
            async with self._explained("deleting", connection):
                await connection.execute(
                    sql.SQL("DELETE FROM {} WHERE {} = ANY(%s)").format(self._quoted, sql.Identifier(self._key)), [keys]
                )
                await connection.commit()
                finished = set(keys)
                rest = [key for key in self._batches[connection] if key not in finished]
                if rest:
                    again = sql.SQL("SELECT {0} FROM {1} WHERE {0} = ANY(%s) FOR UPDATE SKIP LOCKED")
                    cursor = await connection.execute(again.format(sql.Identifier(self._key), self._quoted), [rest])
                    rest = [key for (key,) in await cursor.fetchall()]
                if rest:
                    self._batches[connection] = rest
                else:
                    del self._batches[connection]
                    self._idle.append(connection)

    async def peek(self, limit: int) -> Sequence[Record]:
        """See Source. It also shows what others hold."""
        connection = self._idle.pop() if self._idle else await self._connect()
        async with self._explained("reading", connection):
            rows = await self._rows(connection, limit, "")
            await connection.rollback()
            self._idle.append(connection)
        return [self._record(row, connection) for row in rows]

    async def lag(self) -> Lag:
        """See Source: that of the whole table. Above a million rows their number is not known: counting takes too
        long."""
        connection = self._idle.pop() if self._idle else await self._connect()
        timed = "created_at" in self._columns
        oldest = sql.SQL("(SELECT created_at FROM {} {} LIMIT 1)").format(self._quoted, self._order)
        query = sql.SQL("SELECT (SELECT count(*) FROM (SELECT 1 FROM {} LIMIT %s) AS counted), {}").format(
            self._quoted, oldest if timed else sql.SQL("NULL")
        )
        async with self._explained("counting", connection):
            number, at = await (await connection.execute(query, [_COUNTED])).fetchone()
            await connection.rollback()
            self._idle.append(connection)
        seconds = 0.0 if not number else None if at is None else max(0.0, self._clock() - _seconds(at))
        return Lag(records=number if number < _COUNTED else None, seconds=seconds)

    # --- the database -------------------------------------------------------------------------

    @property
    def _quoted(self) -> sql.SQL:
        return sql.SQL(cast("Any", quoted(self._table)))

    @property
    def _order(self) -> sql.Composable:
        column = next((each for each in ("seq", "created_at") if each in self._columns), None)
        return sql.SQL("ORDER BY {}").format(sql.Identifier(column)) if column else sql.SQL("")

    async def _rows(self, connection: Any, limit: int, lock: str) -> list[dict[str, Any]]:
        wanted = [sql.SQL("{} AS key").format(sql.Identifier(self._key))]
        for column in _READ:
            if column in self._columns:
                text = column != "created_at" and self._columns[column] != "bytea"  # whatever else it is
                form = "{0}::text AS {0}" if text else "{0}"
                wanted.append(sql.SQL(cast("Any", form)).format(sql.Identifier(column)))
        query = sql.SQL("SELECT {} FROM {} {} LIMIT %s {}").format(
            sql.SQL(", ").join(wanted), self._quoted, self._order, sql.SQL(cast("Any", lock))
        )
        cursor = await connection.execute(query, [limit])
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    def _record(self, row: dict[str, Any], connection: Any) -> Record:
        payload, name = row.get("payload"), row.get("id")
        value = payload.encode() if isinstance(payload, str) else bytes(payload or b"")
        headers = [("ce_specversion", "1.0"), ("ce_source", self.name), ("ce_id", name), ("ce_type", row.get("type"))]
        headers.append(("content-type", row.get("contenttype") or "application/json"))
        at = row.get("created_at")
        return Record(
            position=f"postgresql/{self._table}/{row['key']}",
            value=value,
            headers=headers,
            key=(row.get("aggregateid") or "").encode() or None,
            time=self._clock() if at is None else _seconds(at),
            token=(connection, row["key"]),
            trouble="" if payload is not None and name else "its payload is NULL" if name else "it has no id",
        )

    async def _connect(self) -> Any:
        async with self._explained("connecting", None):
            return await psycopg.AsyncConnection.connect(self._url, connect_timeout=10, application_name="eventwagon")

    async def _described(self, connection: Any) -> dict[str, str]:
        """Raises UsageError if there is no such table, or none of an outbox."""
        query = (
            "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
        )
        async with self._explained("looking", connection):
            cursor = await connection.execute(query, [quoted(self._table)])
            found = dict(await cursor.fetchall())
            await connection.rollback()
        if not found:
            raise UsageError(
                f"{self.name}: there is no table {self._table}; make it with\n\n{create_table(self._table)}"
            )
        if missing := [each for each in _NEEDED if each not in found]:
            raise UsageError(
                f"{self.name}: table {self._table} has no column {', '.join(missing)}; an outbox has id, type and "
                "payload"
            )
        return found

    async def _listen(self) -> None:
        """Wake `read` whenever a transaction with an insert is committed. Without this it looks once a second."""
        backoff = Backoff(0.5, 30.0)
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(self._url, autocommit=True, connect_timeout=10)
                async with connection:
                    await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(notified(self._table))))
                    self._bell.set()
                    backoff = Backoff(0.5, 30.0)
                    async for _ in connection.notifies():
                        self._bell.set()
            except psycopg.Error:
                pass  # `read` tells of it
            await asyncio.sleep(backoff.next())

    @asynccontextmanager
    async def _explained(self, what: str, connection: Any) -> AsyncIterator[None]:
        """Raise what an error of the database means. The connection is given up: its rows are free then."""
        try:
            yield
        except BaseException as e:
            if connection is not None:
                self._batches.pop(connection, None)
                await connection.close()
            if not isinstance(e, psycopg.Error):
                raise
            where = f"{self.name}: {what}: "
            if isinstance(e, errors.InsufficientPrivilege):
                raise StorageBroken(f"{where}{said(e)}; it needs SELECT, UPDATE (to lock) and DELETE") from None
            if isinstance(e, psycopg.OperationalError | psycopg.InterfaceError):
                raise Unavailable(f"{where}{said(e)}") from None
            raise StorageBroken(f"{where}{said(e)}") from None


def _seconds(at: datetime) -> float:
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()
