"""Events for later in one SQLite file: DIRECTORY/<train>/later.db."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

from ...contracts.timetable import Due, Waiting, decode, encode, key_of
from ...event import Event
from .actor import Files
from .op import Op, Turn
from .place import Place
from .storage import Format, Sync

_LATER = Format(
    what="a train's timetable",
    application_id=0x6576776C,  # "evwl"
    version=1,
    schema="""
CREATE TABLE entry (
    key     TEXT PRIMARY KEY,             -- the inner channel or nothing, a blank, and the event's id
    time    REAL NOT NULL,                -- when the event is due, in seconds since the Unix epoch
    due     REAL NOT NULL,                -- when it may be claimed: that time, or when its claim ends
    claimed INTEGER NOT NULL DEFAULT 0,   -- it was claimed at least once
    event   BLOB NOT NULL                 -- MessagePack
);
CREATE INDEX entry_due ON entry (due, key);
CREATE TABLE series (
    name   TEXT PRIMARY KEY,
    latest REAL NOT NULL                  -- its latest tick
) WITHOUT ROWID;
""",
    dead="SELECT NOT EXISTS (SELECT 1 FROM entry) AND NOT EXISTS (SELECT 1 FROM series)",
)
_PAGE = 500  # entries in one read
# SQLite keeps a value of any type in any column, and others may write there: text is greater than any number.


class SQLiteTimetable:
    """Timetables in the SQLite files under a driver's directory; `open` and `close` belong to that driver. `clock`
    decides when an event is due: all processes of a machine share it."""

    def __init__(self, place: Place, *, sync: Sync, clock: Callable[[], float], poll: float) -> None:
        self._root = str(place.directory)
        self._clock = clock
        self._files = Files(place, _LATER, Turn, sync=sync, clock=clock, poll=poll)

    async def open(self) -> None:
        """Accept operations from now on."""
        await self._files.open()

    async def close(self) -> None:
        """Finish operations in progress, refuse later ones. Idempotent."""
        await self._files.close()

    def _path(self, train: str) -> str:
        return f"{self._root}/{train}/later.db"

    async def now(self, train: str) -> float:
        return self._clock()

    async def add(self, train: str, events: Sequence[Event]) -> None:
        rows = _rows(events)
        await self._files.call(
            self._path(train), Op(lambda turn: _insert(turn, rows), absent=lambda: None, creates=True)
        )

    async def claim(self, train: str, *, limit: int, most_bytes: int, lease: float) -> Due:
        def run(turn: Turn) -> Due:
            until = turn.now + lease
            found = _claim(turn, limit, most_bytes, until)
            next_at = turn.db.execute("SELECT min(due) FROM entry WHERE due <= 9e999").get
            events = [_event(key, event) for key, event in found]
            keys = [key for key, _ in found]
            return Due(events=events, keys=keys, until=until, now=turn.now, next_at=next_at)

        def absent() -> Due:
            now = self._clock()
            return Due(events=(), keys=(), until=now, now=now, next_at=None)

        return await self._files.call(self._path(train), Op(run, absent=absent))

    async def remove(self, train: str, keys: Sequence[str], *, until: float) -> None:
        def run(turn: Turn) -> None:
            turn.db.executemany("DELETE FROM entry WHERE key=? AND due=?", [(key, until) for key in keys])

        await self._files.call(self._path(train), Op(run, absent=lambda: None, writes=True))

    async def cancel(self, train: str, keys: Sequence[str]) -> bool:
        def run(turn: Turn) -> bool:
            sql = "DELETE FROM entry WHERE key=? AND NOT (claimed AND due>?) RETURNING claimed"
            gone = [claimed for key in keys for (claimed,) in turn.db.execute(sql, (key, turn.now))]
            return not all(gone)

        return await self._files.call(self._path(train), Op(run, absent=lambda: False, writes=True))

    async def waiting(self, train: str) -> Waiting:
        def run(turn: Turn) -> Waiting:
            count, next_at = turn.db.execute(
                "SELECT (SELECT count(*) FROM entry), (SELECT min(due) FROM entry WHERE due <= 9e999)"
            ).get
            return Waiting(count=count, next_at=next_at, now=turn.now)

        def absent() -> Waiting:
            return Waiting(count=0, next_at=None, now=self._clock())

        return await self._files.call(self._path(train), Op(run, absent=absent))

    async def entries(self, train: str) -> AsyncIterator[Event]:
        after: tuple[float, str] = float("-inf"), ""
        while page := await self._page(train, after):
            for key, _, event in page:
                yield _event(key, event)
            after = page[-1][1], page[-1][0]

    async def _page(self, train: str, after: tuple[float, str]) -> list[tuple[str, float, bytes]]:
        sql = "SELECT key, due, CAST(event AS BLOB) FROM entry WHERE (due, key) > (?, ?) ORDER BY due, key LIMIT ?"
        op = Op(lambda turn: turn.db.execute(sql, (*after, _PAGE)).fetchall(), absent=list)
        return await self._files.call(self._path(train), op)

    async def latest(self, train: str, series: str) -> float | None:
        op = Op(lambda turn: _latest(turn, series), absent=lambda: None)
        return await self._files.call(self._path(train), op)

    async def latest_of_all(self, train: str) -> Mapping[str, float]:
        sql = "SELECT name, latest FROM series WHERE typeof(name)='text' AND typeof(latest) = 'real'"
        op = Op(lambda turn: dict(turn.db.execute(sql).fetchall()), absent=dict)
        return await self._files.call(self._path(train), op)

    async def tick(self, train: str, series: str, at: float, event: Event | None) -> bool:
        rows = _rows([] if event is None else [event])

        def run(turn: Turn) -> bool:
            before = _latest(turn, series)
            if before is not None and at <= before:
                return False
            turn.db.execute("INSERT OR REPLACE INTO series VALUES (?, ?)", (series, at))
            if before is not None:
                _insert(turn, rows)
            return True

        return await self._files.call(self._path(train), Op(run, absent=lambda: False, creates=True))

    async def clear(self, train: str) -> int:
        def run(turn: Turn) -> int:
            count = int(turn.db.execute("SELECT count(*) FROM entry").get)
            turn.db.execute("DELETE FROM entry; DELETE FROM series")
            return count

        return await self._files.call(self._path(train), Op(run, absent=lambda: 0, writes=True, removes=True))


def _rows(events: Sequence[Event]) -> list[tuple[str, float, float, bytes]]:
    return [(key_of(event), event.time, event.time, encode(event)) for event in events]


def _insert(turn: Turn, rows: Sequence[tuple[str, float, float, bytes]]) -> None:
    if rows:
        turn.db.executemany("INSERT OR IGNORE INTO entry (key, time, due, event) VALUES (?, ?, ?, ?)", rows)


def _claim(turn: Turn, limit: int, most_bytes: int, until: float) -> list[tuple[str, bytes]]:
    """Claim until then; nothing is written if nothing is due."""
    sql = "SELECT key, CAST(event AS BLOB) FROM entry WHERE due<=? ORDER BY due LIMIT ?"
    found: list[tuple[str, bytes]] = []
    for key, event in turn.db.execute(sql, (turn.now, limit)):
        most_bytes -= len(event)
        if found and most_bytes < 0:
            break
        found.append((key, event))
    if found:
        turn.need_write()
        turn.db.executemany("UPDATE entry SET due=?, claimed=1 WHERE key=?", [(until, key) for key, _ in found])
    return found


def _event(key: str | bytes, event: bytes) -> Event:
    return decode(event, kept_as=key if isinstance(key, str) else key.decode(errors="backslashreplace"))


def _latest(turn: Turn, series: str) -> float | None:
    found: float | None = turn.db.execute(
        "SELECT latest FROM series WHERE name=? AND typeof(latest) = 'real'", (series,)
    ).get
    return found
