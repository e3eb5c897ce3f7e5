"""Hand out: decides from which channel a free worker takes its next event."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ..contracts.broker import Delivery
from ..event import born
from ..policy.scheduling import Candidate, ChainTimes, choose
from .prefetch import Prefetcher, WagonPrefetch
from .runtime import Runtime
from .worker_states import PoolState, WagonState

_STEADY = 0.001
"""Seconds for which a choice of wagon and channel holds, so that fast events share the cost of choosing."""
_ASIDE_MOST = 1000
"""The most late events that are put aside."""


class Dispatcher:
    """Decides from which channel of its wagons a pool's worker takes the next event, by `policy.scheduling`.

    It owns the current choice, the share of the floors that is used up, and how long chains of events take. `slo`: the
    promise to new events in seconds that a shared pool works by.
    """

    def __init__(self, runtime: Runtime, pool: PoolState, *, slo: float | None) -> None:
        self.late = False
        """Take the late events of the chosen channel, or those for a floor: first the ones that were put aside."""
        self.wagons: list[WagonPrefetch] = []
        """The oldest first."""
        self._runtime = runtime
        self._pool = pool
        self._slo = slo
        self._times = ChainTimes(["", *(name for name in runtime.handlers if name)])
        self._floors = 0
        self._choice: Prefetcher | None = None
        self._choice_until = -math.inf
        self._credit = 1.0
        """Events that the floors may take now. Floors get their workers' share of all events. Counting busy workers
        would not do: while handlers never wait, none is busy when the next event is chosen."""
        self._credit_most = 1.0

    # --- which wagons ----------------------------------------------------------------------------

    def add(self, wagon: WagonPrefetch) -> None:
        """Hand out this wagon's events, too."""
        self.wagons.append(wagon)
        self.sort()

    def remove(self, wagon: WagonState) -> None:
        """Hand out no more of its events. Idempotent."""
        self.wagons = [each for each in self.wagons if each.wagon is not wagon]
        self.drop_choice(wagon)

    def set_floors(self, floors: int) -> None:
        """Set how many of the pool's workers the floors of draining wagons may take together. Idempotent."""
        self._floors = floors
        self._credit_most = max(1.0, floors)
        self._credit = min(self._credit, self._credit_most)

    def sort(self) -> None:
        """Sort the wagons by age again: one may have been cut off."""
        self.wagons.sort(key=_age)

    def drop_choice(self, wagon: WagonState) -> None:
        """Choose again if this wagon is the current choice. Idempotent."""
        if self._choice is not None and self._choice.source.wagon is wagon:
            self._choice = None

    # --- what is next ----------------------------------------------------------------------------

    def next(self, now: float) -> Prefetcher | None:
        """The channel to take the next event from; None if nothing waits, or while events behind late ones are being
        fetched. `now` is the event loop's time."""
        pool = self._pool
        if self._credit < self._credit_most and pool.target:
            self._credit = min(self._credit_most, self._credit + self._floors / pool.target)
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
        if choice is not None and choice.source.budget is not None:
            self._choice_until = -math.inf  # for one event: it may be the last for which there is room
        return choice

    def learn(self, channel: str, delivery: Delivery, took: float) -> None:
        """A handler of this channel ended after `took` s: if the event was on time, record how long it waited and was
        handled. Not idempotent."""
        began = self._runtime.clock() - took
        if self._slo is not None and began - born(delivery.event) <= self._slo:
            self._times.learn(channel, max(0.0, began - delivery.event.time), took)

    def _choose(self) -> Prefetcher | None:
        self.late = False
        if self._pool.starved and self._pool.soon:
            self._pool.starved = False
            for wagon in self.wagons:
                wagon.refill()
        if len(self.wagons) == 1 and self._slo is None:
            head = self.wagons[0].oldest()
            return head and head[0]
        wall, slo, remaining = self._runtime.clock(), self._slo, self._times.remaining()
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
        """Older wagons whose next event is late may hold events that are still on time, and those come before the
        events of newer wagons: put the late ones aside. Returns whether there were any."""
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
        """How many late events to put aside: no more than the workers can handle before their claims expire."""
        pool, visibility = self._pool, self._runtime.settings.visibility
        return int(min(_ASIDE_MOST, visibility * pool.target / max(pool.handler_seconds, 1e-6)))

    def _candidates(
        self, wall: float, remaining: Mapping[str, float]
    ) -> tuple[dict[int, Candidate], dict[int, Prefetcher]]:
        """The wagons that workers serve or that have events, and the channel of each one's next event."""
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
                    if wagon.spec.replay:  # nothing is promised to its events
                        began = last = -math.inf
                candidates[number] = Candidate(number, cut is not None, began, last, wagon.busy, left)
        return candidates, heads

    def _for_floors(self, candidates: Mapping[int, Candidate], wall: float, service: float) -> int | None:
        """The channel from which the floors of draining wagons need an event now; None if they have had their share."""
        if not self._floors or self._credit < 1.0:
            return None
        floor = self._runtime.settings.workers.floor
        return choose(
            list(candidates.values()), floors=self._floors, floor=floor, slo=self._slo, service=service, now=wall
        )


def _age(each: WagonPrefetch) -> tuple[bool, int, float, int]:
    """A sort key, oldest first, and those for replays behind all that drain. Wagons are not always cut off in the order
    of their numbers."""
    spec = each.wagon.spec
    return spec.cut_off_at is None, spec.replay, spec.cut_off_at or 0.0, spec.number


def _is_late(candidate: Candidate, before: float) -> bool:
    """The wagon's next event can't be on time any more. `before`: now minus the promise."""
    return candidate.next_at is not None and candidate.next_at < before + candidate.remaining
