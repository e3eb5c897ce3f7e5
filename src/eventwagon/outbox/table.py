"""The table of an outbox. Its columns are those of Debezium's outbox event router, and three more.

https://debezium.io/documentation/reference/stable/transformations/outbox-event-router.html
"""

from __future__ import annotations

import re

from ..errors import UsageError
from ..values import is_a, shown

TABLE = "outbox"
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,50}(?:\.[a-z_][a-z0-9_]{0,50})?")


def quoted(table: str) -> str:
    """The table's name in SQL: `outbox`, or with its schema `shop.outbox`. Raises UsageError."""
    if not is_a(table, str) or not _NAME.fullmatch(table):
        raise UsageError(f"table {shown(table)}: give a name, or schema.name, of a-z, 0-9 and _")
    return ".".join(f'"{part}"' for part in table.split("."))


def notified(table: str) -> str:
    """The channel of PostgreSQL on which an insert is told. Raises UsageError."""
    quoted(table)
    return f"eventwagon_{table.replace('.', '_')}"[:63]


def create_table(table: str = TABLE) -> str:
    """The SQL that makes the table, for a migration: columns, an index in the order of inserts, and a trigger that
    wakes the relay. Idempotent. Raises UsageError for a name that is none."""
    name, channel = quoted(table), notified(table)
    function = f'{name[:-1]}_notify"'
    return f"""\
CREATE TABLE IF NOT EXISTS {name} (
    seq bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id text NOT NULL,
    aggregatetype text NOT NULL DEFAULT '',
    aggregateid text,
    type text NOT NULL,
    payload bytea NOT NULL,
    contenttype text NOT NULL DEFAULT 'application/json',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('{channel}', '');
    RETURN NULL;
END $$;
CREATE OR REPLACE TRIGGER eventwagon_notify AFTER INSERT ON {name}
    FOR EACH STATEMENT EXECUTE FUNCTION {function}();
"""
