"""The record of handled events in one SQLite file: DIRECTORY/<train>/once.db."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ...contracts.once import Standing
from .actor import Files
from .op import Op, Turn
from .place import Place
from .storage import Format, Sync

_ONCE = Format(
    what="a train's record of handled events",
    application_id=0x6576776F,  # "evwo"
    version=1,
    schema="""
CREATE TABLE entry (
    key    BLOB PRIMARY KEY,        -- a hash of the channel and the event's source and id
    holder TEXT NOT NULL,           -- who has claimed it; empty: it was handled
    until  REAL NOT NULL,           -- until when that counts, in seconds since the Unix epoch
    since  REAL NOT NULL            -- when that was written: a claim from the future (the clock went back) is void
) WITHOUT ROWID;
CREATE INDEX entry_until ON entry (until);
""",
    dead="SELECT NOT EXISTS (SELECT 1 FROM entry)",
)
_FORGOTTEN = 2
"""Entries that are forgotten, at most, for each one that is written: more than come."""
_LEAST_FORGOTTEN = 100


class SQLiteOnce:
    """Records in the SQLite files under a driver's directory; `open` and `close` belong to that driver. All processes
    of a machine share `clock`."""

    def __init__(self, place: Place, *, sync: Sync, clock: Callable[[], float], poll: float) -> None:
        self._root = str(place.directory)
        self._files = Files(place, _ONCE, Turn, sync=sync, clock=clock, poll=poll)

    async def open(self) -> None:
        """Accept operations from now on."""
        await self._files.open()

    async def close(self) -> None:
        """Finish operations in progress, refuse later ones. Idempotent."""
        await self._files.close()

    def _path(self, train: str) -> str:
        return f"{self._root}/{train}/once.db"

    async def claim(self, train: str, keys: Sequence[bytes], *, holder: str, lease: float) -> Sequence[Standing]:
        def run(turn: Turn) -> Sequence[Standing]:
            sql = "SELECT holder FROM entry WHERE key=? AND until>? AND holder<>? AND (holder='' OR since<=?)"
            found: list[Standing] = []
            for key in keys:
                by = turn.db.execute(sql, (key, turn.now, holder, turn.now)).get
                found.append(Standing.OURS if by is None else Standing.CLAIMED if by else Standing.HANDLED)
            ours = [key for key, standing in zip(keys, found, strict=True) if standing is Standing.OURS]
            _put(turn, ours, holder, turn.now + lease)
            return found

        return await self._files.call(self._path(train), Op(run, absent=lambda: (), creates=True))

    async def record(self, train: str, keys: Sequence[bytes], *, window: float) -> None:
        def run(turn: Turn) -> None:
            _put(turn, keys, "", turn.now + window)

        await self._files.call(self._path(train), Op(run, absent=lambda: None, creates=True))

    async def release(self, train: str, keys: Sequence[bytes], *, holder: str) -> None:
        def run(turn: Turn) -> None:
            turn.db.executemany("DELETE FROM entry WHERE key=? AND holder=?", [(key, holder) for key in keys])

        await self._files.call(self._path(train), Op(run, absent=lambda: None, writes=True))

    async def count(self, train: str) -> int:
        op = Op(lambda turn: int(turn.db.execute("SELECT count(*) FROM entry WHERE holder=''").get), absent=lambda: 0)
        return await self._files.call(self._path(train), op)

    async def clear(self, train: str) -> None:
        def run(turn: Turn) -> None:
            turn.db.execute("DELETE FROM entry")

        await self._files.call(self._path(train), Op(run, absent=lambda: None, writes=True, removes=True))


def _put(turn: Turn, keys: Sequence[bytes], holder: str, until: float) -> None:
    since = turn.now if holder else 0.0  # which takes no bytes: only claims can be void
    rows = [(key, holder, until, since) for key in keys]
    turn.db.executemany("INSERT OR REPLACE INTO entry (key, holder, until, since) VALUES (?, ?, ?, ?)", rows)
    over = "SELECT key FROM entry WHERE until<=? LIMIT ?"
    most = max(_LEAST_FORGOTTEN, _FORGOTTEN * len(keys))
    turn.db.execute(f"DELETE FROM entry WHERE key IN ({over})", (turn.now, most))  # noqa: S608 - our words
