"""A wagon's file: its tables, and how events go in and out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import apsw
import msgspec

from ...cloudevents import read, undecodable
from ...event import Event
from .storage import Format

_SCHEMA = """
CREATE TABLE channel (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    name      TEXT NOT NULL UNIQUE,        -- empty: the ingress
    capacity  INTEGER,
    sealed    INTEGER NOT NULL DEFAULT 0,
    settled   INTEGER NOT NULL DEFAULT 0,  -- total
    received  INTEGER NOT NULL DEFAULT 0,  -- the seq up to which events were received at least once
    ticket    INTEGER NOT NULL DEFAULT 0,  -- of the newest batch received
    largest   INTEGER NOT NULL DEFAULT 0,  -- no event's data has more bytes
    clock     REAL NOT NULL DEFAULT 0      -- the latest time at which a claim was made
);
CREATE TABLE event (                       -- the attributes of CloudEvents 1.0; never rewritten
    channel      INTEGER NOT NULL,
    seq          INTEGER NOT NULL,
    id           TEXT NOT NULL,
    type         TEXT NOT NULL,
    source       TEXT NOT NULL,
    time         REAL NOT NULL,            -- seconds since the Unix epoch
    subject      TEXT,
    content_type TEXT NOT NULL,
    extensions   TEXT,                     -- a JSON object, or NULL
    data         BLOB NOT NULL,
    PRIMARY KEY (channel, seq)
) WITHOUT ROWID;
CREATE TABLE claim (                       -- an event that was received and is not settled
    channel INTEGER NOT NULL,
    seq     INTEGER NOT NULL,
    held    INTEGER NOT NULL,              -- what HELD, BACK and the rest say below
    until   REAL NOT NULL,                 -- when it may be received again
    since   REAL NOT NULL,
    attempt INTEGER NOT NULL,
    ticket  INTEGER NOT NULL,              -- tells this claim of the event from its earlier ones
    owner   INTEGER NOT NULL DEFAULT 0,    -- a hash of the consumer's owner; 0: nobody
    PRIMARY KEY (channel, seq)
) WITHOUT ROWID;
CREATE INDEX claim_until ON claim (channel, until, held);
"""

# The values of `held`. An expired claim looks like a valid one: only its `until` is over.
GIVEN_BACK, CLAIMED, SUSPECT_BACK, SUSPECT, SUSPECT_ALONE = range(5)
HELD = f"held IN ({CLAIMED}, {SUSPECT}, {SUSPECT_ALONE})"
"""Claimed, if `until` is not over."""
NEXT_ATTEMPT = f"attempt + (held NOT IN ({CLAIMED}, {SUSPECT}))"
"""The attempt of an event that is received again. Giving it back untried has taken one off. An expired claim does not
count, unless its event was alone in its process."""

WAGON = Format(
    what="a wagon's file",
    application_id=0x65767762,  # "evwb"
    version=1,
    schema=_SCHEMA,
    dead="SELECT NOT EXISTS (SELECT 1 FROM channel)",
    added=(("claim", "owner", "INTEGER NOT NULL DEFAULT 0"),),
)
OWN = msgspec.structs.replace(WAGON, what="a train's file")

# Seqs count from 1, and no event after `received` is ever deleted. So the newest seq is the total published, and
# publishing need not rewrite the channel's row.
FIND = """
    SELECT id, name, capacity, sealed,
       max(received, coalesce((SELECT max(seq) FROM event e WHERE e.channel=c.id), 0)), settled,
    received, ticket, largest, clock FROM channel c WHERE name=?
"""

# Channels have existed (a new file has none yet, and the sequence of ids has no row).
EMPTIED = "SELECT NOT EXISTS (SELECT 1 FROM channel) AND EXISTS (SELECT 1 FROM sqlite_sequence)"

BATCH_BYTES = 64 << 20  # a received batch has at most about this much data, or one event
PAGE, PAGE_BYTES = 500, 4 << 20  # events in one step of `read`, and about the most data of them

_COLUMNS = "seq, id, type, source, time, subject, content_type, extensions, data"
_ROW = "(" + ",".join("?" * 10) + ")"
INSERT = {
    n: f"INSERT INTO event (channel, {_COLUMNS}) VALUES {','.join([_ROW] * n)}"  # noqa: S608 - nobody's words but ours
    for n in (64, 32, 16, 8, 4, 2, 1)
}

# All rows as one: SQLite releases the interpreter's lock at each row, and may get it back only milliseconds later while
# the event loop is busy: measured up to 20 times slower than this, which costs a fifth when nothing else runs.
_GATHER = (
    "SELECT json_group_array(json_array(seq, {attempt}, id, type, source, time, subject, content_type, extensions,"
    " octet_length(data))), CAST(group_concat(data, '') AS BLOB) FROM ({rows})"
)
# The same for rows of other writers: row by row, whatever is in their columns.
_APART = (
    "SELECT seq, {attempt}, CAST(id AS BLOB), CAST(type AS BLOB), CAST(source AS BLOB), CAST(time AS REAL), "
    "CAST(subject AS BLOB), CAST(content_type AS BLOB), CAST(extensions AS BLOB), CAST(data AS BLOB) FROM ({rows})"
)
_apart: dict[str, str] = {}
"""By the statement that gathers."""


def _gathering(attempt: str, rows: str) -> str:
    sql = _GATHER.format(attempt=attempt, rows=rows)
    _apart[sql] = _APART.format(attempt=attempt, rows=rows)
    return sql


FRESH = _gathering("1", "SELECT * FROM event WHERE channel=? AND seq>? ORDER BY seq LIMIT ?")
_AGAIN = "SELECT e.*, c.attempt, c.held FROM claim c CROSS JOIN event e ON e.channel=c.channel AND e.seq=c.seq"
BACK = _gathering(
    NEXT_ATTEMPT,
    f"{_AGAIN} WHERE c.channel=? AND c.until<=? AND c.held={GIVEN_BACK} ORDER BY c.until, c.seq LIMIT ?",
)
SUSPECTS = _gathering(
    NEXT_ATTEMPT,
    f"{_AGAIN} WHERE c.channel=? AND c.until<=? AND c.held<>{GIVEN_BACK}"
    f" ORDER BY {NEXT_ATTEMPT} DESC, c.until, c.seq LIMIT ?",
)

_decode_rows = msgspec.json.Decoder(
    list[tuple[int, int, str, str, str, float, str | None, str, str | None, int]]
).decode
_decode_extensions = msgspec.json.Decoder(dict[str, str]).decode


def encode_extensions(extensions: Mapping[str, str]) -> str:
    """In the form of the column."""
    return msgspec.json.encode(extensions).decode()


Row = tuple[int, int, Event]
"""Seq, attempt and event."""


def gather(db: apsw.Connection, sql: str, bindings: tuple[int | float, ...]) -> list[Row]:
    """What FRESH, BACK or SUSPECTS finds. A row of another writer may contain anything; it raises nothing."""
    try:
        return list(_gathered(db, sql, bindings))
    except (apsw.SQLError, msgspec.DecodeError, UnicodeDecodeError):
        return [_row(db, int(bindings[0]), columns) for columns in db.execute(_apart[sql], bindings)]


def _gathered(db: apsw.Connection, sql: str, bindings: tuple[int | float, ...]) -> Iterator[Row]:
    head, body = db.execute(sql, bindings).get
    body = body or b""
    start = 0
    for seq, attempt, i, kind, source, time, subject, content_type, extensions, size in _decode_rows(head):
        end = start + size
        data, start = body[start:end], end
        if extensions is None:
            yield seq, attempt, Event(i, kind, source, time, data, subject, content_type)
        else:
            more = _decode_extensions(extensions)
            yield seq, attempt, Event(i, kind, source, time, data, subject, content_type, more)


_NAMES = ("id", "type", "source", "subject", "datacontenttype", "extensions")


def _row(db: apsw.Connection, channel: int, columns: tuple[Any, ...]) -> Row:
    seq, attempt, i, kind, source, time, subject, content_type, extensions, data = columns
    file = Path(db.filename)
    name = db.execute("SELECT CAST(name AS TEXT) FROM channel WHERE id=?", (channel,)).get
    position = f"{file.parent.name}_{file.stem}{'.' if name else ''}{name}/{seq}"
    pairs = list(zip(_NAMES, (i, kind, source, subject, content_type, extensions), strict=True))
    try:
        more = {} if extensions is None else _decode_extensions(extensions)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        because = f"extensions: {e}"
        return seq, attempt, undecodable(data or b"", pairs, position=position, written=time or 0.0, because=because)
    pairs[-1:] = more.items()
    return seq, attempt, read(pairs, data or b"", position=position, written=time or 0.0, bare=True)
