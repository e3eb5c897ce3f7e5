"""Hand out: from which channel a free worker takes its next event."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..contracts.broker import Delivery
from ..event import born
from ..policy.scheduling import Candidate, ChainTimes, choose
from .prefetch import Prefetcher, WagonPrefetch
from .worker_runtime import PoolState, WagonState, WorkerRuntime

_STEADY = 0.001
"""Seconds for which a choice of wagon and channel holds: what choosing costs is spread over fast events."""
_ASIDE_MOST = 1000
"""Late events that are passed over and kept in hand."""


class Dispatcher:
    """Hands out the events of one pool's wagons. It owns the choice of the moment, what the floors have used of their
    share, and how long chains of events take.

    `slo`: the promise to newcomers in seconds that a shared pool works by.
    """

    def __init__(self, runtime: WorkerRuntime, pool: PoolState, *, slo: float | None) -> None:
        self.slo = slo
        self.floors = 0
        """How many of the pool's workers the floors of draining wagons may take together. Written by WorkerPool."""
        self.late = False
        """The choice is of what is late, or goes to the floors: what was passed over comes first."""
        self.wagons: list[WagonPrefetch] = []
        """The oldest first."""
        self._runtime = runtime
        self._pool = pool
        self._times = ChainTimes(["", *(name for name in runtime.handlers if name)])
        self._choice: Prefetcher | None = None
        self._choice_until = -math.inf
        self._credit = 1.0
        """Events that the floors may take now. They get their workers' share of all events, whatever the moment shows:
        of handlers that never wait none is at work when the next is chosen."""

    # --- which wagons ----------------------------------------------------------------------------

    def add(self, wagon: WagonPrefetch) -> None:
        """Hand out of this wagon too."""
        self.wagons.append(wagon)
        self.sort()

    def remove(self, wagon: WagonState) -> None:
        """Hand out nothing of it any more. Idempotent."""
        self.wagons = [each for each in self.wagons if each.wagon is not wagon]
        self.drop_choice(wagon)

    def sort(self) -> None:
        """Some wagon may have been cut off: the order of their ages may be another."""
        self.wagons.sort(key=_age)

    def drop_choice(self, wagon: WagonState) -> None:
        """Choose anew where this wagon had been chosen. Idempotent."""
        if self._choice is not None and self._choice.source.wagon is wagon:
            self._choice = None

    # --- what is next ----------------------------------------------------------------------------

    def next(self, now: float) -> Prefetcher | None:
        """The channel to take the next event from; None when nothing waits, or while a look past late events is under
        way. `now` is the loop's time."""
        pool = self._pool
        if pool.target:
            self._credit = min(max(1.0, self.floors), self._credit + self.floors / pool.target)
        choice = self._choice
        if (
            choice is not None
            and now < self._choice_until
            and (choice.fresh or (self.late and choice.aside))
            and not choice.source.circuit.held
        ):
            return choice
        self._choice_until = now + _STEADY
        self._choice = choice = self._choose()
        return choice

    def learn(self, source: str, delivery: Delivery, took: float) -> None:
        """A handler of the channel `source` has ended after `took` s: note how long the event waited and was handled,
        where it was on time. Not idempotent."""
        began = self._runtime.clock() - took
        if self.slo is not None and began - born(delivery.event) <= self.slo:
            self._times.learn(source, max(0.0, began - delivery.event.time), took)

    def _choose(self) -> Prefetcher | None:
        self.late = False
        if len(self.wagons) == 1 and self.slo is None:
            head = self.wagons[0].oldest()
            return head and head[0]
        wall, slo, remaining = self._runtime.clock(), self.slo, self._times.remaining()
        candidates, heads = self._candidates(wall, remaining)
        if slo is not None:
            if self._pass_over(candidates, heads, slo, wall, remaining[""]):
                candidates, heads = self._candidates(wall, remaining)
            # what is still behind late events is out of reach
            candidates = {
                n: c._replace(last_at=c.next_at or 0.0) if _is_late(c, wall - slo) else c for n, c in candidates.items()
            }
        number = choose(list(candidates.values()), floors=0, floor=0, slo=slo, service=remaining[""], now=wall)
        if number is None:
            return None
        kept = self._for_floors(candidates, wall, remaining[""])
        if kept is not None and kept != number:
            self._credit -= 1.0
            self._choice_until = -math.inf  # for one event, not for all workers that are free in this moment
            self.late = True
            return heads[kept]
        if slo is not None and _is_late(candidates[number], wall - slo):
            if any(head.looking for head in heads.values()):
                return None
            self.late = True
        return heads[number]

    def _pass_over(
        self,
        candidates: Mapping[int, Candidate],
        heads: Mapping[int, Prefetcher],
        slo: float,
        wall: float,
        service: float,
    ) -> bool:
        """Older wagons whose next event is late may hold some that are not: they come before those of newer wagons.
        Whether anything was put aside for that."""
        passed = False
        for number, head in heads.items():
            candidate = candidates[number]
            if not _is_late(candidate, wall - slo):
                break
            if head.buffer and candidate.last_at >= wall - slo + service:
                aside = sum(len(prefetcher.aside) for wagon in self.wagons for prefetcher in wagon)
                head.pass_over(slo - candidate.remaining, self._aside_most() - aside)
                passed = True
        return passed

    def _aside_most(self) -> int:
        """How many late events to have in hand: others may be free to work on them before these workers are."""
        pool, visibility = self._pool, self._runtime.settings.visibility
        return int(min(_ASIDE_MOST, visibility * pool.target / max(pool.handler_seconds, 1e-6)))

    def _candidates(
        self, wall: float, remaining: Mapping[str, float]
    ) -> tuple[dict[int, Candidate], dict[int, Prefetcher]]:
        """The wagons that are at work or have some, and the channel of each one's next event."""
        candidates: dict[int, Candidate] = {}
        heads: dict[int, Prefetcher] = {}
        for each in self.wagons:
            wagon, head = each.wagon, each.oldest()
            if head is not None or wagon.busy:
                number, cut, began, left = wagon.spec.number, wagon.spec.cut_off_at, None, 0.0
                last = wall if cut is None else cut
                if head is not None:
                    heads[number], began = head
                    left = remaining[head[0].source.channel.name]
                    last = began if head[0].spent else last
                candidates[number] = Candidate(number, cut is not None, began, last, wagon.busy, left)
        return candidates, heads

    def _for_floors(self, candidates: Mapping[int, Candidate], wall: float, service: float) -> int | None:
        """Where the floors of draining wagons would have a worker now; None when they have had their share of the
        events."""
        if not self.floors or self._credit < 1.0:
            return None
        floor = self._runtime.settings.workers.floor
        return choose(
            list(candidates.values()), floors=self.floors, floor=floor, slo=self.slo, service=service, now=wall
        )


def _age(each: WagonPrefetch) -> tuple[bool, float, int]:
    """The oldest first. Wagons are not always cut off in the order of their numbers."""
    cut_off_at = each.wagon.spec.cut_off_at
    return cut_off_at is None, cut_off_at or 0.0, each.wagon.spec.number


def _is_late(candidate: Candidate, before: float) -> bool:
    """The wagon's next event can't be on time any more; `before`: the promise ago."""
    return candidate.next_at is not None and candidate.next_at < before + candidate.remaining
