"""The events of one train that wait for their time, and the ticks of its schedules: the rule by which every reader of
its log gets the same state. Pure.

The log is compacted, so the state must be the same without what compaction takes out. That holds because:

- Each event that is added has a record under a key of its own. It is there until a record without a value under that
  key, which is never refused, says that it is gone.
- Of several records with the same event the first that is still there counts; the others wait behind it, and are
  deleted before it.
- A claim is a record under the key of its event's record. It is granted by the log's time and by what earlier claims
  said. Only the latest claim may be left, and that is enough: records are compacted after an hour (see
  `admin.COMPACTED`), and no claim lasts as long. (One that was refused may then count as granted: it ended long ago.)
- A tick is a record with its event, under a key of its own. Once the event is gone, it is written again without it. It
  is deleted once a later tick of its series is there. Ticks that were refused are deleted before either.

What has no effect any more is `litter`, until somebody deletes it.
"""

from __future__ import annotations

from collections.abc import Iterator
from heapq import heapify, heappop, heappush

import msgspec

from .following import RECORD

LONGEST = 30 * 60 * 1000
"""The longest claim, in ms; less than the time after which the log is compacted."""
_CLAIM, _HOLD = b"c", b"h"
CLOCK = b"t"
"""The key of records that only ask for the log's time."""
_STALE = 1000  # entries of the heap that may be stale besides: those cancelled long before they were due
_NAMED = 17  # bytes of a key of `following.LogClient.key`


class Add(msgspec.Struct, array_like=True, tag="a", frozen=True):
    """Keep this event until it is due (ms since the epoch), under its key in the timetable."""

    key: str
    due: int
    event: bytes


class Tick(msgspec.Struct, array_like=True, tag="t", frozen=True):
    """A tick of a series, and its event, if it has one that is not gone."""

    series: str
    at: float
    event: Add | None = None


class Until(msgspec.Struct, array_like=True, tag="u", frozen=True):
    """The event is claimed, or held, until then (ms since the epoch). `again`: it was claimed before; the earlier claim
    may be compacted."""

    until: int
    again: bool = False


Record = Add | Tick | Until

encode = msgspec.msgpack.Encoder().encode
"""A record's value."""
_decode = msgspec.msgpack.Decoder(Record).decode


def event_in(value: bytes) -> bytes | None:
    """The event in a record's value; None if it has none any more."""
    if not value:
        return None
    try:
        record = _decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value
    add = record.event if isinstance(record, Tick) else record
    return add.event if isinstance(add, Add) else None


def claim_of(name: bytes) -> bytes:
    """The key of claims of the event whose record is `name`."""
    return _CLAIM + name


def hold_of(name: bytes) -> bytes:
    """The key of holds on that event: it can't be claimed while it is being cancelled."""
    return _HOLD + name


def _is_ours(key: bytes) -> bool:
    """Whether a record under this key is ours, or a later release's."""
    name = key[1:] if key[:1] in (_CLAIM, _HOLD) else key
    return key == CLOCK or (len(name) == _NAMED and name[:1] == RECORD)


class Entry:
    """An event that waits."""

    __slots__ = ("behind", "claimed", "data", "due", "held", "key", "marks", "name", "offset", "size", "tick", "time")

    def __init__(self, name: bytes, add: Add, offset: int, tick: tuple[str, float] | None = None) -> None:
        self.name = name
        """The key of its record."""
        self.key = add.key
        self.time = add.due
        """When it is due, in ms."""
        self.due = add.due
        """When it can be claimed: then, or when its claim ends."""
        self.offset = offset
        self.size = len(add.event)
        self.data: bytes | None = add.event
        """None: to be read at its offset."""
        self.claimed = 0
        """When its latest claim ends, in ms; 0: it was never claimed."""
        self.held = 0
        self.marks: tuple[bytes, ...] = ()
        """The keys of records about it."""
        self.tick = tick
        self.behind: Entry | None = None
        """The next record with the same event."""


class Series:
    """The latest tick of a series, and the key of its record."""

    __slots__ = ("at", "name", "refused")

    def __init__(self, at: float, name: bytes, refused: list[bytes]) -> None:
        self.at = at
        self.name = name
        self.refused = refused
        """The keys of records with ticks that were not later than the one before."""


class Later:
    """One train's events for later, as of the records applied so far. `room`: the most bytes of events in memory; the
    others are to be read again."""

    def __init__(self, room: int) -> None:
        self.series: dict[str, Series] = {}
        self.litter: dict[bytes, None] = {}
        """Keys of records that have no effect any more, in the order in which they are to be deleted."""
        self._room = room
        self._first: dict[str, Entry] = {}
        """By the event's key."""
        self._named: dict[bytes, Entry] = {}
        """By the key of the record."""
        self._order: list[tuple[int, int, Entry]] = []
        """A heap by `due`, of first entries; stale where that is gone or has another `due`."""

    def __len__(self) -> int:
        return len(self._first)

    def get(self, key: str) -> Entry | None:
        """The event that is kept under this key."""
        return self._first.get(key)

    def entries(self) -> list[Entry]:
        """All of them, the earliest first."""
        return sorted(self._first.values(), key=lambda entry: (entry.due, entry.offset))

    def next_at(self) -> int | None:
        """When the next one can be claimed, in ms."""
        while self._order:
            due, _, entry = self._order[0]
            if self._stands(due, entry):
                return due
            heappop(self._order)
        return None

    def ready(self, now: int, limit: int, most_bytes: int) -> list[Entry]:
        """Those that can be claimed, the earliest first: up to `limit`, and up to `most_bytes`, but at least one."""
        found: list[Entry] = []
        while len(found) < limit and (due := self.next_at()) is not None and due <= now:
            entry = self._order[0][2]
            most_bytes -= entry.size
            if found and most_bytes < 0:
                break
            heappop(self._order)
            found.append(entry)
        for entry in found:
            self._await(entry)
        return found

    def to_delete(self, entry: Entry) -> Iterator[tuple[bytes, bytes | None]]:
        """The records (key, value) that say that this event is gone, in order."""
        behind, one = list[Entry](), entry.behind
        while one is not None:
            behind.append(one)
            one = one.behind
        for one in (*reversed(behind), entry):
            if one.tick is not None:  # without it, a refused one of the same time would count
                yield from ((name, None) for name in self.series[one.tick[0]].refused if name in self.litter)
            yield one.name, self._left_of(one)
            for mark in one.marks:
                yield mark, None

    def to_tidy(self, most: int) -> list[tuple[bytes, bytes | None]]:
        """The records (key, value) that delete litter, in order."""
        some = list(self.litter)[:most]
        return [(key, self._left_of(entry) if (entry := self._named.get(key)) else None) for key in some]

    def _left_of(self, entry: Entry) -> bytes | None:
        """The latest tick of a series stays without its event."""
        if entry.tick is None or self.series[entry.tick[0]].name != entry.name:
            return None
        return encode(Tick(*entry.tick))

    # --- the rule ---------------------------------------------------------------------------

    def apply(self, offset: int, time: int, key: bytes, value: bytes) -> bool:
        """Apply the next record. Returns whether it was granted; of one that says that an event is gone: whether it was
        there and had never been claimed."""
        if not value:
            self.litter.pop(key, None)
            return self._gone(key)
        try:
            record = _decode(value)
        except (msgspec.DecodeError, RecursionError):
            if not _is_ours(key):  # of another program: it is due at once, and can't be read
                self._add(key, Add(f" {offset}", 0, value), offset)
            return False
        if isinstance(record, Add):
            return self._add(key, record, offset)
        if isinstance(record, Tick):
            return self._tick(key, record, offset)
        return self._until(key, record, time)

    def _add(self, name: bytes, add: Add, offset: int, tick: tuple[str, float] | None = None) -> bool:
        if name in self._named:  # sent twice; compaction leaves the second
            self._named[name].offset = offset
            return False
        entry = self._named[name] = Entry(name, add, offset, tick)
        if entry.size > self._room:
            entry.data = None
        else:
            self._room -= entry.size
        last = self._first.get(add.key)
        if last is None:
            self._first[add.key] = entry
            self._await(entry)
            return True
        while last.behind is not None:
            last = last.behind
        last.behind = entry
        self.litter[name] = None
        return False

    def _gone(self, name: bytes) -> bool:
        entry = self._named.pop(name, None)
        if entry is None:
            return False
        if entry.data is not None:
            self._room += entry.size
        for mark in entry.marks:
            self.litter[mark] = None
        first = self._first[entry.key]
        if first is not entry:
            while first.behind is not entry:
                assert first.behind is not None  # noqa: S101
                first = first.behind
            first.behind = entry.behind
        elif entry.behind is None:
            del self._first[entry.key]
        else:
            self._first[entry.key] = entry.behind
            self.litter.pop(entry.behind.name, None)
            self._await(entry.behind)
        entry.due, entry.data = -1, None  # stale in the heap
        if len(self._order) > 2 * len(self._first) + _STALE:
            self._order = [(each.due, each.offset, each) for each in self._first.values()]
            heapify(self._order)
        return first is entry and not entry.claimed

    def _tick(self, name: bytes, tick: Tick, offset: int) -> bool:
        latest = self.series.get(tick.series)
        if latest is not None and latest.name == name and tick.event is not None:  # sent twice
            self._add(name, tick.event, offset, (tick.series, tick.at))
            return True
        if latest is not None and (latest.name == name or not tick.at > latest.at):
            gone = self._gone(name)  # if it is written again, without its event
            if latest.name == name:
                self.litter.pop(name, None)
            else:
                self.litter[name] = None
                latest.refused.append(name)
            return gone
        if latest is not None and latest.name not in self._named:
            self.litter[latest.name] = None
        refused = [each for each in latest.refused if each in self.litter] if latest is not None else []
        self.series[tick.series] = Series(tick.at, name, refused)
        if tick.event is not None:
            self._add(name, tick.event, offset, (tick.series, tick.at))
        return True

    def _until(self, key: bytes, record: Until, time: int) -> bool:
        kind, entry = key[:1], self._named.get(key[1:])
        if entry is None:
            self.litter[key] = None
            return False
        if key not in entry.marks:
            entry.marks = (*entry.marks, key)
        if record.again:
            entry.claimed = entry.claimed or 1
        until = min(record.until, time + LONGEST)
        if entry.claimed > time or self._first[entry.key] is not entry:
            return False
        if kind == _HOLD:
            entry.held = until
        elif entry.held > time or entry.time > time:
            return False
        else:
            entry.claimed = until
        if (due := max(entry.time, entry.claimed, entry.held)) != entry.due:
            entry.due = due
            self._await(entry)
        return True

    def _await(self, entry: Entry) -> None:
        heappush(self._order, (entry.due, entry.offset, entry))

    def _stands(self, due: int, entry: Entry) -> bool:
        return entry.due == due and self._named.get(entry.name) is entry
