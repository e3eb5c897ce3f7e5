"""The promises about events for later: none comes before its time, and each comes soon after it if nothing goes
wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .check_events import Books
from .history import Begun, Kept, Stored
from .violation import Violation

_SOON = 1.0
"""Seconds, and what the calls take."""


def due_events_come(books: Books, *, asked: Mapping[str, float], slack: float | None) -> Iterator[Violation]:
    """An event for later is neither published nor handed out before it is due; with `slack` (seconds that calls take),
    it is published soon after, and once. `asked`: how many seconds later each was asked for."""
    due: dict[str, Kept] = {}
    published: set[str] = set()
    for record in books.history:
        match record:
            case Kept():
                due.setdefault(record.key, record)
                if record.due > record.at + asked[record.key] + 1e-3:
                    says = f"{record.key} is due {record.due - record.at:.3f} s later, not {asked[record.key]:.3f} s"
                    yield Violation(invariant="later", says=says, key=record.key, moments=(record.seq,))
            case Stored() | Begun() if (kept := due.get(record.key)) is not None:
                if record.at < kept.due - 1e-3:
                    yield Violation(
                        invariant="later",
                        says=f"{record.key} came {kept.due - record.at:.3f} s before it was due",
                        key=record.key,
                        moments=(kept.seq, record.seq),
                    )
                late = record.at - max(kept.due, kept.at)
                is_first = record.key not in published
                if slack is not None and isinstance(record, Stored) and not record.channel.name:
                    if not is_first:
                        says = f"{record.key} was published twice, though nobody died"
                        yield Violation(invariant="later", says=says, key=record.key, moments=(kept.seq, record.seq))
                    published.add(record.key)
                if slack is not None and is_first and late > _SOON + slack:
                    yield Violation(
                        invariant="later",
                        says=f"{record.key} came {late:.3f} s after it was due",
                        key=record.key,
                        moments=(kept.seq, record.seq),
                    )
