"""What holds for rates and for an observer's memory."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import assume, given
from hypothesis import strategies as st

from eventwagon.contracts.reading import History, Reading, Sample, busy_rate
from tests.properties.test_limits import samples


@given(samples())
def test_busy_rate_is_none_or_a_rate(taken: tuple[Sample, ...]) -> None:
    rate = busy_rate(taken)
    if rate is not None:
        assert rate > 0
        steps = [(b.settled - a.settled) / (b.at - a.at) for a, b in pairwise(taken)]
        assert rate <= max(steps) * 1.001


@given(st.integers(1, 1000), st.integers(2, 40), st.integers(1, 10))
def test_busy_rate_ignores_idle_stretches(rate: int, busy: int, idle: int) -> None:
    assume(rate * (busy - 1) >= 8)
    taken = [Sample(float(i), 10**6, i * rate, 5) for i in range(busy)]
    end = taken[-1]
    assert busy_rate(taken) == rate
    assert busy_rate([*taken, *(Sample(end.at + i, 10**6, end.settled + i, 0) for i in range(1, idle + 1))]) == rate


def test_busy_rate_of_a_cold_start() -> None:
    assert busy_rate([]) is None
    assert busy_rate([Sample(0, 9, 0, 9), Sample(1, 9, 7, 2)]) is None
    assert busy_rate([Sample(0, 9, 0, 9), Sample(1, 9, 8, 1)]) == 8
    assert busy_rate([Sample(0, 9, 0, 0), Sample(1, 99, 98, 1)]) is None


@given(samples(), st.floats(0.1, 100))
def test_publish_rate_spans_half_its_window_at_least(taken: tuple[Sample, ...], window: float) -> None:
    reading = Reading(number=1, at=0.0, age=0.0, samples=taken)
    rate = reading.publish_rate(window)
    if taken and taken[-1].at - taken[0].at < window / 2:
        assert rate is None
    if rate is not None:
        assert rate >= 0
        within = [s for s in taken if s.at >= taken[-1].at - window]
        assert abs(rate * (taken[-1].at - within[0].at) - (taken[-1].published - within[0].published)) < 1


@given(st.lists(st.tuples(st.sampled_from([1, 2, 3]), st.floats(-3, 3), st.integers(0, 50)), max_size=200))
def test_history_is_bounded_and_ordered(steps: list[tuple[int, float, int]]) -> None:
    history = History(seconds=5.0, most=20)
    at, published = 1000.0, 0
    for number, step, more in steps:
        at, published = at + step, published + more
        history.add_all({number: Sample(at, published, 0, published)}, at)
        for known in (0, 1, 2, 3):
            found = history.of(known)
            assert len(found) <= 20
            assert [s.at for s in found] == sorted(s.at for s in found)
            assert all(s.at >= found[-1].at - 5.0 for s in found)
        assert history.of(number)[-1].at == at
    history.keep({2})
    assert history.of(1) == history.of(3) == ()


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=10), min_size=1, max_size=5))
def test_history_of_all_together_keeps_counting(wagons: list[list[int]]) -> None:
    """Wagons come one after the other, each is removed when the next begins: together their totals never fall."""
    history, at, total = History(), 0.0, 0
    for number, steps in enumerate(wagons, 1):
        published = 0
        for more in steps:
            at, published, total = at + 0.1, published + more, total + more
            history.add_all({number: Sample(at, published, published, 0)}, at)
            assert history.of(0)[-1].published == history.of(0)[-1].settled == total
        history.keep({number + 1})
