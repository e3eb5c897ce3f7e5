"""The search of `plan`: against every setting of a small grid, and where a promise can't be kept."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import permutations, product

import msgspec
import pytest

from eventwagon.lab.arrivals import black_friday, shaped, uniform
from eventwagon.lab.job import Job
from eventwagon.lab.planning import (
    KINDS,
    Point,
    best,
    cuts_of,
    lower_ceilings,
    of_kind,
    promise,
    run,
    search,
    settings_of,
    spares_of,
)
from eventwagon.lab.queueing import at_most_on_time, most_on_time
from eventwagon.lab.scenarios import services
from eventwagon.lab.strategies import wagons as strategies
from eventwagon.limits import Wait
from eventwagon.train import Train
from eventwagon.workers import Elastic, Workers

AIM = 0.98


def job(arrivals: list[float], work: list[float], *, slo: float = 2.0, **given: object) -> Job:
    options: dict[str, object] = {
        "title": "t",
        "workers": 2,
        "each": 1,
        "limit": f"Wait({slo!r})",
        "wagons": 500,
        "start": 1.0,
        "most": 1_000_000,
    }
    return Job(arrivals=arrivals, services=work, slo=slo, **{**options, **given})  # type: ignore[arg-type]


SMALL = {
    "burst": job(black_friday(80, 8.0, seed=1), [0.3] * 80),
    "spike": job(shaped([(0.0, 0.1), (0.4, 0.1), (0.41, 4.0), (0.5, 0.1), (1.0, 0.1)], 70, 14.0, seed=3), [0.3] * 70),
    "unequal work": job(uniform(100, 10.0, seed=4), services("exponential(0.2)", 100, seed=4)),
}


def grid(of: Job, least: int) -> Iterator[tuple[str, Job]]:
    """Every setting up to twice the fewest workers, or five."""
    for kind in KINDS:
        for each in product(range(1, max(5, 2 * least) + 1), spares_of(kind), cuts_of(kind)):
            if (settings := settings_of(of, kind, Point(*each), least)) is not None:
                yield kind, settings


def with_cap(kind: str, settings: Job) -> Job:
    """The settings with the cap of wagons that `run` runs them with."""
    return msgspec.structs.replace(
        settings, wagons=settings.cap(None if kind == "wagons" else settings.each, settings.spares)
    )


def key_of(kind: str, of: Job) -> tuple[str, bytes]:
    """The same for the same run."""
    return kind, msgspec.json.encode(of)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name",
    [pytest.param("burst", marks=pytest.mark.soak), pytest.param("spike", marks=pytest.mark.soak), "unequal work"],
)
def test_the_search_finds_what_an_exhaustive_grid_finds(name: str) -> None:
    of = SMALL[name]
    wanted = promise(of, AIM)
    tried = list(search(of, wanted, 1.0, processes=1))
    known = {key_of(trial.strategy, trial.job): trial for trial in tried}
    all_of_them = [
        known.get(key_of(kind, with_cap(kind, settings))) or run(kind, settings, 1.0, of.workers)
        for kind, settings in grid(of, wanted.least)
    ]
    for kind in KINDS:
        cheapest, found = best(of_kind(all_of_them, kind), wanted.aim), best(of_kind(tried, kind), wanted.aim)
        if cheapest.figures.on_time >= wanted.aim:
            assert found.figures.on_time >= wanted.aim
            assert found.cost <= cheapest.cost * 1.02, (kind, found.code, cheapest.code)
    kept = [trial for trial in all_of_them if trial.figures.on_time >= wanted.aim]
    assert best(tried, wanted.aim).cost <= 1.02 * min(trial.cost for trial in kept)


@pytest.mark.parametrize(
    ("kind", "point", "given"),
    [
        ("wagons_each", Point(6), {"most": 30}),
        ("wagons_each", Point(6, 0), {}),
        ("wagons_each", Point(3), {"wagons": 2}),
        ("wagons_elastic", Point(6), {"most": 14}),
        ("wagons_elastic", Point(4), {}),
        ("wagons", Point(12), {"wagons": 2}),
    ],
)
def test_the_settings_that_are_printed_are_those_that_ran(
    kind: str, point: Point, given: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a ceiling of workers allows fewer wagons than the cap, and in one process, which has a ceiling of its
    own."""
    of = job(black_friday(80, 8.0, seed=1), [0.3] * 80, **given)
    ran: list[Train] = []

    class Recorded(Train):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options)  # type: ignore[arg-type]
            ran.append(self)

    monkeypatch.setattr(strategies, "Train", Recorded)
    settings = settings_of(of, kind, point, 6)
    assert settings is not None
    trials = [run(kind, settings, 1.0, of.workers)]
    trials += [run(kind, lower, 1.0, of.workers) for lower in lower_ceilings(trials[0])]
    assert len(trials) == len(ran)
    for trial, train in zip(trials, ran, strict=True):
        names = {"Train": Train, "Wait": Wait, "Workers": Workers, "Elastic": Elastic}
        printed = eval(f"Train('t', {trial.code})", names).settings  # noqa: S307
        simulated = train.settings
        assert (printed.limit, printed.spares, printed.wagons) == (simulated.limit, simulated.spares, simulated.wagons)
        if kind != "wagons_each":
            assert printed.workers == simulated.workers
        else:
            assert printed.workers.each == simulated.workers.each
            assert printed.workers.in_process >= printed.wagons * printed.workers.each
        if kind != "wagons":
            assert printed.wagons * simulated.workers.own <= of.most
        assert trial.live <= printed.wagons


def most_in_any_order(arrivals: list[float], work: list[float], workers: int, slo: float) -> int:
    """By trying each order; an event that would be late is left out."""
    most = 0
    for order in permutations(range(len(arrivals))):
        free, on_time = [0.0] * workers, 0
        for i in order:
            first = free.index(min(free))
            end = max(arrivals[i], free[first]) + work[i]
            if end <= arrivals[i] + slo + 1e-9:
                free[first] = end
                on_time += 1
        most = max(most, on_time)
    return most


@pytest.mark.parametrize("workers", [1, 2])
def test_no_order_has_more_on_time_than_the_ceiling(workers: int) -> None:
    chance = random.Random(workers)
    exact = 0
    for _ in range(60):
        arrivals = sorted(chance.choice([0.0, chance.uniform(0, 12)]) for _ in range(6))
        work = [chance.choice([0.5, 1.0, chance.uniform(0.1, 6.0)]) for _ in arrivals]
        bound, most = at_most_on_time(arrivals, work, workers, 3.0), most_in_any_order(arrivals, work, workers, 3.0)
        assert bound >= most
        exact += bound == most
        assert at_most_on_time(arrivals, [1.0] * 6, workers, 3.0) >= most_on_time(arrivals, 1.0, workers, 3.0)
    assert exact >= 30  # it says something


def test_with_unequal_work_the_oldest_first_are_not_the_ceiling() -> None:
    """One worker: the long event first, and the three short ones are late; these first, and only the long one is."""
    of = job([0.0] * 4, [5.0, 1.0, 1.0, 1.0], slo=5.0, most=1)
    wanted = promise(of, 0.7)
    assert (wanted.ceiling, wanted.oldest_first, wanted.refuted) == (0.75, 0.25, False)
    assert wanted.aim == pytest.approx(0.25, abs=0.01)
    assert promise(of, 0.8).refuted
    same = promise(job([0.0] * 4, [2.0] * 4, slo=5.0, most=1), 0.7)
    assert (same.ceiling, same.oldest_first, same.refuted) == (0.5, 0.5, True)
