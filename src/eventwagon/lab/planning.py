"""Searches in virtual time for the cheapest settings that keep the promise for a traffic."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import msgspec

from ..policy.elastic import whole_steps
from ..workers import Elastic, Workers
from .experiment import one
from .job import Figures, Job, figures

_MOST = 4096
_CAPS = (32, 128)
_CUTS = (0.25, 0.5, 1.0)
_SHARES = (0.25, 0.5, 0.75, 1.0)
"""What each wagon has, as shares of the fewest workers that keep the promise."""
_MOST_TIMES = 4
"""The ceiling of elastic workers, if none is given: this many times the fewest workers that keep the promise."""
_NEAR = 0.004
"""A share on time that is lower by no more than this counts as equal, so that fewer switches decide."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """Settings that were tried, and their result."""

    strategy: str
    job: Job
    figures: Figures
    cost: float
    """Cost of the traffic: the worker-seconds of the standing workers until the last arrival, and those beyond the
    standing workers, times the price of a worker-second."""
    calm_hour: float
    """Cost of an hour without events: that of the standing workers."""

    @property
    def follows(self) -> bool:
        """True if the workers are elastic."""
        return self.strategy.startswith("wagons_elastic")

    @property
    def workers(self) -> Workers:
        """The setting `workers`."""
        job = self.job
        if self.follows:
            return Workers(each=Elastic(job.each, job.most))
        return Workers(each=job.each) if self.strategy == "wagons_each" else Workers(total=job.workers, floor=job.floor)

    @property
    def short(self) -> str:
        """The settings in a few words."""
        job = self.job
        workers = f"total={job.workers}" if self.strategy == "wagons" else repr(self.workers)[len("Workers(") : -1]
        return f"{workers} {job.limit} spares={job.spares}" + ("" if self.follows else f" cap {job.wagons}")

    @property
    def code(self) -> str:
        """The settings as Python code."""
        job = self.job
        cap = "" if self.follows else f", wagons={job.wagons}"
        return f"limit={job.limit}, workers={self.workers}, spares={job.spares}{cap}"


def fewest(job: Job, on_time: float) -> int:
    """The fewest workers with which a clairvoyant order of work has `on_time` of the events on time; fewer need not be
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
    """The settings to try, as pairs of strategy and job: today's number of workers, then shared ones from the fewest
    up, workers per wagon, and elastic workers from few standing ones up."""
    least = fewest(job, on_time)
    for cut in _CUTS:
        yield "wagons", _with(job, cut=cut)
    for more in (1.0, 1.1, 1.3):
        workers = max(least, round(least * more))
        yield "wagons", _with(job, workers=workers, each=workers)
    for share in _SHARES:
        yield "wagons_each", _with(job, each=pods(least * share, job.per_pod))
    for share in (0.0, *_SHARES):
        for spares in (0, 1):
            each = pods(least * share, job.per_pod)
            most = min(job.most, max(pods(_MOST_TIMES * least, job.per_pod), 2 * each))
            if most >= 2 * each:  # a wagon and the next one, spare or not
                yield "wagons_elastic", _with(job, each=each, spares=spares, most=most)


def pods(workers: float, per_pod: int) -> int:
    """`workers` rounded up to whole Pods, at least one; returns workers."""
    return max(per_pod, whole_steps(workers, per_pod))


def _with(job: Job, *, cut: float = 0.5, **changes: int) -> Job:
    limit = f"Wait({job.slo!r})" if cut == 0.5 else f"Wait({job.slo!r}, cut={cut})"
    return msgspec.structs.replace(job, **{"limit": limit, "spares": 1, **changes})


def search(job: Job, on_time: float, price: float, *, processes: int) -> Iterator[Trial]:
    """Try the candidates in `processes` processes and yield each result as it is ready; then try the best ones with
    fewer live wagons or one more spare."""
    tried: list[Trial] = []
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:

        def all_of(orders: list[tuple[str, Job]]) -> Iterator[Trial]:
            for candidate in pool.map(_try, orders, [price] * len(orders)):
                tried.append(candidate)
                yield candidate

        different = {(name, repr(each)): (name, each) for name, each in candidates(job, on_time)}
        yield from all_of(list(different.values()))
        orders = {}
        for found in (best(fixed(tried), on_time), with_workers(tried, job.workers)):
            if found.strategy == "wagons_each":
                more = msgspec.structs.replace(found.job, spares=2)
                orders[found.strategy, repr(more)] = (found.strategy, more)
            for cap in (cap for cap in _CAPS if cap < found.job.wagons):
                capped = msgspec.structs.replace(found.job, wagons=cap)
                orders[found.strategy, repr(capped)] = (found.strategy, capped)
        yield from all_of(list(orders.values()))


def _try(of: tuple[str, Job], price: float) -> Trial:
    return run(*of, price)


def run(strategy: str, job: Job, price: float) -> Trial:
    """Run the strategy on the job; `price` is that of a worker-second."""
    row = figures(job, one(job, strategy))
    paid = row.standing * job.arrivals[-1] + row.worker_seconds_extra
    return Trial(strategy=strategy, job=job, figures=row, cost=paid * price, calm_hour=row.standing * 3600 * price)


def fixed(tried: Sequence[Trial]) -> list[Trial]:
    """The trials whose workers are not elastic."""
    return [candidate for candidate in tried if not candidate.follows]


def elastic(tried: Sequence[Trial]) -> list[Trial]:
    """The trials whose workers are elastic."""
    return [candidate for candidate in tried if candidate.follows]


def best(tried: Sequence[Trial], on_time: float) -> Trial:
    """The cheapest trial with `on_time` of the events on time, and of equally cheap ones that with the fewest live
    wagons and switches; if there is none, the one with the most on time."""
    good = [candidate for candidate in tried if candidate.figures.on_time >= on_time]
    if good:
        return min(
            good,
            key=lambda one: (_rough(one.cost), one.job.wagons, one.figures.switches, -one.figures.on_time),
        )
    return max(
        tried, key=lambda candidate: (round(candidate.figures.on_time, 3), -candidate.cost, -candidate.job.wagons)
    )


def _rough(cost: float) -> float:
    """Rounded to three significant digits: smaller differences don't count."""
    return float(f"{cost:.3g}")


def with_workers(tried: Sequence[Trial], workers: int) -> Trial:
    """The best trial with so many shared workers: of those that have (nearly) the most on time, the one with the fewest
    switches, then the fewest live wagons."""
    same = [candidate for candidate in tried if candidate.strategy == "wagons" and candidate.job.workers == workers]
    most = max(candidate.figures.on_time for candidate in same)
    near = [candidate for candidate in same if candidate.figures.on_time >= most - _NEAR]
    return min(near, key=lambda candidate: (candidate.figures.switches, candidate.job.wagons))
