"""Wagons' permanent records in one SQLite file: DIRECTORY/<train>/ledger.db. It stays when the train is removed."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec

from ...contracts.ledger import WagonRecord, decode_record, encode_record
from ...display.text import said
from ...errors import StorageBroken
from .actor import Files
from .op import Op, Turn
from .place import Place
from .storage import Format

_logger = logging.getLogger("eventwagon")
_LEDGER = Format(
    what="a train's ledger",
    application_id=0x65767764,  # "evwd"
    version=1,
    schema="""
CREATE TABLE record (
    seq       INTEGER PRIMARY KEY,
    number    INTEGER NOT NULL,          -- the wagon's
    opened_at REAL NOT NULL,             -- in seconds since the Unix epoch
    document  TEXT NOT NULL,             -- JSON
    UNIQUE (number, opened_at)
);
CREATE TRIGGER record_is_never_replaced BEFORE INSERT ON record
    WHEN EXISTS (SELECT 1 FROM record WHERE seq = NEW.seq OR (number = NEW.number AND opened_at = NEW.opened_at))
    BEGIN SELECT RAISE(IGNORE); END;
CREATE TRIGGER record_never_changes BEFORE UPDATE ON record
    BEGIN SELECT RAISE(ABORT, 'a record never changes'); END;
CREATE TRIGGER record_stays BEFORE DELETE ON record
    BEGIN SELECT RAISE(ABORT, 'a record stays'); END;
""",
)
_PAGE = 200  # records in one read


class SQLiteLedger:
    """Records in SQLite files under `directory`, which must be on a local disk. Nothing is created before the first
    record. Belongs to the process that entered it: not usable after a fork."""

    def __init__(self, directory: str | os.PathLike[str], *, clock: Callable[[], float] = time.time) -> None:
        self.directory = Path(directory).absolute()
        self._files = Files(Place(self.directory), _LEDGER, Turn, sync="full", clock=clock, poll=1.0)

    async def __aenter__(self) -> SQLiteLedger:
        await self._files.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Finish operations in progress. Idempotent."""
        await self._files.close()

    def path(self, train: str) -> str:
        """The file of this train."""
        return f"{self.directory}/{train}/ledger.db"

    async def append(self, record: WagonRecord) -> WagonRecord:
        document = encode_record(record).decode()
        path = self.path(record.train)

        def run(turn: Turn) -> bytes:
            execute, key = turn.db.execute, (record.number, record.opened_at)
            execute("INSERT INTO record (number, opened_at, document) VALUES (?, ?, ?)", (*key, document))
            kept: Any = execute("SELECT CAST(document AS BLOB) FROM record WHERE number=? AND opened_at=?", key).get
            return bytes(kept)

        return _read(await self._files.call(path, Op(run, absent=bytes, creates=True)), path)

    async def read(self, train: str, number: int) -> tuple[WagonRecord, ...]:
        sql, path = "SELECT CAST(document AS BLOB) FROM record WHERE number=? ORDER BY seq", self.path(train)

        def run(turn: Turn) -> list[bytes]:
            rows: list[Any] = turn.db.execute(sql, (number,)).fetchall()
            return [document for (document,) in rows]

        found: list[bytes] = await self._files.call(path, Op(run, absent=list))
        return tuple(_read(document, path) for document in found)

    async def records(self, train: str) -> AsyncIterator[WagonRecord]:
        """See Ledger. A record that can't be read is left out with a warning: the others are shown."""
        after, path = 0, self.path(train)
        while page := await self._page(path, after):
            for _, document in page:
                try:
                    yield _read(document, path)
                except StorageBroken as e:
                    _logger.warning("%s", e)
            after = page[-1][0]

    async def _page(self, path: str, after: int) -> list[tuple[int, bytes]]:
        sql = "SELECT seq, CAST(document AS BLOB) FROM record WHERE seq>? ORDER BY seq LIMIT ?"

        def run(turn: Turn) -> list[tuple[int, bytes]]:
            found: list[Any] = turn.db.execute(sql, (after, _PAGE)).fetchall()
            return found

        return await self._files.call(path, Op(run, absent=list))


def _read(document: bytes, path: str) -> WagonRecord:
    try:
        return decode_record(document)
    except (msgspec.MsgspecError, ValueError, RecursionError) as e:
        raise StorageBroken(
            f"{path}: a record can't be read: {said(e)}. A newer eventwagon wrote it, or somebody has changed it: "
            "sqlite3 shows it (table record)"
        ) from e
