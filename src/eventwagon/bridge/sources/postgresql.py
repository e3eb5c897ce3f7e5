"""An outbox in PostgreSQL: rows that are published are deleted.

A batch is locked (FOR UPDATE SKIP LOCKED) in a transaction that stays open until the batch is committed, and that
deletes it then. So a row is never passed over because its transaction committed late, as a cursor would do, several
bridges share the work, and a dead bridge's rows are free at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple, Self, cast
from urllib.parse import urlencode

import psycopg
from psycopg import errors, sql

from ...backoff import Backoff
from ...contracts.address import Address
from ...display.text import said
from ...errors import StorageBroken, Unavailable, UsageError
from ...event import EARLIEST, LATEST, check_word
from ...outbox.table import TABLE, notified, quoted
from ..source import Begin, Lag, Record

_NEEDED = ("id", "type", "payload")
_TEXT = ("id", "type", "aggregateid", "contenttype")
_COUNTED = 1_000_000
_POLL = 1.0
"""Seconds after which the table is looked at without a notification: not every table has the trigger."""
_LOCKED = "5s"
"""For so long a statement waits for a lock, say of a migration."""
_BYTES = 16_000_000
"""Of the payloads of one batch, by the mean of those before."""
_FIRST = 10
"""Rows of the first batch, of which nothing is known."""


class _Row(NamedTuple):
    """Which row version it is: a place in a table may be used again."""

    table: int
    place: str
    version: str


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
        self._batches: dict[Any, list[_Row]] = {}
        """The connections whose transactions hold rows, and which of these rows are not committed."""
        self._idle: list[Any] = []
        self._columns: dict[str, str] = {}
        """The table's columns and their types; none: they are to be looked up."""
        self._room = _FIRST
        """Rows that a batch may have, by their size."""
        self._listening: asyncio.Task[None] | None = None
        self._bell = asyncio.Event()
        self._backoff = Backoff(0.2, 30.0)
        self._again_at = 0.0
        """Until then nothing is read, in the loop's time: rows that could not be deleted would be published again and
        again."""

    async def __aenter__(self) -> Self:
        self._idle.append(await self._connect())
        try:
            await self._describe(self._idle[0])
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

    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        """See Source."""
        loop = asyncio.get_running_loop()
        until = loop.time() + wait
        while True:
            if (pause := self._again_at - loop.time()) > 0:
                await asyncio.sleep(min(pause, max(0.0, until - loop.time())))
                if loop.time() >= until:
                    return []
                continue
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
            if not self._columns:
                await self._describe(connection)
            rows = await self._rows(connection, min(limit, self._room), "FOR UPDATE SKIP LOCKED")
            records = [self._record(row, connection) for row in rows]
            if rows:
                self._batches[connection] = [record.token[1] for record in records]
                mean = sum(len(record.value) for record in records) / len(records)
                self._room = max(1, min(limit, int(_BYTES / max(1.0, mean)), 10 * len(records)))
            else:
                await connection.rollback()
                self._idle.append(connection)
        return records

    async def commit(self, records: Sequence[Record]) -> None:
        """See Source. The rest of a batch of which only a part is committed is free for a moment: what another bridge
        takes then is published twice, with the same ids."""
        done: dict[Any, list[_Row]] = {}
        for record in records:
            done.setdefault(record.token[0], []).append(record.token[1])
        for connection, committed in done.items():
            held = set(self._batches.get(connection, ()))
            rows = [row for row in committed if row in held]
            if not rows:
                continue  # committed before; or the connection broke: the rows were free at once
            self._again_at = asyncio.get_running_loop().time() + self._backoff.next()  # unless it succeeds
            async with self._explained("deleting", connection):
                delete = sql.SQL("DELETE FROM {} WHERE {}").format(self._quoted, _THESE)
                deleted = await connection.execute(delete, _these(rows))
                if deleted.rowcount != len(rows):
                    raise StorageBroken(
                        f"{self.name}: deleting: {len(rows) - deleted.rowcount} of {len(rows)} rows stay, and are "
                        "published again: does a trigger or a policy keep them?"
                    )
                await connection.commit()
                self._backoff.reset()
                self._again_at = 0.0
                finished = set(rows)
                rest = [row for row in self._batches[connection] if row not in finished]
                if rest:
                    again = sql.SQL("SELECT tableoid, ctid::text, xmin::text FROM {} WHERE {} FOR UPDATE SKIP LOCKED")
                    cursor = await connection.execute(again.format(self._quoted, _THESE), _these(rest))
                    rest = [_Row(*row) for row in await cursor.fetchall()]
                if rest:
                    self._batches[connection] = rest
                else:
                    await connection.rollback()
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
        oldest = sql.SQL("(SELECT {} FROM {} {} LIMIT 1)").format(self._age, self._quoted, self._order)
        query = sql.SQL("SELECT (SELECT count(*) FROM (SELECT 1 FROM {} LIMIT %s) AS counted), {}").format(
            self._quoted, oldest if self._is_timed else sql.SQL("NULL")
        )
        async with self._explained("counting", connection):
            number, at = await (await connection.execute(query, [_COUNTED])).fetchone()
            await connection.rollback()
            self._idle.append(connection)
        known = at is not None and EARLIEST <= at <= LATEST
        seconds = 0.0 if not number else max(0.0, self._clock() - at) if known else None
        return Lag(records=number if number < _COUNTED else None, seconds=seconds)

    # --- the database -------------------------------------------------------------------------

    @property
    def _quoted(self) -> sql.SQL:
        return sql.SQL(cast("Any", quoted(self._table)))

    @property
    def _is_timed(self) -> bool:
        return self._columns.get("created_at", "").startswith("timestamp")

    @property
    def _age(self) -> sql.Composable:
        return sql.SQL("extract(epoch FROM created_at)::float8")  # what no date of Python can hold becomes a number too

    @property
    def _order(self) -> sql.Composable:
        column = next((each for each in ("seq", "created_at") if each in self._columns), None)
        return sql.SQL("ORDER BY {}").format(sql.Identifier(column)) if column else sql.SQL("")

    async def _rows(self, connection: Any, limit: int, lock: str) -> list[dict[str, Any]]:
        wanted: list[sql.Composable] = [sql.SQL("tableoid"), sql.SQL("ctid::text AS place, xmin::text AS version")]
        text = sql.SQL("{0}::text AS {0}")
        wanted += [text.format(sql.Identifier(column)) for column in _TEXT if column in self._columns]
        if self._is_timed:
            wanted.append(sql.SQL("{} AS at").format(self._age))
        wanted.append(sql.SQL("payload" if self._columns["payload"] == "bytea" else "payload::text AS payload"))
        query = sql.SQL("SELECT {} FROM {} {} LIMIT %s {}").format(
            sql.SQL(", ").join(wanted), self._quoted, self._order, sql.SQL(cast("Any", lock))
        )
        cursor = await connection.execute(query, [limit])
        names = [column.name for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in await cursor.fetchall()]

    def _record(self, row: dict[str, Any], connection: Any) -> Record:
        payload, name, at = row["payload"], row["id"], row.get("at")
        which = _Row(row["tableoid"], row["place"], row["version"])
        trouble = "its payload is NULL" if payload is None else "" if name else "it has no id"
        if at is not None and not EARLIEST <= at <= LATEST:
            trouble = trouble or f"its created_at ({at:g} s since 1970) is no time that an event can have"
        headers = [("ce_specversion", "1.0"), ("ce_source", self.name), ("ce_id", name), ("ce_type", row["type"])]
        headers.append(("content-type", row.get("contenttype") or "application/json"))
        place = name if name and len(name) < 1000 and name.isprintable() else f"{which.place}@{which.version}"
        return Record(
            position=f"postgresql/{self._table}/{place}",
            value=payload.encode() if isinstance(payload, str) else bytes(payload or b""),
            headers=headers,
            key=(row.get("aggregateid") or "").encode() or None,
            time=self._clock() if at is None else at,
            token=(connection, which),
            trouble=trouble,
        )

    async def _connect(self) -> Any:
        async with self._explained("connecting", None):
            connection = await psycopg.AsyncConnection.connect(
                self._url, connect_timeout=10, application_name="eventwagon"
            )
            await connection.execute(sql.SQL("SET lock_timeout = {}").format(sql.Literal(_LOCKED)))
            await connection.commit()
            return connection

    async def _describe(self, connection: Any) -> None:
        """Look up the columns. Raises UsageError if there is no such table, or none of an outbox."""
        query = (
            "SELECT attname, format_type(atttypid, NULL), relkind IN ('r', 'p'), "
            "has_table_privilege(attrelid, 'SELECT') AND has_table_privilege(attrelid, 'UPDATE') "
            "AND has_table_privilege(attrelid, 'DELETE') "
            "FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid "
            "WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped"
        )
        async with self._explained("looking", connection):
            found = await (await connection.execute(query, [quoted(self._table)])).fetchall()
            await connection.rollback()
        columns = {name: kind for name, kind, _, _ in found}
        if not found:
            raise UsageError(
                f"{self.name}: there is no table {self._table}; make it with the SQL that "
                "eventwagon.outbox.create_table() returns"
            )
        if not all(may for _, _, _, may in found):
            raise StorageBroken(f"{self.name}: the user needs SELECT, UPDATE (to lock) and DELETE on {self._table}")
        if not all(is_table for _, _, is_table, _ in found):
            raise UsageError(f"{self.name}: {self._table} is no table: rows of a view can't be locked and deleted")
        if missing := [each for each in _NEEDED if each not in columns]:
            raise UsageError(
                f"{self.name}: table {self._table} has no column {', '.join(missing)}; an outbox has id, type and "
                "payload"
            )
        self._columns = columns

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
            if isinstance(e, psycopg.ProgrammingError):
                self._columns = {}  # the table may have been altered
            where = f"{self.name}: {what}: "
            if isinstance(e, errors.InsufficientPrivilege):
                raise StorageBroken(f"{where}{said(e)}; it needs SELECT, UPDATE (to lock) and DELETE") from None
            if isinstance(e, psycopg.OperationalError | psycopg.InterfaceError):
                raise Unavailable(f"{where}{said(e)}") from None
            raise StorageBroken(f"{where}{said(e)}") from None


_THESE = sql.SQL(
    "ctid = ANY(%(places)s::tid[]) AND (tableoid, ctid, xmin::text) IN "
    "(SELECT * FROM unnest(%(tables)s::oid[], %(places)s::tid[], %(versions)s::text[]))"
)
"""The condition for rows. The first part finds them by their places, the second makes sure that they are these."""


def _these(rows: Sequence[_Row]) -> dict[str, list[Any]]:
    return {
        "tables": [row.table for row in rows],
        "places": [row.place for row in rows],
        "versions": [row.version for row in rows],
    }
