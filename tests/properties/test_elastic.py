"""What holds for the numbers of workers that follow the traffic, whatever the figures."""

from __future__ import annotations

import copy
import math
import random
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon import Elastic, Settings, UsageError, Volume, Wait, Workers
from eventwagon.contracts.orchestrator import Work
from eventwagon.contracts.reading import Sample
from eventwagon.policy.demand import Demand, Peak, Starts, Works, arrival_rate, calm_for
from eventwagon.policy.elastic import ElasticWagon, outlook, size
from eventwagon.workers import parse_workers

figures = st.floats(0, 1e4)
odd = st.none() | st.floats(allow_nan=True, allow_infinity=True) | st.integers(-10, 10).map(float)


@st.composite
def elastics(draw: st.DrawFn) -> Elastic:
    least = draw(st.integers(1, 20))
    return Elastic(
        least,
        2 * least + draw(st.integers(0, 200)),
        headroom=draw(st.floats(1, 3)),
        drain_within=draw(st.none() | st.floats(0.1, 100)),
    )


@st.composite
def demands(draw: st.DrawFn) -> Demand:
    rate = draw(st.floats(0, 1000))
    return Demand(
        rate=rate,
        trend=draw(st.floats(0, 100)),
        peak=draw(st.none() | st.floats(0, 100).map(lambda more: rate + more)),
        service=draw(st.floats(0.001, 10)),
        spread=draw(st.floats(0, 3)),
        start=draw(st.none() | st.floats(0, 60)),
    )


@st.composite
def trains(draw: st.DrawFn, elastic: Elastic) -> list[ElasticWagon]:
    """Draining wagons, an active one and spares, that have as many workers as they were ever given: together at most as
    many as there may be."""
    states: Any = [*["draining"] * draw(st.integers(0, 3)), "active", *["spare"] * draw(st.integers(0, 2))]
    wagons, left = [], elastic.most
    for number, state in enumerate(states, 1):
        present = draw(st.integers(0, left))
        left -= present
        outstanding = None if draw(st.integers(0, 9)) == 0 else draw(st.integers(0, 5000))
        more = draw(st.integers(0, left))
        left -= more
        wagons.append(
            ElasticWagon(
                number,
                state,
                outstanding if state != "spare" else None,
                present + more,
                present,
                grown=draw(st.floats(0, 100)),
                closed=draw(st.floats(0, 100)),
                paused=draw(st.integers(0, 9)) == 0,
            )
        )
    return wagons


@given(st.data(), elastics(), demands(), st.floats(0.1, 60), st.integers(1, 8), st.booleans(), st.booleans())
def test_never_beyond_most(
    data: st.DataObject, elastic: Elastic, demand: Demand, promise: float, step: int, reuse: bool, cuts: bool
) -> None:
    wagons = data.draw(trains(elastic))
    found = size(elastic, demand, wagons, promise=promise, step=step, reuse=reuse, cuts=cuts)
    rounded = -(-elastic.least // step) * step
    most = max(elastic.most, rounded)
    assert sum(found.workers.values()) <= most
    assert set(found.workers) == {c.number for c in wagons} == set(found.why)
    for wagon in wagons:  # what is there still counts: nobody gets what another has not let go
        grown = found.workers[wagon.number] - max(wagon.present, wagon.asked)
        if grown > 0:
            assert sum(max(c.present, min(c.asked, found.workers[c.number])) for c in wagons) <= most
    assert all(found.why.values())


@given(st.data(), elastics(), demands(), st.floats(0.1, 60), st.integers(1, 8), st.booleans())
def test_least_is_kept_unless_there_are_too_few_for_all(
    data: st.DataObject, elastic: Elastic, demand: Demand, promise: float, step: int, reuse: bool
) -> None:
    wagons = data.draw(trains(elastic))
    found = size(elastic, demand, wagons, promise=promise, step=step, reuse=reuse)
    least = -(-elastic.least // step) * step
    if len(wagons) * least <= elastic.most:
        assert all(found.workers[c.number] >= min(c.asked, least) for c in wagons)


@given(st.data(), elastics(), demands(), st.floats(1, 4), st.floats(0.1, 60))
def test_more_events_never_take_fewer_workers(
    data: st.DataObject, elastic: Elastic, demand: Demand, times: float, promise: float
) -> None:
    """Of the same active wagon, alone, with the same workers."""
    asked = data.draw(st.integers(elastic.least, elastic.most))
    wagon = ElasticWagon(1, "active", data.draw(st.integers(0, 100)), asked, asked)
    assert demand.rate is not None
    peak = None if demand.peak is None else demand.peak * times
    more = msgspec.structs.replace(demand, rate=demand.rate * times, trend=demand.trend * times, peak=peak)
    fewer, many = (size(elastic, d, [wagon], promise=promise, cuts=False).workers[1] for d in (demand, more))
    assert fewer <= many


@given(st.data(), elastics(), demands(), st.floats(0.1, 60))
def test_workers_with_events_in_hand_are_not_taken(
    data: st.DataObject, elastic: Elastic, demand: Demand, promise: float
) -> None:
    """The active wagon never has fewer workers than events, unless it had, or as many as there may be are there: each
    wagon needs some. A worker that is taken then finishes its event first."""
    wagons = data.draw(trains(elastic))
    found = size(elastic, demand, wagons, promise=promise)
    there = sum(max(c.present, found.workers[c.number]) for c in wagons)
    for wagon in wagons:
        if wagon.state == "active" and wagon.outstanding is not None:
            kept = found.workers[wagon.number] >= min(wagon.asked, wagon.outstanding, wagon.present)
            assert kept or there >= elastic.most


@given(
    elastics(), odd, odd, odd, odd, odd, odd, st.integers(-5, 100), st.integers(-5, 100), st.none() | st.integers(-5, 5)
)
def test_bad_and_missing_figures_have_an_answer(
    elastic: Elastic,
    rate: Any,
    trend: Any,
    peak: Any,
    service: Any,
    spread: Any,
    start: Any,
    asked: int,
    there: int,
    outstanding: int | None,
) -> None:
    demand = Demand(rate=rate, trend=trend or 0.0, peak=peak, service=service, spread=spread or 0.0, start=start)
    wagons = [
        ElasticWagon(1, "draining", outstanding, asked, there),
        ElasticWagon(2, "active", outstanding, asked, there),
        ElasticWagon(3, "spare", None, asked, 0),
    ]
    found = size(elastic, demand, wagons, promise=2.0)
    assert all(n >= 0 for n in found.workers.values())
    assert sum(found.workers.values()) <= elastic.most
    ahead = outlook(demand, wagons, promise=2.0)
    assert ahead is None or ahead.wait >= 0


@given(elastics(), st.integers(1, 64), st.integers(0, 1000))
def test_what_is_unknown_changes_nothing(elastic: Elastic, asked: int, outstanding: int) -> None:
    """A backlog counts though the rate is not known yet, but no worker goes."""
    asked = min(max(asked, elastic.least), elastic.most)
    wagon = ElasticWagon(1, "active", outstanding, asked, asked)
    for demand in (Demand(), Demand(rate=100.0)):
        assert size(elastic, demand, [wagon], promise=1.0).workers == {1: asked}
    assert size(elastic, Demand(service=1.0), [wagon], promise=1.0).workers[1] >= asked
    assert size(elastic, Demand(service=1.0), [wagon._replace(outstanding=0)], promise=1.0).workers == {1: asked}


class Watched:
    """One active wagon under a constant load, looked at ten times a second: how often it is scaled."""

    def __init__(self, elastic: Elastic, service: float) -> None:
        self.elastic, self.service, self.asked = elastic, service, elastic.least
        self.scalings: list[tuple[float, int]] = []
        self._samples: list[Sample] = []
        self._peak = Peak()
        self._grown = -math.inf

    def look(self, at: float, published: int, outstanding: int) -> None:
        self._samples = [*self._samples[-599:], Sample(at, published, published - outstanding, outstanding)]
        rate = arrival_rate(self._samples)
        calm = calm_for(2.0)
        demand = Demand(
            rate=rate.now if rate else None,
            trend=rate.trend if rate else 0.0,
            peak=self._peak.look(rate.now if rate else None, calm, at),
            calm=calm,
            service=self.service,
            start=2.0,
        )
        wagon = ElasticWagon(1, "active", outstanding, self.asked, self.asked, grown=at - self._grown)
        wanted = size(self.elastic, demand, [wagon], promise=2.0).workers[1]
        if wanted != self.asked:
            self._grown = at if wanted > self.asked else self._grown
            self.asked = wanted
            self.scalings.append((at, wanted))


@pytest.mark.parametrize(("rate", "seed"), [(3.0, 1), (17.0, 2), (60.0, 3), (333.0, 4)])
def test_calm_traffic_is_not_scaled(rate: float, seed: int) -> None:
    """Ten minutes of Poisson arrivals at a constant rate: at most one scaling after it has settled, and few before."""
    chance, watched = random.Random(seed), Watched(Elastic(2, 64), 0.1)
    published, following = 0, chance.expovariate(rate)
    for look in range(6_000):
        at = look / 10
        while following <= at:
            published += 1
            following += chance.expovariate(rate)
        watched.look(at, published, min(published, int(rate * 0.1)))
    settled = [at for at, _ in watched.scalings if at > 30]
    assert len(settled) <= 1, watched.scalings
    assert len(watched.scalings) <= 3, watched.scalings
    assert rate * 0.1 <= watched.asked <= rate * 0.1 * 1.5 + 2


def test_a_rise_is_seen_within_half_a_second() -> None:
    """From 20 to 200 a second at second 30."""
    watched, published = Watched(Elastic(2, 64), 0.1), 0.0
    for look in range(400):
        at = look / 10
        published += 2 if at < 30 else 20
        watched.look(at, int(published), 2)
    risen = next(at for at, workers in watched.scalings if workers >= 20)
    assert 30 < risen <= 30.6


def test_events_that_come_at_once_are_no_rate() -> None:
    """Ten that were held back: a backlog of ten, which two workers handle within the promise."""
    watched = Watched(Elastic(2, 64), 0.1)
    for look in range(1200):
        watched.look(look / 10, 10 if look >= 600 else 0, 10 if 600 <= look < 605 else 0)
    assert watched.scalings == []


@given(st.lists(st.tuples(st.floats(0, 5), st.integers(0, 1000)), max_size=50))
def test_rates_are_sound(looks: list[tuple[float, int]]) -> None:
    samples, at, published = [], 0.0, 0
    for apart, more in looks:
        at, published = at + apart, published + more
        samples.append(Sample(at, published, 0, 0))
    rate = arrival_rate(samples)
    assert rate is None or (math.isfinite(rate.now) and rate.now >= 0 and rate.trend >= 0)


def test_service_time_is_of_the_last_handlings() -> None:
    assert Works().mean is None
    works, count, seconds = Works(), 0, 0.0
    for look in range(200):
        took = 0.1 if look < 100 else 0.3
        count, seconds = count + 10, seconds + 10 * took
        works.add({"1": Work(count=count, seconds=seconds, squares=1.0)}, look / 10)
    mean, _ = works.mean or (0.0, 0.0)
    assert mean == pytest.approx(0.3, rel=0.01)
    works.add({"1": Work(count=5, seconds=0.5)}, 21.0)  # its process was started anew
    assert works.mean is not None


def test_starts_are_measured_from_asking_to_being_there() -> None:
    assert Starts().usual is None
    starts = Starts()
    starts.look([(1, 4, 4)], 0.0)
    starts.look([(1, 8, 4)], 1.0)
    starts.look([(1, 12, 4)], 2.0)
    starts.look([(1, 12, 8)], 4.0)
    assert starts.usual == 3.0
    starts.look([(1, 12, 12)], 5.0)
    assert starts.usual == 3.0  # of 3 and 3


def test_a_running_unit_gets_more_sooner_than_a_cold_one_gets_any() -> None:
    """A process that runs begins further workers at once; a new one has to start first."""
    starts = Starts()
    starts.look([(1, 2, 0)], 0.0)
    assert [c.seconds for c in starts.coming(1, 3.0)] == [3.0]
    starts.look([(1, 2, 2)], 3.0)
    assert starts.usual == 3.0
    starts.look([(1, 8, 2), (2, 2, 0)], 4.0)
    starts.look([(1, 8, 8), (2, 2, 0)], 4.2)
    starts.look([(1, 8, 8), (2, 2, 2)], 7.0)
    assert starts.usual == pytest.approx(0.2)
    assert starts.coming(1, 0.2) == ()


def test_processes_that_come_and_go_are_no_starts() -> None:
    """Two processes divide four workers between them; one ends, and comes again. Nothing was asked for."""
    starts = Starts()
    for at, present in enumerate([4, 2, 2, 4, 3, 4]):
        starts.look([(1, 4, present)], float(at))
    assert starts.usual is None
    starts.look([(1, 8, 4)], 6.0)
    starts.look([(1, 8, 2)], 7.0)  # one ends meanwhile
    starts.look([(1, 8, 8)], 8.0)
    assert starts.usual is None


def test_a_rate_ends_with_the_arrivals() -> None:
    """Twenty events in two seconds, then none: after another second nobody counts with more."""
    looks = [Sample(look / 10, min(look, 20), 0, 0) for look in range(60)]
    rates = {look: arrival_rate(looks[: look + 1]) for look in range(60)}
    assert all(rate is not None and rate.now > 5 for look, rate in rates.items() if 5 <= look <= 25)
    assert all(rate is not None and rate.now == 0 for look, rate in rates.items() if look >= 35)


@given(elastics())
def test_settings_are_read_back(elastic: Elastic) -> None:
    workers = Workers(each=elastic)
    assert parse_workers(repr(workers)) == workers
    assert parse_workers(f"each={elastic!r}") == workers
    assert workers.own == elastic.least


@pytest.mark.parametrize(
    "text",
    [
        "each=Elastic(0, 4)",
        "each=Elastic(5, 4)",
        "each=Elastic(3, 5)",
        "each=Elastic(2, 4, headroom=0.5)",
        "each=Elastic(2, 4, promise=0)",
        "each=Elastic(2, 4, drain_within=-1)",
        "each=Elastic(True)",
        "each=Elastic('2')",
        "each=Elastic(x)",
        "each=Elastic(2, 4, sixth=1)",
        "total=Elastic(2, 4)",
        "each=Elastic(2, 4), total=4",
        "each=Rubber(2)",
        "each=Elastic(2, 4, headroom=float('nan'))",
        "each=Elastic(2, 18446744073709551616)",
        "each=Elastic(2, 4, **{'promise': 1})",
        "each=4, **{}",
        "each=" + "-" * 100_000 + "4",
    ],
)
def test_wrong_ones_are_refused(text: str) -> None:
    with pytest.raises(UsageError):
        parse_workers(text)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("each=Elastic(2, most=4, most=8)", "most is given twice"),
        ("each=4, each=8", "each is given twice"),
        ("each=Elastic(2, 4, sixth=1)", "sixth"),
        ("total=Elastic(2, 4)", r"give each=Elastic\(2, 4\)"),
        ("each=Elastic(2, 1e300)", "most must be at most 1,000,000"),
        ("each=Elastic(2, -4)", "most must be a whole number of at least 1"),
        ("total=18446744073709551616", "total must be at most 1,000,000"),
    ],
)
def test_what_is_wrong_is_said(text: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        parse_workers(text)


@pytest.mark.parametrize("wrong", [True, -1, 0, 2**64, 2**53, math.nan, math.inf, 2.5, "8", None, Elastic(2, 4)])
def test_wrong_numbers_of_workers_are_refused(wrong: Any) -> None:
    for make in (lambda: Elastic(wrong), lambda: Elastic(2, wrong), lambda: Workers(total=wrong)):
        with pytest.raises(UsageError):
            make()
    with pytest.raises(UsageError):
        Workers(total=8, floor=-1 if wrong == 0 else wrong)


def test_each_wagon_has_a_whole_pod() -> None:
    """Refused where they do not fit, and fewer wagons live where they do; the train is declared in the same words."""
    settings = Settings(limit=Wait(2.0), workers=Workers(each=Elastic(2, 12)), spares=1)
    assert settings.wagons == 6
    assert settings.orchestrated(1) is settings
    whole = settings.orchestrated(4)
    assert (whole.wagons, whole.declared()) == (3, settings.declared())
    assert whole.orchestrated(4) is whole
    assert msgspec.structs.replace(whole, grace=1.0).wagons == 3
    for step, spares, needed in ((8, 1, 16), (16, 0, 32), (4, 3, 16), (8, "auto", 16)):
        refused = msgspec.structs.replace(settings, spares=spares)
        with pytest.raises(UsageError, match=f"here {step} workers start at once .* give most={needed} or more"):
            refused.orchestrated(step)
    with pytest.raises(UsageError, match="give most=128 or more"):
        Settings(limit=Wait(2.0)).orchestrated(64)
    shared = Settings(workers=Workers(total=4))
    assert shared.orchestrated(16) is shared


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(UsageError):
        parse_workers(f"each=Elastic({text})")


def test_a_promise_is_needed() -> None:
    with pytest.raises(UsageError, match="promise"):
        Settings(limit=Volume(10), workers=Workers(each=Elastic()))
    assert Settings(limit=Volume(10) | Wait(3.0), workers=Workers(each=Elastic())).promise == 3.0
    assert Settings(limit=Wait(3.0), workers=Workers(each=Elastic(promise=1.5))).promise == 1.5
    assert Settings(limit=Volume(10), workers=Workers(each=Elastic(promise=1.5))).reuse is True
    assert Settings().reuse is False


def test_the_default_where_machines_are_asked_for() -> None:
    promised = Settings(limit=Volume(100) | Wait(2.0))
    assert repr(promised.workers) == "Workers(each=8)"
    follows = promised.orchestrated()
    assert (follows.workers, follows.promise, follows.reuse) == (Workers(each=Elastic(2, 64)), 2.0, True)
    assert follows.declared() == promised.declared()
    assert promised.declared()["reuse"] == "False"  # as a program of an earlier release declares it
    assert copy.deepcopy(promised).orchestrated().workers == follows.workers
    assert promised != Settings(limit=promised.limit, workers=Workers(each=8))
    again = msgspec.structs.replace(promised, grace=1.0)  # as the command line does
    assert again.orchestrated().workers == follows.workers
    assert Settings(limit=Wait(2.0), reuse=False).orchestrated().reuse is False
    for said in (Settings(limit=Wait(2.0), workers=Workers(each=8)), Settings(limit=Volume(100)), Settings()):
        assert said.orchestrated() is said
        assert said.reuse is False


@given(st.integers(0, 1000), st.integers(0, 1))
def test_a_wagon_that_sleeps_or_begins_predicts_nothing(outstanding: int, asked: int) -> None:
    """Cutting it off for the wait until its first worker is there would open wagons for ever."""
    wagon = ElasticWagon(1, "active", outstanding, asked=asked, present=0)
    ahead = outlook(Demand(rate=1.0, service=0.1, start=2.0), [wagon], promise=2.0)
    if outstanding and asked:
        assert ahead is not None
        assert 2.0 <= ahead.wait < math.inf
    else:
        assert ahead is None
