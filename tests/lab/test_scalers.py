"""What decides how many Pods there are: KEDA's rules look by look, and the product's own sizing on one
queue."""

from __future__ import annotations

from eventwagon.lab.arrivals import uniform
from eventwagon.lab.job import Job, figures
from eventwagon.lab.strategies.scalers import FeedForward, Keda
from eventwagon.lab.strategies.station import Fifo, ScalerView, Station


def looks(scaler: Keda, *lags: int) -> list[int]:
    """Pods after each look."""
    pods, found = 1, []
    for n, lag in enumerate(lags):
        pods = scaler.wanted(scaler.first + n * scaler.every, ScalerView(0, lag, 0, pods))
        found.append(pods)
    return found


def test_keda_goes_up_to_four_or_twice_as_many_at_a_look() -> None:
    assert looks(Keda(5.0, 1, 30, 1.0), 500, 500, 500, 500, 500) == [4, 8, 16, 30, 30]


def test_keda_leaves_a_tenth_alone() -> None:
    assert looks(Keda(10.0, 1, 30, 1.0), 30, 32, 34) == [3, 3, 4]


def test_keda_goes_down_once_the_last_300_seconds_wanted_fewer() -> None:
    found = looks(Keda(5.0, 1, 30, 1.0), 20, 10, *[0] * 20)
    assert found[:20] == [4] * 20  # the look at 16 s wanted two; the first one is 300 s ago at the 21st
    assert found[20:] == [2, 1]


def test_calm_traffic_is_served_by_what_it_needs() -> None:
    """40 a second for five minutes keep four workers busy: two Pods of four, and no more than three."""
    arrivals = uniform(12_000, 300.0, seed=2)
    job = Job(
        title="calm",
        arrivals=arrivals,
        services=[0.1] * len(arrivals),
        workers=4,
        each=4,
        spares=0,
        slo=2.0,
        limit="Wait(2.0)",
        per_pod=4,
    )
    row = figures(job, Station(job, Fifo(job), FeedForward(job)).run())
    assert row.on_time == 1.0
    assert row.worker_seconds_done / 300 < 12
