"""The invariants of undos: what is known to be handled in a wagon is undone, and nothing else; no event before those
that came from it; each goes to an undo handler once in each step, where the broker can tell."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping

from eventwagon.contracts.facts import ReplayEnded, UndoResumed
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.undo import Undo
from eventwagon.event import DEAD, Channel

from .history import Crashed, Faulted, Handled, Paused, Revised, Settled, Stored, Undid
from .violation import Evidence, Violation


class _Job:
    """An undo, as far as it is seen."""

    def __init__(self, undo: Undo, settled: Mapping[Channel, Mapping[str, str]], train: str) -> None:
        self.wagon = undo.wagon
        places = [Channel(train, undo.wagon, each.channel) for each in undo.kept]
        self.meant = {(place, i): key for place in places for i, key in settled.get(place, {}).items()}
        """What was settled there when it was requested, handled or not."""
        self.undone: set[tuple[Channel, str]] = set()
        self.stopped = False
        self.skips = False
        """Somebody has let it go on without what could not be undone."""


def undos_hold(case: Evidence) -> Iterator[Violation]:
    """Judged by the history: what an undo is of, and its wagons, are in the manifest's versions."""
    jobs: dict[int, _Job] = {}
    wagons: dict[Channel, tuple[int, int, Channel]] = {}
    """The ingresses of wagons for undos: which undo and step, and what is undone in them."""
    settled: dict[Channel, dict[str, str]] = {}
    handled: set[tuple[Channel, str]] = set()
    died: set[tuple[int, str]] = set()
    stored: dict[tuple[int, int, Channel], Counter[str]] = {}
    twice: set[str] = set()
    trouble = 0
    for record in case.history:
        match record:
            case Revised():
                for replay in record.manifest.replays:
                    if replay.undo is None:
                        continue
                    job = jobs.setdefault(replay.number, _Job(replay.undo, settled, record.manifest.train))
                    again = any(isinstance(f, UndoResumed) and f.again for f in record.facts)
                    job.skips |= job.stopped and not replay.undo.stopped and not again
                    job.stopped = bool(replay.undo.stopped)
                    wagon = record.manifest.wagon(replay.wagon)
                    if wagon is not None:
                        of = Channel(record.manifest.train, wagon.undoes, wagon.undo_channel)
                        wagons[record.manifest.ingress(wagon)] = replay.number, replay.undo.step, of
                for wagon in record.manifest.wagons:
                    if wagon.undoes and wagon.state is State.ACTIVE:
                        says = f"wagon {wagon.number} is for an undo, and takes new events"
                        yield Violation(invariant="undo", says=says, wagon=wagon.number, moments=(record.seq,))
                for fact in record.facts:
                    if isinstance(fact, ReplayEnded) and fact.undoes and not fact.because:
                        yield from _all_undone(fact, jobs[fact.number], handled, died, record.seq)
            case Crashed() | Paused() | Faulted():
                trouble += 1
            case Stored() if record.channel in wagons:
                number, _, of = wagons[record.channel]
                stored.setdefault(wagons[record.channel], Counter())[record.id] += 1
                if record.twice:
                    twice.add(record.id)
                if (of, record.id) not in jobs[number].meant or (of, record.id) not in handled:
                    says = f"undo {number} takes back {record.key} in {of}, and it was not known to be handled there"
                    yield Violation(invariant="undo", says=says, key=record.key, moments=(record.seq,))
            case Stored() if record.channel.name == DEAD:
                died.add((record.channel.wagon, record.id))
            case Handled() if record.channel in wagons:
                says = f"{record.key} was handled once more in {record.channel}, where it is to be undone"
                yield Violation(invariant="undo", says=says, key=record.key, moments=(record.seq,))
            case Handled():
                handled.add((record.channel, record.id))
            case Settled():
                settled.setdefault(record.channel, {})[record.id] = record.key
            case Undid():
                yield from _in_turn(record, jobs, wagons, handled, died)
    for (number, step, _), counts in stored.items():
        most = 1 if case.fences else 1 + trouble
        for event_id, count in counts.items():
            if count > most and event_id not in twice:
                yield Violation(
                    invariant="undo", says=f"step {step} of undo {number} published {event_id} {count} times"
                )


def _in_turn(
    record: Undid,
    jobs: Mapping[int, _Job],
    wagons: Mapping[Channel, tuple[int, int, Channel]],
    handled: set[tuple[Channel, str]],
    died: set[tuple[int, str]],
) -> Iterator[Violation]:
    """It is the right handler, and all that came from the event in that wagon is undone."""
    number, _, of = wagons.get(record.channel, (0, 0, record.channel))
    if (number, of) != (record.undo, record.of):
        says = f"{record.key} was undone in {record.channel} as one of {record.of}, undo {record.undo}"
        yield Violation(invariant="undo", says=says, key=record.key, moments=(record.seq,))
        return
    job = jobs[number]
    first = (of, record.id) not in job.undone
    job.undone.add((of, record.id))
    if job.skips or not first:
        return
    for (place, event_id), key in job.meant.items():
        came_from = key.startswith(record.key) and key[len(record.key) :][:1] in ("/", "+")
        known = (place, event_id) in handled and (place.wagon, event_id) not in died
        if came_from and known and (place, event_id) not in job.undone:
            says = f"{record.key} was undone before {key}, which came from it"
            yield Violation(invariant="undo", says=says, key=record.key, moments=(record.seq,))


def _all_undone(
    fact: ReplayEnded, job: _Job, handled: set[tuple[Channel, str]], died: set[tuple[int, str]], at: int
) -> Iterator[Violation]:
    if job.skips:
        return
    for (place, event_id), key in job.meant.items():
        known = (place, event_id) in handled and (place.wagon, event_id) not in died
        if known and (place, event_id) not in job.undone:
            says = f"undo {fact.number} is over, and {key} was never undone"
            yield Violation(invariant="undo", says=says, key=key, moments=(at,))
