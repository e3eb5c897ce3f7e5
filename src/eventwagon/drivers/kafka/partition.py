"""One partition in the claims rule: what is held, what is back, and what was never claimed. Pure.

An offset below `fresh` that is neither held nor back is settled, or has no event: nothing is kept for it.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from math import inf
from typing import NamedTuple

from .runs import Span, add, cut, size, within


class Hold:
    """Events that a claim has taken and that are not settled, until `due`."""

    __slots__ = ("alone", "attempt", "claim", "due", "name", "partition", "runs", "suspect")

    def __init__(
        self,
        partition: int,
        runs: list[Span],
        claim: int,
        attempt: int,
        due: int,
        name: str,
        *,
        suspect: bool = False,
        alone: bool = False,
    ) -> None:
        self.partition = partition
        self.runs = runs
        self.claim = claim
        self.attempt = attempt
        self.due = due
        self.name = name
        """The process that may be reclaimed from."""
        self.suspect = suspect
        self.alone = alone
        """If this claim expires, that counts as an attempt."""

    def __lt__(self, other: Hold) -> bool:
        return False  # heaps: among equals any order will do


class Back(NamedTuple):
    """Events that were given back, and can be claimed from `due` on."""

    due: int
    start: int
    stop: int
    attempt: int


class Suspects(NamedTuple):
    """Events whose claims expired. Those with the most attempts come first."""

    rank: int
    """The attempt, negative."""
    due: int
    start: int
    stop: int


class Partition:
    """One partition of a channel."""

    def __init__(self, fresh: int = 0) -> None:
        self.fresh = fresh
        """The first offset that was never claimed."""
        self.ahead: list[Span] = []
        """Offsets from `fresh` on that hold no event."""
        self.holds: dict[Hold, None] = {}
        self.ends: list[tuple[int, Hold]] = []
        """A heap: when claims expire. An entry is stale if its hold says otherwise."""
        self.back: list[Back] = []
        self.suspects: list[Suspects] = []
        self.returned = 0
        """Offsets in `back` and `suspects`, whether or not they are due."""
        self.owner = ""
        """The member that reads it, if any."""
        self.seen = 0
        """The farthest end that anybody has reported."""
        self.tended = 0
        """When it got its owner, or that last claimed from it, in ms; 0: its owner offers what waits to others."""
        self.waits_since = 0
        """Since when its owner owes a sign of life, in ms: events wait, or others claimed some. 0: it owes none."""

    # --- what there is ----------------------------------------------------------------------

    def held(self) -> int:
        """Offsets that were claimed and are not settled: in flight or back."""
        return self.returned + sum(size(hold.runs) for hold in self.holds)

    def known_waiting(self, now: float) -> int:
        """Events that can be claimed at this time, as far as any process has reported."""
        again = sum(b.stop - b.start for b in self.back if b.due <= now)
        again += sum(s.stop - s.start for s in self.suspects if s.due <= now)
        if self.ends and self.ends[0][0] <= now:
            again += sum(size(hold.runs) for hold in self.holds if hold.due <= now)
        return again + self.unclaimed()

    def unclaimed(self, end: int = 0) -> int:
        """Events that were never claimed, up to this end or as far as any process has reported."""
        return max(0, max(end, self.seen) - self.fresh - size(self.ahead))

    def due(self) -> float:
        """When events that are held or back can be claimed again, in ms; `inf` if there are none."""
        ends = self.ends
        while ends and not (ends[0][1].runs and ends[0][1].due == ends[0][0]):
            heappop(ends)
        due: float = min(ends[0][0] if ends else inf, self.back[0].due if self.back else inf)
        return min(due, min(s.due for s in self.suspects)) if self.suspects else due

    def waiting_again(self, now: float) -> int:
        """Offsets that were given back, and those whose claims expire by `now`."""
        if not self.ends or self.ends[0][0] > now:
            return self.returned
        return self.returned + sum(size(hold.runs) for hold in self.holds if hold.due <= now)

    def unsettled(self) -> list[Span]:
        """The offsets below `fresh` that are not settled, in order; runs may touch."""
        returned = [(b.start, b.stop) for b in self.back] + [(s.start, s.stop) for s in self.suspects]
        return sorted([*returned, *(run for hold in self.holds for run in hold.runs)])

    def first_unsettled(self) -> int:
        """Everything before this offset is settled."""
        return min(
            [self.fresh, *(b.start for b in self.back), *(s.start for s in self.suspects)]
            + [run[0] for hold in self.holds for run in hold.runs]
        )

    def waiting_span(self, end: int, now: float) -> Span | None:
        """The lowest and the highest offset that waits, if the partition ends at `end`."""
        waiting = [at for b in self.back for at in (b.start, b.stop - 1)]
        waiting += [at for s in self.suspects for at in (s.start, s.stop - 1)]
        waiting += [at for h in self.holds if h.due <= now for a, b in h.runs for at in (a, b - 1)]
        if self.fresh < end:
            last = end - 1
            for start, stop in reversed(self.ahead):
                if start <= last < stop:
                    last = start - 1
            waiting += (self.fresh, last)
        return (min(waiting), max(waiting)) if waiting else None

    def to_lose(self, start: int, now: float) -> list[Span]:
        """The events that are lost if the partition now begins at `start`, and not yet recorded as lost."""
        gone = [(b.start, b.stop) for b in self.back] + [(s.start, s.stop) for s in self.suspects]
        gone += [run for h in self.holds if h.due <= now for run in h.runs]
        if self.fresh < start:
            gone.append((self.fresh, start))
        lost: list[Span] = []
        for run in within(gone, 0, start):
            add(lost, *run)
        return lost

    # --- what changes it --------------------------------------------------------------------

    def keep(self, hold: Hold) -> None:
        """These are claimed until they are due."""
        self.holds[hold] = None
        heappush(self.ends, (hold.due, hold))

    def tidy(self) -> None:
        """Forget expired entries early, so that long claims of many small batches don't accumulate."""
        if len(self.ends) > 1000 + 2 * len(self.holds):
            self.ends = [(due, hold) for due, hold in self.ends if hold.runs and hold.due == due]
            heapify(self.ends)

    def take_fresh(self, end: int, room: int) -> list[Span]:
        """Claim the next events before `end`, at most `room` of them."""
        taken: list[Span] = []
        while room > 0 and self.fresh < end:
            stop = min(end, self.fresh + room)
            if self.ahead:
                stop = min(stop, self.ahead[0][0])
            taken.append((self.fresh, stop))
            room -= stop - self.fresh
            self.fresh = stop
            self._advance()
        return taken

    def skip(self, start: int, stop: int) -> int:
        """There is no event at these offsets, which were not claimed. Returns how many of them are new."""
        new = add(self.ahead, max(start, self.fresh), stop)
        self._advance()
        return new

    def put_back(self, run: Span, attempt: int, due: int, *, suspect: bool) -> None:
        """These can be claimed again from `due` on."""
        self.returned += run[1] - run[0]
        if suspect:
            heappush(self.suspects, Suspects(-attempt, due, *run))
        else:
            heappush(self.back, Back(due, *run, attempt))

    def take_back(self, room: int) -> Back:
        """Claim the first of what is back, at most `room` events."""
        first = heappop(self.back)
        if first.stop - first.start > room:
            heappush(self.back, first._replace(start=first.start + room))
            first = first._replace(stop=first.start + room)
        self.returned -= first.stop - first.start
        return first

    def first_suspect(self, now: int) -> Suspects | None:
        """The suspect with the most attempts that is due."""
        if not self.suspects or self.suspects[0].due <= now:
            return self.suspects[0] if self.suspects else None
        return min((s for s in self.suspects if s.due <= now), default=None)

    def take_suspect(self, found: Suspects) -> int:
        """Claim the first event of these suspects. Returns its offset."""
        self.suspects.remove(found)
        heapify(self.suspects)
        if found.stop - found.start > 1:
            heappush(self.suspects, found._replace(start=found.start + 1))
        self.returned -= 1
        return found.start

    def drop_returned(self, start: int, stop: int) -> int:
        """Forget what is back between these offsets. Returns how many events that were."""
        dropped = 0
        for hit in [b for b in self.back if b.start < stop and start < b.stop]:
            left = [(hit.start, hit.stop)]
            dropped += cut(left, start, stop)
            self.back.remove(hit)
            self.back += [Back(hit.due, *run, hit.attempt) for run in left]
        for one in [s for s in self.suspects if s.start < stop and start < s.stop]:
            left = [(one.start, one.stop)]
            dropped += cut(left, start, stop)
            self.suspects.remove(one)
            self.suspects += [Suspects(one.rank, one.due, *run) for run in left]
        if dropped:
            heapify(self.back)
            heapify(self.suspects)
        self.returned -= dropped
        return dropped

    def _advance(self) -> None:
        while self.ahead and self.ahead[0][0] <= self.fresh:
            self.fresh = max(self.fresh, self.ahead.pop(0)[1])
