"""The invariants of replays: each event that is meant goes into a wagon of the replay's own, once where the broker can
tell, and is handled there or dead; new events never go there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from eventwagon.contracts.facts import ReplayEnded
from eventwagon.contracts.lifecycle import State
from eventwagon.event import DEAD, Channel

from .history import Crashed, Faulted, Handled, Paused, Revised, Settled, Stored
from .violation import Evidence, Violation


def replays_hold(case: Evidence) -> Iterator[Violation]:
    """Judged by the history: what a replay is of, and its wagons, are in the manifest's versions."""
    meant: dict[int, tuple[Channel, int]] = {}
    """By replay: what it is of, and when it was requested."""
    wagons: dict[Channel, int] = {}
    """The ingresses of wagons for replays, and which replay."""
    stored: dict[int, Counter[str]] = {}
    twice: set[str] = set()
    settled: dict[Channel, set[str]] = {}
    handled: set[tuple[Channel, str]] = set()
    letters: dict[str, int] = {}
    trouble = 0
    for record in case.history:
        match record:
            case Revised():
                for replay in record.manifest.replays:
                    if replay.undo is not None:
                        continue
                    meant.setdefault(replay.number, (Channel(record.manifest.train, replay.of.wagon), record.seq))
                for wagon in record.manifest.wagons:
                    if wagon.replay and not wagon.undoes:
                        wagons[record.manifest.ingress(wagon)] = wagon.replay
                        if wagon.state is State.ACTIVE:
                            says = f"wagon {wagon.number} is for a replay, and takes new events"
                            yield Violation(invariant="replay", says=says, wagon=wagon.number, moments=(record.seq,))
                for fact in record.facts:
                    if isinstance(fact, ReplayEnded) and not fact.because and not fact.undoes:
                        of, asked = meant[fact.number]
                        yield from _all_there(case, fact, of, asked, stored.get(fact.number, Counter()), record.seq)
            case Crashed() | Paused() | Faulted():
                trouble += 1
            case Stored() if record.channel in wagons:
                stored.setdefault(wagons[record.channel], Counter())[record.id] += 1
                if record.twice:
                    twice.add(record.id)
            case Stored() if record.channel.name == DEAD:
                letters[record.id] = record.seq
            case Handled() if record.channel in wagons:
                handled.add((record.channel, record.id))
            case Settled() if record.channel in wagons:
                settled.setdefault(record.channel, set()).add(record.id)
                # emitted for later: its own channel handles it; or published anew by a replayed event's handler, and
                # handled before the copy of the replay came: `once` knows both by the same key
                elsewhere = "/" in record.key or (case.once is not None and "+" in record.key)
                if not elsewhere and (record.channel, record.id) not in handled and record.id not in letters:
                    says = f"{record.key} was settled in {record.channel} and had not been handled there"
                    yield Violation(invariant="replay", says=says, key=record.key, moments=(record.seq,))
    for number, counts in stored.items():
        most = 1 if case.fences else 1 + trouble
        for event_id, count in counts.items():
            if count > most and event_id not in twice:
                says = f"replay {number} published event {event_id} {count} times"
                yield Violation(invariant="replay", says=says)


def _all_there(
    case: Evidence, fact: ReplayEnded, of: Channel, asked: int, stored: Counter[str], at: int
) -> Iterator[Violation]:
    past: dict[str, str] = {}
    meant = set[str]()
    for r in case.history[:asked]:
        match r:
            case Settled() if r.channel == of and "/" not in r.key:  # those were only passed on
                past[r.id] = r.key
            case Handled() if r.channel == of:  # and not skipped, since it was handled in another wagon
                meant.add(r.id)
            case Stored() if r.channel == Channel(of.train, of.wagon, DEAD):
                meant.add(r.id)
    for event_id, key in past.items():
        if event_id in meant and not stored[event_id]:
            says = f"replay {fact.number} is over, and never published {key}"
            yield Violation(invariant="replay", says=says, key=key, moments=(at,))
