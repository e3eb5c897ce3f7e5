"""The arguments `at` and `after`."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from eventwagon import UsageError
from eventwagon.times import FARTHEST, delay, when

NOW = 1_790_000_000.0


class Hostile(datetime):
    def utcoffset(self) -> Any:
        raise RuntimeError("no")

    def timestamp(self) -> Any:
        return "never"


class HostileNumber(float):
    def __float__(self) -> float:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("at", "after", "due"),
    [
        (NOW + 5, None, NOW + 5),
        (datetime.fromtimestamp(NOW + 5, UTC), None, NOW + 5),
        (datetime.fromtimestamp(NOW + 5, timezone(timedelta(hours=-3))), None, NOW + 5),
        (Hostile.fromtimestamp(NOW + 5, UTC), None, NOW + 5),
        (0, None, NOW),
        (NOW - 1e6, None, NOW),
        (None, 0, NOW),
        (None, 2.5, NOW + 2.5),
        (None, Fraction(5, 2), NOW + 2.5),
        (None, timedelta(days=2), NOW + 172_800),
        (None, timedelta(0), NOW),
    ],
)
def test_when_it_is_due(at: Any, after: Any, due: float) -> None:
    asked = when(at, after)
    assert asked is not None
    assert asked.due(NOW) == pytest.approx(due, abs=1e-5)


@pytest.mark.parametrize(
    ("at", "after", "says"),
    [
        (NOW, 5, "not both"),
        (datetime(2026, 1, 1), None, "has no time zone"),
        (date(2026, 1, 1), None, "is a day"),
        ("tomorrow", None, "must be a number"),
        (True, None, "must be a number"),
        (float("nan"), None, "must be a number"),
        (-1, None, "must be a number"),
        (10**400, None, "at most"),
        (None, -1, "must be a number"),
        (None, timedelta(seconds=-1), "must be a number"),
        (None, timedelta.max, "ten years"),
        (None, float("inf"), "at most"),
        (None, float("nan"), "must be a number"),
        (None, True, "must be a number"),
        (None, "5", "must be a number"),
        (None, FARTHEST + 1, "ten years"),
        (None, Decimal(5), "must be a number"),
        (None, HostileNumber(5), "must be a number"),
        (HostileNumber(5), None, "must be a number"),
    ],
)
def test_what_is_refused(at: Any, after: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        when(at, after)


def test_far_and_wrong_units() -> None:
    assert when(None, None) is None
    for at, says in (
        (NOW + FARTHEST + 1, "more than ten years ahead$"),
        (5e9, "more than ten years ahead$"),
        (datetime.max.replace(tzinfo=UTC), "more than ten years ahead$"),
        (NOW * 1e3, "milliseconds$"),
    ):
        asked = when(at, None)
        assert asked is not None
        with pytest.raises(UsageError, match=says):
            asked.due(NOW)
    with pytest.warns(UserWarning, match="If milliseconds are meant"):
        assert delay(5000) == 5000.0
