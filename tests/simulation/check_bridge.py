"""The promises of bridges: a record is committed once it is stored, as the event or the dead letter that it must be.
What comes twice is at most a batch for each time that a process died or lost what it held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from eventwagon.event import DEAD

from .history import (
    Committed,
    Crashed,
    Delivered,
    Ended,
    Faulted,
    Paused,
    Produced,
    Record,
    Started,
    Stored,
    TakenAway,
)
from .violation import Evidence, Violation


class _Reader:
    """One process that reads the flow and does nothing else: what it stores comes from there."""

    def __init__(self) -> None:
        self.held: dict[str, bool] = {}
        """Records that it was given and that are neither committed nor lost, in that order, by position; whether it has
        stored them."""
        self.given: Counter[str] = Counter()
        self.stored: Counter[str] = Counter()
        self.troubles = 0

    @property
    def uncommitted(self) -> list[str]:
        """What it has stored so far."""
        return [position for position, is_stored in self.held.items() if is_stored]


def bridges_hold(case: Evidence) -> Iterator[Violation]:
    """Judged by what was written, given, taken away, stored and committed, in that order."""
    produced: dict[str, Produced] = {}
    positions: dict[str, str] = {}
    """By key."""
    events: set[str] = set()
    letters: set[str] = set()
    """Positions of the records that were stored so, by whomever."""
    readers: dict[str, _Reader] = {}
    for record in case.history:
        match record:
            case Produced():
                produced[record.position] = record
                positions[record.key] = record.position
            case Started(roles=("bridge",)):
                readers[record.by] = _Reader()
            case Delivered() if (reader := readers.get(record.by)) is not None:
                for position in record.positions:
                    reader.held.pop(position, None)
                    reader.held[position] = False
                    reader.given[position] += 1
            case TakenAway() if (reader := readers.get(record.by)) is not None:
                for position in record.positions:
                    reader.held.pop(position, None)
            case Committed():
                for position in record.positions:
                    yield from _stored_before(produced[position], position in events, position in letters, record)
                    for reader in readers.values():
                        reader.held.pop(position, None)
            case Faulted() | Paused() | Crashed() if (reader := readers.get(record.by)) is not None:
                reader.troubles += 1
            case Ended() if (reader := readers.get(record.by)) is not None:
                if not reader.troubles and (left := reader.uncommitted):
                    says = f"{record.by} ended as it was asked to, and had stored and not committed: {', '.join(left)}"
                    yield Violation(invariant="bridge", says=says, moments=(record.seq,))
            case Stored() if position := positions.get(record.key, ""):
                (letters if record.channel.name == DEAD else events).add(position)
                yield from _as_it_must(produced[position], record)
                if (reader := readers.get(record.by)) is not None:
                    yield from _in_turn(case, produced, reader, position, record)


def _stored_before(written: Produced, is_event: bool, is_letter: bool, at: Record) -> Iterator[Violation]:
    if not (is_event if written.fits else is_letter):
        what = "its event" if written.fits else "its dead letter"
        says = f"{written.position} ({written.key}) was committed by {at.by} before {what} was stored"
        yield Violation(invariant="bridge", says=says, key=written.key, moments=(written.seq, at.seq))


def _as_it_must(written: Produced, stored: Stored) -> Iterator[Violation]:
    if stored.id != written.id:
        says = f"{written.position} ({written.key}) was stored as {stored.id}, not as {written.id}"
        yield Violation(invariant="bridge", says=says, key=written.key, moments=(written.seq, stored.seq))


def _in_turn(
    case: Evidence, produced: dict[str, Produced], reader: _Reader, position: str, stored: Stored
) -> Iterator[Violation]:
    """A bridge has stored something."""
    written, is_letter = produced[position], stored.channel.name == DEAD
    moments = (written.seq, stored.seq)
    if written.fits is is_letter:
        says = f"{position} ({written.key}) was {'buried' if is_letter else 'published'} by {stored.by}"
        says += f", though it {'can be' if is_letter else 'is'} {'an' if is_letter else 'no'} event"
        yield Violation(invariant="bridge", says=says, key=written.key, moments=moments)
    reader.stored[position] += not stored.twice
    if reader.stored[position] > reader.given[position] + reader.troubles:
        says = f"{position} ({written.key}) was stored {reader.stored[position]} times by {stored.by}, "
        says += f"which was given it {reader.given[position]} times and had {reader.troubles} troubles"
        yield Violation(invariant="bridge", says=says, key=written.key, moments=moments)
    if position not in reader.held:
        return  # it was taken away, or another has committed it: it comes twice
    for other, is_stored in reader.held.items() if not is_letter else ():
        if other == position:
            break
        before = produced[other]
        is_stored = is_stored or reader.stored[other] > 0  # of a batch that it lost, was given again, and still is at
        if before.partition == written.partition and before.fits and not is_stored:
            says = f"{position} ({written.key}) was published before {other} ({before.key}), which comes before it"
            yield Violation(invariant="bridge", says=says, key=written.key, moments=moments)
    reader.held[position] = True
    if len(left := reader.uncommitted) > case.batch:
        says = f"{stored.by} has stored {len(left)} records and not committed them, a batch has {case.batch}"
        yield Violation(invariant="bridge", says=says, key=written.key, moments=moments)
