"""How many workers each wagon should have if workers follow the traffic. Pure: no clock, no I/O, no memory."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from ..workers import Elastic
from .demand import LONGEST, Coming, Demand

_START = 2.0
"""Assumed start-up time of workers in seconds, until it has been measured once."""
_ONE_IN = math.log(100)
"""One event in a hundred may wait too long behind others that happened to arrive together."""
_CATCH_UP = 0.5
"""A backlog should be worked off within this share of the promise."""
_PRESSED = 0.3
"""If new events would wait longer than this share of the promise, more workers are needed than the rate asks for."""
_ENOUGH = 0.8
"""The next wagon may take over once it has this share of the active wagon's workers, or of those the rate needs."""
_RISE_MOST = 2.0
"""The trend is followed up to this multiple of the rate."""
_SWING = 3.0
"""Workers are released only if a rate this many standard deviations above the peak would not need them again."""
_STEP = 8
"""A wagon's workers are released, or increased again for a backlog, only by 1/8 or more: a few too many cost less than
asking for them again."""
_MORE = 1.25
"""If switches come fast, a wagon that has got workers gets more within the promise only if it needs so many times as
many: with the next switch they would go again."""
_REASON = 1e9
"""More workers than anyone has."""


class ElasticWagon(NamedTuple):
    """A live wagon and its workers."""

    number: int
    state: Literal["spare", "active", "draining"]
    """`spare`: it receives nothing yet."""
    outstanding: int | None
    """Events not settled, over all its channels; None: unknown."""
    asked: int
    """Workers asked for."""
    present: int
    """Workers attached, including those finishing their last event."""
    grown: float = math.inf
    """Seconds since more workers were last asked for."""
    active: float = math.inf
    """Seconds since it took over from another wagon; infinite if it has not."""
    closed: float = 0.0
    """Seconds since the wagon was cut off."""
    paused: bool = False
    name: str = ""


class _Want(NamedTuple):
    """How many workers one wagon should have, as if there were enough for all."""

    workers: int
    needed: int
    """Those of `workers` that waiting or arriving events need. The others stay until a calm is over."""
    why: str


class Sizing(msgspec.Struct, frozen=True):
    """How many workers each wagon should have, by wagon number, and why."""

    workers: Mapping[int, int]
    why: Mapping[int, str]
    short: str = ""
    """Why the promise can't be kept, and what would be needed; empty while it can be kept."""
    pressed: bool = False
    """New events have to wait, or will have to."""


class Outlook(NamedTuple):
    """What an event published now can expect."""

    wait: float
    """Seconds until a worker of the active wagon takes it, counting workers that are attached or starting."""
    relief: bool
    """The next wagon has enough workers to take over."""


def outlook(demand: Demand, wagons: Sequence[ElasticWagon], *, promise: float) -> Outlook | None:
    """The outlook for new events. None without an active wagon, or if its outstanding events or the time per event are
    unknown. None also while it has no workers and nothing waits or none are asked for (it sleeps or is just starting):
    another wagon would not help."""
    demand, wagons = _sound(demand), _sane(wagons)
    active = next((c for c in wagons if c.state == "active"), None)
    if active is None or active.outstanding is None or demand.service is None:
        return None
    if not active.present and not (active.outstanding and active.asked):
        return None
    spare = max((c.present for c in wagons if c.state == "spare"), default=0)
    load = math.inf if demand.rate is None else demand.rate * demand.service
    wait = _wait(active, demand)
    soon = min(wait, promise / 2)
    then = max([active.present, *(c.workers for c in _coming(active, demand) if c.seconds <= soon)])
    return Outlook(wait, spare > 0 and spare >= _ENOUGH * min(then, load))


def _coming(wagon: ElasticWagon, demand: Demand) -> Sequence[Coming]:
    """The wagon's workers that are starting, earliest first. If it is unknown when some were asked for, it is assumed
    to be now."""
    known = [c for c in demand.coming.get(wagon.number, ()) if wagon.present < c.workers <= wagon.asked]
    if wagon.asked > max([wagon.present, *(c.workers for c in known)]):
        known.append(Coming(wagon.asked, _start(demand)))
    return known


def _wait(wagon: ElasticWagon, demand: Demand) -> float:
    """Seconds until one of the wagon's workers is free for the next event."""
    service, at, workers = demand.service or 0.0, 0.0, wagon.present
    before = float(max(0, (wagon.outstanding or 0) - workers + (workers > 0)))
    for more in _coming(wagon, demand):
        done = workers * max(0.0, more.seconds - at) / service
        if workers and done >= before:
            break
        before, at, workers = before - done, max(at, more.seconds), more.workers
    return at + before * service / workers if workers else math.inf


def size(
    elastic: Elastic,
    demand: Demand,
    wagons: Sequence[ElasticWagon],
    *,
    promise: float,
    step: int = 1,
    reuse: bool = True,
    cuts: bool = True,
) -> Sizing:
    """How many workers each wagon should have. `wagons`: the live ones with their workers. `step`: workers are started
    and stopped in multiples of this (those of one Pod). `reuse`: a drained wagon's workers serve the next one. `cuts`:
    the limit cuts off a wagon in which new events have to wait (`Wait`). A single queue is an active wagon on its own,
    with `cuts=False`.

    The active wagon gets what its rate needs before a backlog builds up: rate (projected by its trend to the time when
    new workers have started) × time per event × headroom, plus what works off a backlog within half the promise. The
    next wagon is kept at `least` while the active one has room, and gets what the rate needs once new events have to
    wait. If new workers would come too late for the active wagon's backlog, they all go to the next one. Draining
    wagons keep their workers until they are nearly done. They get more if the events left once those have started need
    them to meet the promise or `drain_within`; if it is too late for that, enough to handle them within half the
    promise. Workers are released after a calm (`Demand.calm`), or once a rise has brought fewer events than expected;
    never more than are idle.

    The total never exceeds `most`. Each wagon gets `least` first or, with too many wagons for that, one `step`. Then
    the active wagon gets what new events need, the draining ones what they keep, and the spares what new events need.
    Workers kept only until a calm is over come last. No wagon gets workers that another still has.

    If a figure is missing or makes no sense, nothing changes: the wagon keeps what it has. So does a paused wagon.
    """
    demand, wagons = _sound(demand), _sane(wagons)
    step = max(1, step)
    least = elastic.rounded(step)
    most = max(least, elastic.most // step * step)
    need = _Need(elastic, demand, wagons, promise, step, least, reuse, cuts)
    wants = {wagon.number: need.of(wagon) for wagon in wagons}
    workers = _within(most, step, least, wagons, wants)
    why = {
        wagon.number: wants[wagon.number].why
        + ("" if workers[wagon.number] >= wants[wagon.number].workers else f"; the wagons share most={elastic.most}")
        for wagon in wagons
    }
    return Sizing(workers, why, need.short(workers, most), need.pressed)


class _Need:
    """What each wagon needs, as if there were enough workers for all."""

    def __init__(
        self,
        elastic: Elastic,
        demand: Demand,
        wagons: Sequence[ElasticWagon],
        promise: float,
        step: int,
        least: int,
        reuse: bool,
        cuts: bool,
    ) -> None:
        self.elastic, self.demand, self.promise, self.step, self.reuse = elastic, demand, promise, step, reuse
        self.least, self.wagons = least, wagons
        self.start = _start(demand)
        rate = demand.rate or 0.0
        self.rate = min(rate + demand.trend * (self.start + 1.0), _RISE_MOST * rate)
        """The expected rate once workers asked for now have started."""
        self.the_active = next((c for c in wagons if c.state == "active"), None)
        self.switches = self.the_active is not None and self.the_active.active < demand.calm
        """Switches come fast."""
        spares = [c for c in wagons if c.state == "spare"]
        self.next = max(spares, key=lambda c: (c.present > 0, -c.number), default=None)
        """The spare that takes over next."""
        self.warm = sum(
            c.asked for c in wagons if reuse and (c.state == "draining" or c in spares) and c is not self.next
        )
        """Workers that will serve new events without being asked for."""
        ahead = outlook(demand, wagons, promise=promise)
        self.behind = 0.0
        """Events that will wait in the active wagon by then, given the workers that are attached or starting."""
        self.too_late = False
        """Those events will hold up new ones for longer than promised."""
        if self.the_active is not None and demand.service is not None:
            self.behind, workers = self._then(self.the_active, demand.service, self.rate)
            enough = max(self.for_rate(self.rate), workers, step)
            self.too_late = self.behind * demand.service > promise * enough
        self.moves_on = self.too_late and cuts and self.next is not None
        """Further workers go to the next wagon only."""
        self.pressed = self.too_late or (ahead is not None and ahead.wait > _PRESSED * promise)
        """New events have to wait, or will have to."""

    def _then(self, wagon: ElasticWagon, service: float, rate: float) -> tuple[float, int]:
        """Waiting events, and attached workers, at the time when workers asked for now will have started. `rate`: the
        events per second that the wagon gets until then."""
        waiting, at, workers = float((wagon.outstanding or 0) - wagon.present), 0.0, wagon.present
        for more in [*_coming(wagon, self.demand), Coming(0, self.start)]:
            seconds = max(0.0, min(more.seconds, self.start) - at)
            waiting = max(0.0, waiting + (rate - workers / service) * seconds)
            at, workers = at + seconds, max(workers, more.workers)
        return waiting, workers

    def for_rate(self, rate: float) -> float:
        """Workers for that many events per second, if they arrive at random."""
        service = self.demand.service or 0.0
        load = rate * service
        room = max(self.promise - service, service / 4, 1e-9)
        by_chance = _ONE_IN * service / room * (1 + self.demand.spread**2) / 2 if rate else 0.0
        return max(load * self.elastic.headroom, load + by_chance)

    def of(self, wagon: ElasticWagon) -> _Want:
        if wagon.paused:
            return _Want(wagon.asked, wagon.asked, "it is paused")
        match wagon.state:
            case "active":
                return self.active(wagon)
            case "draining":
                return self.draining(wagon)
            case "spare":
                return self.spare(wagon)

    def active(self, wagon: ElasticWagon) -> _Want:
        demand, step, least, kept = self.demand, self.step, self.least, max(self.least, wagon.asked)
        if demand.service is None:
            return _Want(kept, kept, "the time of an event is not known yet")
        behind = 0.0 if self.moves_on else self.catch_up(wagon)
        words = self.figures(behind)
        wanted = max(least, whole_steps(self.for_rate(self.rate) + behind, step))
        if wanted > wagon.asked:
            if self.moves_on:
                return _Want(kept, kept, f"more would come too late for its backlog: {words}")
            # random swings of the rate ask for no workers: half the headroom must be used up
            needed = self.rate * demand.service * (1 + (self.elastic.headroom - 1) / 2) + behind
            times = _MORE if self.switches and wagon.grown < self.promise else 1.0
            got = wanted if needed > times * wagon.asked or wagon.asked < least else kept
            return _Want(got, got, words)
        if wagon.outstanding is None:
            return _Want(kept, kept, words)
        at_work = min(kept, max(wanted, whole_steps(wagon.outstanding, step)))
        if demand.peak is None or behind or not self.settled(wagon):
            return _Want(kept, at_work, words)
        highest = max(demand.peak + _SWING * math.sqrt(demand.peak / LONGEST), self.rate)
        enough = max(least, whole_steps(max(self.for_rate(highest), wagon.outstanding), step))
        if enough < kept and (kept - enough) * _STEP >= kept:
            since = f"for {demand.calm:.3g} s"
            if wagon.grown < demand.calm:
                since = f"in the rise of {wagon.grown:.3g} s ago"
            words = f"no more than {demand.peak:.3g} events/s {since}: {words}"
            return _Want(enough, min(enough, at_work), words)
        return _Want(kept, at_work, words)

    def settled(self, wagon: ElasticWagon) -> bool:
        """The workers last asked for have started, and new events have reached them."""
        return wagon.grown >= max(self.start, self.promise)

    def catch_up(self, wagon: ElasticWagon) -> float:
        """Workers on top of those for the rate, to work off the backlog in time; 0 while it is small. At most as many
        again: late events are late already. But as many as it takes for events that came at once, or were stored before
        any process ran: more than the rate brings in the time in which a backlog is worked off."""
        service, seconds = self.demand.service or 0.0, _CATCH_UP * self.promise
        backlog = min(self.behind, max(0, (wagon.outstanding or 0) - wagon.present))
        if backlog * service <= _PRESSED * self.promise * max(1, wagon.present):
            return 0.0
        at_once = (backlog - self.rate * seconds) * service / seconds
        return min(backlog * service / seconds, max(self.for_rate(self.rate), wagon.present, at_once))

    def draining(self, wagon: ElasticWagon) -> _Want:
        kept = max(self.least, wagon.asked)
        if wagon.outstanding is None:
            return _Want(kept, kept, "what it holds is unknown")
        left, service = whole_steps(wagon.outstanding, self.step), self.demand.service
        words, needed = f"{wagon.outstanding} events are left", self.least
        if service is not None:
            later, _ = self._then(wagon, service, 0.0)
            within = self.promise if self.elastic.drain_within is None else self.elastic.drain_within
            soonest = max(_CATCH_UP * min(within, self.promise), service)
            seconds = max(within - wagon.closed - self.start, soonest)
            takes = min(whole_steps(later * service / seconds, self.step), left)
            first = self.pressed and self.elastic.drain_within is None  # new events need them
            if takes > kept and (first or (takes - kept) * _STEP < takes):
                takes = kept  # new events come first, or about as many were asked for already
            needed = max(needed, takes)
            words += f", of {service:.3g} s of work each; {later:.3g} for {seconds:.3g} s once workers can be there"
        if self.reuse and self.pressed:
            kept = max(needed, kept)
            return _Want(kept, kept, f"{words}; then its workers serve new events")
        if 2 * left <= kept and wagon.closed >= max(self.start, self.promise):  # else it will soon be done
            kept = min(left, kept)
        kept = max(needed, kept)
        return _Want(kept, max(needed, min(left, kept)), words)

    def spare(self, wagon: ElasticWagon) -> _Want:
        demand, kept = self.demand, max(self.least, wagon.asked)
        if demand.service is None or demand.rate is None:
            return _Want(kept, self.least, "the arrival rate or the time of an event is not known yet")
        if not self.pressed:
            return _Want(self.least if self.settled(wagon) else kept, self.least, "the active wagon has room")
        if wagon is not self.next:
            return _Want(kept, self.least, "another one is next")
        wanted = whole_steps(self.for_rate(self.rate if self.too_late else demand.rate) - self.warm, self.step)
        needed = max(self.least, wanted)
        return _Want(max(kept, needed), needed, f"new events have to wait: {self.figures(0.0)}")

    def figures(self, behind: float) -> str:
        demand = self.demand
        rising = f", rising by {demand.trend:.2g} a second" if demand.trend else ""
        start = "not measured yet" if demand.start is None else f"{demand.start:.2g} s"
        backlog = f", {behind:.2g} more workers for the backlog" if behind else ""
        rate = "the arrival rate is not known yet" if demand.rate is None else f"{demand.rate:.3g} events/s"
        return (
            f"{rate}{rising}, {demand.service or 0.0:.3g} s of work each (spread "
            f"{demand.spread:.2g}), headroom {self.elastic.headroom:g}{backlog}; start-up of workers: {start}"
        )

    def short(self, workers: Mapping[int, int], most: int) -> str:
        wagon, demand = self.the_active, self.demand
        if wagon is None or wagon.paused or demand.service is None or demand.rate is None:
            return ""
        typical = demand.service / (1 + demand.spread**2)  # a few long ones among many short ones raise only the mean
        if typical >= self.promise and demand.rate:
            return f"an event takes {demand.service:.3g} s of work, more than the {self.promise:g} s that are promised"
        needed, others = whole_steps(self.for_rate(self.rate), self.step), sum(workers.values()) - workers[wagon.number]
        waits = self.pressed or self.behind * demand.service > self.promise * max(1, most - others)
        if waits and demand.rate * demand.service > most - others:
            taken = f" and {others} of them are in other wagons" if others else ""
            return f"new events need {needed} workers; most={most}{taken}: most={needed + others} would be needed"
        if demand.start is None:
            return ""  # a guess is not reported
        if self.too_late and self.start + self.behind * demand.service / max(1, most - others) > self.promise:
            work = max(0, (wagon.outstanding or 0) - wagon.present) * demand.service
            needed = max(needed, whole_steps(work / self.promise, self.step))
            return (
                f"new events need {needed} workers, and workers take {self.start:.2g} s to come: until then they wait "
                f"longer than the {self.promise:g} s that are promised; {_at_least(needed, most)} would be needed"
            )
        for each in self.wagons:
            left = each.outstanding
            if each.state != "draining" or each.paused or not left:
                continue
            wait = _wait(each._replace(asked=workers[each.number], outstanding=left - 1), demand)  # its last event's
            # an event that waits for its retry does not wait for a worker
            if wait > _PRESSED * self.promise and each.closed + wait > self.promise:
                seconds = max(self.promise - each.closed, _CATCH_UP * self.promise)
                # those that are there are too few, whatever the estimate
                needed = whole_steps(max(left * demand.service / seconds, each.present + 1), self.step)
                return (
                    f"{each.name} drains, and its {left} events need {needed} workers; it has {each.present}, "
                    f"and others take {self.start:.2g} s to come: some wait longer than the {self.promise:g} s that "
                    f"are promised; {_at_least(needed, most)} would be needed"
                )
        return ""


def _within(
    most: int, step: int, least: int, wagons: Sequence[ElasticWagon], wants: Mapping[int, _Want]
) -> dict[int, int]:
    """What is wanted, cut to `most` workers: no wagon gets workers that another still has. First each wagon gets one
    `step`, then `least` as far as workers are left: draining wagons must finish, and a spare without workers is no
    spare."""
    order = sorted(wagons, key=lambda c: (("active", "draining", "spare").index(c.state), c.number))
    given = {c.number: 0 for c in order}
    left = most
    for up_to in (
        lambda want: step,
        lambda want: least,
        lambda want: want.needed,
        lambda want: want.workers,
    ):
        for wagon in order:
            want = wants[wagon.number]
            more = max(0, min(up_to(want), want.workers) - given[wagon.number])
            more = min(more, left // step * step)
            given[wagon.number] += more
            left -= more
    has = {c.number: max(c.present, min(c.asked, given[c.number])) for c in wagons}
    free = max(0, most - sum(has.values())) // step * step
    for wagon in order:
        more = min(free, max(0, given[wagon.number] - has[wagon.number]))
        free -= more
        given[wagon.number] = min(given[wagon.number], has[wagon.number] + more)
    return given


def _at_least(needed: int, most: int) -> str:
    """The settings that would have kept the promise; `most` must be at least twice `least`."""
    return f"least={needed}" + (f", most={2 * needed}" if 2 * needed > most else "")


def _start(demand: Demand) -> float:
    return _START if demand.start is None else demand.start


def whole_steps(workers: float, step: int) -> int:
    """Rounded up to a multiple of `step`; at least 0."""
    return math.ceil(max(0.0, min(workers, _REASON)) / step - 1e-9) * step


def _sound(demand: Demand) -> Demand:
    """The demand with figures that make no sense made unknown."""

    def known(value: float | None, *, zero: bool = True) -> float | None:
        sensible = value is not None and math.isfinite(value) and (value > 0 or (zero and value == 0))
        return min(value, 1e12) if value is not None and sensible else None

    return Demand(
        rate=known(demand.rate),
        trend=known(demand.trend) or 0.0,
        peak=known(demand.peak),
        calm=demand.calm,
        service=known(demand.service, zero=False),
        spread=min(known(demand.spread) or 0.0, 10.0),
        start=known(demand.start),
        coming=demand.coming,
    )


def _sane(wagons: Sequence[ElasticWagon]) -> list[ElasticWagon]:
    return [
        c._replace(
            outstanding=None if c.outstanding is None else max(0, c.outstanding),
            asked=max(0, c.asked),
            present=max(0, c.present),
        )
        for c in wagons
    ]
