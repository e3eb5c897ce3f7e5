"""The seam to the archive, where the events of drained wagons are kept. Contracts only; the implementations are in
`archives/`.

While a wagon lives, its settled events are kept as rows in a channel of the wagon's own at the broker. Its removal
writes them to the archive.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Literal, Protocol
from urllib.parse import unquote

import msgspec

from ..errors import UsageError
from ..event import EARLIEST, LATEST, Event, check_channel_name, legible
from ..values import plain, shown, split_url
from .address import Address

Outcome = Literal["handled", "dead", "passed", "skipped"]
"""What came of an event in its channel. `handled`: its handler returned. `dead`: it went to the dead letters. `passed`:
it was due for an inner channel, and was stored there. `skipped`: it was handled before, as `once=` remembers."""
OUTCOMES: tuple[Outcome, ...] = ("handled", "dead", "passed", "skipped")

_SCHEMES = ("file", "s3")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
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


class ArchivedWagon(msgspec.Struct, frozen=True, kw_only=True):
    """The wagon whose rows are written."""

    train: str
    number: int
    opened_at: float | None
    """When it was opened, in seconds since the epoch: that tells it from an earlier wagon of the same name. None: not
    known, it is `late`."""
    late: str = ""
    """Rows that were found when the wagon was gone get files of their own, with this in their names."""


class ArchiveFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file: the rows of one channel of a wagon."""

    name: str
    """Its path in the archive."""
    number: int
    channel: str
    size: int = 0
    """In bytes."""
    count: int = 0
    """How many rows were read back; 0: it was listed only."""
    digest: int = 0
    """The digest of the ids that were read back, see `policy.digest`."""


class ArchiveWriter(Protocol):
    """Writes one wagon's files."""

    async def add(self, rows: Sequence[Row]) -> None:
        """Add rows, of any channels. Returns when there is room for more, so memory is bounded. Raises Unavailable,
        StorageBroken."""
        ...

    async def finish(self) -> Sequence[ArchiveFile]:
        """Store the files whole, read them back, and return them with the counts and digests that were read. They are
        durable when it returns. Channels without rows have no file. Replaces files of an earlier attempt for the same
        wagon. Raises Unavailable; StorageBroken if a file of that name is somebody else's, or holds more rows."""
        ...


class Archive(Protocol):
    """Keeps the events of drained wagons. Its methods may be called concurrently, from one event loop."""

    @property
    def where(self) -> str:
        """Its URL, without secrets."""
        ...

    async def prepare(self) -> None:
        """Make its directory, if it is one and not there. For processes that begin to observe: from then on a directory
        that is not there is away, as one that is not mounted. Raises Unavailable."""
        ...

    def write(self, wagon: ArchivedWagon) -> AbstractAsyncContextManager[ArchiveWriter]:
        """Begin to write a wagon's files. If it is left before `finish` has returned, a file is there whole or not at
        all."""
        ...

    async def files(self, train: str) -> Sequence[ArchiveFile]:
        """The files of a train, by wagon and channel. Raises Unavailable."""
        ...

    def read(self, file: ArchiveFile) -> AsyncGenerator[Sequence[Row], None]:
        """The rows of a file, in batches of some MiB. Raises Unavailable; StorageBroken, also if it is gone."""
        ...


OpenArchive = Callable[[str], Archive]
"""Opens the archive at a URL. Raises UsageError."""


def check_archive(url: object) -> str:
    """Return the URL of an archive as it is stored, or raise UsageError: file:///directory or s3://bucket/prefix."""
    text = plain(url)
    if text is None:
        raise UsageError(f"archive={shown(url)}: give a URL, say file:///var/archive or s3://bucket/prefix")
    if "@" in text:
        raise UsageError(
            "archive: leave user name and password out of its URL, which is stored with the train: they come from the "
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or from the machine's role. Write %40 for another @"
        )
    parts = split_url(text)
    path = unquote(parts.path)
    if parts.scheme not in _SCHEMES:
        raise UsageError(f"archive={shown(text)}: give file:///directory or s3://bucket/prefix")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(f"archive={shown(text)}: write other characters than ASCII percent-encoded")
    if not path.isprintable() or any(step in (".", "..") for step in path.split("/")):
        raise UsageError(f"archive={shown(text)}: its path must not have control characters, nor . or .. as a step")
    if parts.scheme == "file" and (parts.netloc or not path.strip("/") or parts.query):
        raise UsageError(
            f"archive={shown(text)}: give an absolute directory with three slashes, say file:///var/archive"
        )
    if parts.scheme == "s3":
        if not _BUCKET.fullmatch(parts.netloc):
            raise UsageError(f"archive={shown(text)}: name the bucket, say s3://bucket/prefix")
        address = Address.of(text)
        address.only("region", "endpoint")
        address.http("endpoint", "", example="http://localhost:9000")
    return text


# --- rows in a wagon's channel ------------------------------------------------------------


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
