"""The invariant of a budget: all processes together never handle more events of the ingress at a time than it says."""

from __future__ import annotations

from collections.abc import Iterator

from .history import Begun, Crashed, Ended, HandlerEnded, Paused
from .violation import Evidence, Violation

_BRIEF = 0.1
"""The part of `member_ttl` for which a process may be paused, so that its lease certainly lasts: it stops this long
before others count it as gone."""


def budget_kept(case: Evidence) -> Iterator[Violation]:
    """What a process had under way when it was killed has ended, and when it was paused for so long that its lease may
    have run out, nobody can end it."""
    if case.concurrency is None:
        return
    running: dict[str, dict[str, Begun]] = {}
    """By process and event."""
    for record in case.history:
        match record:
            case Begun() if not record.channel.name:
                running.setdefault(record.by, {})[record.id] = record
                now = [begun for of in running.values() for begun in of.values()]
                if len(now) > case.concurrency:
                    says = f"{len(now)} events of the ingress were handled at a time, concurrency={case.concurrency}"
                    yield Violation(
                        invariant="concurrency", says=says, key=record.key, moments=tuple(b.seq for b in now)
                    )
            case HandlerEnded():
                running.get(record.by, {}).pop(record.id, None)
            case Crashed() | Ended():
                running.pop(record.by, None)
            case Paused() if record.seconds > _BRIEF * case.member_ttl:
                running.pop(record.by, None)
