"""Counting what stands in a topic, from what its managed ledger says of itself. Pure.

An entry is one message (nothing is batched here). No entry is dropped while the subscription of totals stands, so the
ledgers' entries are all that were ever published; what is at or before a cursor's mark, or in its ranges of entries
deleted one by one, is settled. Both figures are stored with the topic, and survive its unloading and restarts.
Source: the broker's `PersistentTopicInternalStats`.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from typing import Any

import msgspec

Position = tuple[int, int]
"""A ledger and the entry in it; entry -1 is before its first."""

_RANGE = re.compile(r"([\[(])(-?\d+):(-?\d+)\.\.(-?\d+):(-?\d+)([\])])")


class Snapshot(msgspec.Struct, frozen=True):
    """What a topic held at one moment."""

    ledgers: tuple[int, ...]
    before: tuple[int, ...]
    """For each ledger, how many entries stand before it; one more figure than ledgers: the total."""
    mark: int
    """How many entries the cursor has settled from the start on."""
    ranges: tuple[tuple[int, int], ...]
    """Settled beyond the mark: from (excluded) and to (included), as ordinals."""
    marked: Position
    last: Position
    read: Position
    """The first entry that was never given to a consumer since the topic was loaded."""
    sealed: bool
    attached: bool
    """Whether the subscription has consumers, here or elsewhere."""

    @property
    def published(self) -> int:
        return self.before[-1]

    @property
    def settled(self) -> int:
        return min(self.published, self.mark + sum(last - first for first, last in self.ranges))

    def ordinal(self, position: Position) -> int:
        """How many entries stand at or before the position."""
        ledger, entry = position
        place = bisect_left(self.ledgers, ledger)
        if place == len(self.ledgers) or self.ledgers[place] != ledger:
            return self.before[place]
        return min(self.before[place] + entry + 1, self.before[place + 1])

    def is_settled(self, position: Position) -> bool:
        number = self.ordinal(position)
        if number <= self.mark:
            return True
        place = bisect_right(self.ranges, (number, -1)) - 1
        return place >= 0 and self.ranges[place][0] < number <= self.ranges[place][1]


def snapshot(stats: Any, subscription: str) -> Snapshot | None:
    """From the topic's internal stats; None while the subscription does not exist (the topic is being created)."""
    cursor = stats.get("cursors", {}).get(subscription)
    if cursor is None:
        return None
    found = sorted((int(one["ledgerId"]), int(one["entries"])) for one in stats["ledgers"])
    ledgers = tuple(ledger for ledger, _ in found)
    last = position(stats["lastConfirmedEntry"])
    # the newest entry says how many its ledger has: the other figures lag, or count writes that a seal has refused
    counts = [last[1] + 1 if ledger == last[0] else entries if ledger < last[0] else 0 for ledger, entries in found]
    before = [0]
    for count in counts:
        before.append(before[-1] + count)
    marked = position(cursor["markDeletePosition"])
    bare = Snapshot(
        ledgers,
        tuple(before),
        0,
        (),
        marked,
        last,
        position(cursor["readPosition"]),
        stats.get("state") == "Terminated",
        bool(cursor.get("active")),
    )
    mark = bare.ordinal(marked)
    ranges = []
    for opens, a, b, c, d, closes in _RANGE.findall(cursor.get("individuallyDeletedMessages") or ""):
        first = bare.ordinal((int(a), int(b))) - (opens == "[")
        end = bare.ordinal((int(c), int(d))) - (closes == ")")
        if end > max(first, mark):
            ranges.append((max(first, mark), end))
    return msgspec.structs.replace(bare, mark=mark, ranges=tuple(sorted(ranges)))


def position(text: str) -> Position:
    """From `ledger:entry`."""
    ledger, _, entry = text.partition(":")
    return int(ledger), int(entry)
