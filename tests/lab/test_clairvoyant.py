"""The clairvoyant scaler: nothing that a search through all plans finds is cheaper, and no strategy."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement, product

import msgspec
import pytest

from eventwagon.lab.experiment import one
from eventwagon.lab.job import Figures, Job, figures
from eventwagon.lab.scenarios import SCENARIOS, services
from eventwagon.lab.strategies.station import ScalerView, Sideline, Station

STEP = 0.5


class Written:
    """So many Pods from one look to the next."""

    first = 0.0
    every = STEP

    def __init__(self, pods: list[int]) -> None:
        self._pods = iter(pods)

    def wanted(self, now: float, seen: ScalerView) -> int:
        return next(self._pods, 0)


def small(start: float, share: float) -> Job:
    """A burst of five seconds for which one worker is too few."""
    moments = [0.5 + n / 4 for n in range(5)] + [3.0 + n / 12 for n in range(24)]
    return Job(
        title="small",
        arrivals=moments,
        services=[0.2] * len(moments),
        workers=1,
        each=1,
        spares=0,
        slo=1.0,
        limit="Wait(1.0)",
        start=start,
        per_pod=1,
        most=4,
        on_time=share,
    )


def every_plan(job: Job) -> list[Figures]:
    """All plans of up to two Pods more, each there for one stretch of half seconds."""
    steps = 14
    stretches = [(a, b) for a, b in product(range(steps), repeat=2) if (b - a) * STEP > job.start] + [(0, 0)]
    found = []
    for chosen in combinations_with_replacement(stretches, 2):
        pods = [1 + sum(a <= n < b for a, b in chosen) for n in range(steps)]
        station = Station(job, Sideline(job, job.slo - 0.2), Written(pods))
        found.append(figures(job, station.run()))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("start", [0.5, 2.0])
def test_no_plan_is_cheaper(start: float) -> None:
    plans = every_plan(small(start, 1.0))
    for share in (0.95, 1.0):
        job = small(start, share)
        row = figures(job, one(job, "clairvoyant_scaler"))
        least = min((p.worker_seconds_extra for p in plans if p.on_time >= share), default=math.inf)
        if math.isinf(least):
            assert row.on_time >= max(p.on_time for p in plans) - 0.04
        else:
            assert row.on_time >= share
            assert row.worker_seconds_extra <= least + 0.26  # half a step


@pytest.mark.parametrize("name", ["black-friday", "iot", "push"])
@pytest.mark.parametrize("start", [2.0, 10.0])
def test_no_strategy_is_cheaper(name: str, start: float) -> None:
    """Each is asked what its share on time would have cost one who knows all arrivals."""
    usual = SCENARIOS[name]
    events, seconds = usual.events // 10, usual.seconds / 4
    arrivals = usual.arrivals(events, seconds, 1)
    job = Job(
        title=name,
        arrivals=arrivals,
        services=[0.1] * events,
        workers=8,
        each=4,
        slo=usual.slo,
        limit="Wait(2.0)",
        start=start,
        per_pod=4,
    )
    for strategy in ("keda", "feed_forward"):
        row = figures(job, one(job, strategy))
        asked = msgspec.structs.replace(job, on_time=row.on_time)
        least = figures(asked, one(asked, "clairvoyant_scaler"))
        assert least.lost == 0
        assert least.on_time >= row.on_time - 0.02
        assert least.worker_seconds_extra <= row.worker_seconds_extra + 4.0


def test_enough_standing_workers_need_no_others() -> None:
    job = msgspec.structs.replace(small(1.0, 0.99), each=4)
    row = figures(job, one(job, "clairvoyant_scaler"))
    assert row.on_time == 1.0
    assert row.worker_seconds_extra == pytest.approx(0.0)


@pytest.mark.parametrize("service", ["0.05", "lognormal(0.05, 1)"])
def test_it_has_the_share_on_time_where_a_strategy_has_it(service: str) -> None:
    """With uneven work too, and where Pods come in hundreds."""
    arrivals = SCENARIOS["push"].arrivals(3_000, 30.0, 1)
    job = Job(
        title="push",
        arrivals=arrivals,
        services=services(service, len(arrivals), seed=1),
        workers=8,
        each=4,
        slo=3.0,
        limit="Wait(3.0)",
        start=0.5,
        per_pod=1,
        most=1000,
    )
    assert figures(job, one(job, "feed_forward")).on_time >= 0.99
    assert figures(job, one(job, "clairvoyant_scaler")).on_time >= 0.99
