"""Which process has which event of a wagon: the rule by which every reader of the claims log gets the same answer.
Pure.

A record of the log proposes something: a claim, a settle, a release. Records are applied in the log's order. The only
clock is the time at which the log took each record (milliseconds), so all processes that have read equally far know the
same. Who owns a partition, and so reads it, follows from the log too (see ownership.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import heappop
from math import inf
from typing import NamedTuple
from zlib import crc32

from . import snapshot
from .ownership import assign
from .partition import Hold, Partition
from .proposals import (
    Beat,
    Claim,
    Extend,
    Format,
    Held,
    Join,
    Leave,
    Member,
    Op,
    Release,
    Renew,
    Run,
    Settle,
    Void,
    decode,
)
from .runs import add, cut, within

TTL = 3000
"""Milliseconds after which a member that owes a sign of life is dropped."""
_CHECK = 100  # ms between two checks for such members
_NUMBERS = 1000  # more than the claims that a record can have


class Grant(NamedTuple):
    """Offsets `start` to before `stop`, each as this attempt, held by the claim of this number."""

    partition: int
    start: int
    stop: int
    attempt: int
    claim: int
    suspect: bool = False


class ChannelClaims:
    """One channel: its settled, claimed and returned events, and who reads which of its partitions."""

    def __init__(self) -> None:
        self.partitions: dict[int, Partition] = {}
        self.settled = 0
        self.voids = 0
        """Offsets without an event."""
        self.lost = 0
        """Offsets that were removed before they were settled."""
        self.since = 0
        """Claims up to this number were of an earlier topic."""
        self.topic = ""
        """The id of the topic that has these offsets; empty if nobody has told it."""
        self.members: list[str] = []
        self.moved = 0
        """Grows when members or owners change. Not part of the state."""
        self.ends: dict[int, int] = {}
        """The farthest end of each partition that this process has found. Not part of the state."""
        self._claims: dict[int, list[Hold]] = {}

    def partition(self, number: int) -> Partition:
        """The partition of this number, to look at. One that the log does not name is not added: who owns what would
        follow from what this process has looked at."""
        return self.partitions.get(number) or Partition()

    @property
    def named(self) -> int:
        """How many partitions the topic has at least, by the log."""
        return max(self.partitions, default=-1) + 1

    def ensure(self, number: int) -> Partition:
        """The partition of this number, which the log names."""
        found = self.partitions.get(number)
        if found is None:
            found = self.partitions[number] = Partition()
        return found

    def held(self) -> int:
        """Offsets that were claimed and are not settled: in flight or back."""
        return sum(p.held() for p in self.partitions.values())

    def left_behind(self) -> int:
        """Events that were lost, and all others that are not settled, as far as they are known here."""
        return self.lost + self.held() + sum(p.unclaimed(self.ends.get(n, 0)) for n, p in self.partitions.items())

    def reach(self) -> dict[int, int]:
        """How far each partition reaches at least."""
        return {n: max(p.fresh, self.ends.get(n, 0)) for n, p in self.partitions.items()}

    def expiring(self) -> int:
        """Entries kept for claims that may expire."""
        return sum(len(p.ends) for p in self.partitions.values())

    def waiting_again(self, now: float, among: Iterable[int] | None = None) -> int:
        """Offsets that were given back, and those whose claims expire by `now`; of all partitions, or of these."""
        return sum(p.waiting_again(now) for p in self._some(among))

    def due(self, among: Iterable[int] | None = None) -> float:
        """When claimed events can be claimed again, in ms; `inf` if nothing is held. Of all partitions, or of these."""
        return min((p.due() for p in self._some(among)), default=inf)

    def _some(self, among: Iterable[int] | None) -> Iterable[Partition]:
        return self.partitions.values() if among is None else map(self.partition, among)

    # --- the rule -------------------------------------------------------------------------

    def claim(self, op: Claim, now: int, number: int, turn: int, member: str | None = None) -> list[Grant]:
        """Claim events. `turn`: the partition at which to begin. `member`: who claims, in a log of format 2."""
        self.expire(now)
        numbers = sorted(self.partitions) if member is None else sorted({p for p, _ in op.ends})
        grants = self._claim_events(op, now, number, turn, numbers)
        if member is not None:
            self._notice(op, member, grants, now)
        return grants

    def _claim_events(self, op: Claim, now: int, number: int, turn: int, numbers: Sequence[int]) -> list[Grant]:
        if op.suspect_first and (suspect := self._claim_suspect(op, now, number, numbers)):
            return suspect
        grants: list[Grant] = []
        room = op.limit - self._claim_again(op, now, number, numbers, grants)
        ends = op.ends
        for i in range(len(ends)):
            if room <= 0:
                break
            p, end = ends[(turn + i) % len(ends)]
            for run in self.ensure(p).take_fresh(end, room):
                room -= run[1] - run[0]
                grants.append(self._grant(op, now, number, Hold(p, [run], number, 1, 0, op.owner)))
        return grants or ([] if op.suspect_first else self._claim_suspect(op, now, number, numbers))

    def settle(self, runs: Iterable[Run], held: Iterable[Held] = ()) -> None:
        """These are settled, whoever has claimed them. `held` names the claim that probably has them. A claim from
        before the topic was made anew changes nothing."""
        for p, start, stop in runs:
            self.settled += self._drop(p, start, stop)
        for p, start, stop, claim in held:
            if claim <= self.since:
                continue
            here = [h for h in self._claims.get(claim, ()) if h.partition == p]
            found = sum(self._take_from(hold, start, stop) for hold in here)
            if found < stop - start:
                found += self._drop(p, start, stop)
            self.settled += found
        self._tidy()

    def void(self, runs: Iterable[Run]) -> None:
        for p, start, stop in runs:
            partition = self.ensure(p)
            self.voids += self._drop(p, start, min(stop, partition.fresh))
            self.voids += partition.skip(start, stop)
        self._tidy()

    def lose(self, runs: Iterable[Run], now: int) -> None:
        """Record these offsets as lost. Claimed events are not lost: their consumer may still settle them."""
        self.expire(now)
        for p, start, stop in runs:
            partition = self.ensure(p)
            self.lost += partition.drop_returned(start, stop) + partition.skip(start, stop)

    def rebuild(self, number: int, settled: set[int], voids: set[int], lost: set[int], now: int) -> None:
        """Give back everything before the first offset that was never claimed, except these."""
        self.settled += len(settled)
        self.voids += len(voids)
        self.lost += len(lost)
        partition = self.ensure(number)
        left = [(0, partition.fresh)]
        gone: list[tuple[int, int]] = []
        for offset in settled | voids | lost:
            add(gone, offset, offset + 1)
        for run in gone:
            cut(left, *run)
        for run in left:
            if run[0] < run[1]:
                partition.put_back(run, 1, now, suspect=False)

    def to_lose(self, number: int, start: int, now: float) -> list[Run]:
        """The events of this partition that are lost if it now begins at `start`, and not yet recorded as lost."""
        return [(number, *run) for run in self.partition(number).to_lose(start, now)]

    def release(self, op: Release, now: int) -> list[Grant]:
        """Give back what is listed, and all claims of the owner. Returns the owner's claims that this ended."""
        self.expire(now)
        for p, start, stop, claim in op.held:
            for hold in [h for h in self._claims.get(claim, ()) if h.partition == p]:
                for run in within(hold.runs, start, stop):
                    self._take_from(hold, *run)
                    suspect = hold.suspect and not (op.tried or op.cleared)
                    self.ensure(p).put_back(run, hold.attempt + op.tried, now + op.delay, suspect=suspect)
        returned: list[Grant] = []
        for number, partition in self.partitions.items() if op.owner else ():
            for hold in [h for h in partition.holds if h.name == op.owner]:
                returned += [Grant(number, *run, hold.attempt, hold.claim, True) for run in hold.runs]
                self._run_out(hold, now)
        return returned

    def extend(self, op: Extend, now: int) -> list[Grant]:
        """Extend those claims that have not expired. Returns them."""
        self.expire(now)
        stands: list[Grant] = []
        for p, start, stop, claim in op.held:
            for hold in [h for h in self._claims.get(claim, ()) if h.partition == p]:
                runs = within(hold.runs, start, stop)
                if not runs:
                    continue
                longer = hold
                if runs != hold.runs:
                    longer = Hold(p, runs, claim, hold.attempt, hold.due, hold.name, suspect=hold.suspect)
                    longer.alone = hold.alone
                    for run in runs:
                        self._take_from(hold, *run)
                    self._claims.setdefault(claim, []).append(longer)
                if op.alone:
                    longer.alone = True
                else:
                    longer.due = now + op.visibility
                self.ensure(p).keep(longer)
                stands += [Grant(p, *run, longer.attempt, claim, longer.suspect) for run in runs]
        self._tidy()
        return stands

    def expire(self, now: int) -> None:
        """The claims that end by now: their events are back, as suspects."""
        for partition in self.partitions.values():
            ends = partition.ends
            while ends and ends[0][0] <= now:
                due, hold = heappop(ends)
                if hold.runs and hold.due == due:
                    self._run_out(hold, due)

    # --- members ----------------------------------------------------------------------------

    def join(self, member: str, partitions: int, salt: str, now: int) -> None:
        """The member consumes the channel, which has at least so many partitions."""
        for number in range(partitions):
            self.ensure(number)
        if member not in self.members:
            self.members.append(member)
        self._share(salt, now)

    def leave(self, member: str, salt: str, now: int) -> None:
        """The member no longer consumes it."""
        if member in self.members:
            self.members.remove(member)
            self._share(salt, now)

    def renewed(self, now: int, claims: int) -> ChannelClaims:
        """The same channel with a new topic: only its members stay, and what they own. So many `claims` were made."""
        new = ChannelClaims()
        new.since = claims
        new.members, new.moved = self.members, self.moved + 1
        for number, partition in self.partitions.items():
            new.ensure(number).owner, new.ensure(number).tended = partition.owner, now
        return new

    def report(self, ends: Iterable[tuple[int, int]], member: str) -> None:
        """The member has seen these ends, and lets others have what waits."""
        for p, end in ends:
            partition = self.ensure(p)
            partition.seen = max(partition.seen, end)
            if partition.owner == member:
                partition.tended = 0

    def _share(self, salt: str, now: int) -> None:
        numbers = sorted(self.partitions)
        owners = [self.partitions[p].owner for p in numbers]
        for p, owner in zip(numbers, assign(owners, self.members, crc32(salt.encode())), strict=True):
            if self.partitions[p].owner != owner:
                self.partitions[p].owner = owner
                self.partitions[p].waits_since = 0
                self.partitions[p].tended = now
        self.moved += 1

    def _notice(self, op: Claim, member: str, grants: Sequence[Grant], now: int) -> None:
        """What a claim tells about its partitions and their owners."""
        taken = {grant.partition for grant in grants}
        for p, end in op.ends:
            partition = self.ensure(p)
            partition.seen = max(partition.seen, end)
            if partition.owner == member:
                partition.tended = now
            elif p in taken:
                partition.waits_since = partition.waits_since or now

    # --- how --------------------------------------------------------------------------------

    def _claim_suspect(self, op: Claim, now: int, number: int, numbers: Sequence[int]) -> list[Grant]:
        """Claim the suspect with the most attempts that is due."""
        due = ((*found[:2], p, found) for p in numbers if (found := self.ensure(p).first_suspect(now)))
        if (first := min(due, default=None)) is None:
            return []
        rank, _, p, found = first
        offset = self.ensure(p).take_suspect(found)
        hold = Hold(p, [(offset, offset + 1)], number, -rank, 0, op.owner, suspect=True)
        return [self._grant(op, now, number, hold)]

    def _claim_again(self, op: Claim, now: int, number: int, numbers: Sequence[int], grants: list[Grant]) -> int:
        room = op.limit
        while room > 0:
            due = ((part.back[0].due, p) for p in numbers if (part := self.ensure(p)).back)
            first = min(due, default=None)
            if first is None or first[0] > now:
                break
            p = first[1]
            one = self.ensure(p).take_back(room)
            room -= one.stop - one.start
            hold = Hold(p, [(one.start, one.stop)], number, one.attempt, 0, op.owner)
            grants.append(self._grant(op, now, number, hold))
        return op.limit - room

    def _grant(self, op: Claim, now: int, number: int, hold: Hold) -> Grant:
        hold.due = now + op.visibility
        self._keep(hold)
        return Grant(hold.partition, *hold.runs[0], hold.attempt, number, hold.suspect)

    def _keep(self, hold: Hold) -> None:
        self.ensure(hold.partition).keep(hold)
        self._claims.setdefault(hold.claim, []).append(hold)

    def _forget(self, hold: Hold) -> None:
        del self.ensure(hold.partition).holds[hold]
        same = self._claims[hold.claim]
        if len(same) == 1:
            del self._claims[hold.claim]
        else:
            same.remove(hold)

    def _take_from(self, hold: Hold, start: int, stop: int) -> int:
        taken = cut(hold.runs, start, stop)
        if not hold.runs:
            self._forget(hold)
        return taken

    def _drop(self, p: int, start: int, stop: int) -> int:
        """Forget these, whoever holds them. Returns how many there were."""
        partition, dropped = self.ensure(p), 0
        for hold in [h for h in partition.holds if h.runs[0][0] < stop and start < h.runs[-1][1]]:
            dropped += self._take_from(hold, start, stop)
        return dropped + (partition.drop_returned(start, stop) if partition.returned else 0)

    def _run_out(self, hold: Hold, due: int) -> None:
        runs, hold.runs = hold.runs, []
        self._forget(hold)
        for run in runs:
            self.ensure(hold.partition).put_back(run, hold.attempt + hold.alone, due, suspect=True)

    def _tidy(self) -> None:
        for partition in self.partitions.values():
            partition.tidy()

    # --- whole ------------------------------------------------------------------------------

    def dump(self) -> snapshot.StoredChannel:
        partitions, marks, owned = [], [], []
        for number, partition in sorted(self.partitions.items()):
            runs, marked = _runs(partition)
            marks += [(number, start, *mark) for start, mark in marked if any(mark)]
            ahead = [offset for start, stop in partition.ahead for offset in range(start, stop)]
            partitions.append((number, partition.fresh, ahead, runs))
            if self.members or partition.owner or partition.seen:
                owned.append((number, partition.owner, partition.seen, partition.tended, partition.waits_since))
        return snapshot.StoredChannel(
            self.settled, self.voids, partitions, marks, self.lost, self.members, owned, self.since, self.topic
        )

    @classmethod
    def load(cls, dump: snapshot.StoredChannel) -> ChannelClaims:
        self = cls()
        self.settled, self.voids, self.lost = dump.settled, dump.voids, dump.lost
        self.members, self.since, self.topic = list(dump.members), dump.since, dump.topic
        marks = {mark[:2]: mark[2:] for mark in dump.marks}
        for number, fresh, ahead, runs in dump.partitions:
            partition = self.partitions[number] = Partition(fresh)
            for offset in ahead:
                add(partition.ahead, offset, offset + 1)
            holds = dict[tuple[object, ...], Hold]()
            for start, stop, claim, attempt, due, back in runs:
                name, suspect, alone = marks.get((number, start), ("", False, False))
                if back:
                    partition.put_back((start, stop), attempt, due, suspect=suspect)
                    continue
                same = (claim, attempt, due, name, suspect, alone)
                if same in holds:
                    holds[same].runs.append((start, stop))
                    continue
                hold = Hold(number, [(start, stop)], claim, attempt, due, name, suspect=suspect, alone=alone)
                holds[same] = hold
                self._keep(hold)
        for number, owner, seen, tended, since in dump.owned:
            partition = self.ensure(number)
            partition.owner, partition.seen, partition.tended, partition.waits_since = owner, seen, tended, since
        self.moved += 1
        return self


class WagonClaims:
    """All channels of a wagon, as of the records applied so far."""

    def __init__(self) -> None:
        self.channels: dict[str, ChannelClaims] = {}
        self.now = 0
        """The log's time, in ms: it never goes back, whatever the clocks of its leaders say."""
        self.format = 0
        """Of the log; 0 while it has no record."""
        self.members: dict[str, tuple[int, str]] = {}
        """When each member last wrote, and its process."""
        self._claims = 0
        self._checked = 0
        self.rebuilt = False
        """Rebuilt from a log that had lost its beginning: settled events may have come again."""

    def channel(self, name: str) -> ChannelClaims:
        """The channel of this name."""
        found = self.channels.get(name)
        if found is None:
            found = self.channels[name] = ChannelClaims()
        return found

    def owes_a_beat(self, member: str, now: float) -> bool:
        """Whether it would soon be dropped: events wait in its partitions, or others claim them, and it was silent."""
        last, _ = self.members.get(member, (inf, ""))
        return (
            len(self.members) > 1
            and last + TTL / 3 <= now
            and any(
                partition.waits_since
                for channel in self.channels.values()
                for partition in channel.partitions.values()
                if partition.owner == member
            )
        )

    def apply(self, offset: int, time: int, record: bytes) -> list[tuple[Op, list[Grant]]]:
        """Apply the next record of the log. Returns its proposals, and what each was granted."""
        self.now = now = max(self.now, time)
        member = ""
        results: list[tuple[Op, list[Grant]]] = []
        for op in decode(record):
            if isinstance(op, Format):
                self.format = self.format or 2
            elif isinstance(op, Member):
                member = op.name
                if member in self.members:
                    self.members[member] = (now, self.members[member][1])
            else:
                self.format = self.format or 1
                results.append((op, self._apply(op, now, offset, member)))
        if self.format > 1 and now >= self._checked + _CHECK:
            self._checked = now
            self._drop_silent(now)
        return results

    def _apply(self, op: Op, now: int, offset: int, member: str) -> list[Grant]:
        channel = self.channel(op.channel)
        match op:
            case Claim():
                self._claims += 1
                return channel.claim(op, now, self._claims, offset, member if self.format > 1 else None)
            case Settle():
                channel.settle(op.runs, op.held)
            case Release():
                if op.owner and self.format > 1:
                    self._end([name for name, (_, owner) in self.members.items() if owner == op.owner], now)
                return channel.release(op, now)
            case Extend():
                return channel.extend(op, now)
            case Void(lost=True):
                channel.lose(op.runs, now)
            case Void():
                channel.topic = channel.topic or op.topic
                channel.void(op.runs)
            case Join() if member and self.format > 1:
                if len(self.members) == 1:  # alone it owed nothing
                    self.members = {name: (now, owner) for name, (_, owner) in self.members.items()}
                self.members[member] = (now, op.owner)
                channel.join(member, op.partitions, op.channel, now)
            case Leave() if self.format > 1:
                channel.leave(member, op.channel, now)
                if not any(member in each.members for each in self.channels.values()):
                    self.members.pop(member, None)
            case Beat():
                channel.report(op.ends, member)
            case Renew() if self.format > 1:
                self.channels[op.channel] = channel.renewed(now, self._claims)
            case _:
                pass
        return []

    def _drop_silent(self, now: int) -> None:
        """Drop the members that owe a sign of life for longer than TTL: others own their partitions then. It concerns
        only who reads what; their claims stand until they expire."""
        silent = list[str]()
        for channel in self.channels.values():
            for partition in channel.partitions.values():
                if not partition.owner:
                    continue
                last = self.members.get(partition.owner, (0, ""))[0]
                if partition.known_waiting(now):
                    partition.waits_since = partition.waits_since or now
                elif last > partition.waits_since:
                    partition.waits_since = 0
                if partition.waits_since and max(partition.waits_since, last) + TTL < now:
                    silent.append(partition.owner)
        if len(self.members) > 1:
            self._end(dict.fromkeys(silent), now)

    def _end(self, members: Iterable[str], now: int) -> None:
        for member in members:
            self.members.pop(member, None)
            for name, channel in self.channels.items():
                channel.leave(member, name, now)

    def dump(self) -> bytes:
        """The whole state. A reader that starts from it gets the same answers as one that has read everything."""
        channels = {name: channel.dump() for name, channel in self.channels.items()}
        state = snapshot.Stored(self.now, self._claims, channels, self.rebuilt, self.members, self._checked)
        return snapshot.dump(state, self.format)

    def rebuild(self, before: int, records: Sequence[tuple[int, bytes]]) -> bytes:
        """Rebuild the state from the last records alone: events that they settle are settled, and all earlier events
        are given back and available at once. Claims get numbers that were not used before; members join anew."""
        new = WagonClaims()
        new.rebuilt, new._claims, new.format = True, _NUMBERS * before, 1
        known: dict[tuple[str, int], tuple[set[int], set[int], set[int]]] = {}
        for time, record in records:
            new.now = max(new.now, time)
            for op in decode(record):
                if isinstance(op, Format | Member):
                    new.format = 2
                    continue
                ended = isinstance(op, Settle | Void)
                runs = op.runs if isinstance(op, Settle | Void) else []
                held = op.held if isinstance(op, Settle | Release | Extend) else []
                for p, start, stop in (*runs, *((p, start, stop) for p, start, stop, _ in held)):
                    settled, voids, lost = known.setdefault((op.channel, p), (set(), set(), set()))
                    into = settled if isinstance(op, Settle) else lost if isinstance(op, Void) and op.lost else voids
                    if ended:
                        into.update(range(start, stop))
                    channel = new.channel(op.channel)
                    channel.ensure(p).fresh = max(channel.ensure(p).fresh, stop)
        for (name, p), (settled, voids, lost) in known.items():
            new.channel(name).rebuild(p, settled - voids - lost, voids - lost, lost, new.now)
        return new.dump()

    def load(self, dump: bytes) -> None:
        """Take over a state that another process dumped."""
        found, self.format = snapshot.load(dump)
        self.now, self._claims, self.rebuilt = found.now, found.claims, found.rebuilt
        self.members, self._checked = dict(found.members), found.checked
        self.channels = {name: ChannelClaims.load(channel) for name, channel in found.channels.items()}


def _runs(
    partition: Partition,
) -> tuple[list[snapshot.StoredRun], list[tuple[int, tuple[str, bool, bool]]]]:
    """What is held or back in order, with neighbours in the same state merged; and the further properties of each."""
    plain, suspect = ("", False, False), ("", True, False)
    each: list[tuple[snapshot.StoredRun, tuple[str, bool, bool]]]
    each = [((b.start, b.stop, 0, b.attempt, b.due, True), plain) for b in partition.back]
    each += [((s.start, s.stop, 0, -s.rank, s.due, True), suspect) for s in partition.suspects]
    for h in partition.holds:
        more = (h.name, h.suspect, h.alone)
        each += [((start, stop, h.claim, h.attempt, h.due, False), more) for start, stop in h.runs]
    merged: list[tuple[snapshot.StoredRun, tuple[str, bool, bool]]] = []
    for run, more in sorted(each):
        if merged and merged[-1][1] == more and merged[-1][0][1:] == (run[0], *run[2:]):
            merged[-1] = ((merged[-1][0][0], *run[1:]), more)
        else:
            merged.append((run, more))
    return [run for run, _ in merged], [(run[0], more) for run, more in merged]
