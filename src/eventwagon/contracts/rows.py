"""The rows of an archive, one for each settled event, and how they wait in a wagon's channel until it is archived."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Literal

import msgspec

from ..errors import UsageError
from ..event import EARLIEST, LATEST, Event, check_channel_name, legible
from ..values import shown

Outcome = Literal["handled", "dead", "passed", "skipped"]
"""What came of an event in its channel. `handled`: its handler returned. `dead`: it went to the dead letters. `passed`:
it was due for an inner channel, and was stored there. `skipped`: it was handled before, as `once=` remembers."""
OUTCOMES: tuple[Outcome, ...] = ("handled", "dead", "passed", "skipped")

ROWS = "eventwagon.rows"
"""The type of the events that hold rows."""


class Row(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One settled event, and what came of it. Later versions may add fields at the end."""

    id: str
    type: str
    source: str
    time: float
    data: bytes
    subject: str | None
    content_type: str
    extensions: Mapping[str, str]
    channel: str
    """The inner channel; empty: the ingress."""
    outcome: Outcome
    attempts: Annotated[int, msgspec.Meta(ge=0, lt=2**62)]
    """How often the broker had delivered it, this time included; of a dead one, how often it was tried."""
    settled_at: float
    """Just before it was settled, in seconds since the epoch."""
    because: str = ""
    """Why it is dead."""
    cut: Annotated[int, msgspec.Meta(ge=0, lt=2**62)] = 0
    """How many bytes its data had, if the broker refused the row with all of them; 0: nothing is missing."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[Row])


def row_of(event: Event, channel: str, outcome: Outcome, attempts: int, settled_at: float, because: str = "") -> Row:
    """The row of a settled event."""
    return Row(
        event.id,
        event.type,
        event.source,
        event.time,
        event.data,
        event.subject,
        event.content_type,
        event.extensions,
        channel,
        outcome,
        attempts,
        settled_at,
        because,
    )


def packed(rows: Sequence[Row], train: str) -> Event:
    """Rows as one event for the wagon's channel. Not for users: its data is msgpack."""
    try:
        data = _encoder.encode(rows)
    except UnicodeEncodeError:  # text of a foreign client that is no UTF-8
        data = _encoder.encode([_legible(row) for row in rows])
    last = rows[-1]
    settled_at = last.settled_at if EARLIEST <= last.settled_at <= LATEST else 0.0
    return Event(legible(last.id), ROWS, f"/eventwagon/{train}", settled_at, data)


def unpacked(event: Event) -> list[Row]:
    """The rows in an event of `packed`. Raises ValueError if it is none: somebody else may have put it there, and the
    names of files are made of the channels'."""
    if event.type != ROWS:
        raise ValueError(f"an event of type {shown(event.type)} is no part of an archive")
    rows = _decoder.decode(event.data)
    for channel in {row.channel for row in rows}:
        if channel:
            try:
                check_channel_name(channel)
            except UsageError as e:
                raise ValueError(f"a row of an archive: {e}") from None
    return rows


def in_parts(rows: Sequence[Row], most: int) -> Iterator[Sequence[Row]]:
    """The rows in parts of about `most` bytes, each of at least one row."""
    start = size = 0
    for place, row in enumerate(rows):
        own = _size(row)
        if size + own > most and place > start:
            yield rows[start:place]
            start, size = place, 0
        size += own
    if start < len(rows):
        yield rows[start:]


def without_data(row: Row) -> Row:
    """The row without the event's data, which the broker refuses."""
    return msgspec.structs.replace(row, data=b"", extensions={}, cut=len(row.data))


def _size(row: Row) -> int:
    """About how many bytes it has when packed; at most, for ASCII."""
    size = len(row.data) + len(row.id) + len(row.type) + len(row.source) + len(row.because) + 120
    if row.extensions:
        size += sum(len(name) + len(value) + 8 for name, value in row.extensions.items())
    return size


def _legible(row: Row) -> Row:
    return msgspec.structs.replace(
        row,
        id=legible(row.id),
        type=legible(row.type),
        source=legible(row.source),
        subject=None if row.subject is None else legible(row.subject),
        content_type=legible(row.content_type),
        extensions={legible(name): legible(value) for name, value in row.extensions.items()},
        because=legible(row.because),
    )
