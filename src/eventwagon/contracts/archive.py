"""The seam to the archive, where the events of drained wagons are kept. Contracts only; the implementations are in
`archives/`.

While a wagon lives, its settled events are kept as rows in a channel of the wagon's own at the broker. Its removal
writes them to the archive.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol
from urllib.parse import unquote

import msgspec

from ..errors import UsageError
from ..values import plain, shown, split_url
from .address import Address
from .rows import Row

_SCHEMES = ("file", "s3")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class ArchivedWagon(msgspec.Struct, frozen=True, kw_only=True):
    """The wagon whose rows are written."""

    train: str
    number: int
    opened_at: float | None
    """When it was opened, in seconds since the epoch: that tells it from an earlier wagon of the same name. None: not
    known, it is `late`."""
    late: str = ""
    """Rows that were found when the wagon was gone get files of their own, with this in their names."""
    again: bool = False
    """Its train has archived here before: a directory must have the mark of that."""


class ArchiveFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file: the rows of one channel of a wagon."""

    name: str
    """Its path in the archive."""
    number: int
    channel: str
    opened: str = ""
    """When its wagon was opened, as the name says it: a train that was removed and founded again has several wagons of
    one number. Empty: its rows came late, or it was not listed."""
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
        all. A directory that is used for the first time is marked. Raises Unavailable, also if the mark is missing
        (`ArchivedWagon.again`): it may be the empty mount point of a disk."""
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
