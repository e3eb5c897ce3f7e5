"""Times are in seconds: what looks like milliseconds is warned of where it is written, and refused nowhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest

from eventwagon import Age, Train, Volume, Wait
from eventwagon.breaker import Breaker
from eventwagon.errors import UsageError
from eventwagon.limits import Limit

MILLISECONDS: list[Callable[[], object]] = [
    lambda: Wait(2000),
    lambda: Wait(500),
    lambda: Age(60_000),
    lambda: Wait(2.0) | Age(60_000),
    lambda: Train("t", handler_timeout=30_000),
    lambda: Train("t", publish_timeout=5000.0),
    lambda: Train("t", backoff=500),
    lambda: Train("t", observe_every=100),
    lambda: Train("t", cooldown=200),
    lambda: Train("t", hold=2000),
    lambda: Train("t", member_ttl=5000),
    lambda: Train("t", idle_after=300_000),
    lambda: Train("t", keep_drained=86_400_000 - 100),
    lambda: Train("t", breaker=Breaker(pause_most=5000)),
]

SECONDS: list[Callable[[], object]] = [
    lambda: Wait(0.5),
    lambda: Wait(120),
    lambda: Wait(3600),
    lambda: Wait(2.5e-3),
    lambda: Age(86_400),
    lambda: Age(7 * 86_400),
    lambda: Age(1234.5),
    lambda: Age(1e300**0.04),
    lambda: Train("t", handler_timeout=7200),
    lambda: Train("t", handler_timeout=1e9),
    lambda: Train("t", grace=150, visibility=100, publish_timeout=250, provision_timeout=500),
    lambda: Train("t", idle_after=86_400, keep_warm=3600),
    lambda: Train("t"),
]


@pytest.mark.parametrize("declare", MILLISECONDS)
def test_what_looks_like_milliseconds_is_warned_of_at_the_line_that_says_it(declare: Callable[[], object]) -> None:
    with pytest.warns(UserWarning, match=r"is in seconds, and .*\. If milliseconds are meant, write ") as found:
        declare()
    assert [warning.filename for warning in found] == [__file__]
    assert "(seconds)" not in str(found[0].message)


@pytest.mark.parametrize("declare", SECONDS)
def test_what_may_be_meant_is_taken_silently(declare: Callable[[], object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        declare()


@pytest.mark.parametrize("limit", [Volume(10), Wait(2.0), Volume(10) | Wait(2.0), Volume(10) & Wait(2.0)])
def test_a_limit_is_neither_true_nor_false(limit: Limit) -> None:
    any_limit: Any = limit
    for join in (lambda: any_limit or Wait(2.0), lambda: any_limit and Wait(2.0), lambda: not any_limit):
        with pytest.raises(UsageError, match=r"join limits with \| "):
            join()
