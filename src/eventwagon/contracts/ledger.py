"""The seam to the ledger, which keeps a permanent record of every wagon; and what a record holds. Contracts only; the
drivers are in `drivers/`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from ..values import must_be, sum_of
from .documents import as_read


class Sketch(msgspec.Struct, frozen=True, kw_only=True):
    """Many times in seconds, of which every percentile is known to within 2 %. Sketches can be merged, see
    `policy/sketch.py`."""

    zeros: int = 0
    """How many were shorter than a microsecond, or negative since clocks differ."""
    first: int = 0
    """The index of the first bin."""
    bins: tuple[int, ...] = ()
    """How many are in each bin. Bin i has the times above g^(i-1) and up to g^i, with g = 1.02 / 0.98."""
    least: float = 0.0
    most: float = 0.0


class ChannelCounts(msgspec.Struct, frozen=True, kw_only=True):
    """What one process did in one channel of a wagon. Its figures only grow while the process lives."""

    wagon: int
    opened_at: float
    """The wagon's: a train that was removed and founded anew uses numbers again."""
    channel: str
    """The inner channel's name; empty: the ingress."""
    settled: int = 0
    """Events that it settled, those that died included. An event that two processes settled counts in both."""
    dead: int = 0
    """Those of them that went to the dead letters."""
    retried: int = 0
    """Attempts that failed and were followed by another."""
    snoozed: int = 0
    """Handlings that put their event off."""
    digest: str = ""
    """Over the ids of the settled events, see `policy/digest.py`; 32 hexadecimal digits."""
    waits: Sketch = Sketch()
    """Seconds from an event's time to its first handling."""
    handlings: Sketch = Sketch()
    """Seconds that handlings took, whatever came of them."""


class Times(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles in seconds, to within 2 %; None if there was nothing to measure."""

    count: int = 0
    p50: float | None = None
    p90: float | None = None
    p99: float | None = None
    most: float | None = None
    sketch: Sketch = Sketch()
    """From which they were read. Those of several records can be merged."""


class ChannelRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One channel of a wagon. The first group of figures are the broker's own totals, the second is what its workers
    counted."""

    name: str
    """The inner channel's; empty: the ingress."""
    published: int | None = None
    """Events published to it, or emitted to it by handlers, the lost ones included. None: the broker did not know
    it."""
    settled: int | None = None
    """Events that were settled: handled, or among the dead letters."""
    lost: int = 0
    """Events that disappeared from the broker without being settled."""
    left: int = 0
    """Events that were in it at the end: published again elsewhere, or deleted with the train; or, in an inner channel,
    what a worker that was taken for dead emitted late: the one in its place has emitted the same."""

    counted: int = 0
    """Settled events in the counts of workers that were seen. Less than `settled`: a worker was killed before it
    handed in its last ones, or sends none. More: events were settled twice."""
    dead: int = 0
    retried: int = 0
    snoozed: int = 0
    digest: str = ""
    """Over the ids of the counted events, see `policy/digest.py`."""
    waits: Times = Times()
    """From an event's time to its first handling."""
    handlings: Times = Times()

    @property
    def difference(self) -> int | None:
        """Published, and neither settled nor lost nor left: 0 if its figures reconcile; None if one is not known."""
        if self.published is None or self.settled is None:
            return None
        return self.published - self.settled - self.lost - self.left


class Ran(msgspec.Struct, frozen=True, kw_only=True):
    """A process that settled events of the wagon."""

    name: str
    revision: str = ""
    settled: int = 0


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A pause of the wagon, or of the whole train while the wagon lived. Times are in seconds since the epoch."""

    why: str = ""
    by: str = ""
    since: float
    until: float | None = None
    """None: the pause had not ended when the record was written."""
    train: bool = False
    """The whole train was paused."""
    resumed_by: str = ""


class ByHand(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody did to the train while the wagon lived, from the journal."""

    at: float
    by: str
    what: str


class Archived(msgspec.Struct, frozen=True, kw_only=True):
    """What the archive has of the wagon. Its figures are those of rows, not of settlements: see docs/archive.md."""

    url: str
    rows: int
    digest: str = ""
    """Of the ids of all rows."""


class WagonRecord(msgspec.Struct, frozen=True, kw_only=True):
    """The permanent record of a wagon, written before it is removed, and never changed. Times are in seconds since the
    epoch; None: that has not happened."""

    train: str
    number: int
    opened_at: float
    """With train and number it identifies the wagon."""
    opened_because: str = ""
    revision: str = ""
    undoes: int = 0
    """The wagon whose events were undone in it; 0: it was not for an undo."""
    archived: Archived | None = None
    """None: it was not archived."""
    created_at: float | None = None
    ready_at: float | None = None
    active_at: float | None = None
    turn: int = 0
    closed_because: str = ""
    closed_at: float | None = None
    sealed_at: float | None = None
    drained_at: float | None = None
    ended: str = ""
    """`drained`, `failed`, or `removed with its train`."""
    recorded_at: float = 0.0
    recorded_by: str = ""
    """The process that wrote this."""

    channels: tuple[ChannelRecord, ...] = ()
    dead: int | None = None
    """Dead letters that were stored, by the broker's total; None: it did not know."""
    letters_kept: int | None = None
    """Dead letters that went to the train's own; None: not known."""
    letters_taken: int = 0
    """Dead letters that somebody had retried or dropped."""
    letters_lost: int = 0
    lost: int = 0
    """Events that were reported lost."""
    unreconciled: str = ""
    """Why its figures do not reconcile; empty if they do: of every channel, published = settled + lost + left;
    and every dead letter was kept, taken or reported lost."""
    difference: int | None = 0
    """Published, and neither settled nor lost nor left, over all channels; None: not known."""

    ran: tuple[Ran, ...] = ()
    holds: tuple[Hold, ...] = ()
    by_hand: tuple[ByHand, ...] = ()
    journal_from: float | None = None
    """`holds` and `by_hand` are known from then on, since the journal no longer had what was before; None: all are."""

    replay: int = 0
    """The replay that it was for; 0: it was for new events."""

    @property
    def settled(self) -> int | None:
        """Settled events of all channels; None if one is not known."""
        return sum_of(c.settled for c in self.channels)

    @property
    def published(self) -> int | None:
        """Events published to the wagon and emitted in it; None if one figure is not known."""
        return sum_of(c.published for c in self.channels)

    @property
    def counted(self) -> int:
        """Settled events that the digests and percentiles cover."""
        return sum(c.counted for c in self.channels)


class Ledger(Protocol):
    """Keeps records of wagons for good. An asynchronous context manager: each connection enters its own once; entering
    must not call a server, since every process of the train does it.

    Its methods may be called concurrently, from the event loop that entered it. All raise Unavailable and
    StorageBroken.
    """

    async def __aenter__(self) -> Ledger: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def append(self, record: WagonRecord) -> WagonRecord:
        """Store the record; durable when it returns. If there is one of this wagon (train, number, `opened_at`), that
        one stays as it is. Returns the one that is kept. Idempotent."""
        ...

    async def read(self, train: str, number: int) -> tuple[WagonRecord, ...]:
        """The records of the wagons with this number, oldest first: several if the train was removed and founded
        anew."""
        ...

    def records(self, train: str) -> AsyncIterator[WagonRecord]:
        """All records of the train, in the order in which they were appended."""
        ...


def ledger_of(broker: object) -> Ledger | None:
    """The ledger beside this broker, not entered: its attribute `ledger`, if it has one. None: it keeps none."""
    found = getattr(broker, "ledger", None)
    if found is not None:
        must_be(Ledger, found, "the broker's ledger")
    return found


_decoder = msgspec.json.Decoder(WagonRecord)


def encode_record(record: WagonRecord) -> bytes:
    """The record as JSON, as ledgers store it. Raises Defect if it could not be read again."""
    return msgspec.json.encode(sound_record(record))


def sound_record(record: WagonRecord) -> WagonRecord:
    """The record as everybody will read it. Raises Defect."""
    return as_read(record, _decoder)


def decode_record(data: bytes | str) -> WagonRecord:
    """The record that `encode_record` wrote; fields of a newer version are left out. Raises msgspec.MsgspecError."""
    return _decoder.decode(data)
