"""The seam to a source: a flow that others write, which the bridge reads into a train. Contracts only; the sources are
in `sources/`, those of other packages are found by entry points."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import msgspec

from ..cloudevents import Pairs

Begin = Literal["earliest", "latest"] | float | None
"""Where a group begins that has no position yet: at the first record, after the last one, or at the first record of
that time or later (seconds since the epoch). None: such a group is refused, as its name may be mistyped."""


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One record of a source, as its writer made it. `token` is the source's own."""

    position: str
    """Names the record: the same each time that it is read, and another one for each other record, also of a stream or
    topic that was deleted and made anew. At most 2048 bytes of printable text. The event's id, unless the record has
    one."""
    value: bytes
    headers: Pairs = ()
    key: bytes | None = None
    time: float = 0.0
    """When the source took it, in seconds since the epoch; if it does not say, when it was read. Waits are counted from
    it."""
    token: Any = None
    trouble: str = ""
    """Why it can't be an event, as far as the source can tell; it then goes to the dead letters. Empty: nothing is
    wrong."""


class Lag(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the source and not committed, as far as this reader has to do with it. A figure that the source does
    not know is None, never a guess."""

    records: int | None = None
    seconds: float | None = None
    """The age of the oldest of them; 0: there is none."""


class Source(Protocol):
    """A flow that others write. An asynchronous context manager: its owner enters it once, before use.

    Its methods belong to the event loop that entered it. `read`, `commit` and `lag` may be called concurrently, each
    of them by one task at a time.
    """

    @property
    def name(self) -> str:
        """Names the source in messages, metrics and events (their `source`): its URL without options and secrets."""
        ...

    async def __aenter__(self) -> Source:
        """Connect and check. Takes no record and joins no group: `peek` and `lag` work before the first `read`. Raises
        UsageError (also if there is no such group and nothing says where a new one begins), Unavailable,
        StorageBroken."""
        ...

    async def __aexit__(self, *exc: object) -> None:
        """Leave the group and close. Records that were read and not committed come again, here or elsewhere."""
        ...

    async def read(self, limit: int, wait: float) -> Sequence[Record] | None:
        """The next records, at most `limit`: at least one, or [] after `wait` seconds. None: the source has ended, and
        there will be no more.

        What was read is not read again, here or by others of the group, until it is committed or its reader is gone,
        however long that takes: the source itself extends its claims, and stays in its group, while nobody calls
        `read`. It then holds back more than it has room for. When it loses some to another reader (a partition is taken
        away), it first waits for a while for the commit of what was read.

        Records that can be committed only in order (those of one partition) come in this order. Not to be cancelled: a
        cancelled call may have read records. Raises Unavailable (also if the group or stream has vanished: it is tried
        again), StorageBroken, UsageError.
        """
        ...

    async def commit(self, records: Sequence[Record]) -> None:
        """These are done, and never read again by this group; durable when it returns. The records are the first ones
        that were read and not committed, in that order. Those that this reader has lost meanwhile are passed over:
        somebody else reads them. Idempotent. Raises Unavailable (nothing or some may be committed; try again),
        StorageBroken."""
        ...

    async def peek(self, limit: int) -> Sequence[Record]:
        """The records that the next `read` would give, at most `limit`, as far as they can be shown. Takes and commits
        nothing, and joins no group; only of a source that can be read once (stdin) they are gone. Raises Unavailable,
        StorageBroken, and UsageError if the source can't show records without taking them."""
        ...

    async def lag(self) -> Lag:
        """How far this reader is behind. Raises Unavailable, StorageBroken."""
        ...
