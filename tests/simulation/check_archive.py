"""The invariant of archives: what was settled in a wagon is archived before its channels go, once, as what it was."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from eventwagon.contracts.facts import ArchiveIncomplete
from eventwagon.event import ARCHIVE, DEAD

from .check_events import Books
from .history import Archived, Deleted, Noted, Revised, Settled
from .violation import Evidence, Violation

_NO_EVENTS = (DEAD, ARCHIVE, "0probe")


def archived_before_removal(books: Books, case: Evidence) -> Iterator[Violation]:
    """Of wagons of a train with an archive."""
    if not case.archived:
        return
    settled: dict[int, dict[tuple[str, str], Settled]] = {}
    stored: dict[int, Archived] = {}
    late: dict[int, set[tuple[str, str]]] = {}
    for record in case.history:
        match record:
            case Settled(channel=channel) if channel.name not in _NO_EVENTS:
                settled.setdefault(channel.wagon, {}).setdefault((channel.name, record.id), record)
            case Archived(late=""):
                stored[record.number] = record
                yield from _once(record)
                yield from _true(books, record)
            case Archived():
                late.setdefault(record.number, set()).update((channel, name) for channel, name, _, _ in record.rows)
            case Deleted(channel=channel) if channel.wagon:
                yield from _all_there(record, settled.get(channel.wagon, {}), stored.get(channel.wagon), late)
            case Revised(facts=facts) | Noted(facts=facts):
                for fact in facts:
                    if isinstance(fact, ArchiveIncomplete):
                        says = f"the archive of wagon {fact.number} lacks something: {fact.because}"
                        yield Violation(invariant="archive", says=says, wagon=fact.number, moments=(record.seq,))


def _all_there(
    deleted: Deleted,
    settled: dict[tuple[str, str], Settled],
    archived: Archived | None,
    late: dict[int, set[tuple[str, str]]],
) -> Iterator[Violation]:
    number = deleted.channel.wagon
    there = {(channel, name) for channel, name, _, _ in archived.rows} if archived is not None else set()
    for place in settled.keys() - there - late.get(number, set()):
        record = settled[place]
        yield Violation(
            invariant="archive",
            says=f"{deleted.channel} was deleted before {record.key}, settled in {record.channel}, was archived",
            key=record.key,
            wagon=number,
            moments=(record.seq, deleted.seq),
        )


def _once(archived: Archived) -> Iterator[Violation]:
    for (channel, name, outcome), count in Counter((c, n, o) for c, n, _, o in archived.rows).items():
        if count > 1:
            says = f"wagon {archived.number} was archived with {count} rows of {name} of {channel or 'the ingress'}"
            says += f" as {outcome}"
            yield Violation(invariant="archive", says=says, wagon=archived.number, moments=(archived.seq,))


def _true(books: Books, archived: Archived) -> Iterator[Violation]:
    """What is said to be handled (or skipped, since it was handled before) was handled, and what is said to be dead was
    among the dead letters."""
    for _, _, key, outcome in archived.rows:
        handled = any(h.seq < archived.seq for h in books.handled.get(key, ()))
        is_true = {"handled": handled, "skipped": handled, "dead": books.was_dead(key, archived.seq), "passed": True}[
            outcome
        ]
        if not is_true:
            says = f"{key} was archived as {outcome}, and was not"
            yield Violation(invariant="archive", says=says, key=key, wagon=archived.number, moments=(archived.seq,))
