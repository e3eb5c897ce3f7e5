"""The strategies of the lab: what is known by hand, and what must hold for all."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.lab.arrivals import uniform
from eventwagon.lab.experiment import STRATEGIES, one
from eventwagon.lab.job import Job, figures
from eventwagon.lab.queueing import most_on_time, one_queue
from eventwagon.lab.strategies.rivals import RIVALS
from eventwagon.lab.strategies.station import Fifo, Lifo, ScalerView, Sideline, Station
from eventwagon.lab.strategies.wagons import WAGONS
from tests.fuzz import examples
from tests.lab.shapes import SHAPES


def job(arrivals: list[float], service: float = 1.0, **given: object) -> Job:
    options: dict[str, object] = {
        "title": "t",
        "services": [service] * len(arrivals),
        "workers": 1,
        "each": 1,
        "slo": 3.0,
        "limit": "Wait(3.0)",
        "wagons": 100,
        "start": 0.0,
        "spares": 1,
    }
    return Job(arrivals=arrivals, **{**options, **given})  # type: ignore[arg-type]


def test_the_oldest_the_newest_and_the_sideline_by_hand() -> None:
    burst = job([0.0, 0.1, 0.2, 0.3])
    assert Station(burst, Fifo(burst)).run().finished == [1.0, 2.0, 3.0, 4.0]
    assert Station(burst, Lifo(burst)).run().finished == [1.0, 4.0, 3.0, 2.0]
    # At 1.0 those of 0.1 and 0.2 have waited for longer than 0.75 s: they go aside, and come when nothing else waits.
    assert Station(burst, Sideline(burst, 0.75)).run().finished == [1.0, 3.0, 4.0, 2.0]


class Table:
    """Wants so many Pods from these moments on; looks every second."""

    every = first = 1.0

    def __init__(self, pods: dict[float, int]) -> None:
        self._pods = pods

    def wanted(self, now: float, seen: ScalerView) -> int:
        return max((at, pods) for at, pods in self._pods.items() if at <= now)[1]


def test_scaling_by_hand() -> None:
    """Five events at once; a second Pod asked for at 1.0, there at 2.0 after a rebalance of half a second, and given
    back at 5.0."""
    burst = job([0.0] * 5, spares=0, start=1.0)
    outcome = Station(burst, Fifo(burst), Table({1.0: 2, 5.0: 1}), pause=0.5).run()
    # One worker until 2.0, then nobody takes until 2.5, then two work.
    assert outcome.finished == [1.0, 2.0, 3.5, 3.5, 4.5]
    # Paid for from the moment it was asked for: two of them until the last is done, and until 5.0.
    assert outcome.until_done == pytest.approx(1.0 + 2 * 3.5)
    assert outcome.until_rest == pytest.approx(1.0 + 2 * 4.0)
    assert outcome.at_rest == 5.0
    assert figures(burst, outcome).worker_seconds_extra == pytest.approx(4.0)


def test_a_pod_on_its_way_is_the_first_to_go() -> None:
    burst = job([0.0] * 20, spares=0, start=10.0, per_pod=4, each=4)
    outcome = Station(burst, Fifo(burst), Table({1.0: 3, 2.0: 1})).run()
    assert max(outcome.finished) == 5.0  # none of them ever worked
    assert outcome.until_rest == pytest.approx(4 * 5.0 + 8 * 1.0)


def test_functions_are_paid_for_while_they_work() -> None:
    burst = job([0.0] * 50)
    outcome = one(burst, "serverless")
    assert outcome.until_rest == outcome.until_done == pytest.approx(50.0)
    assert max(outcome.finished) < max(one(burst, "fifo").finished)


@given(
    st.lists(st.floats(0, 50), min_size=1, max_size=60).map(sorted),
    st.sampled_from([0.25, 0.5, 1.0, 2.0]),
    st.integers(1, 4),
    st.sampled_from([2.0, 4.0]),
)
@examples(60)
def test_what_must_hold_for_all(arrivals: list[float], service: float, workers: int, slo: float) -> None:
    burst = job(arrivals, service, workers=workers, slo=slo)
    assert Station(burst, Fifo(burst)).run().finished == pytest.approx(one_queue(arrivals, (service,), workers))
    best = figures(burst, one(burst, "optimum")).on_time
    assert best == pytest.approx(most_on_time(arrivals, service, workers, slo) / len(arrivals))
    for name in RIVALS:
        outcome = one(burst, name)
        row = figures(burst, outcome)
        assert row.lost == 0
        assert all(done >= at + service - 1e-6 for at, done in zip(arrivals, outcome.finished, strict=True))
        assert row.worker_seconds >= row.worker_seconds_done - 1e-6 >= service * len(arrivals) - 2e-6
        assert row.worker_seconds_extra >= -1e-6
        assert row.on_time_least <= row.on_time + 1e-9
        assert row.on_time <= row.on_time_most + 1e-9
        if name in ("fifo", "newest_first", "sideline", "optimum"):  # the same workers: none is better than the optimum
            assert row.on_time <= best + 1e-9


@pytest.mark.parametrize("name", ["wagons", "wagons_each"])
def test_wagons_run_the_real_code_and_lose_nothing(name: str) -> None:
    burst = job(uniform(800, 10.0, seed=3), 0.1, workers=4, each=4, slo=2.0, limit="Wait(2.0)")
    outcome, again = one(burst, name), one(burst, name)
    row = figures(burst, outcome)
    assert outcome.finished == again.finished
    assert (row.lost, row.duplicates) == (0, 0)
    assert row.switches > 2
    assert sum(bar.events for bar in outcome.bars) == 800
    assert len(outcome.bars) > 2
    assert row.standing == (8 if name == "wagons_each" else 4)
    assert row.worker_seconds_done <= row.worker_seconds
    assert row.on_time > 3 * figures(burst, one(burst, "fifo")).on_time


@pytest.mark.parametrize("name", ["wagons_elastic", "wagons_elastic_no_spare"])
def test_elastic_wagons_follow_the_traffic(name: str) -> None:
    """80 events a second, which keep eight workers busy; eight stand, of which a spare has four."""
    burst = job(uniform(1600, 20.0, seed=3), 0.1, each=4, slo=2.0, limit="Wait(2.0)", start=1.0, per_pod=4)
    outcome, again = one(burst, name), one(burst, name)
    row = figures(burst, outcome)
    assert outcome.finished == again.finished
    assert (row.lost, row.duplicates, row.standing) == (0, 0, 8)
    assert row.on_time > 0.9
    assert row.worker_seconds_done <= row.worker_seconds
    # no more than as many workers again as the events keep busy, for as long as they come and two calms of 10 s
    assert 0 < row.worker_seconds_extra < 2 * 8 * (20 + 20)
    assert sum(bar.events for bar in outcome.bars) == 1600


def test_they_ask_for_no_more_than_they_may() -> None:
    burst = job(uniform(800, 5.0, seed=3), 0.1, each=4, slo=2.0, limit="Wait(2.0)", start=1.0, per_pod=4, most=8)
    for name in ("wagons_elastic", "feed_forward"):
        row = figures(burst, one(burst, name))
        assert row.lost == 0
        assert row.worker_seconds_extra <= 8.0  # those of a drained wagon, until they have left


def test_one_queue_and_wagons_are_sized_alike() -> None:
    """If no wagon is cut off, the same figures ask for the same workers: the queue's, and the spare's beside them."""
    arrivals = [*uniform(200, 20.0, seed=1), *(20.0 + at for at in uniform(1200, 20.0, seed=2))]
    burst = job(arrivals, 0.1, each=4, slo=4.0, limit="Wait(4.0)", start=1.0, per_pod=4)
    wagons, queue = (figures(burst, one(burst, name)) for name in ("wagons_elastic", "feed_forward"))
    assert (wagons.switches, wagons.standing, queue.standing) == (0, 8, 8)
    assert wagons.on_time == queue.on_time == 1.0
    assert (
        0 <= wagons.worker_seconds_extra - queue.worker_seconds_extra < 4 * 60
    )  # the spare has four that take nothing


def test_a_fixed_crew_with_wagons_is_near_the_optimum() -> None:
    burst = job(uniform(3000, 24.0, seed=1), 0.1, workers=8, each=8, slo=2.0, limit="Wait(2.0)", wagons=500)
    best = figures(burst, one(burst, "optimum")).on_time
    assert figures(burst, one(burst, "wagons")).on_time >= 0.98 * best


@pytest.mark.parametrize(
    "shape", ["beats, 10", "sawtooth, 8", "few large bursts", "heavy-tailed gaps", "wandering wildly", "wall"]
)
def test_arrivals_that_nobody_tuned_on(shape: str) -> None:
    """A sample of what `python -m tests.lab.shapes` measures, with events that are short against the promise."""
    events, service, workers = 1500, 0.05, 8
    arrivals = SHAPES[shape](events, events * service / workers / 2.0, random.Random(shape))
    burst = job(arrivals, service, workers=workers, each=workers, slo=2.0, limit="Wait(2.0)", wagons=500)
    best = figures(burst, one(burst, "optimum")).on_time
    assert figures(burst, one(burst, "wagons")).on_time >= 0.97 * best


def test_a_sideline_is_set_for_the_burst_where_the_work_is_unequal() -> None:
    """Some need longer than the promise. An age that leaves time for them too would put everything aside."""
    burst = job([n / 12 for n in range(240)], workers=2, slo=2.0)
    long = [3.0 if n % 20 == 0 else 0.1 + n % 3 / 10 for n in range(240)]
    unequal = job(list(burst.arrivals), workers=2, slo=2.0, services=long)
    shares = {name: figures(unequal, one(unequal, name)).on_time for name in ("fifo", "sideline")}
    assert shares["sideline"] > 2 * shares["fifo"]
    assert "the one with most on time" in one(unequal, "sideline").note


def test_newcomers_are_the_same_for_all() -> None:
    burst = job([0.0, 0.0, 0.0, 0.0, 0.0], slo=3.0)
    assert burst.behind() == [3, 4]
    row = figures(burst, one(burst, "newest_first"))
    assert (row.newcomers_p99_s, row.old_p99_s) == (2.0, 5.0)
    assert job([0.0, 9.0]).behind() == [0, 1]


def test_an_event_that_was_never_handled_is_lost() -> None:
    burst = job([0.0, 1.0])
    outcome = one(burst, "fifo")
    outcome.finished[1] = math.inf
    row = figures(burst, outcome)
    assert (row.lost, row.on_time) == (1, 0.5)


def test_every_strategy_has_a_name_and_says_what_it_is() -> None:
    assert set(STRATEGIES) == {*RIVALS, *WAGONS}
    burst = job([0.0, 0.1])
    for name in STRATEGIES:
        outcome = one(burst, name)
        assert outcome.strategy == name
        assert outcome.note
