"""One channel's messages, as one process reads them: those of its own partitions, forward, once, into a bounded
cache."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

from confluent_kafka import Message

from ...contracts.broker import Delivery
from ...errors import ChannelGone, Unavailable
from ...event import Channel, Event
from .claims import ChannelClaims, Grant, WagonClaims
from .kept import KeptEvents
from .lane import Lane
from .proposals import Beat, Held, Join, Leave, Op, Run
from .reader import Reader, offset_of
from .stealing import IDLE, Stealing
from .tail import Tail

_FAR = 5000  # if others have claimed more offsets than this, seeking is cheaper than reading on
_FIRST = 200  # messages that are read at once when a consumer attaches, since the tail needs some 20 ms to begin
_MOST = 8000  # messages that are read ahead: a new owner reads them again
_QUIET = 0.03  # s after a join before new partitions are read: processes often start together
_HAND_OVER = 0.3  # s for which a partition that went to another process is served here, until that one claims from it
_SETTLED = 0.3  # s after a change in which a live owner gets time to read
_OFFER = 0.02  # s for which events of one's own may wait before others may have them
_AGAIN = 0.05  # s between two looks at others' partitions while something waits there
_SELDOM = 0.25  # s between two such looks of a process that has events of its own


class Piece(NamedTuple):
    """What there is at the offsets of one grant: messages in their order, and events that were kept, by offset."""

    grant: Grant
    messages: list[Message]
    kept: dict[int, Event]


class Taken(NamedTuple):
    """The result of a claim, and offsets without a message."""

    pieces: list[Piece]
    missing: list[tuple[int, int]]


class Feed:
    """The partitions of one channel that this process owns, and the tasks that wait for events of the channel."""

    def __init__(
        self,
        channel: Channel,
        topic: str,
        partitions: int,
        claims: WagonClaims,
        me: str,
        propose: Callable[[Op], asyncio.Future[list[Grant]]],
        tail: Tail,
        reader: Reader,
        room: Callable[[], int],
    ) -> None:
        """`me`: this member. The `reader` reads little beyond what it is asked for."""
        self.channel = channel
        self.topic = topic
        self.users = 0
        self.asked = 0
        """Events that are being claimed right now."""
        self.gone = False
        self._stopped = False
        self._started = False
        self.missed = 0
        """How many checks in a row did not find the topic."""
        self.partition_count = partitions
        self.lanes: dict[int, Lane] = {}
        self.kept = KeptEvents()
        self._wagon = claims
        self._me = me
        self._propose = propose
        self._tail = tail
        self._reader = reader
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._waiters: dict[asyncio.Future[None], None] = {}
        self._owner = ""
        self._joining: asyncio.Future[list[Grant]] | None = None
        self._joined_with = 0
        """How many partitions the log knows of from this process."""
        self._members: list[str] = []
        """As of the last look."""
        self._handed_over: dict[int, tuple[float, int]] = {}
        """Partitions that went to another process and are still served here: until when (the loop's time), and when
        they were tended as they went."""
        self._known: tuple[ChannelClaims, int] | None = None  # members and owners as this feed follows them
        self._moved_at = -1.0
        self._idle_since = self._loop.time()
        self._stealing = Stealing()
        self._looked_at = 0.0
        """At others' partitions, although events of its own wait."""
        self._timers: dict[str, asyncio.TimerHandle] = {}

    # --- membership -------------------------------------------------------------------------

    async def start(self, ends: Sequence[int], owner: str) -> None:
        """Join, and begin to read what this process owns at the first unclaimed event; `ends` are the present ends of
        each partition. Raises ChannelGone, Unavailable."""
        self._owner = owner
        if self._wagon.format != 1:
            await self._join()
        alone = self._wagon.format == 1 or self._claims().members == [self._me]
        fresh = {number: self._claims().partition(number).fresh for number in self._mine()}
        if alone and (number := next((p for p, at in sorted(fresh.items()) if at < ends[p]), None)) is not None:
            lane = Lane(number, fresh[number])
            stop = min(ends[number], lane.position + _FIRST)
            with contextlib.suppress(Unavailable):  # then the tail reads it when it can
                first = await self._reader.range(self.topic, number, lane.position, stop, _FIRST, self._room())
                if first:
                    lane.add(first, self._claims().partition(number).fresh)
            if number in self._mine() and number not in self.lanes and not self._stopped:
                self._follow(lane)
        self._started = True
        self.look()

    def look(self) -> None:
        """Something in the log, or in time, has changed: follow who owns what, and join again if we were dropped."""
        if self._stopped or not self._started:
            return
        claims = self._claims()
        if self._known != (claims, claims.moved):
            anew = self._known is not None and self._known[0] is not claims  # other offsets, perhaps
            self._known = (claims, claims.moved)
            self._moved_at = self._loop.time()
            mine = self._mine()
            for number in set(self.lanes) if anew else set(self.lanes) - mine:
                self._hand_over(number, at_once=anew)
            if mine - set(self.lanes):
                joined = set(claims.members) - {self._me, *self._members}
                if joined and (timer := self._timers.pop("read", None)):
                    timer.cancel()
                self._later("read", _QUIET if joined else 0.0, self._read_new)
            self._members = list(claims.members)
            self.wake()
        if self._handed_over:
            self._end_hand_over()
        is_in = self._me in claims.members and self._joined_with >= self.partition_count
        if self._wagon.format > 1 and self._joining is None and not is_in:
            self._join()

    async def grow(self, partitions: int) -> bool:
        """The topic has so many partitions now: join with them, and read those that this process owns then. Returns
        when the log names them; if that fails, it is tried again."""
        if not self._started or self._stopped or partitions <= self.partition_count:
            return False
        self.partition_count = partitions
        self._known = None
        self.look()
        if self._joining is not None:
            await asyncio.wait([self._joining])
        return True

    def stop(self) -> None:
        """Stop reading it, and let others have its partitions."""
        if not self._stopped and self._wagon.format > 1:
            self._propose(Leave(self.channel.name))
        self._stop()

    def end(self) -> None:
        """The channel is gone: the waiting tasks raise that."""
        self.gone = True
        self._stop()
        self.wake()

    def _stop(self) -> None:
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        for number in list(self.lanes):
            self._leave(number)
        self.kept.clear()

    def _join(self) -> asyncio.Future[list[Grant]]:
        self._joining = joining = self._propose(Join(self.channel.name, self.partition_count, self._owner))
        joining.add_done_callback(partial(self._joined, self.partition_count))
        return joining

    def _joined(self, partitions: int, joining: asyncio.Future[list[Grant]]) -> None:
        self._joining = None
        if not joining.cancelled() and joining.exception() is None:
            self._joined_with = partitions

    def _mine(self) -> set[int]:
        claims = self._claims()
        every = range(self.partition_count)
        return {p for p in every if self._wagon.format == 1 or claims.partition(p).owner == self._me}

    def _read_new(self) -> None:
        for number in sorted(self._mine() - set(self.lanes)):
            self._follow(Lane(number, self._claims().partition(number).fresh))

    def _hand_over(self, number: int, *, at_once: bool) -> None:
        """Another process owns it. Until that one has read it, what comes is served here."""
        partition = self._claims().partition(number)
        if at_once or partition.owner not in self._claims().members:
            self._leave(number)
        elif number not in self._handed_over:
            self._handed_over[number] = self._loop.time() + _HAND_OVER, partition.tended

    def _end_hand_over(self) -> None:
        now, mine = self._loop.time(), self._mine()
        for number, (until, tended) in list(self._handed_over.items()):
            if number in mine:
                del self._handed_over[number]
            elif now >= until or self._claims().partition(number).tended != tended:
                self._leave(number)
        if self._handed_over:
            self._later("hand over", _HAND_OVER, self.look)

    def _follow(self, lane: Lane) -> None:
        self.lanes[lane.number] = lane
        read, end = partial(self._read, lane), partial(self._read_to, lane)
        self._tail.follow(self.topic, lane.number, lane.position, read, end)
        self._mind_room(lane)

    def _leave(self, number: int) -> None:
        del self.lanes[number]
        self._handed_over.pop(number, None)
        self._tail.leave(self.topic, number)

    # --- what there is ----------------------------------------------------------------------

    def check(self) -> None:
        """Raise ChannelGone if the channel is gone."""
        if self.gone:
            raise ChannelGone(f"channel {self.channel} does not exist any more")

    def ends(self) -> list[tuple[int, int]]:
        """How far each own partition was seen."""
        return [(lane.number, lane.position) for lane in self.lanes.values()]

    def available(self, now: int) -> bool:
        """Whether there seems to be an event to claim from an own partition, beyond those in claims under way."""
        claims = self._claims()
        ready = sum(max(0, lane.position - claims.partition(p).fresh) for p, lane in self.lanes.items())
        if claims.due(self.lanes) <= now:
            ready += claims.waiting_again(now, self.lanes)
        if ready:
            self._idle_since = self._loop.time()
        return ready > self.asked

    def elsewhere(self, limit: int, now: int, *, busy: bool) -> tuple[int, int] | None:
        """The partition of another process to claim from, and its end. `busy`: this process has something of its own;
        then only what others have left alone for long, since all may be busy when one of them dies."""
        claims = self._claims()
        if len(self.lanes) == self.partition_count or self.asked:
            return None
        at = self._loop.time()
        if busy:
            if at - self._looked_at < _SELDOM:
                return None
            self._looked_at = at
        target = self._stealing.target(claims, self.lanes, limit, now, neglected=busy)
        jitter = 1 + (hash_of(self._me) % 8) / 8  # not all at once
        if target is None or (not busy and at - self._idle_since < IDLE / 1000 * jitter):
            return None
        owner = claims.partition(target[0]).owner
        return target if owner not in claims.members or at - self._moved_at > _SETTLED else None

    def pause(self, now: float) -> float:
        """Seconds after which there may be something to claim, if nothing is reported before."""
        claims = self._claims()
        seconds = max(0.001, (claims.due(self.lanes) - now) / 1000 + 0.001)
        if len(self.lanes) == self.partition_count:
            return seconds
        if self._stealing.waits():
            return min(seconds, _AGAIN)
        return min(seconds, max(_AGAIN, (claims.due() - now) / 1000 + _SETTLED))

    async def wait(self, seconds: float) -> None:
        """Wait until something may have changed, or for this many seconds."""
        waiter = self._loop.create_future()
        timer = self._loop.call_later(max(0.0, seconds), _wake, waiter)
        self._waiters[waiter] = None
        try:
            await waiter
        finally:
            timer.cancel()
            del self._waiters[waiter]

    def wake(self) -> None:
        """Something changed."""
        for waiter in self._waiters:
            _wake(waiter)

    def reaches(self, number: int, end: int) -> None:
        """Somebody looked: the partition reaches to here."""
        if number not in self.lanes:
            self._stealing.ends(number, end)
            if end > self._claims().partition(number).fresh:
                self.wake()

    # --- what comes -------------------------------------------------------------------------

    def _claims(self) -> ChannelClaims:
        return self._wagon.channel(self.channel.name)

    def _later(self, what: str, seconds: float, call: Callable[[], None]) -> None:
        """Call it once in so many seconds."""

        def due() -> None:
            del self._timers[what]
            call()

        if what not in self._timers and not self._stopped:
            self._timers[what] = self._loop.call_later(seconds, due)

    def _read(self, lane: Lane, messages: list[Message]) -> None:
        if lane.add(messages, self._claims().partition(lane.number).fresh):
            self._mind_room(lane)
            self._has_more()

    def _read_to(self, lane: Lane, end: int) -> None:
        """Nothing is left to read before `end`. Offsets left out there have no message, but must be claimed like
        one."""
        if end > lane.position:
            lane.position = end
            self._has_more()

    def _has_more(self) -> None:
        self.wake()
        if len(self._claims().members) > 1:
            self._later("offer", _OFFER, self._offer)

    def _offer(self) -> None:
        """Nobody here had time for what waits, and the others do not know of it: tell them."""
        claims = self._claims()
        waiting = [(p, lane.position) for p, lane in self.lanes.items() if lane.position > claims.partition(p).fresh]
        unknown = [(p, end) for p, end in waiting if claims.partition(p).seen <= claims.partition(p).fresh]
        if unknown and not self.asked and len(claims.members) > 1:
            self._propose(Beat(self.channel.name, unknown))

    def _mind_room(self, lane: Lane) -> None:
        lanes = max(1, len(self.lanes))
        room = self._room() // lanes
        if not lane.full and (lane.bytes > room or lane.messages > _MOST // lanes):
            lane.full = True
            self._tail.hold(self.topic, lane.number)
        elif lane.full and lane.bytes <= room // 2 and lane.messages <= _MOST // lanes // 2:
            lane.full = False
            self._tail.go_on(self.topic, lane.number)

    # --- what is claimed ----------------------------------------------------------------------

    def claimed_by_others(self, grants: Sequence[Grant]) -> None:
        """Other processes have claimed these: drop them."""
        for grant in grants:
            lane = self.lanes.get(grant.partition)
            if lane is None:
                continue
            lane.take(grant.start, grant.stop)
            if grant.stop - lane.position > _FAR:
                lane.position = grant.stop
                self._tail.seek(self.topic, lane.number, grant.stop)
            self._mind_room(lane)
            if lane.messages:
                self._later("offer", _OFFER, self._offer)
        if self._waiters and len(self.lanes) < self.partition_count:
            self._later("look", _AGAIN, self.wake)

    async def take(self, grants: Sequence[Grant]) -> Taken:
        """What there is at these offsets: from the cache, kept, or read again. Raises Unavailable, ChannelGone."""
        self.check()
        pieces: list[Piece] = []
        again: list[tuple[Piece, list[int]]] = []
        for grant in grants:
            partition, start, stop = grant[:3]
            lane = self.lanes.get(partition)
            piece = Piece(grant, lane.take(start, stop) if lane is not None else [], {})
            pieces.append(piece)
            if len(piece.messages) < stop - start:
                here = set(map(offset_of, piece.messages))
                away = [offset for offset in range(start, stop) if offset not in here]
                piece.kept.update({o: event for o in away if (event := self.kept.take(partition, o)) is not None})
                if missing := [offset for offset in away if offset not in piece.kept]:
                    again.append((piece, missing))
        missing_places: list[tuple[int, int]] = []
        for piece, offsets in again:
            some = await self._reader.these(self.topic, piece.grant.partition, offsets)
            piece.messages.extend(some)
            piece.messages.sort(key=offset_of)
            absent = set(offsets).difference(map(offset_of, some))
            missing_places += [(piece.grant.partition, offset) for offset in sorted(absent)]
        self.check()
        for lane in self.lanes.values():
            self._mind_room(lane)
        return Taken(pieces, missing_places)

    def delivered(self, grant: Grant, deliveries: Sequence[Delivery]) -> None:
        """Keep these events of the grant for a retry, as far as there is room."""
        if deliveries:
            self.kept.keep(grant.partition, grant.claim, deliveries)
            self.kept.shrink(self._room())

    def lost(self, runs: Sequence[Run]) -> None:
        """These are not handed out any more."""
        for p, start, stop in runs:
            if lane := self.lanes.get(p):
                lane.take(start, stop)
                self._mind_room(lane)
        self.wake()

    def settled(self, held: Sequence[Held]) -> None:
        """These need not be kept any more."""
        self.kept.settled(held)

    def released(self, held: Sequence[Held]) -> None:
        """These may come again."""
        self.kept.released(held)


def hash_of(name: str) -> int:
    """The same in every process."""
    return sum(name.encode())


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
