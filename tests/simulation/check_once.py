"""The promise of `once`: nothing is handled twice but where its process was in trouble between effect and record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from .check_events import Books
from .history import Begun, Crashed, Ended, Faulted, Handled, Paused, Revised
from .violation import Evidence, Violation

_CLAIMED = 6.0
"""Seconds that a claim lasts at most: an event may wait for so long, claimed, until its handling begins."""


def handled_once(case: Evidence, books: Books) -> Iterator[Violation]:
    """No event of a channel is handled twice, but for replays. Excused is what a process had in hand that was struck by
    a fault, or ended, before the event was handled again: it may not have recorded that, or have lost its claim. So is
    an event whose handler, having done its work, was cut short: that counts as a failure."""
    if case.once is None:
        return
    trouble: dict[str, list[tuple[int, float]]] = {}
    begun: dict[tuple[str, str, str], Begun] = {}
    handled: dict[tuple[str, str, int], list[tuple[Begun, Handled]]] = {}
    replays: dict[int, int] = {}
    """By wagon."""
    for record in case.history:
        match record:
            case Faulted(amount=seconds) | Paused(seconds=seconds):
                trouble.setdefault(record.by, []).append((record.seq, record.at + seconds))
            case Crashed() | Ended():
                trouble.setdefault(record.by, []).append((record.seq, record.at))
            case Revised():
                replays.update({w.number: w.replay for w in record.manifest.wagons if w.replay})
            case Begun():
                begun[record.by, record.channel.name, record.id] = record
            case Handled():
                began = begun[record.by, record.channel.name, record.id]
                replay = replays.get(record.channel.wagon, 0)
                handled.setdefault((record.channel.name, record.id, replay), []).append((began, record))
    replayed: dict[str, int] = {}
    for (_, _, replay), times in handled.items():
        if replay:
            began, first = times[0]
            replayed[first.key] = min(began.seq, replayed.get(first.key, began.seq))
    for times in handled.values():
        for (began, first), (again, second) in pairwise(times):
            if second.channel == first.channel and second.attempt > first.attempt:
                continue
            if _comes_from(second, replayed):
                continue  # a replay published it anew, or for later: to `once` that is another event
            if any(_struck(trouble.get(of.by, ()), of, second) for of in (began, again)):
                continue
            says = f"{first.key} was handled by {first.by} and again by {second.by} {second.at - first.at:.3f} s later"
            yield Violation(invariant="once", says=says, key=first.key, moments=(first.seq, second.seq))


def _comes_from(record: Handled, replayed: Mapping[str, int]) -> bool:
    """Whether the handler of a replayed event, begun before this, may have emitted or published it. `replayed`: when
    the handling of each key in a replay first began."""
    roots = [record.key[:place] for place, sign in enumerate(record.key) if sign in "/+"]
    return any(replayed.get(root, record.seq) < record.seq for root in roots)


def _struck(trouble: Sequence[tuple[int, float]], since: Begun, before: Handled) -> bool:
    """Something struck the process since it began, or had struck it before and held it up until shortly before."""
    return any(seq <= before.seq and (seq > since.seq or until > since.at - _CLAIMED) for seq, until in trouble)
