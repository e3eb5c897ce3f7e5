"""Rows as columns of Arrow, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]

from ..contracts.rows import Row
from ..event import EARLIEST, LATEST, legible

_TIME = pa.timestamp("us", tz="UTC")
_WORD = pa.string()

SCHEMA = pa.schema(
    [
        ("id", _WORD),
        ("type", _WORD),
        ("source", _WORD),
        ("subject", _WORD),
        ("time", _TIME),
        ("datacontenttype", _WORD),
        ("data", pa.binary()),
        ("extensions", pa.map_(_WORD, _WORD)),
        ("wagon", pa.int64()),
        ("channel", _WORD),
        ("outcome", _WORD),
        ("attempts", pa.int64()),
        ("settled_at", _TIME),
        ("because", _WORD),
        ("cut", pa.int64()),
    ]
)
REPEATED = ["type", "source", "datacontenttype", "channel", "outcome", "wagon", "because"]
"""The columns whose values repeat: they are stored as a dictionary."""


def batch_of(rows: Sequence[Row], train: str, number: int) -> pa.RecordBatch:
    """The rows of a wagon as columns. The ingress is called like the train, as handlers know it."""
    try:
        return _batch_of(rows, train, number)
    except UnicodeEncodeError:  # text of a foreign client that is no UTF-8
        return _batch_of(rows, train, number, legible)


def _batch_of(rows: Sequence[Row], train: str, number: int, text: Callable[[str], str] | None = None) -> pa.RecordBatch:
    """`text` is applied to all text."""

    def words(found: Sequence[str] | Sequence[str | None]) -> pa.Array:
        return pa.array(found if text is None else [word and text(word) for word in found], type=_WORD)

    extensions: list[list[tuple[str, str]] | tuple[()]]
    if text is None:
        extensions = [list(row.extensions.items()) if row.extensions else () for row in rows]
    else:
        extensions = [[(text(name), text(value)) for name, value in row.extensions.items()] for row in rows]
    return pa.RecordBatch.from_arrays(
        [
            words([row.id for row in rows]),
            words([row.type for row in rows]),
            words([row.source for row in rows]),
            words([row.subject for row in rows]),
            _times([row.time for row in rows]),
            words([row.content_type for row in rows]),
            pa.array([row.data for row in rows], type=pa.binary()),
            pa.array(extensions, type=SCHEMA.field("extensions").type),
            pa.array([number] * len(rows), type=pa.int64()),
            words([row.channel or train for row in rows]),
            words([row.outcome for row in rows]),
            pa.array([row.attempts for row in rows], type=pa.int64()),
            _times([row.settled_at for row in rows]),
            words([row.because or None for row in rows]),
            pa.array([row.cut or None for row in rows], type=pa.int64()),
        ],
        schema=SCHEMA,
    )


def rows_of(batch: pa.RecordBatch, train: str) -> list[Row]:
    """The rows in a batch of `SCHEMA`. Columns that are not known are left out."""
    return [
        Row(
            each["id"],
            each["type"],
            each["source"],
            _seconds(each["time"]),
            each["data"],
            each["subject"],
            each["datacontenttype"],
            dict(each["extensions"] or ()),
            "" if each["channel"] == train else each["channel"],
            each["outcome"],
            each["attempts"],
            _seconds(each["settled_at"]),
            each["because"] or "",
            each["cut"] or 0,
        )
        for each in batch.select(SCHEMA.names).to_pylist()
    ]


def encoded_ids(batch: pa.RecordBatch) -> list[bytes]:
    """The ids of the rows in a batch, in UTF-8."""
    ids: list[bytes] = batch.column("id").cast(pa.binary()).to_pylist()
    return ids


def _times(times: Sequence[float]) -> pa.Array:
    """Null for a time that RFC 3339 can't express: a foreign client's."""
    seconds = pa.array(times, type=pa.float64())
    is_one = pc.and_(pc.greater_equal(seconds, EARLIEST), pc.less_equal(seconds, LATEST))
    micros = pc.multiply(pc.if_else(is_one, seconds, None), 1e6)
    return pc.round(micros).cast(pa.int64()).cast(_TIME)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _seconds(time: datetime | None) -> float:
    return 0.0 if time is None else (time - _EPOCH).total_seconds()
