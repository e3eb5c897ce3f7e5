"""Counts the events of a topic from its managed ledger's statistics. Pure.

An entry is one message (nothing is batched here). No entry is deleted while the subscription of totals exists, so the
ledgers' entries are all that were ever published. Entries at or before a cursor's mark, or in its ranges of
individually deleted entries, are settled. The server stores both figures with the topic; they survive unloading and
restarts. Source: the broker's `PersistentTopicInternalStats`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import msgspec

Position = tuple[int, int]
"""A ledger and the entry in it; entry -1 is before its first."""

_RANGE = re.compile(r"([\[(])(-?\d+):(-?\d+)\.\.(-?\d+):(-?\d+)([\])])")


class TopicSnapshot(msgspec.Struct, frozen=True):
    """The state of a topic at one moment."""

    ledgers: tuple[int, ...]
    before: tuple[int, ...]
    """For each ledger, how many entries precede it; the last figure is the total."""
    mark: int
    """How many entries the cursor has settled, from the start on."""
    ranges: tuple[tuple[int, int], ...]
    """Settled beyond the mark: from (exclusive) and to (inclusive), as ordinals."""
    marked: Position
    last: Position
    read: Position
    """The first entry that was never delivered to a consumer since the topic was loaded."""
    sealed: bool
    attached: bool
    """Whether the subscription has consumers, here or elsewhere."""
    raw: str = ""
    """The ranges as the server writes them."""
    dropped: int = 0
    """How far the totals' subscription was moved: entries up to there were dropped, settled or not."""
    counted: bool = True
    """Whether that subscription exists."""

    @property
    def published(self) -> int:
        return self.before[-1]

    @property
    def settled(self) -> int:
        return min(self.published, self.mark + sum(last - first for first, last in self.ranges))

    @property
    def counts(self) -> tuple[int, ...]:
        """Entries of each ledger."""
        return tuple(after - before for before, after in pairwise(self.before))

    def settled_to(self, number: int) -> int:
        """How many of the first `number` entries are settled."""
        beyond = sum(max(0, min(last, number) - first) for first, last in self.ranges)
        return min(self.mark, number) + beyond

    def ordinal(self, position: Position) -> int:
        """The number of entries at or before the position."""
        ledger, entry = position
        place = bisect_left(self.ledgers, ledger)
        if place == len(self.ledgers) or self.ledgers[place] != ledger:
            return self.before[place]
        return min(self.before[place] + entry + 1, self.before[place + 1])

    def position(self, number: int) -> Position:
        """The position of the entry with this ordinal; 0 is before the first."""
        if not number:
            return (-1, -1)
        place = bisect_left(self.before, number) - 1
        return self.ledgers[place], number - self.before[place] - 1

    def at(self, mark: str, ranges: str) -> TopicSnapshot:
        """The same topic with these settled events."""
        marked = position(mark)
        start = self.ordinal(marked)
        pieces = []
        for opens, a, b, c, d, closes in _RANGE.findall(ranges):
            first = max(start, self.ordinal((int(a), int(b))) - (opens == "["))
            end = self.ordinal((int(c), int(d))) - (closes == ")")
            if end > first:
                pieces.append((first, end))
        return msgspec.structs.replace(self, mark=start, ranges=tuple(sorted(pieces)), marked=marked, raw=ranges)

    def is_settled(self, position: Position) -> bool:
        return self.has_settled(self.ordinal(position))

    def has_settled(self, number: int) -> bool:
        """Whether the entry of this ordinal is settled."""
        if number <= self.mark:
            return True
        place = bisect_right(self.ranges, (number, -1)) - 1
        return place >= 0 and self.ranges[place][0] < number <= self.ranges[place][1]


def snapshot(
    stats: Any, subscription: str, totals: str = "", older: Mapping[int, int] | None = None
) -> TopicSnapshot | None:
    """From the topic's internal stats; None while the subscription does not exist (the topic is being created).
    `older`: entries of ledgers that may no longer exist."""
    cursors = stats.get("cursors", {})
    cursor = cursors.get(subscription)
    if cursor is None:
        return None
    there = {int(one["ledgerId"]): int(one["entries"]) for one in stats["ledgers"]}
    last = position(stats["lastConfirmedEntry"])
    # the newest entry says how many its ledger has: the other figures lag, or count writes that a seal has refused
    there = {
        ledger: last[1] + 1 if ledger == last[0] else entries if ledger < last[0] else 0
        for ledger, entries in there.items()
    }
    first = min(there, default=0)
    found = sorted({**{ledger: n for ledger, n in (older or {}).items() if ledger < first}, **there}.items())
    before = [0]
    for _, count in found:
        before.append(before[-1] + count)
    bare = TopicSnapshot(
        tuple(ledger for ledger, _ in found),
        tuple(before),
        0,
        (),
        (-1, -1),
        last,
        position(cursor["readPosition"]),
        stats.get("state") == "Terminated",
        bool(cursor.get("active")),
        counted=totals in cursors,
    )
    whole = bare.at(cursor["markDeletePosition"], cursor.get("individuallyDeletedMessages") or "")
    if totals not in cursors:
        return whole
    return msgspec.structs.replace(whole, dropped=bare.ordinal(position(cursors[totals]["markDeletePosition"])))


def position(text: str) -> Position:
    """From `ledger:entry`."""
    ledger, _, entry = text.partition(":")
    return int(ledger), int(entry)
