"""The operations on a wagon's file within one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import apsw
import msgspec

from ...contracts.broker import Delivery, Depth
from ...errors import ChannelFull, ChannelGone, Sealed
from ...event import Channel, Event
from .op import CLOCK_SLACK, DeadFile, Parked, Turn
from .schema import (
    BACK,
    BATCH_BYTES,
    CLAIMED,
    EMPTIED,
    FIND,
    FRESH,
    GIVEN_BACK,
    HELD,
    INSERT,
    NEXT_ATTEMPT,
    PAGE,
    PAGE_BYTES,
    SUSPECT,
    SUSPECT_ALONE,
    SUSPECT_BACK,
    SUSPECTS,
    encode_extensions,
    gather,
)

Token = tuple[int, int, int]
"""Channel id, seq, ticket."""


class _Row(msgspec.Struct):
    """A channel's state in this turn; if `changed`, it is written back at the turn's end."""

    id: int
    name: str
    capacity: int | None
    sealed: int
    published: int
    settled: int
    received: int
    ticket: int
    largest: int
    clock: float
    changed: bool = False
    nothing: Parked | None = None
    """It was found empty in this turn, and has not changed since."""


class WagonTurn(Turn):
    """One transaction on a wagon's file. Every method reads and decides before it writes."""

    def __init__(self, db: apsw.Connection, now: float, writable: bool) -> None:
        super().__init__(db, now, writable)
        self._channels: dict[str, _Row | None] = {}
        self._events: list[tuple[object, ...]] = []
        self._deleted = False

    def _find(self, name: str) -> _Row | None:
        try:
            return self._channels[name]
        except KeyError:
            row = self.db.execute(FIND, (name,)).fetchone()
            found = self._channels[name] = None if row is None else _Row(*row)
            return found

    def standing(self, channel: Channel) -> _Row:
        """The channel's row. Raises ChannelGone."""
        row = self._find(channel.name)
        if row is None:
            raise ChannelGone(f"channel {channel} does not exist (any more)")
        return row

    def create(self, channel: Channel, capacity: int | None, lasting: bool) -> None:
        row = self._find(channel.name)
        if row is not None:
            if capacity is not None:
                row.capacity, row.changed = capacity, True
            return
        if not lasting and not self._deleted and self.db.execute(EMPTIED).get:
            raise DeadFile
        self.db.execute("INSERT INTO channel (name, capacity) VALUES (?, ?)", (channel.name, capacity))
        del self._channels[channel.name]

    def unbound(self, channel: Channel) -> None:
        row = self._find(channel.name)
        if row is not None and row.capacity is not None:
            row.capacity, row.changed = None, True

    def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        row = self.standing(channel)
        if row.sealed:
            raise Sealed(f"channel {channel} is sealed: publish to the train's active wagon")
        room = len(events)
        if row.capacity is not None and row.capacity - row.published < room:
            room = max(0, row.capacity - row.published)
        if room:
            here, taken = row.id, events if room == len(events) else events[:room]
            self._events += [
                (
                    here,
                    seq,
                    e.id,
                    e.type,
                    e.source,
                    e.time,
                    e.subject,
                    e.content_type,
                    encode_extensions(e.extensions) if e.extensions else None,
                    e.data,
                )
                for seq, e in enumerate(taken, row.published + 1)
            ]
            row.published += room
            row.nothing = None
            largest = max([len(e.data) for e in taken])
            if largest > row.largest:
                row.largest, row.changed = 1 << largest.bit_length(), True  # rounded up, so that it is rarely written
        if room < len(events):
            raise ChannelFull(
                f"channel {channel} holds its {row.capacity} events: {room} of {len(events)} were stored", accepted=room
            )

    def receive(
        self, channel: Channel, limit: int, visibility: float, owner: int, *, suspect_first: bool
    ) -> list[Delivery] | Parked:
        row = self.standing(channel)
        if row.nothing is not None:
            return row.nothing
        if self.now < row.clock - CLOCK_SLACK:
            self._clock_went_back(row)
        self._write_events()
        due = self.db.execute("SELECT min(until) FROM claim WHERE channel=?", (row.id,)).get
        fresh = row.published - row.received
        back = due is not None and due <= self.now
        if not fresh and not back:
            row.nothing = Parked(due)
            return row.nothing
        self.need_write()
        if row.largest:
            limit = min(limit, max(1, BATCH_BYTES // row.largest))
        row.ticket += 1
        row.clock, row.changed = max(row.clock, self.now), True
        got: list[Delivery] = []
        if back and suspect_first:
            got = self._claim_again(row, SUSPECTS, 1, visibility, owner)
        if not got:
            first = min(fresh, limit - self._share(limit, row.ticket))
            if back and limit > first:
                got += self._claim_again(row, BACK, limit - first, visibility, owner)
            first = min(fresh, limit - len(got))
            if first:
                got += self._claim_fresh(row, first, visibility, owner)
        if not got and not suspect_first:
            got = self._claim_again(row, SUSPECTS, 1, visibility, owner)
        return got

    @staticmethod
    def _share(limit: int, ticket: int) -> int:
        """How many of a batch those that come back may take while there are new ones, too: neither starves the
        other."""
        return limit - limit // 2 if limit > 1 or ticket % 4 else 0

    def _claim_again(self, row: _Row, sql: str, limit: int, visibility: float, owner: int) -> list[Delivery]:
        suspect = sql is SUSPECTS
        got = self._gather(row, sql, (row.id, self.now, limit), suspect=suspect)
        if got:
            held = SUSPECT if suspect else CLAIMED
            self.db.execute(
                f"UPDATE claim SET held=?, until=?, since=?, attempt={NEXT_ATTEMPT}, ticket=?, owner=?"  # noqa: S608 - ours
                " WHERE channel=? AND seq IN (SELECT value FROM json_each(?))",
                (held, self.now + visibility, self.now, row.ticket, owner, row.id, _seqs([d.token for d in got])),
            )
        return got

    def _claim_fresh(self, row: _Row, limit: int, visibility: float, owner: int) -> list[Delivery]:
        got = self._gather(row, FRESH, (row.id, row.received, limit))
        self.db.execute(
            "INSERT INTO claim (channel, seq, held, until, since, attempt, ticket, owner)"
            " SELECT channel, seq, 1, ?, ?, 1, ?, ? FROM event WHERE channel=? AND seq>? AND seq<=?",
            (self.now + visibility, self.now, row.ticket, owner, row.id, row.received, row.received + limit),
        )
        row.received += limit
        return got

    def _gather(
        self, row: _Row, sql: str, bindings: tuple[int | float, ...], *, suspect: bool = False
    ) -> list[Delivery]:
        here, ticket = row.id, row.ticket
        return [
            Delivery(event, attempt, (here, seq, ticket), suspect)
            for seq, attempt, event in gather(self.db, sql, bindings)
        ]

    def _clock_went_back(self, row: _Row) -> None:
        """A claim from the future would hold its event for as long as the clock was set back: cancel it."""
        self.need_write()
        self.db.execute(
            "UPDATE claim SET until=?, since=? WHERE channel=? AND since>?", (self.now, self.now, row.id, self.now)
        )
        row.clock, row.changed, row.nothing = self.now, True, None

    def settle(self, channel: Channel, tokens: Sequence[Token]) -> None:
        row = self.standing(channel)
        seqs = _seqs([t for t in tokens if t[0] == row.id])
        self._write_events()
        self.db.execute("DELETE FROM event WHERE channel=? AND seq IN (SELECT value FROM json_each(?))", (row.id, seqs))
        gone = self.db.changes()
        if gone:
            self.db.execute(
                "DELETE FROM claim WHERE channel=? AND seq IN (SELECT value FROM json_each(?))", (row.id, seqs)
            )
            row.settled += gone
            row.changed = True

    def release(self, channel: Channel, tokens: Sequence[Token], delay: float, *, tried: bool, cleared: bool) -> None:
        back = f"held=CASE WHEN held={CLAIMED} THEN {GIVEN_BACK} ELSE ? END, until=?, since=?, attempt=attempt-?"
        stays = GIVEN_BACK if tried or cleared else SUSPECT_BACK
        self._held(channel, tokens, back, (stays, self.now + delay, self.now, int(not tried)))

    def extend(self, channel: Channel, tokens: Sequence[Token], visibility: float) -> None:
        self._held(channel, tokens, "until=?, since=?", (self.now + visibility, self.now))

    def alone(self, channel: Channel, token: Token) -> bool:
        return self._held(channel, [token], "held=?", (SUSPECT_ALONE,)) > 0

    def reclaim(self, channel: Channel, owner: int) -> int:
        row = self._find(channel.name)
        if row is None:
            return 0
        self.db.execute(
            f"UPDATE claim SET until=? WHERE channel=? AND owner=? AND {HELD} AND until>?",  # noqa: S608 - ours
            (self.now, row.id, owner, self.now),
        )
        row.clock, row.changed, row.nothing = max(row.clock, self.now), True, None
        return self.db.changes()

    def _held(self, channel: Channel, tokens: Sequence[Token], change: str, bindings: tuple[float, ...]) -> int:
        """Change those claims that still belong to these deliveries; returns how many."""
        row = self.standing(channel)
        by_ticket: dict[int, list[Token]] = {}
        for token in tokens:
            if token[0] == row.id:
                by_ticket.setdefault(token[2], []).append(token)
        changed = 0
        for ticket, mine in by_ticket.items():
            self.db.execute(
                f"UPDATE claim SET {change} WHERE channel=? AND {HELD} AND ticket=? AND until>?"  # noqa: S608 - two of ours
                " AND seq IN (SELECT value FROM json_each(?))",
                (*bindings, row.id, ticket, self.now, _seqs(mine)),
            )
            changed += self.db.changes()
        row.clock, row.changed, row.nothing = max(row.clock, self.now), True, None
        return changed

    def seal(self, channel: Channel) -> None:
        row = self._find(channel.name)
        if row is not None:
            row.sealed, row.changed = 1, True

    def delete(self, channel: Channel) -> None:
        row = self._find(channel.name)
        if row is None:
            return
        self.flush()
        self.db.execute("DELETE FROM channel WHERE id=?", (row.id,))
        self._channels[channel.name] = None
        self._deleted = True
        if self.db.execute("SELECT EXISTS (SELECT 1 FROM channel)").get:  # otherwise the whole file is removed
            self.db.execute("DELETE FROM event WHERE channel=?", (row.id,))
            self.db.execute("DELETE FROM claim WHERE channel=?", (row.id,))

    def depth(self, channel: Channel) -> Depth:
        row = self._find(channel.name)
        if row is None:
            return Depth()
        self._write_events()
        execute, here, now = self.db.execute, row.id, self.now
        count = f"SELECT count(*) FROM claim WHERE channel=? AND until>? AND {HELD}"  # noqa: S608 - ours
        in_flight = execute(count, (here, now)).get
        waiting = row.published - row.settled - in_flight
        ends = f"SELECT min(seq), max(seq) FROM claim WHERE channel=? AND NOT (until>? AND {HELD})"  # noqa: S608 - ours
        oldest, newest = execute(ends, (here, now)).get
        if row.published > row.received:
            oldest, newest = oldest or row.received + 1, row.published
        at = "SELECT CAST(time AS REAL) FROM event WHERE channel=? AND seq=?"
        return Depth(
            published=row.published,
            settled=row.settled,
            waiting=waiting,
            in_flight=in_flight,
            oldest_at=execute(at, (here, oldest)).get,
            newest_at=execute(at, (here, newest)).get,
        )

    def page(self, channel: Channel, after: int) -> tuple[list[Event], int]:
        """The next events after that seq, and the seq of the last of them."""
        row = self.standing(channel)
        self._write_events()
        size = min(PAGE, max(1, PAGE_BYTES // row.largest)) if row.largest else PAGE
        rows = gather(self.db, FRESH, (row.id, after, size))
        return [event for _, _, event in rows], rows[-1][0] if rows else after

    def names(self) -> list[str]:
        return [name for (name,) in self.db.execute("SELECT name FROM channel")]

    def _write_events(self) -> None:
        rows, start = self._events, 0
        while start < len(rows):
            size = next(n for n in INSERT if n <= len(rows) - start)
            self.db.execute(INSERT[size], tuple(chain.from_iterable(rows[start : start + size])))
            start += size
        if rows:
            self._events = []

    def flush(self) -> None:
        self._write_events()
        for row in self._channels.values():
            if row is not None and row.changed:
                self.db.execute(
                    "UPDATE channel SET capacity=?, sealed=?, settled=?, received=?, ticket=?, largest=?, clock=? "
                    "WHERE id=?",
                    (row.capacity, row.sealed, row.settled, row.received, row.ticket, row.largest, row.clock, row.id),
                )
                row.changed = False


def _seqs(tokens: Sequence[Token]) -> str:
    return str([seq for _, seq, _ in tokens])
