"""What the checker says when an invariant does not hold."""

from __future__ import annotations

from typing import Any

import msgspec

from eventwagon import Elastic


class Violation(msgspec.Struct, frozen=True, kw_only=True):
    """An invariant that a run broke, by what, and where in the history to look."""

    invariant: str
    """`I1` … `I10`; `alive`: a process ended by itself, or a defect of ours was held up; `pool`: it lost a worker;
    `strangers`: what one event did hurt another; `pause`: an event came too early; `later`: one came before it was due,
    or late; `paused`: a pause was not heeded; `rule`: `pause_on` paused a wagon against a person's word or by handlings
    that were none, or a machine resumed it; `budget`: workers that follow the traffic are more than there may be, or a
    wagon's fewer; `concurrency`: more events of a channel were handled at a time than there may be; `measured`: a meter
    counted other handlings than there were; `once`: something was handled twice that the train remembers; `ledger`: a
    wagon's record is missing or wrong; `replay`: a past event was not handled once more, or was without need;
    `undo`: something was undone too early, twice, or that was not known to be handled, or was not undone;
    `archive`: a wagon went before its events were archived, or they were archived otherwise than they were; `bridge`: a
    record was committed before it was stored, stored as something else, out of order, or more often than it may."""
    says: str
    key: str = ""
    """The event that it is about."""
    wagon: int = 0
    moments: tuple[int, ...] = ()
    """Numbers of the records that show it."""

    def __str__(self) -> str:
        at = f" (at {', '.join(f'#{m}' for m in self.moments)})" if self.moments else ""
        return f"{self.invariant}: {self.says}{at}"


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """A history with what stood at its end: all that the checker looks at."""

    history: Any
    """The records, in order (see `history.py`)."""
    spares: int = 0
    keep: int = 10_000
    wagons: int = 32
    elastic: Elastic | None = None
    """How the workers follow the traffic, if they do."""
    fences: bool = True
    reached: bool = True
    """The train came to rest in time."""
    lacking: tuple[str, ...] = ()
    left_behind: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    dead: frozenset[str] = frozenset()
    """Keys of the dead letters that are kept at the end."""
    longest_journal: int = 0
    calls: dict[str, int] = {}
    """Calls of all processes in the quiet seconds at rest."""
    most_calls: int | None = None
    """How many there may be."""
    short: tuple[str, ...] = ()
    """Pools of workers that were not of their size at rest."""
    touched: frozenset[str] = frozenset()
    """Keys of events that had done nothing, and ended in the dead letters."""
    charged: tuple[int, ...] = ()
    """Numbers of the records of handlings of events that had done nothing, with more attempts than they should have."""
    asked: dict[str, float] = {}
    """By key: how many seconds later an event was asked for."""
    late_by: float | None = None
    """How many seconds after it was due an event may be published, because of the calls that it takes; None: any."""
    punctual: bool = False
    """Nothing in the run could make an event come before the pause is over that its handler asked for."""
    kept: tuple[int, ...] = ()
    """Numbers of the records of processes that ended and kept claims, where nothing prevented them from giving back."""
    heard_within: float | None = None
    """Seconds within which every process has a new manifest, where nothing goes wrong."""
    once: float | None = None
    """How long the train remembers what was handled."""
    concurrency: int | None = None
    """How many events of the ingress may be handled at a time."""
    recorded: bool = False
    """The train has a ledger."""
    all_counted: bool = False
    """Nothing could keep the workers' counts from the records."""
    archived: bool = False
    """The train has an archive."""
    batch: int = 2000
    """Records that a bridge commits at once."""
    member_ttl: float = 5.0
    unfit: frozenset[str] = frozenset()
    """Keys of events that the broker refuses."""
