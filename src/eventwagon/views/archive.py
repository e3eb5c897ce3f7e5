"""Archived events as data."""

from __future__ import annotations

from ..contracts.rows import Row
from .letters import data_of


def row_as_json(row: Row, number: int) -> dict[str, object]:
    """A row as `export` prints it."""
    return {
        "id": row.id,
        "type": row.type,
        "source": row.source,
        "subject": row.subject,
        "time": row.time,
        "content_type": row.content_type,
        "extensions": dict(row.extensions),
        "wagon": number,
        "channel": row.channel,
        "outcome": row.outcome,
        "attempts": row.attempts,
        "because": row.because,
        "settled_at": row.settled_at,
        "cut": row.cut,
        "data": data_of(row.data),
    }
