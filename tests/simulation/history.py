"""Everything that happened in a run, in order: what the checker judges and the story tells."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TypeVar

import msgspec

from eventwagon.contracts.facts import Decision
from eventwagon.contracts.ledger import WagonRecord
from eventwagon.contracts.manifest import Manifest
from eventwagon.event import Channel

_T = TypeVar("_T", bound="Record")


class Record(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One thing that happened: `seq` is its place in the history, `at` in virtual seconds, `by` the process."""

    seq: int = -1
    at: float = 0.0
    by: str = ""


# --- at the broker --------------------------------------------------------------------------


class Created(Record, frozen=True):
    channel: Channel
    capacity: int | None
    fresh: bool
    """It did not stand before."""


class Stored(Record, frozen=True):
    channel: Channel
    id: str
    key: str
    """What the event is about: one key, one id."""
    twice: bool = False
    """By a fault: the same call took effect twice."""


class Kept(Record, frozen=True):
    """The timetable keeps an event for later."""

    channel: str
    """The inner channel that it is for; empty: the ingress."""
    id: str
    key: str
    due: float
    """In virtual seconds."""


class Settled(Record, frozen=True):
    channel: Channel
    id: str
    key: str


class SealedChannel(Record, frozen=True):
    channel: Channel
    stood: bool


class Deleted(Record, frozen=True):
    channel: Channel
    stood: bool
    left: tuple[tuple[str, str], ...]
    """(id, key) of what was not settled."""


class Attached(Record, frozen=True):
    channel: Channel


class Detached(Record, frozen=True):
    channel: Channel


# --- at the flow that others write -----------------------------------------------------------


class Produced(Record, frozen=True):
    """Its producer wrote a record."""

    position: str
    key: str
    id: str
    """Of the event that it becomes, or of the dead letter."""
    partition: int
    fits: bool
    """It can be an event, and the broker takes it."""


class Delivered(Record, frozen=True):
    """A reader of the process was given these records; `by` the process."""

    positions: tuple[str, ...]


class TakenAway(Record, frozen=True):
    """The process has lost these, which it had been given: they go to whoever reads next."""

    positions: tuple[str, ...]


class Committed(Record, frozen=True):
    """The group is done with these."""

    positions: tuple[str, ...]


# --- at the registry ------------------------------------------------------------------------


class Revised(Record, frozen=True):
    version: int
    manifest: Manifest
    facts: tuple[Decision, ...]


class SteppedBack(Record, frozen=True):
    """The registry holds an older manifest again, as one does that was restored from a copy."""

    version: int
    manifest: Manifest


class ManifestSeen(Record, frozen=True):
    """The process was given a manifest of this version."""

    version: int


class Noted(Record, frozen=True):
    facts: tuple[Decision, ...]


# --- at the programs ------------------------------------------------------------------------


class Accepted(Record, frozen=True):
    """`publish` returned."""

    key: str


class Refused(Record, frozen=True):
    """`publish` raised."""

    key: str
    why: str


class Begun(Record, frozen=True):
    """An event was handed out: a handler has begun."""

    channel: Channel
    id: str
    key: str


class Handled(Record, frozen=True):
    """A handler came to its end without raising."""

    channel: Channel
    id: str
    key: str
    children: tuple[tuple[str, str], ...]
    """(channel name, key) of what it emitted."""
    attempt: int = 1


class Undid(Record, frozen=True):
    """An undo handler came to its end without raising."""

    channel: Channel
    """Of the undo's wagon."""
    id: str
    key: str
    of: Channel
    """In which the event had been handled, as the handler was told."""
    undo: int


class HandlerEnded(Record, frozen=True):
    """A handler of the ingress has ended, however it did. Recorded where the ingress has a concurrency."""

    id: str


class Tried(Record, frozen=True):
    """A handler raised, or was cut short."""

    channel: Channel
    id: str
    key: str
    attempt: int
    why: str


class PutOff(Record, frozen=True):
    """A handler asked for the event again, so many seconds later."""

    channel: Channel
    id: str
    key: str
    seconds: float


class Leaked(Record, frozen=True):
    """A handler saw in a context variable what the handling of another event left there."""

    key: str
    left_by: str


# --- processes and faults -------------------------------------------------------------------


class Recorded(Record, frozen=True):
    """The ledger was given a wagon's record. `record`: the one that it keeps from then on."""

    record: WagonRecord


class Started(Record, frozen=True):
    roles: tuple[str, ...]
    revision: str = ""


class Running(Record, frozen=True):
    """It is past its start."""


class Ended(Record, frozen=True):
    """It ended by itself. `error` is empty where it was asked to; `early`: before it was running."""

    error: str
    early: bool
    held: tuple[str, ...] = ()
    """What it had claimed and not given back."""


class Measured(Record, frozen=True):
    """A process left, and its meter says so much of its life."""

    handlings: dict[str, int]
    """By the channel's name: how many handlings were measured."""


class Archived(Record, frozen=True):
    """The files of a wagon were stored in the archive."""

    number: int
    late: str
    """Not empty: rows that were found without their wagon."""
    rows: tuple[tuple[str, str, str, str], ...]
    """The channel's name, the id, the key and the outcome of each."""


class Crashed(Record, frozen=True):
    pass


class Paused(Record, frozen=True):
    seconds: float


class Resumed(Record, frozen=True):
    pass


class Faulted(Record, frozen=True):
    """A fault took effect, at a call."""

    op: str
    call: int
    kind: str
    amount: float
    keys: tuple[str, ...] = ()
    """The events that the call was about, where it is a publish or settles."""


class Asked(Record, frozen=True):
    """By hand: a switch, or a stop."""

    what: str


class Healed(Record, frozen=True):
    """From here on nothing fails any more, and nothing is published."""


class Rested(Record, frozen=True):
    """The train came to rest."""


class History:
    """The records of one run."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(self, record: Record) -> None:
        self.records.append(record)

    def __iter__(self) -> Iterator[Record]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def of(self, kind: type[_T]) -> list[_T]:
        """Those of one kind, in order."""
        return [r for r in self.records if isinstance(r, kind)]

    def digest(self) -> str:
        """One number for all of it: equal where two runs were equal."""
        return hashlib.sha256(msgspec.json.encode(self.records)).hexdigest()
