"""The scale model: it finds the costs that its points are made of, and where a limit is reached; the counting refuses
what it does not understand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.scale.analysis import FEW, LIMITS, TERMS_OF, costs_of, shape
from benchmarks.scale.counting import (
    Counts,
    Hearing,
    KafkaRequests,
    Miscounted,
    NotUnderstood,
    RedisRequests,
    check,
)
from benchmarks.scale.figures import kept
from benchmarks.scale.measure import EACH
from benchmarks.scale.model import TERMS, Cost, Limit, Shape, bend, fit, use
from benchmarks.scale.simulate import pace, simulate

SIZES = [(n, w, events) for n in (1, 4, 16) for w, events in ((1, 0.0), (1, 40.0), (4, 0.0), (16, 0.0), (16, 40.0))]
SHAPES = [
    Shape(processes=n, wagons=w, each=4, looks=(0.5 if (n, w, e) == (1, 1, 0.0) else 9.0 * n), events=e)
    for n, w, e in SIZES
]
some_costs = st.lists(st.floats(0.01, 1000), min_size=8, max_size=8)


@given(some_costs)
def test_a_fit_gives_back_the_points_that_it_was_made_of(values: list[float]) -> None:
    terms = TERMS_OF["Redis"]
    true = Cost(dict(zip(terms, values, strict=True)))
    found = fit([(each, true.of(each)) for each in SHAPES], terms)
    assert found.worst < 0.01
    assert all(value >= 0 for value in found.terms.values())
    between = Shape(processes=8, wagons=8, each=4, looks=72.0, events=20.0)
    assert found.of(between) == pytest.approx(true.of(between), rel=0.05)


def test_a_fit_finds_costs_that_are_told_apart_by_its_points() -> None:
    true = Cost({"fixed": 5.0, "look": 4.0, "look × process": 0.5, "event": 7.0})
    found = fit([(each, true.of(each)) for each in SHAPES], TERMS_OF["Redis"])
    assert {name: value for name, value in found.terms.items() if value > 1e-3} == pytest.approx(true.terms, rel=1e-3)


def test_no_cost_is_negative_whatever_the_points_say() -> None:
    found = fit([(each, 100.0 / each.processes) for each in SHAPES], TERMS_OF["Kafka"])
    assert all(value >= 0 for value in found.terms.values())


def test_a_fit_refuses_points_at_which_nothing_was_counted() -> None:
    with pytest.raises(ValueError, match="the counting is broken"):
        fit([(each, 0.0) for each in SHAPES], TERMS_OF["Redis"])


@given(
    st.dictionaries(st.sampled_from(sorted(TERMS)), st.floats(0, 1e-3), min_size=1),
    st.integers(1, 100),
    st.floats(1e-3, 1e3),
)
def test_a_limit_is_reached_where_it_bends_and_not_with_one_process_less(
    terms: dict[str, float], wagons: int, most: float
) -> None:
    costs, limits = {"cpu": Cost(terms)}, [Limit(what="it", measure="cpu", most=most)]

    def of(processes: int) -> Shape:
        return Shape(processes=processes, wagons=wagons, each=4, looks=10.0 * processes)

    found = bend(costs, limits, of, most=100_000)
    if found is None:
        assert use(limits[0], costs, of(100_000)) < 1
        return
    assert use(limits[0], costs, of(found.processes)) >= 1
    assert found.processes == 1 or use(limits[0], costs, of(found.processes - 1)) < 1


@given(st.integers(2, 10_000), st.integers(1, 1000))
def test_few_observers_never_ask_for_more_than_all(processes: int, wagons: int) -> None:
    cost = Cost(dict.fromkeys(TERMS_OF["Redis"], 1.0))
    assert cost.of(shape(processes, wagons, FEW)) <= cost.of(shape(processes, wagons, None))


def test_observers_look_seldom_where_they_are_alone_or_many() -> None:
    assert pace(1, 1, 4) == 2.0
    assert pace(2, 1, 4) == pace(3, 1, 4) == 0.1
    assert 1.6 <= pace(1000, 1, 4) <= 2.0
    assert pace(1, 3, 4) == 0.1  # a wagon drains


def _costs(of_look: float) -> dict[str, Cost]:
    return {
        "requests": Cost({"process": 1.0, "look": 4.0}),
        "server_cpu": Cost({"process": 1e-4, "look": of_look}),
        "client_cpu": Cost({"look": 1e-3}),
    }


ONE_THREAD = {"thread": Limit(what="thread", measure="server_cpu", most=1.0)}


def test_a_server_that_is_asked_for_little_answers_at_once_and_a_switch_reaches_all() -> None:
    came = simulate(_costs(1e-4), ONE_THREAD, processes=100, wagons=2, each=4, observers=100)
    assert came.look is not None
    assert came.look < 0.01
    assert came.decided is not None
    assert came.decided < 0.2
    assert came.reached is not None
    assert came.reached < 0.05


def test_a_server_that_is_asked_for_more_than_it_has_gives_each_its_share() -> None:
    """1,000 observers want some 500 looks a second, of 10 ms each, and the server can do 100."""
    came = simulate(_costs(1e-2), ONE_THREAD, processes=1000, wagons=2, each=4, observers=1000)
    assert came.look == pytest.approx(8.0, rel=0.3)


def test_what_takes_too_long_is_not_waited_for() -> None:
    came = simulate(_costs(10.0), ONE_THREAD, processes=100, wagons=2, each=4, observers=100)
    assert came.look is None
    assert came.decided is None
    assert came.reached is None


@given(st.binary(max_size=300), st.integers(1, 40))
def test_requests_of_redis_are_counted_however_they_are_cut(value: bytes, cut: int) -> None:
    asked = b"*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n" % (len(value), value) + b"*1\r\n$4\r\nPING\r\n"
    reading = RedisRequests()
    found = [name for at in range(0, len(asked), cut) for name in reading.names(asked[at : at + cut])]
    assert found == ["GET", "PING"]


@given(st.binary(min_size=10, max_size=300), st.integers(1, 40))
def test_requests_of_kafka_are_counted_however_they_are_cut(rest: bytes, cut: int) -> None:
    asked = b"".join(
        (4 + len(rest)).to_bytes(4, "big") + key.to_bytes(2, "big") + b"\x00\x03" + rest for key in (1, 0, 199)
    )
    reading = KafkaRequests()
    found = [name for at in range(0, len(asked), cut) for name in reading.names(asked[at : at + cut])]
    assert found == ["Fetch", "Produce", "request 199"]


@pytest.mark.parametrize(
    ("protocol", "asked"),
    [
        (RedisRequests, b"GET key\r\n"),
        (RedisRequests, b"*1\r\n$3\r\nGETX\r\n"),
        (RedisRequests, b"*x\r\n"),
        (RedisRequests, b"*99999999999999999999"),
        (RedisRequests, b"*1\r\n$3\r\n\xff\x00\x01\r\n"),
        (KafkaRequests, b"*1\r\n$4\r\nPING\r\n"),
        (KafkaRequests, b"\x00\x00\x00\x00\x00\x01\x00\x01"),
    ],
)
def test_the_counting_fails_at_what_it_does_not_understand(
    protocol: type[RedisRequests] | type[KafkaRequests], asked: bytes
) -> None:
    hearing = Hearing(protocol)
    hearing.listener()("asks", asked)
    with pytest.raises(NotUnderstood):
        _ = hearing.counts


def test_the_counting_fails_if_the_server_has_counted_something_else() -> None:
    check(Counts({}, 1_000_000, 500_000), sent=1_000_100, received=500_200)
    for sent, received in ((1_100_000, 500_000), (1_000_000, 400_000)):
        with pytest.raises(Miscounted, match="another way"):
            check(Counts({}, 1_000_000, 500_000), sent=sent, received=received)


def test_counts_are_what_came_since() -> None:
    before, after = Counts({"PING": 2, "GET": 1}, 100, 10), Counts({"PING": 5, "GET": 1, "SET": 4}, 300, 40)
    assert after.since(before) == Counts({"PING": 3, "SET": 4}, 200, 30)


def test_the_simulation_of_the_page_is_that_of_its_figures() -> None:
    """The small ones are run again."""
    figures = kept()
    small = [one for one in figures.simulated if (one.processes, one.wagons) == (100, 2)]
    assert {one.broker for one in small} == {"Redis", "Kafka"}
    for one in small:
        limits = {limit.what: limit for limit in LIMITS[one.broker]}
        came = simulate(
            costs_of(one.broker, figures), limits, processes=100, wagons=2, each=EACH, observers=one.observers
        )
        assert (came.look, came.decided, came.reached) == pytest.approx(
            (one.came.look, one.came.decided, one.came.reached), rel=0.02
        ), "run make scale ARGS=--page"
