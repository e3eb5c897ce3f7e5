"""Which settings a traffic wants: searched for in virtual time, the cheapest that keep the promise."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import msgspec

from .experiment import one
from .job import Figures, Job, figures

_MOST = 4096
_CAPS = (32, 128)
_CUTS = (0.25, 0.5, 1.0)
_NEAR = 0.004
"""So much less on time is as good, where it takes fewer switches."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that were tried, and what came of them."""

    strategy: str
    job: Job
    figures: Figures
    cost: float
    """Worker-seconds × the price of one."""

    @property
    def short(self) -> str:
        """The settings in a few words."""
        job = self.job
        workers = f"each={job.each}" if self.strategy.startswith("wagons_elastic") else f"total={job.workers}"
        return f"{workers} {job.limit} spares={job.spares} cap {job.wagons}"

    @property
    def code(self) -> str:
        """The settings as Python."""
        job = self.job
        elastic = self.strategy.startswith("wagons_elastic")
        workers = f"Workers(each={job.each})" if elastic else f"Workers(total={job.workers}, floor={job.floor})"
        return f"limit={job.limit}, workers={workers}, spares={job.spares}, wagons={job.wagons}"


def fewest(job: Job, on_time: float) -> int:
    """The fewest workers with which a clairvoyant could have `on_time` of the events on time: fewer need not be
    tried."""

    def reached(workers: int) -> bool:
        tried = msgspec.structs.replace(job, workers=workers)
        return figures(tried, one(tried, "optimum")).on_time >= on_time

    few, many = 0, 1
    while not reached(many) and many < min(_MOST, len(job.arrivals)):
        few, many = many, many * 2
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if reached(middle) else (middle, many)
    return many


def candidates(job: Job, on_time: float) -> Iterator[tuple[str, Job]]:
    """What is worth trying: today's workers, shared ones from the fewest up, and wagons with workers of their own."""
    least = fewest(job, on_time)
    for cut in _CUTS:
        yield "wagons", _with(job, cut, workers=job.workers, each=job.each, spares=1)
    for more in (1.0, 1.1, 1.3):
        workers = max(least, round(least * more))
        yield "wagons", _with(job, 0.5, workers=workers, each=workers, spares=1)
    for share in (0.25, 0.5, 0.75, 1.0):
        yield "wagons_elastic", _with(job, 0.5, workers=job.workers, each=max(1, round(least * share)), spares=1)


def _with(job: Job, cut: float, *, workers: int, each: int, spares: int) -> Job:
    limit = f"Wait({job.slo!r})" if cut == 0.5 else f"Wait({job.slo!r}, cut={cut})"
    return msgspec.structs.replace(job, limit=limit, workers=workers, each=each, spares=spares)


def search(job: Job, on_time: float, price: float, *, processes: int) -> Iterator[Candidate]:
    """Try them, several at a time, each as it comes; then the best of them with fewer live wagons, or a spare more."""
    tried: list[Candidate] = []
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:

        def all_of(orders: list[tuple[str, Job]]) -> Iterator[Candidate]:
            for candidate in pool.map(_try, orders, [price] * len(orders)):
                tried.append(candidate)
                yield candidate

        different = {(name, repr(each)): (name, each) for name, each in candidates(job, on_time)}
        yield from all_of(list(different.values()))
        orders = {}
        for found in (best(tried, on_time), with_crew(tried, job.workers)):
            if found.strategy == "wagons_elastic":
                more = msgspec.structs.replace(found.job, spares=2)
                orders[found.strategy, repr(more)] = (found.strategy, more)
            for cap in (cap for cap in _CAPS if cap < found.job.wagons):
                capped = msgspec.structs.replace(found.job, wagons=cap)
                orders[found.strategy, repr(capped)] = (found.strategy, capped)
        yield from all_of(list(orders.values()))


def _try(of: tuple[str, Job], price: float) -> Candidate:
    name, job = of
    row = figures(job, one(job, name))
    return Candidate(strategy=name, job=job, figures=row, cost=row.worker_seconds * price)


def best(tried: Sequence[Candidate], on_time: float) -> Candidate:
    """The cheapest that has `on_time` of the events on time, with the fewest live wagons; where none has, the one with
    most on time."""
    good = [candidate for candidate in tried if candidate.figures.on_time >= on_time]
    if good:
        return min(
            good, key=lambda candidate: (round(candidate.cost, 2), candidate.job.wagons, -candidate.figures.on_time)
        )
    return max(
        tried, key=lambda candidate: (round(candidate.figures.on_time, 3), -candidate.cost, -candidate.job.wagons)
    )


def with_crew(tried: Sequence[Candidate], workers: int) -> Candidate:
    """The best for so many shared workers: as many on time as can be had, or nearly; of those the fewest switches, the
    fewest live wagons."""
    same = [candidate for candidate in tried if candidate.strategy == "wagons" and candidate.job.workers == workers]
    most = max(candidate.figures.on_time for candidate in same)
    near = [candidate for candidate in same if candidate.figures.on_time >= most - _NEAR]
    return min(near, key=lambda candidate: (candidate.figures.switches, candidate.job.wagons))
