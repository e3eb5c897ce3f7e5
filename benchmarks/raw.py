"""The other side: SQLite by hand, with the rows, the log and the fsync that the SQLite broker has."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import apsw

from eventwagon.event import Event

_SCHEMA = """
CREATE TABLE event (
    channel INTEGER NOT NULL, seq INTEGER NOT NULL, id TEXT NOT NULL, type TEXT NOT NULL, source TEXT NOT NULL,
    time REAL NOT NULL, subject TEXT, content_type TEXT NOT NULL, extensions TEXT, data BLOB NOT NULL,
    PRIMARY KEY (channel, seq)
) WITHOUT ROWID
"""
_INSERT = "INSERT INTO event VALUES (1,?,?,?,?,?,?,?,?,?)"
_SELECT = "SELECT seq, data FROM event WHERE channel=1 ORDER BY seq LIMIT ?"
_DELETE = "DELETE FROM event WHERE channel=1 AND seq<=?"


class _Connection(Protocol):
    def execute(self, sql: str, parameters: Sequence[Any] = ..., /) -> Any: ...
    def executemany(self, sql: str, rows: Any, /) -> Any: ...
    def close(self) -> None: ...


class RawSQLite:
    """One file, one connection, one thread, as an asyncio program would have it: nothing but the statements."""

    def __init__(self, path: Path, *, stdlib: bool = False) -> None:
        self._path = path
        self._stdlib = stdlib
        self._seq = 0
        self._thread = ThreadPoolExecutor(1)

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        await self._loop.run_in_executor(self._thread, self._open)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, e: BaseException | None, t: TracebackType | None
    ) -> None:
        await self._loop.run_in_executor(self._thread, self._db.close)
        self._thread.shutdown()

    async def publish(self, events: Sequence[Event]) -> None:
        """One transaction with all of them."""
        await self._loop.run_in_executor(self._thread, self._publish, events)

    async def receive(self, limit: int) -> list[tuple[int, bytes]]:
        """The oldest events, left where they are."""
        return await self._loop.run_in_executor(self._thread, self._receive, limit)

    async def settle(self, up_to: int) -> None:
        """One transaction that removes them."""
        await self._loop.run_in_executor(self._thread, self._settle, up_to)

    def _open(self) -> None:
        if self._stdlib:
            self._db: _Connection = sqlite3.connect(self._path, isolation_level=None)
        else:
            self._db = apsw.Connection(str(self._path))
        for statement in ("PRAGMA journal_mode=wal", "PRAGMA synchronous=full", _SCHEMA):
            self._db.execute(statement)

    def _publish(self, events: Sequence[Event]) -> None:
        rows = [
            (n, e.id, e.type, e.source, e.time, e.subject, e.content_type, None, e.data)
            for n, e in enumerate(events, self._seq + 1)
        ]
        self._db.execute("BEGIN IMMEDIATE")
        self._db.executemany(_INSERT, rows)
        self._db.execute("COMMIT")
        self._seq += len(rows)

    def _receive(self, limit: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = self._db.execute(_SELECT, (limit,)).fetchall()
        return found

    def _settle(self, up_to: int) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        self._db.execute(_DELETE, (up_to,))
        self._db.execute("COMMIT")
