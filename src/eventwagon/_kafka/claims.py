"""Who has which event of a wagon: the rule by which every reader of its claims log comes to the same answer. Pure.

A record of the log proposes something: a claim, a settle, a release. It is applied in the log's order, with the time at
which the log took it (milliseconds) as the only clock, so whoever has read as far knows the same. An offset below
`Partition.fresh` that is not in `Partition.taken` is settled, or holds no event: nothing is kept for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import NamedTuple

import msgspec

from .proposals import Claim, Extend, Gone, Op, Release, Run, Settle, Void, decode


class Grant(NamedTuple):
    """Offsets `start` to before `stop`, each as this attempt, held by the claim of this number."""

    partition: int
    start: int
    stop: int
    attempt: int
    claim: int


class Hold:
    """How offsets stand that were claimed and are not settled: claimed until `due`, or back and to be had from then."""

    __slots__ = ("attempt", "back", "claim", "due")

    def __init__(self, claim: int, attempt: int, due: int, back: bool) -> None:
        self.claim = claim
        self.attempt = attempt
        self.due = due
        self.back = back

    def __lt__(self, other: Hold) -> bool:
        return False  # heaps: among equals any order will do


class Partition:
    """One partition of a channel."""

    def __init__(self, fresh: int = 0) -> None:
        self.fresh = fresh
        """The first offset that was never claimed."""
        self.taken: dict[int, Hold] = {}
        self.ahead: set[int] = set()
        """Offsets from `fresh` on that hold no event."""

    def unsettled(self) -> list[int]:
        """The offsets below `fresh` that are not settled, in order."""
        return sorted(self.taken)


class ChannelClaims:
    """One channel: what is settled, what is held, what is back."""

    def __init__(self) -> None:
        self.partitions: dict[int, Partition] = {}
        self.settled = 0
        self.voids = 0
        """Offsets without an event."""
        self.back = 0
        """Offsets that are back, due or not."""
        self._again: list[tuple[int, int, int, Hold]] = []  # heap: due, partition, offset; stale where not in `taken`
        self._ends: list[tuple[int, int, int, int, Hold]] = []  # heap: due, partition, start, stop of claims; likewise

    def partition(self, number: int) -> Partition:
        """The partition of this number."""
        found = self.partitions.get(number)
        if found is None:
            found = self.partitions[number] = Partition()
        return found

    def held(self) -> int:
        """Offsets that were claimed and are not settled: in flight or back."""
        return sum(len(p.taken) for p in self.partitions.values())

    def waiting_again(self, now: float) -> int:
        """Offsets that are back, with those whose claims run out by `now`."""
        return self.back + sum(
            1
            for due, number, start, stop, hold in self._ends
            if due <= now and hold.due <= now
            for offset in range(start, stop)
            if self.partitions[number].taken.get(offset) is hold
        )

    def waiting_span(self, number: int, end: int, now: float) -> tuple[int, int] | None:
        """The lowest and the highest offset that waits in this partition, which ends at `end`."""
        partition = self.partition(number)
        waiting = [offset for offset, hold in partition.taken.items() if hold.back or hold.due <= now]
        if partition.fresh < end:
            last = end - 1
            while last in partition.ahead:
                last -= 1
            waiting += (partition.fresh, last)
        return (min(waiting), max(waiting)) if waiting else None

    def due(self) -> float:
        """When something that was claimed can be claimed again, in ms; `inf` where nothing is held."""
        again, ends = self._again, self._ends
        while again and self.partitions[again[0][1]].taken.get(again[0][2]) is not again[0][3]:
            heappop(again)
        while ends and not self._stands(*ends[0][1:]):
            heappop(ends)
        return min(again[0][0] if again else inf, ends[0][0] if ends else inf)

    # --- the rule -------------------------------------------------------------------------

    def claim(self, op: Claim, now: int, number: int, turn: int) -> list[Grant]:
        """`turn` says at which partition to begin."""
        self._expire(now)
        grants: list[Grant] = []
        room = op.limit - self._claim_again(op, now, number, grants)
        ends = op.ends
        for i in range(len(ends)):
            if room <= 0:
                break
            p, end = ends[(turn + i) % len(ends)]
            room -= self._claim_fresh(p, end, room, Hold(number, 1, now + op.visibility, False), grants)
        return grants

    def settle(self, runs: Iterable[Run]) -> None:
        self.settled += self._drop(runs)

    def void(self, runs: Iterable[Run]) -> None:
        for p, start, stop in runs:
            partition = self.partition(p)
            self.voids += self._drop([(p, start, min(stop, partition.fresh))])
            for offset in range(max(start, partition.fresh), stop):
                if offset not in partition.ahead:
                    partition.ahead.add(offset)
                    self.voids += 1
            self._advance(partition)

    def release(self, op: Release, now: int) -> None:
        self._expire(now)
        for p, start, stop, claim in op.held:
            self._give_back(p, range(start, stop), claim, now + op.delay, op.tried)

    def extend(self, op: Extend, now: int) -> None:
        self._expire(now)
        due = now + op.visibility
        for p, start, stop, claim in op.held:
            taken = self.partition(p).taken
            longer: dict[Hold, Hold] = {}
            for offset in range(start, stop):
                hold = taken.get(offset)
                if hold is not None and hold.claim == claim and not hold.back:
                    taken[offset] = longer.setdefault(hold, Hold(claim, hold.attempt, due, False))
            for hold in longer.values():
                heappush(self._ends, (due, p, start, stop, hold))
        self._tidy()

    # --- how --------------------------------------------------------------------------------

    def _claim_again(self, op: Claim, now: int, number: int, grants: list[Grant]) -> int:
        again, count = self._again, 0
        due = now + op.visibility
        while again and again[0][0] <= now and count < op.limit:
            _, p, offset, old = heappop(again)
            taken = self.partitions[p].taken
            if taken.get(offset) is not old:
                continue
            self.back -= 1
            count += 1
            last = grants[-1] if grants else None
            if last and (last.partition, last.stop, last.attempt) == (p, offset, old.attempt):
                grants[-1] = last._replace(stop=offset + 1)
                taken[offset] = taken[offset - 1]
            else:
                grants.append(Grant(p, offset, offset + 1, old.attempt, number))
                taken[offset] = Hold(number, old.attempt, due, False)
        for grant in grants:
            hold = self.partitions[grant.partition].taken[grant.start]
            heappush(self._ends, (due, grant.partition, grant.start, grant.stop, hold))
        return count

    def _claim_fresh(self, p: int, end: int, room: int, hold: Hold, grants: list[Grant]) -> int:
        partition = self.partition(p)
        count = 0
        while count < room and partition.fresh < end:
            start = partition.fresh
            stop = min(end, start + room - count)
            if partition.ahead:
                stop = min([stop, *(o for o in partition.ahead if o >= start)])
            partition.taken.update(dict.fromkeys(range(start, stop), hold))
            heappush(self._ends, (hold.due, p, start, stop, hold))
            grants.append(Grant(p, start, stop, 1, hold.claim))
            count += stop - start
            partition.fresh = stop
            self._advance(partition)
        return count

    def _advance(self, partition: Partition) -> None:
        while partition.fresh in partition.ahead:
            partition.ahead.discard(partition.fresh)
            partition.fresh += 1

    def _drop(self, runs: Iterable[Run]) -> int:
        dropped = 0
        for p, start, stop in runs:
            pop = self.partition(p).taken.pop
            for offset in range(start, stop):
                hold = pop(offset, None)
                if hold is not None:
                    dropped += 1
                    self.back -= hold.back
        self._tidy()
        return dropped

    def _expire(self, now: int) -> None:
        ends = self._ends
        while ends and ends[0][0] <= now:
            due, p, start, stop, hold = heappop(ends)
            self._give_back(p, range(start, stop), hold.claim, due, True, hold)

    def _give_back(
        self, p: int, offsets: Sequence[int], claim: int, due: int, tried: bool, only: Hold | None = None
    ) -> None:
        taken = self.partition(p).taken
        for offset in offsets:
            hold = taken.get(offset)
            if hold is None or hold.back or hold.claim != claim or (only is not None and hold is not only):
                continue
            taken[offset] = back = Hold(0, hold.attempt + tried, due, True)
            self.back += 1
            heappush(self._again, (due, p, offset, back))

    def _stands(self, p: int, start: int, stop: int, hold: Hold) -> bool:
        taken = self.partitions[p].taken
        return any(taken.get(offset) is hold for offset in range(start, stop))

    def _tidy(self) -> None:
        """Forget what ended long before it was due, lest long claims of many small batches pile up."""
        ends, again, held = self._ends, self._again, 2 * self.held()
        if len(ends) > 1000 + held:
            self._ends = [e for e in ends if self._stands(*e[1:])]
            heapify(self._ends)
        if len(again) > 1000 + held:
            self._again = [e for e in again if self.partitions[e[1]].taken.get(e[2]) is e[3]]
            heapify(self._again)

    # --- whole ------------------------------------------------------------------------------

    def dump(self) -> _ChannelDump:
        return _ChannelDump(
            self.settled, self.voids, [(n, p.fresh, sorted(p.ahead), _runs(p)) for n, p in self.partitions.items()]
        )

    @classmethod
    def load(cls, dump: _ChannelDump) -> ChannelClaims:
        self = cls()
        self.settled, self.voids = dump.settled, dump.voids
        for number, fresh, ahead, runs in dump.partitions:
            partition = self.partitions[number] = Partition(fresh)
            partition.ahead = set(ahead)
            for start, stop, claim, attempt, due, back in runs:
                for offset in range(start, stop) if back else ():
                    partition.taken[offset] = hold = Hold(claim, attempt, due, True)
                    self._again.append((due, number, offset, hold))
                    self.back += 1
                if not back:
                    hold = Hold(claim, attempt, due, False)
                    partition.taken.update(dict.fromkeys(range(start, stop), hold))
                    self._ends.append((due, number, start, stop, hold))
        heapify(self._again)
        heapify(self._ends)
        return self


class Claims:
    """All channels of a wagon, as of the records applied so far."""

    def __init__(self) -> None:
        self.channels: dict[str, ChannelClaims] = {}
        self.now = 0
        """The log's time, in ms: never goes back, whatever the clocks of its leaders say."""
        self._claims = 0

    def channel(self, name: str) -> ChannelClaims:
        """The channel of this name."""
        found = self.channels.get(name)
        if found is None:
            found = self.channels[name] = ChannelClaims()
        return found

    def apply(self, offset: int, time: int, record: bytes) -> list[tuple[Op, list[Grant]]]:
        """The next record of the log. Its proposals, and what each was granted."""
        self.now = now = max(self.now, time)
        return [(op, self._apply(op, now, offset)) for op in decode(record)]

    def _apply(self, op: Op, now: int, offset: int) -> list[Grant]:
        channel = self.channel(op.channel)
        match op:
            case Claim():
                self._claims += 1
                return channel.claim(op, now, self._claims, offset)
            case Settle():
                channel.settle(op.runs)
            case Release():
                channel.release(op, now)
            case Extend():
                channel.extend(op, now)
            case Void():
                channel.void(op.runs)
            case Gone():
                pass
        return []

    def dump(self) -> bytes:
        """All of it: a reader that begins with this comes to the same answers as one that has read everything."""
        channels = {name: channel.dump() for name, channel in self.channels.items()}
        return msgspec.msgpack.encode(_Dump(self.now, self._claims, channels))

    def load(self, dump: bytes) -> None:
        """Take over what another dumped."""
        found = _decode_dump(dump)
        self.now, self._claims = found.now, found.claims
        self.channels = {name: ChannelClaims.load(channel) for name, channel in found.channels.items()}


class _ChannelDump(msgspec.Struct, array_like=True):
    settled: int
    voids: int
    partitions: list[tuple[int, int, list[int], list[tuple[int, int, int, int, int, bool]]]]


class _Dump(msgspec.Struct, array_like=True):
    now: int
    claims: int
    channels: dict[str, _ChannelDump]


_decode_dump = msgspec.msgpack.Decoder(_Dump).decode


def _runs(partition: Partition) -> list[tuple[int, int, int, int, int, bool]]:
    """What is held, with neighbours that stand alike in one."""
    runs: list[tuple[int, int, int, int, int, bool]] = []
    for offset in partition.unsettled():
        hold = partition.taken[offset]
        state = (hold.claim, hold.attempt, hold.due, hold.back)
        if runs and runs[-1][1] == offset and runs[-1][2:] == state:
            runs[-1] = (runs[-1][0], offset + 1, *state)
        else:
            runs.append((offset, offset + 1, *state))
    return runs
