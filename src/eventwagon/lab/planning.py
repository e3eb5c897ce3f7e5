"""Which settings a traffic wants: searched for in virtual time, the cheapest that keep the promise.

There are three kinds of wagons' workers, and they differ: shared by all wagons, a fixed number for each, a number that
follows the traffic. Of each kind the search begins with a few sizes, and then tries what is near the best so far, with
ever smaller steps, until nothing near it is cheaper. What would be dearer than the best even if it never had more than
its standing workers is not run. Beside them stands one queue without wagons.
"""

from __future__ import annotations

import math
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from typing import NamedTuple

import msgspec

from ..policy.elastic import whole_steps
from ..settings import Settings
from ..workers import Elastic, Workers
from .experiment import one
from .job import Figures, Job, Outcome, figures
from .queueing import at_most_on_time, oldest_in_time

KINDS = ("wagons", "wagons_each", "wagons_elastic")
MOST = 4096
"""Workers at a time: the search looks no further."""
_CUTS = (0.25, 0.5, 1.0)
"""At which part of the SLO a wagon is cut off."""
HAIR = 0.005
"""Where the promise can't be kept, this part less than the most that can be on time is as good."""
_SHARES = (0.25, 0.5, 1.0)
"""Of the fewest workers that keep the promise: the first sizes."""
_UNCUT = (1.0, 1.2, 1.5)
"""Of the workers with which one queue keeps the promise: further first sizes without a spare. With enough workers no
wagon is cut off, and the cost falls by those of the next one."""
_MOST_TIMES = 4
"""The ceiling of elastic workers while searching, if none is given: this multiple of the fewest that keep the
promise."""
_ROOM = 1.5
"""The recommended ceilings: this multiple of what the run needed."""
_CAPS = (32, 128)
"""Live wagons that are tried with today's workers."""
_FINE = 0.03
"""Sizes are searched to this part of themselves, at least to a single Pod."""
_SAME = 0.005
"""So much of the cost is no difference."""
_NEAR = 0.004
"""For today's workers: this much less on time is as good, if it takes fewer switches."""
_USUAL_WAGONS: int = Settings().wagons


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """What the traffic allows, whatever serves it."""

    asked: float
    """The share of events that should be on time."""
    ceiling: float
    """No order of work has a larger share on time."""
    oldest_first: float
    """The share on time if the oldest event that can still be on time is always next. With equal work this is the
    ceiling. With unequal work other orders may have more, but only by leaving long events to be late."""
    too_long: int
    """Events that need longer than the SLO for their work alone."""
    aim: float
    """The share that the plan is for: `asked`, or if that is more than `oldest_first`, a hair less than that."""
    least: int
    """The fewest workers that have that share on time, oldest first."""

    @property
    def refuted(self) -> bool:
        """Nothing can keep it."""
        return self.ceiling < self.asked


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that were tried, and their result."""

    strategy: str
    job: Job
    """With the cap of wagons that the run had."""
    figures: Figures
    cost: float
    """Cost of the traffic: the worker-seconds of the standing workers until the last arrival, and those beyond the
    standing workers, times the price of a worker-second."""
    calm_hour: float
    """What an hour without events costs: the standing workers."""
    live: int = 1
    """Most wagons that lived at a time."""

    @property
    def follows(self) -> bool:
        """Its workers follow the traffic."""
        return self.strategy == "wagons_elastic"

    @property
    def workers(self) -> Workers:
        """The setting `workers`. It allows one process for all wagons as many as they had in the run, where each had
        Pods of its own."""
        job = self.job
        if self.follows:
            return Workers(each=Elastic(job.each, job.most))
        if self.strategy == "wagons_each":
            usual, most = Workers(each=job.each), job.each * job.wagons
            return usual if most <= (usual.in_process or 0) else Workers(each=job.each, most=most)
        return Workers(total=job.workers, floor=job.floor)

    @property
    def short(self) -> str:
        """The workers in a few words."""
        job = self.job
        if self.strategy in ("wagons_each", "wagons_elastic"):
            return f"{self.workers!r}"[len("Workers(") : -1]
        return f"total={job.workers}" if self.strategy == "wagons" else str(job.workers)

    @property
    def code(self) -> str:
        """The settings as Python code."""
        job = self.job
        cap = "" if job.wagons == _USUAL_WAGONS else f", wagons={job.wagons}"
        return f"limit={job.limit}, workers={self.workers}, spares={job.spares}{cap}"


def promise(job: Job, on_time: float) -> Promise:
    """What can be had of the traffic at best, with no more workers at a time than `job.most` and MOST. Least 0 where no
    event can be on time."""
    too_long = sum(seconds > job.slo + 1e-9 for seconds in job.services)
    most = min(MOST, job.most, len(job.arrivals))
    oldest_first = _oldest_first(job, most)
    ceiling = oldest_first
    if not job.same_work:
        ceiling = at_most_on_time(job.arrivals, job.services, most, job.slo) / len(job.arrivals)
    aim = on_time if oldest_first >= on_time else oldest_first * (1 - HAIR)
    return Promise(
        asked=on_time,
        ceiling=ceiling,
        oldest_first=oldest_first,
        too_long=too_long,
        aim=aim,
        least=_fewest(lambda workers: _oldest_first(job, workers) >= aim, most) if ceiling else 0,
    )


def fewest(job: Job, on_time: float) -> int:
    """The fewest workers that have `on_time` of the events on time if the oldest that can still be on time is always
    next. If no number has, as many as have the most."""
    return promise(job, on_time).least


def one_queue(job: Job, aim: float) -> int | None:
    """The fewest fixed workers, in whole Pods, with which one queue has `aim` of the events on time; None if it takes
    too many."""

    def enough(size: int) -> bool:
        done, _ = oldest_in_time(job.arrivals, job.services, size * job.per_pod)
        return _share(job, done) >= aim

    most = min(MOST, job.most, pods(len(job.arrivals), job.per_pod)) // job.per_pod
    return _fewest(enough, most) * job.per_pod if enough(most) else None


def _oldest_first(job: Job, workers: int) -> float:
    """The share on time if the oldest event that can still be on time is always next."""
    done, _ = oldest_in_time(job.arrivals, job.services, workers, job.slo)
    return _share(job, done)


def _share(job: Job, done: Sequence[float]) -> float:
    return sum(end - at <= job.slo + 1e-9 for end, at in zip(done, job.arrivals, strict=True)) / len(done)


def _fewest(enough: Callable[[int], bool], most: int) -> int:
    """The smallest number that is enough; `most` is."""
    few, many = 0, 1
    while many < most and not enough(many):
        few, many = many, min(most, many * 2)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


class Point(NamedTuple):
    """Settings of one kind."""

    size: int
    """Workers of all wagons or of each; in Pods."""
    spares: int = 1
    cut: float = 0.5


def spares_of(kind: str) -> Sequence[int]:
    """Those that are tried. A second one costs as much as a larger wagon, which helps more; shared workers are never
    idle for a spare."""
    return (1,) if kind == "wagons" else (0, 1)


def cuts_of(kind: str) -> Sequence[float]:
    """Those that are tried. Where wagons have their own workers an early cut costs something."""
    return _CUTS if kind == "wagons" else _CUTS[1:]


def settings_of(job: Job, kind: str, point: Point, least: int) -> Job | None:
    """The job with these settings; None if they would have more workers than `job.most`."""
    workers = point.size * job.per_pod
    most = job.most
    if kind == "wagons_elastic":
        most = min(most // job.per_pod * job.per_pod, pods(_MOST_TIMES * max(least, workers), job.per_pod))
    live = {"wagons": 1, "wagons_each": 2 + point.spares, "wagons_elastic": max(2, 1 + point.spares)}[kind]
    if workers * live > most:
        return None
    return msgspec.structs.replace(
        job,
        limit=_limit(job, point.cut),
        spares=point.spares,
        workers=workers if kind == "wagons" else job.workers,
        each=workers,
        most=most,
        wagons=min(job.wagons, _USUAL_WAGONS),
    )


def _limit(job: Job, cut: float) -> str:
    return f"Wait({job.slo!r})" if cut == 0.5 else f"Wait({job.slo!r}, cut={cut})"


def pods(workers: float, per_pod: int) -> int:
    """`workers` rounded up to whole Pods, at least one; returns workers."""
    return max(per_pod, whole_steps(workers, per_pod))


class _Climb:
    """The search among the sizes of one kind with so many spares and these cuts, the first of them first. It says what
    to try next, and is given what came of it."""

    def __init__(self, kind: str, spares: int, cuts: Sequence[float], job: Job, wanted: Promise) -> None:
        self.kind = kind
        self._spares = spares
        self._cuts = cuts
        self._job = job
        self._wanted = wanted
        self._tried: dict[Point, Trial] = {}
        sizes = {math.ceil(wanted.least * share / job.per_pod) for share in _SHARES}
        if kind == "wagons":
            sizes = {max(sizes)}
        elif not spares and cuts == (1.0,) and (enough := one_queue(job, wanted.aim)) is not None:
            sizes |= {math.ceil(enough * more / job.per_pod) for more in _UNCUT}
        self._first = {Point(size, spares, cuts[0]) for size in sizes}
        self._step = max(1, max(sizes) // 4)

    def next(self, cost: float) -> dict[Point, Job]:
        """What to try now, as long as it might be cheaper than `cost`; nothing once the search is over."""
        orders = self._orders(self._first, cost)
        while self._tried and not (orders := self._orders(self._near(), cost)):
            if self._step <= self._finest():
                break
            self._step = max(self._finest(), self._step // 2)
        return orders

    def take(self, point: Point, trial: Trial) -> None:
        """What came of it."""
        self._tried[point] = trial

    def best(self) -> Trial | None:
        """So far; None if the ceiling of workers allows nothing of this kind."""
        return best(list(self._tried.values()), self._wanted.aim) if self._tried else None

    def _orders(self, points: set[Point], cost: float) -> dict[Point, Job]:
        orders = {}
        for point in sorted(points - self._tried.keys()):
            job = settings_of(self._job, self.kind, point, self._wanted.least)
            if job is None:
                continue
            standing = job.workers if self.kind == "wagons" else job.standing
            if standing * _lasts(job) < cost:
                orders[point] = job
        return orders

    def _finest(self) -> int:
        return max(1, round(_FINE * self._at().size))

    def _at(self) -> Point:
        found = self.best()
        return next(point for point, trial in self._tried.items() if trial is found)

    def _near(self) -> set[Point]:
        """The neighbours of the best so far: first other sizes alone, in the end other cuts too."""
        at = self._at()
        sizes = [size for size in (at.size - self._step, at.size, at.size + self._step) if size > 0]
        if self._step > self._finest():
            return {at._replace(size=size) for size in sizes}
        return {Point(size, self._spares, cut) for size, cut in product(sizes, self._cuts)}


def search(job: Job, wanted: Promise, price: float, *, processes: int) -> Iterator[Trial]:
    """Try settings of each kind, several at a time, each as it comes; in the end today's workers, and the best of each
    kind with lower ceilings."""
    climbs = [_Climb("wagons", 1, sorted(cuts_of("wagons"), key=lambda cut: abs(cut - 0.5)), job, wanted)]
    for kind in KINDS[1:]:  # the best size with one cut, or with a spare, is far from the best with another
        each = product(spares_of(kind), cuts_of(kind))
        climbs += [_Climb(kind, spares, (cut,), job, wanted) for spares, cut in each]
    try_ = partial(run, price=price, today=job.workers)
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        while orders := [
            (climb, point, of)
            for climb in climbs
            for point, of in climb.next(_cheapest(climbs, climb.kind, wanted.aim)).items()
        ]:
            trials = pool.map(try_, [climb.kind for climb, _, _ in orders], [of for _, _, of in orders])
            for (climb, point, _), trial in zip(orders, trials, strict=True):
                climb.take(point, trial)
                yield trial
        todays = list(pool.map(try_, ["wagons"] * len(_CUTS), _with_todays(job)))
        yield from todays
        again = [("wagons", of) for of in lower_ceilings(_steadiest(todays))]
        for kind in KINDS:
            if (found := _best_of(climbs, kind, wanted.aim)) is not None:
                again += [(kind, of) for of in lower_ceilings(found)]
        yield from pool.map(try_, [kind for kind, _ in again], [of for _, of in again])


def _best_of(climbs: Sequence[_Climb], kind: str, aim: float) -> Trial | None:
    found = [trial for climb in climbs if climb.kind == kind and (trial := climb.best()) is not None]
    return best(found, aim) if found else None


def _cheapest(climbs: Sequence[_Climb], kind: str, aim: float) -> float:
    """What is dearer need not be tried: worker-seconds, a little less than those of the best that keeps the promise."""
    found = _best_of(climbs, kind, aim)
    if found is None or found.figures.on_time < aim:
        return math.inf
    return (1 - _SAME) * _paid(found.job, found.figures)


def _with_todays(job: Job) -> Iterator[Job]:
    """The job with today's workers, shared by wagons."""
    for cut in _CUTS:
        yield msgspec.structs.replace(job, limit=_limit(job, cut), spares=1)


def lower_ceilings(trial: Trial) -> Iterator[Job]:
    """The trial's job with ceilings that are nearer to what its run needed. They have to be tried: a limit may cut a
    wagon later where fewer may live."""
    job = trial.job
    if trial.follows:
        most = max(pods(_ROOM * trial.figures.peak, job.per_pod), 2 * job.each, job.standing)
        if most < job.most:
            yield msgspec.structs.replace(job, most=most)
        return
    needed = max(math.ceil(_ROOM * trial.live), trial.live + 2)
    caps = (needed, 2 * needed) if trial.strategy == "wagons_each" else (*_CAPS, max(needed, _USUAL_WAGONS))
    yield from (msgspec.structs.replace(job, wagons=cap) for cap in sorted(set(caps)) if cap < job.wagons)


def run(strategy: str, job: Job, price: float, today: int) -> Trial:
    """Run it. The newcomers are those of one queue with `today` workers."""
    if strategy in KINDS:
        own = None if strategy == "wagons" else job.each
        job = msgspec.structs.replace(job, wagons=job.cap(own, job.spares))
    outcome = one(job, strategy)
    row = figures(msgspec.structs.replace(job, workers=today), outcome)
    return Trial(
        strategy=strategy,
        job=job,
        figures=row,
        cost=_paid(job, row) * price,
        calm_hour=row.standing * 3600 * price,
        live=_live(outcome),
    )


def _paid(job: Job, row: Figures) -> float:
    """Worker-seconds."""
    return row.standing * _lasts(job) + row.worker_seconds_extra


def _lasts(job: Job) -> float:
    """Seconds for which standing workers are paid: as long as events arrive, at least one."""
    return max(1.0, job.arrivals[-1])


def _live(outcome: Outcome) -> int:
    """Most wagons that lived at a time."""
    changes = sorted([(bar.opened, 1) for bar in outcome.bars] + [(bar.drained, -1) for bar in outcome.bars])
    live = most = 0
    for _, change in changes:
        live += change
        most = max(most, live)
    return max(1, most)


def of_kind(tried: Sequence[Trial], kind: str) -> list[Trial]:
    """Those of one kind."""
    return [trial for trial in tried if trial.strategy == kind]


def best(tried: Sequence[Trial], aim: float) -> Trial:
    """The cheapest that has `aim` of the events on time, with the fewest live wagons and switches. Where none has, the
    cheapest of those that have a hair less than the most."""
    good = [trial for trial in tried if trial.figures.on_time >= aim]
    if not good:
        most = max(trial.figures.on_time for trial in tried)
        good = [trial for trial in tried if trial.figures.on_time >= most * (1 - HAIR)]
    return min(
        good,
        key=lambda trial: (
            rough(trial.cost),
            trial.job.wagons,
            trial.job.most,
            "cut" in trial.job.limit,
            trial.figures.switches,
            -trial.figures.on_time,
        ),
    )


def cheapest_kind(kinds: Sequence[Trial], aim: float) -> Trial:
    """The cheapest of the best of each kind, during the traffic and after it; the first of those that cost the same."""
    good = [trial for trial in kinds if trial.figures.on_time >= aim]
    return min(good, key=lambda trial: (rough(trial.cost), trial.calm_hour)) if good else best(kinds, aim)


def rough(cost: float) -> float:
    """To three figures: less than that is no difference."""
    return float(f"{cost:.3g}")


def with_workers(tried: Sequence[Trial], workers: int) -> Trial | None:
    """The best for so many shared workers: as many on time as can be had, or nearly; of those the fewest switches, the
    fewest live wagons. None if they were not tried."""
    same = [trial for trial in of_kind(tried, "wagons") if trial.job.workers == workers]
    if not same:
        return None
    return _steadiest(same)


def _steadiest(tried: Sequence[Trial]) -> Trial:
    """Of those that have nearly the most on time the one with the fewest switches, then the fewest live wagons."""
    most = max(trial.figures.on_time for trial in tried)
    near = [trial for trial in tried if trial.figures.on_time >= most - _NEAR]
    return min(near, key=lambda trial: (trial.figures.switches, trial.job.wagons))
