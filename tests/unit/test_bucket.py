"""How often something may happen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from eventwagon.bucket import Bucket


@given(st.floats(0.1, 100), st.lists(st.tuples(st.floats(0, 3), st.integers(1, 20)), min_size=1))
def test_a_bucket_lets_the_rate_through_and_a_second_s_worth_more(rate: float, asked: list[tuple[float, int]]) -> None:
    bucket, now, passed, largest = Bucket(rate, 0.0), 0.0, 0, 0
    for pause, tokens in asked:
        now += pause
        wait = bucket.take(tokens, now)
        if wait:
            assert bucket.take(tokens, now + wait + 1e-6) == 0.0
            now += wait + 1e-6
        passed, largest = passed + tokens, max(largest, tokens)
        assert passed <= max(1.0, rate) + rate * now + largest + 1e-6
