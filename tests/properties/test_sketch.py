"""Sketches: every percentile within 2 %, in any order, in any parts, whatever is put in."""

from math import inf, nan

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.contracts.ledger import Sketch
from eventwagon.policy.sketch import ERROR, Sketcher, merged, percentile, size, times_of

_times = st.lists(st.floats(min_value=1e-5, max_value=1e8), min_size=1, max_size=200)


def sketched(times: list[float]) -> Sketch:
    taken = Sketcher()
    taken.add(times)
    return taken.sketch


@given(_times, st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]))
def test_every_percentile_is_within_two_percent(times: list[float], share: float) -> None:
    true = sorted(times)[int(share * (len(times) - 1))]
    found = percentile(sketched(times), share)
    assert found == pytest.approx(true, rel=ERROR * 1.001)


@given(_times, st.integers(0, 200))
def test_parts_make_the_whole(times: list[float], cut: int) -> None:
    parts = [sketched(times[:cut]), Sketch(), sketched(times[cut:])]
    assert merged(parts) == merged(reversed(parts)) == sketched(times)


@given(st.lists(st.floats() | st.integers(-(10**30), 10**30).map(float)))
def test_whatever_is_put_in_is_counted(times: list[float]) -> None:
    found = sketched(times)
    assert size(found) == len(times)
    assert len(found.bins) < 1000
    assert 0 <= found.least <= max(found.most, found.least) <= 1e9


def test_what_is_no_time_counts_as_none() -> None:
    found = times_of(sketched([nan, -5.0, 0.0, inf]))
    assert (found.count, found.p50, found.most) == (4, 0.0, 1e9)
    assert times_of(Sketch()).p99 is None


@given(st.lists(st.tuples(st.integers(-(10**9), 10**9), st.integers(0, 5)), max_size=20), _times)
def test_sketches_of_others_do_not_grow_what_they_are_merged_into(
    far: list[tuple[int, int]], times: list[float]
) -> None:
    others = [Sketch(first=first, bins=(count,), least=1.0, most=1.0) for first, count in far]
    found = merged([*others, sketched(times)])
    assert size(found) == len(times) + sum(count for _, count in far)
    assert len(found.bins) < 1000
