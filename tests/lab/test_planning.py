"""The search of `plan`: against every setting of a small grid, and where a promise can't be kept."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

from eventwagon.lab.arrivals import black_friday, shaped, uniform
from eventwagon.lab.job import Job
from eventwagon.lab.planning import (
    KINDS,
    Point,
    best,
    cuts_of,
    of_kind,
    promise,
    run,
    search,
    settings_of,
    spares_of,
)
from eventwagon.lab.scenarios import services

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


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SMALL)
def test_the_search_finds_what_an_exhaustive_grid_finds(name: str) -> None:
    of = SMALL[name]
    wanted = promise(of, AIM)
    all_of_them = [run(kind, settings, 1.0, of.workers) for kind, settings in grid(of, wanted.least)]
    tried = list(search(of, wanted, 1.0, processes=1))
    for kind in KINDS:
        cheapest, found = best(of_kind(all_of_them, kind), wanted.aim), best(of_kind(tried, kind), wanted.aim)
        if cheapest.figures.on_time >= wanted.aim:
            assert found.figures.on_time >= wanted.aim
            assert found.cost <= cheapest.cost * 1.02, (kind, found.code, cheapest.code)
    kept = [trial for trial in all_of_them if trial.figures.on_time >= wanted.aim]
    assert best(tried, wanted.aim).cost <= 1.02 * min(trial.cost for trial in kept)
