"""Histograms: counting many values at once is counting each."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventwagon.metrics.series import Histogram

BOUNDS = st.lists(st.floats(-100, 100), min_size=1, max_size=8, unique=True).map(sorted)
VALUES = st.lists(st.floats(-200, 200) | st.sampled_from([0.0, 1.0, 5.0]), max_size=50)


@given(BOUNDS, VALUES, VALUES)
def test_many_at_once_count_as_each(bounds: list[float], first: list[float], later: list[float]) -> None:
    each, many = Histogram(bounds), Histogram(bounds)
    for value in (*first, *later):
        each.add(value)
    many.add_all(first)
    many.add_all(later)
    assert many.counts == each.counts
    assert many.sum == pytest.approx(each.sum, abs=1e-6)
    assert (many.low, many.high) == (each.low, each.high)


@given(BOUNDS, VALUES)
def test_a_bucket_has_what_is_at_most_its_bound(bounds: list[float], values: list[float]) -> None:
    histogram = Histogram(bounds)
    histogram.add_all(values)
    for place, bound in enumerate([*bounds, math.inf]):
        assert sum(histogram.counts[: place + 1]) == sum(value <= bound for value in values)
