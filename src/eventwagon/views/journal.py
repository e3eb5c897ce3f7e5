"""The journal's entries as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from ..contracts.facts import (
    Declared,
    DeliveryPaused,
    DeliveryResumed,
    Entry,
    Fact,
    Switched,
    WagonOpened,
    WagonRemoved,
    is_alarming,
    sentence,
)
from ..display.text import plain
from .following import values_of


class Row(msgspec.Struct, frozen=True):
    """An entry of the journal."""

    at: float
    process: str
    """The process that wrote it."""
    who: str
    """Who asked for it; empty: the train itself, or not known."""
    kind: str
    level: str
    """`warn` if an operator should look, else `info`."""
    wagons: tuple[int, ...]
    """The wagons that it is about; none: the train."""
    text: str


def entry_as_json(entry: Entry) -> Mapping[str, object]:
    """The entry for machines."""
    return {"at": entry.at, "by": entry.by, "fact": fact_as_json(entry.fact)}


def fact_as_json(fact: Fact) -> Mapping[str, object]:
    """The fact for machines: what registries store, with settings as `values_of` gives them."""
    found: dict[str, object] = msgspec.to_builtins(fact)
    return {**found, "settings": values_of(fact.settings)} if isinstance(fact, Declared) else found


_LONGEST = 2_000
"""The most characters of an entry's text."""


def row_of(entry: Entry) -> Row:
    """The entry for a person."""
    fact = entry.fact
    return Row(
        at=entry.at,
        process=plain(entry.by),
        who=plain(getattr(fact, "by", "")),
        kind=type(fact).__name__,
        level="warn" if is_alarming(fact) else "info",
        wagons=_about(entry),
        text=plain(sentence(fact), _LONGEST),
    )


def _about(entry: Entry) -> tuple[int, ...]:
    match entry.fact:
        case Switched(old=old, new=new):
            return (new,) if old is None else (old, new)
        case WagonOpened(number=n, unit=unit):
            return (n,) if unit is None else (n, unit)
        case WagonRemoved(wagon=wagon):
            return (wagon.number,)
        case fact:
            found = getattr(fact, "number", None)
            return () if found is None else (found,)


def of_wagon(entries: Sequence[Entry], number: int) -> list[Entry]:
    """The entries about this wagon, and about pauses of the whole train while it was there. None at all if no entry is
    about the wagon."""
    own = {i: e.fact for i, e in enumerate(entries) if number in _about(e)}
    if not own:
        return []
    opened = next((i for i, fact in own.items() if isinstance(fact, WagonOpened) and fact.number == number), -1)
    removed = next((i for i, fact in own.items() if isinstance(fact, WagonRemoved)), len(entries))
    return [e for i, e in enumerate(entries) if i in own or (opened < i < removed and _is_pause_of_train(e.fact))]


def _is_pause_of_train(fact: Fact) -> bool:
    return isinstance(fact, DeliveryPaused | DeliveryResumed) and fact.number is None


def is_found(row: Row, words: list[str]) -> bool:
    """Whether the row has all of these words, in lower case, somewhere."""
    text = f"{row.text} {row.kind} {row.who} {row.process}".lower()
    return all(word in text for word in words)
