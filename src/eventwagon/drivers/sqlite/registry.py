"""The train's manifest, members and journal in one SQLite file: DIRECTORY/<train>/train.db."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

from ...contracts import facts, manifest
from ...contracts.broker import Finding
from ...contracts.facts import Entry
from ...contracts.manifest import Manifest
from ...contracts.registry import Changes, Member, Snapshot, decode_members, encode_member, out_of_date
from ...descriptors import needed
from ...errors import StorageBroken, UsageError
from ...event import Channel, check_train_name
from .actor import Files
from .inspection import inspect
from .once import SQLiteOnce
from .op import CLOCK_SLACK, Op, Parked, Turn
from .place import Place
from .storage import Format, leads_nowhere
from .timetable import SQLiteTimetable

R = TypeVar("R")

_TRAIN = Format(
    what="a train's registry file",
    application_id=0x65767772,  # "evwr"
    version=1,
    schema="""
CREATE TABLE manifest (
    one      INTEGER PRIMARY KEY CHECK (one = 1),
    revision INTEGER NOT NULL,
    document TEXT NOT NULL            -- JSON
);
CREATE TABLE member (
    name    TEXT PRIMARY KEY,
    member  TEXT NOT NULL,            -- JSON
    ttl     REAL NOT NULL,            -- seconds
    expires REAL NOT NULL             -- seconds since the Unix epoch
) WITHOUT ROWID;
CREATE TABLE journal (
    seq   INTEGER PRIMARY KEY,
    entry TEXT NOT NULL               -- JSON
);
""",
    dead="SELECT NOT (EXISTS (SELECT 1 FROM manifest) OR EXISTS (SELECT 1 FROM member) OR EXISTS (SELECT 1 FROM "
    "journal))",
)
_PAGE = 500  # journal entries in one read


class SQLiteRegistry:
    """Trains in SQLite files under `directory`, which must be on a local disk. `clock` gives seconds since the epoch.
    `poll` is how often (s) changes of other processes are checked for; this one's own arrive at once. Belongs to the
    process that entered it: not usable after a fork."""

    def __init__(
        self, directory: str | os.PathLike[str], *, clock: Callable[[], float] = time.time, poll: float = 0.05
    ) -> None:
        self.directory = Path(directory).absolute()
        self._place = Place(self.directory)
        self._files = Files(self._place, _TRAIN, Turn, sync="full", clock=clock, poll=poll)
        self.timetable = SQLiteTimetable(self._place, sync="full", clock=clock, poll=poll)
        self.once = SQLiteOnce(self._place, sync="full", clock=clock, poll=poll)

    async def __aenter__(self) -> SQLiteRegistry:
        """Check the directory; a missing one is created with the first manifest. Raises StorageBroken."""
        await asyncio.to_thread(self._place.check, make=False)
        await self._files.open()
        await self.timetable.open()
        await self.once.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        """Finish operations in progress, refuse waiting ones. Idempotent."""
        await self._files.close()
        await self.timetable.close()
        await self.once.close()

    async def call(self, train: str, op: Op[R]) -> R:
        """Carry out the operation on the train's file."""
        return await self._files.call(f"{self.directory}/{train}/train.db", op)

    async def read(self, train: str) -> Snapshot:
        return await self.call(
            train, Op(lambda turn: _newest(turn, train, self._kept(train)), absent=lambda: self._absent(train))
        )

    def _absent(self, train: str) -> Snapshot:
        """What is known of a train that has no file. Raises StorageBroken if its directory is a link to nowhere."""
        if why := leads_nowhere(self.directory / train):
            raise StorageBroken(f"train {train} can't be read: {why}")
        return _none(train)

    def _kept(self, train: str) -> str:
        """Where the manifest is stored, for people."""
        return f"{self.directory}/{train}/train.db, table manifest (sqlite3 shows it)"

    async def replace(
        self,
        train: str,
        manifest: Manifest,
        *,
        expect: int,
        entries: Sequence[Entry] = (),
        keep: int = 10_000,
        beyond: int = 0,
    ) -> Snapshot:
        document, lines = _encode_manifest(manifest), _encode_entries(entries)

        def run(turn: Turn) -> Snapshot:
            version = _version(turn)
            if version != expect:
                raise out_of_date(train, version, expect)
            version = max(version, beyond) + 1
            turn.db.execute("INSERT OR REPLACE INTO manifest VALUES (1, ?, ?)", (version, document))
            _append(turn, lines, keep)
            return Snapshot(manifest, version)

        def absent() -> Snapshot:
            raise out_of_date(train, 0, expect)

        return await self.call(train, Op(run, absent=absent, writes=True, creates=expect == 0))

    @asynccontextmanager
    async def watch(self, train: str) -> AsyncIterator[AsyncIterator[Snapshot]]:
        yield Changes(partial(self._wait, train))

    async def _wait(self, train: str, seen: int) -> Snapshot:
        """The first manifest whose version differs from `seen`."""
        kept = self._kept(train)

        def run(turn: Turn) -> Snapshot | Parked:
            return _newest(turn, train, kept) if _version(turn) != seen else Parked()

        def absent() -> Snapshot | Parked:
            return _none(train) if seen else Parked()

        return await self.call(train, Op(run, absent=absent, patient=True))

    async def check_in(self, train: str, member: Member, *, ttl: float) -> None:
        said = encode_member(member).decode()

        def run(turn: Turn) -> None:
            execute = turn.db.execute
            execute("DELETE FROM member WHERE expires<=? OR name=?", (turn.now, member.name))
            if ttl > 0:
                execute("INSERT INTO member VALUES (?, ?, ?, ?)", (member.name, said, ttl, turn.now + ttl))

        await self.call(train, Op(run, absent=lambda: None, writes=True, creates=ttl > 0))

    async def members(self, train: str) -> Sequence[Member]:
        def run(turn: Turn) -> list[Member]:
            latest = turn.now + CLOCK_SLACK
            if turn.db.execute("SELECT EXISTS (SELECT 1 FROM member WHERE expires - ttl > ?)", (latest,)).get:
                # The clock went back. A process that checked in before that may be long dead or alive: it gets one more
                # ttl from now, which a living one renews.
                turn.need_write()
                turn.db.execute("UPDATE member SET expires = ?1 + ttl WHERE expires - ttl > ?2", (turn.now, latest))
            alive = turn.db.execute("SELECT member FROM member WHERE expires>? ORDER BY name", (turn.now,))
            return decode_members(said for (said,) in alive)

        return await self.call(train, Op(run, absent=list))

    async def append(self, train: str, entries: Sequence[Entry], *, keep: int = 10_000) -> None:
        lines = _encode_entries(entries)
        await self.call(train, Op(lambda turn: _append(turn, lines, keep), absent=lambda: None, creates=True))

    async def entries(self, train: str, *, last: int | None = None) -> AsyncIterator[Entry]:
        after, end = await self.call(train, Op(lambda turn: _span(turn, last), absent=lambda: (0, 0)))
        while after < end:
            lines = await self._page(train, after, end)
            if not lines:
                return
            for _, line in lines:
                yield facts.decode_entry(line)
            after = lines[-1][0]

    async def _page(self, train: str, after: int, end: int) -> list[tuple[int, bytes]]:
        sql = "SELECT seq, CAST(entry AS BLOB) FROM journal WHERE seq>? AND seq<=? ORDER BY seq LIMIT ?"
        return await self.call(
            train, Op(lambda turn: turn.db.execute(sql, (after, end, _PAGE)).fetchall(), absent=list)
        )

    async def delete(self, train: str) -> None:
        def run(turn: Turn) -> None:
            turn.db.execute("DELETE FROM member; DELETE FROM journal; DELETE FROM manifest")

        await self.call(train, Op(run, absent=lambda: None, writes=True, removes=True))
        await asyncio.to_thread(self._place.clear, train)

    async def trains(self) -> Sequence[str]:
        names = await asyncio.to_thread(_on_disk, self.directory)
        versions = await asyncio.gather(*map(self._version_of, names))
        return [name for name, version in zip(names, versions, strict=True) if version]

    async def _version_of(self, train: str) -> int:
        try:
            return await self.call(train, Op(_version, absent=lambda: self._absent(train).version))
        except StorageBroken:
            return -1  # a train whose file can't be read is there, and does not hide the others

    async def inspect(self, channels: Sequence[Channel]) -> Sequence[Finding]:
        """See Inspectable."""
        return await asyncio.to_thread(inspect, self.directory)


def _none(train: str) -> Snapshot:
    return Snapshot(Manifest(train=train), 0)


def _version(turn: Turn) -> int:
    return int(turn.db.execute("SELECT coalesce(max(revision), 0) FROM manifest").get)


def _newest(turn: Turn, train: str, kept: str) -> Snapshot:
    row = turn.db.execute("SELECT revision, CAST(document AS BLOB) FROM manifest").fetchone()
    return _none(train) if row is None else Snapshot(manifest.decode(row[1], train=train, kept=kept), row[0])


def _encode_manifest(document: Manifest) -> str:
    return manifest.encode(document).decode()


def _encode_entries(entries: Sequence[Entry]) -> list[tuple[str]]:
    return [(facts.encode_entry(entry).decode(),) for entry in entries]


def _append(turn: Turn, lines: list[tuple[str]], keep: int) -> None:
    if lines:
        turn.db.executemany("INSERT INTO journal (entry) VALUES (?)", lines)
        turn.db.execute("DELETE FROM journal WHERE seq <= (SELECT max(seq) FROM journal) - ?", (keep,))


def _span(turn: Turn, last: int | None) -> tuple[int, int]:
    """The range of the requested entries: the seq before the first one, and that of the last one."""
    first, end = map(int, turn.db.execute("SELECT coalesce(min(seq), 1) - 1, coalesce(max(seq), 0) FROM journal").get)
    return (first if last is None else max(first, end - last)), end


def _on_disk(directory: Path) -> list[str]:
    with needed(f"{directory} can't be listed"):
        try:
            return sorted(entry.name for entry in os.scandir(directory) if _is_train(entry))
        except FileNotFoundError:
            return []


def _is_train(entry: os.DirEntry[str]) -> bool:
    """Whether a train is there, or may be where this link leads: say, a disk that is not mounted."""
    if os.path.lexists(f"{entry.path}/train.db"):
        return True
    if not entry.is_symlink() or Path(entry.path).exists():
        return False
    try:
        check_train_name(entry.name)
    except UsageError:
        return False
    return True
