"""Which events of a topic were settled, and which were dropped before that. Pure.

Expiry and eviction advance the cursor of the subscription exactly as settling does. They also advance the cursor of the
totals' subscription, which nothing else moves: its position shows how far events were dropped, settled or not. Of
those, the events that an earlier check saw as settled were settled; the others count as lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec

from .positions import Position, TopicSnapshot, position, snapshot

PROVEN = 2.0
"""The most seconds between the drops of a topic's two subscriptions. While a policy threatens, a look counts only when
another look, this much later, shows that nothing was dropped."""
_NOTED = 5.0  # seconds between notes while a policy threatens, and after a note was refused
_RANGES = 4_000  # characters of a note; what does not fit counts as not settled


class Note(msgspec.Struct, frozen=True):
    """Stored with the topic while something threatens it or was dropped, for processes that come later."""

    dropped: Position = (-1, -1)
    """All unsettled events up to here are gone."""
    kept: int = 0
    """This many of those were settled."""
    mark: str = "-1:-1"
    ranges: str = ""
    """The events that were settled at the last check: all up to the mark, and these ranges beyond it, as the server
    writes them."""
    ledgers: Mapping[int, int] = {}
    """Entries of each ledger, for when the ledger no longer exists."""

    def properties(self) -> dict[str, str]:
        """In the form in which they are stored."""
        return {
            "dropped": f"{self.dropped[0]}:{self.dropped[1]}",
            "kept": str(self.kept),
            "mark": self.mark,
            "ranges": self.ranges,
            "ledgers": ",".join(f"{ledger}:{count}" for ledger, count in self.ledgers.items()),
        }

    @classmethod
    def of(cls, found: Mapping[str, str]) -> Note | None:
        """From the stored record; None if there is none, or it has another form."""
        try:
            return cls(
                dropped=position(found["dropped"]),
                kept=int(found["kept"]),
                mark=found["mark"],
                ranges=found["ranges"],
                ledgers=dict(position(one) for one in found["ledgers"].split(",") if one),
            )
        except (KeyError, ValueError):
            return None


class Expired(NamedTuple):
    """How many messages the server has dropped by age since it loaded the topic."""

    events: int
    totals: int


class TopicTotals(NamedTuple):
    """Totals of a topic; `fresh` of the lost events were not known before."""

    published: int
    settled: int
    lost: int
    fresh: int = 0


class Books:
    """The account of one topic, from check to check."""

    def __init__(self) -> None:
        self.note = Note()
        """What is known; stored with the topic when `due` says so."""
        self._base: TopicSnapshot | None = None
        """What was certainly settled before anything beyond `note.dropped` was dropped."""
        self._next: tuple[float, TopicSnapshot] | None = None
        self._stored: tuple[float, Note] = (float("-inf"), self.note)
        self._dirty = False
        self._again = float("-inf")

    def snapshot(self, stats: Any, subscription: str, totals: str) -> TopicSnapshot | None:
        """From the topic's internal stats, with ledgers that no longer exist."""
        return snapshot(stats, subscription, totals, self.note.ledgers)

    def unknown(self, found: TopicSnapshot) -> bool:
        """Whether another process may know more: then read the note."""
        base = self._base
        return base is None or found.dropped > max(found.ordinal(self.note.dropped), base.mark)

    @property
    def blank(self) -> bool:
        """Whether nothing is known from before."""
        return self._base is None and self.note.mark == "-1:-1"

    def learn(self, stored: Note | None) -> None:
        """Take over what another process has stored, if that knows more."""
        if stored is None:
            return
        if stored.dropped > self.note.dropped or self._base is None:
            self.note = stored
            self._stored = (self._stored[0], stored)
            self._next = None

    def look(
        self,
        found: TopicSnapshot,
        now: float,
        *,
        threatened: bool,
        own: Iterable[Position] = (),
        expired: Expired | None = None,
    ) -> TopicTotals:
        """Take in the topic's present state. `own` are the events that this process has settled recently; `expired`
        says more if nothing was known before."""
        self.note = msgspec.structs.replace(self.note, ledgers=dict(zip(found.ledgers, found.counts, strict=True)))
        base = self._base or self._noted(found)
        done = found.ordinal(self.note.dropped)
        if base is None:
            fresh = self._first(found, expired) if found.dropped else 0
            base = found
        elif found.dropped > done:
            fresh = self._drop(found, base, done, own)
            base = found if found.mark >= found.dropped else base
        else:
            fresh = 0
            base = self._believed(found, now, base, threatened=threatened)
        self._base = base
        self.note = msgspec.structs.replace(
            self.note, mark=f"{base.marked[0]}:{base.marked[1]}", ranges=base.raw if len(base.raw) <= _RANGES else ""
        )
        done = found.ordinal(self.note.dropped)
        seen = base if threatened else found
        settled = self.note.kept + seen.settled_to(found.published) - seen.settled_to(done)
        lost = done - self.note.kept
        return TopicTotals(found.published - lost, settled, lost, fresh)

    def due(self, now: float, *, threatened: bool) -> bool:
        """Whether to store the note now."""
        at, note = self._stored
        if now < self._again:
            return False
        return self._dirty or (threatened and note != self.note and now - at >= _NOTED)

    def stored(self, now: float) -> None:
        """The note was stored."""
        self._stored, self._dirty = (now, self.note), False

    def refused(self, now: float) -> None:
        """The note was refused: store it later."""
        self._again = now + _NOTED

    def _noted(self, found: TopicSnapshot) -> TopicSnapshot | None:
        note = self.note
        return found.at(note.mark, note.ranges) if note.mark != "-1:-1" else None

    def _believed(self, found: TopicSnapshot, now: float, base: TopicSnapshot, *, threatened: bool) -> TopicSnapshot:
        if not threatened:
            self._next = None
            return found
        if self._next is None:
            self._next = (now, found)
        elif now - self._next[0] >= PROVEN:
            base, self._next = self._next[1], (now, found)
        return base

    def _first(self, found: TopicSnapshot, expired: Expired | None) -> int:
        """Something was dropped, and nobody has recorded what was settled before."""
        end = min(found.dropped, found.mark)
        lost = end
        if expired is not None and expired.totals >= found.dropped:
            end = found.mark if expired.events else end
            lost = min(expired.events, end)
        self._note(found, end, end - lost)
        return lost

    def _drop(self, found: TopicSnapshot, base: TopicSnapshot, done: int, own: Iterable[Position]) -> int:
        """More was dropped than is known. If that went beyond the events that were settled without a gap, all that are
        missing since then count as dropped, except those of which this process knows more."""
        if found.dropped <= base.mark:
            kept, end = found.dropped - done, found.dropped
        else:
            end = max(done, found.mark)
            numbers = {found.ordinal(each) for each in own}
            extra = sum(done < number <= end and not base.has_settled(number) for number in numbers)
            kept = base.settled_to(end) - base.settled_to(done) + extra
        self._next = None
        if end > done:
            self._note(found, end, self.note.kept + kept)
        return end - done - kept

    def _note(self, found: TopicSnapshot, end: int, kept: int) -> None:
        self.note = msgspec.structs.replace(self.note, dropped=found.position(end), kept=kept)
        self._dirty = True
