"""Which process has which event of a wagon: the rule by which every reader of the claims log gets the same answer.
Pure.

A record of the log proposes something: a claim, a settle, a release. Records are applied in the log's order. The only
clock is the time at which the log took each record (milliseconds), so all processes that have read equally far know the
same. An offset below `Partition.fresh` that is not in `Partition.taken` is settled, or has no event: nothing is kept
for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush
from math import inf
from typing import NamedTuple

import msgspec

from .proposals import Claim, Extend, Gone, Op, Release, Run, Settle, Void, decode, runs_of


class Grant(NamedTuple):
    """Offsets `start` to before `stop`, each as this attempt, held by the claim of this number."""

    partition: int
    start: int
    stop: int
    attempt: int
    claim: int
    suspect: bool = False


class Hold:
    """The state of offsets that were claimed and are not settled: claimed until `due`, or given back and available from
    then on."""

    __slots__ = ("alone", "attempt", "back", "claim", "due", "owner", "suspect")

    def __init__(
        self,
        claim: int,
        attempt: int,
        due: int,
        back: bool,
        owner: str = "",
        *,
        suspect: bool = False,
        alone: bool = False,
    ) -> None:
        self.claim = claim
        self.attempt = attempt
        self.due = due
        self.back = back
        self.owner = owner
        self.suspect = suspect
        self.alone = alone
        """If this claim expires, that counts as an attempt."""

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


_NUMBERS = 1000  # more than the claims that a record can have


class ChannelClaims:
    """One channel: its settled, claimed and returned events."""

    def __init__(self) -> None:
        self.partitions: dict[int, Partition] = {}
        self.settled = 0
        self.voids = 0
        """Offsets without an event."""
        self.lost = 0
        """Offsets that were removed before they were settled."""
        self.back = 0
        """Offsets that were given back, whether or not they are due."""
        self._again: list[tuple[int, int, int, Hold]] = []  # heap: due, partition, offset; stale where not in `taken`
        self._suspects: list[tuple[int, int, int, int, Hold]] = []  # heap: -attempt, due, partition, offset; likewise
        self.ends: list[tuple[int, int, int, int, Hold]] = []  # heap: due, partition, start, stop of claims; likewise

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
        """Offsets that were given back, and those whose claims expire by `now`."""
        return self.back + sum(
            1
            for due, number, start, stop, hold in self.ends
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
        """When claimed events can be claimed again, in ms; `inf` if nothing is held."""
        again, ends = self._again, self.ends
        while again and self.partitions[again[0][1]].taken.get(again[0][2]) is not again[0][3]:
            heappop(again)
        while ends and not self._stands(*ends[0][1:]):
            heappop(ends)
        suspects = (due for _, due, p, o, hold in self._suspects if self.partitions[p].taken.get(o) is hold)
        return min(again[0][0] if again else inf, ends[0][0] if ends else inf, min(suspects, default=inf))

    # --- the rule -------------------------------------------------------------------------

    def claim(self, op: Claim, now: int, number: int, turn: int) -> list[Grant]:
        """Claim events. `turn`: the partition at which to begin."""
        self._expire(now)
        if op.suspect_first and (suspect := self._claim_suspect(op, now, number)):
            return suspect
        grants: list[Grant] = []
        room = op.limit - self._claim_again(op, now, number, grants)
        ends = op.ends
        for i in range(len(ends)):
            if room <= 0:
                break
            p, end = ends[(turn + i) % len(ends)]
            room -= self._claim_fresh(p, end, room, Hold(number, 1, now + op.visibility, False, op.owner), grants)
        return grants or ([] if op.suspect_first else self._claim_suspect(op, now, number))

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

    def lose(self, runs: Iterable[Run], now: int) -> None:
        """Record these offsets as lost. Claimed events are not lost: their consumer may still settle them."""
        self._expire(now)
        for p, start, stop in runs:
            partition = self.partition(p)
            known = [o for o in partition.taken if start <= o < min(stop, partition.fresh)]
            gone = [o for o in known if partition.taken[o].back]
            self.lost += self._drop([(p, o, o + 1) for o in gone])
            for offset in range(max(start, partition.fresh), stop):
                if offset not in partition.ahead:
                    partition.ahead.add(offset)
                    self.lost += 1
            self._advance(partition)

    def rebuild(self, number: int, settled: set[int], voids: set[int], lost: set[int], now: int) -> None:
        """Give back everything before the first offset that was never claimed, except these."""
        self.settled += len(settled)
        self.voids += len(voids)
        self.lost += len(lost)
        for offset in range(self.partition(number).fresh):
            if not (offset in settled or offset in voids or offset in lost):
                self._back(number, offset, 1, now, suspect=False)

    def to_lose(self, number: int, start: int, now: float) -> list[Run]:
        """The events of this partition that are lost if it now begins at `start`, and not yet recorded as lost."""
        partition = self.partition(number)
        back = [o for o, hold in partition.taken.items() if o < start and (hold.back or hold.due <= now)]
        runs = runs_of((number, o) for o in back)
        return [*runs, (number, partition.fresh, start)] if partition.fresh < start else runs

    def release(self, op: Release, now: int) -> list[Grant]:
        """Give back what is listed, and all claims of the owner. Returns the owner's claims that this ended."""
        self._expire(now)
        for p, start, stop, claim in op.held:
            self._give_back(p, range(start, stop), claim, now + op.delay, op)
        returned: list[Grant] = []
        for number, partition in self.partitions.items() if op.owner else ():
            for offset, hold in list(partition.taken.items()):
                if hold.owner == op.owner and not hold.back:
                    returned.append(Grant(number, offset, offset + 1, hold.attempt, hold.claim, True))
                    self._run_out(number, offset, hold, now)
        return returned

    def extend(self, op: Extend, now: int) -> list[Grant]:
        """Extend those claims that have not expired."""
        self._expire(now)
        stands: list[Grant] = []
        for p, start, stop, claim in op.held:
            taken = self.partition(p).taken
            longer: dict[Hold, Hold] = {}
            for offset in range(start, stop):
                hold = taken.get(offset)
                if hold is not None and hold.claim == claim and not hold.back:
                    if hold not in longer:
                        longer[hold] = self._longer(hold, op, now)
                    taken[offset] = longer[hold]
            for hold in longer.values():
                heappush(self.ends, (hold.due, p, start, stop, hold))
                stands.append(Grant(p, start, stop, hold.attempt, claim, hold.suspect))
        self._tidy()
        return stands

    # --- how --------------------------------------------------------------------------------

    def _longer(self, hold: Hold, op: Extend, now: int) -> Hold:
        due = hold.due if op.alone else now + op.visibility
        alone = op.alone or hold.alone
        return Hold(hold.claim, hold.attempt, due, False, hold.owner, suspect=hold.suspect, alone=alone)

    def _claim_suspect(self, op: Claim, now: int, number: int) -> list[Grant]:
        """Claim the suspect with the most attempts that is due."""
        later: list[tuple[int, int, int, int, Hold]] = []
        grants: list[Grant] = []
        while self._suspects and not grants:
            entry = heappop(self._suspects)
            _, due, p, offset, old = entry
            taken = self.partitions[p].taken
            if taken.get(offset) is not old:
                continue
            if due > now:
                later.append(entry)
                continue
            self.back -= 1
            taken[offset] = hold = Hold(number, old.attempt, now + op.visibility, False, op.owner, suspect=True)
            heappush(self.ends, (hold.due, p, offset, offset + 1, hold))
            grants.append(Grant(p, offset, offset + 1, old.attempt, number, True))
        for entry in later:
            heappush(self._suspects, entry)
        return grants

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
                taken[offset] = Hold(number, old.attempt, due, False, op.owner)
        for grant in grants:
            hold = self.partitions[grant.partition].taken[grant.start]
            heappush(self.ends, (due, grant.partition, grant.start, grant.stop, hold))
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
            heappush(self.ends, (hold.due, p, start, stop, hold))
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
        ends = self.ends
        while ends and ends[0][0] <= now:
            due, p, start, stop, hold = heappop(ends)
            taken = self.partition(p).taken
            for offset in range(start, stop):
                if taken.get(offset) is hold:
                    self._run_out(p, offset, hold, due)

    def _give_back(self, p: int, offsets: Sequence[int], claim: int, due: int, op: Release) -> None:
        taken = self.partition(p).taken
        for offset in offsets:
            hold = taken.get(offset)
            if hold is not None and not hold.back and hold.claim == claim:
                suspect = hold.suspect and not (op.tried or op.cleared)
                self._back(p, offset, hold.attempt + op.tried, due, suspect=suspect)

    def _run_out(self, p: int, offset: int, hold: Hold, due: int) -> None:
        self._back(p, offset, hold.attempt + hold.alone, due, suspect=True)

    def _back(self, p: int, offset: int, attempt: int, due: int, *, suspect: bool) -> None:
        self.partition(p).taken[offset] = back = Hold(0, attempt, due, True, suspect=suspect)
        self.back += 1
        if suspect:
            heappush(self._suspects, (-attempt, due, p, offset, back))
        else:
            heappush(self._again, (due, p, offset, back))

    def _stands(self, p: int, start: int, stop: int, hold: Hold) -> bool:
        taken = self.partitions[p].taken
        return any(taken.get(offset) is hold for offset in range(start, stop))

    def _tidy(self) -> None:
        """Forget expired entries early, so that long claims of many small batches don't accumulate."""
        ends, again, suspects, held = self.ends, self._again, self._suspects, 2 * self.held()
        if len(ends) > 1000 + held:
            self.ends = [e for e in ends if self._stands(*e[1:])]
            heapify(self.ends)
        if len(again) > 1000 + held:
            self._again = [e for e in again if self.partitions[e[1]].taken.get(e[2]) is e[3]]
            heapify(self._again)
        if len(suspects) > 1000 + held:
            self._suspects = [e for e in suspects if self.partitions[e[2]].taken.get(e[3]) is e[4]]
            heapify(self._suspects)

    # --- whole ------------------------------------------------------------------------------

    def dump(self) -> _ChannelDump:
        partitions, marks = [], []
        for number, partition in self.partitions.items():
            runs = _runs(partition)
            partitions.append((number, partition.fresh, sorted(partition.ahead), runs))
            for start, *_ in runs:
                hold = partition.taken[start]
                if hold.owner or hold.suspect or hold.alone:
                    marks.append((number, start, hold.owner, hold.suspect, hold.alone))
        return _ChannelDump(self.settled, self.voids, partitions, marks, self.lost)

    @classmethod
    def load(cls, dump: _ChannelDump) -> ChannelClaims:
        self = cls()
        self.settled, self.voids, self.lost = dump.settled, dump.voids, dump.lost
        marks = {mark[:2]: mark[2:] for mark in dump.marks}
        for number, fresh, ahead, runs in dump.partitions:
            partition = self.partitions[number] = Partition(fresh)
            partition.ahead = set(ahead)
            for start, stop, claim, attempt, due, back in runs:
                owner, suspect, alone = marks.get((number, start), ("", False, False))
                for offset in range(start, stop) if back else ():
                    self._back(number, offset, attempt, due, suspect=suspect)
                if not back:
                    hold = Hold(claim, attempt, due, False, owner, suspect=suspect, alone=alone)
                    partition.taken.update(dict.fromkeys(range(start, stop), hold))
                    self.ends.append((due, number, start, stop, hold))
        heapify(self.ends)
        return self


class WagonClaims:
    """All channels of a wagon, as of the records applied so far."""

    def __init__(self) -> None:
        self.channels: dict[str, ChannelClaims] = {}
        self.now = 0
        """The log's time, in ms: it never goes back, whatever the clocks of its leaders say."""
        self._claims = 0
        self.rebuilt = False
        """Rebuilt from a log that had lost its beginning: settled events may have come again."""

    def channel(self, name: str) -> ChannelClaims:
        """The channel of this name."""
        found = self.channels.get(name)
        if found is None:
            found = self.channels[name] = ChannelClaims()
        return found

    def apply(self, offset: int, time: int, record: bytes) -> list[tuple[Op, list[Grant]]]:
        """Apply the next record of the log. Returns its proposals, and what each was granted."""
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
                return channel.release(op, now)
            case Extend():
                return channel.extend(op, now)
            case Void(lost=True):
                channel.lose(op.runs, now)
            case Void():
                channel.void(op.runs)
            case Gone():
                pass
        return []

    def dump(self) -> bytes:
        """The whole state. A reader that starts from it gets the same answers as one that has read everything."""
        channels = {name: channel.dump() for name, channel in self.channels.items()}
        return msgspec.msgpack.encode(_Dump(self.now, self._claims, channels, self.rebuilt))

    def rebuild(self, before: int, records: Sequence[tuple[int, bytes]]) -> bytes:
        """Rebuild the state from the last records alone: events that they settle are settled, and all earlier events
        are given back and available at once. Claims get numbers that were not used before."""
        new = WagonClaims()
        new.rebuilt, new._claims = True, _NUMBERS * before
        known: dict[tuple[str, int], tuple[set[int], set[int], set[int]]] = {}
        for time, record in records:
            new.now = max(new.now, time)
            for op in decode(record):
                runs = op.runs if isinstance(op, Settle | Void) else []
                held = op.held if isinstance(op, Release | Extend) else []
                for p, start, stop in (*runs, *((p, start, stop) for p, start, stop, _ in held)):
                    settled, voids, lost = known.setdefault((op.channel, p), (set(), set(), set()))
                    into = settled if isinstance(op, Settle) else lost if isinstance(op, Void) and op.lost else voids
                    if runs:
                        into.update(range(start, stop))
                    channel = new.channel(op.channel)
                    channel.partition(p).fresh = max(channel.partition(p).fresh, stop)
        for (name, p), (settled, voids, lost) in known.items():
            new.channel(name).rebuild(p, settled - voids - lost, voids - lost, lost, new.now)
        return new.dump()

    def load(self, dump: bytes) -> None:
        """Take over a state that another process dumped."""
        found = _decode_dump(dump)
        self.now, self._claims, self.rebuilt = found.now, found.claims, found.rebuilt
        self.channels = {name: ChannelClaims.load(channel) for name, channel in found.channels.items()}


class _ChannelDump(msgspec.Struct, array_like=True):
    settled: int
    voids: int
    partitions: list[tuple[int, int, list[int], list[tuple[int, int, int, int, int, bool]]]]
    marks: list[tuple[int, int, str, bool, bool]] = []
    """Of runs with further properties: partition, start, owner, suspect, alone."""
    lost: int = 0


class _Dump(msgspec.Struct, array_like=True):
    now: int
    claims: int
    channels: dict[str, _ChannelDump]
    rebuilt: bool = False


_decode_dump = msgspec.msgpack.Decoder(_Dump).decode


def _runs(partition: Partition) -> list[tuple[int, int, int, int, int, bool]]:
    """What is held, with neighbours in the same state merged."""
    runs: list[tuple[int, int, int, int, int, bool]] = []
    last: tuple[str, bool, bool] | None = None
    for offset in partition.unsettled():
        hold = partition.taken[offset]
        state = (hold.claim, hold.attempt, hold.due, hold.back)
        more = (hold.owner, hold.suspect, hold.alone)
        if runs and runs[-1][1] == offset and runs[-1][2:] == state and more == last:
            runs[-1] = (runs[-1][0], offset + 1, *state)
        else:
            runs.append((offset, offset + 1, *state))
        last = more
    return runs
