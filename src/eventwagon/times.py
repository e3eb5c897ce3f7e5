"""When an event is due: the arguments `at` and `after`, checked. Pure."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Any

import msgspec

from .errors import UsageError
from .values import in_seconds, is_a, real, shown

FARTHEST = 10 * 365.25 * 86_400.0
"""Seconds: an event that is due later than in ten years is a mistake."""
_PLAUSIBLE = 4_102_444_800.0  # the year 2100
_NO_SECONDS = 253_402_300_800.0  # the end of the year 9999: seconds are no more than that


class When(msgspec.Struct, frozen=True):
    """When an event is due: at a time in seconds since the epoch, or so many seconds from now."""

    at: float | None = None
    after: float = 0.0

    def due(self, now: float) -> float:
        """The time at which it is due, not before `now`; both in seconds since the epoch. Raises UsageError if it is
        too far away."""
        if self.at is None:
            return now + self.after
        if self.at - now > FARTHEST:
            raise UsageError(f"at={self.at:.15g} is more than ten years ahead{_hint(self.at)}")
        return max(now, self.at)


def when(at: Any, after: Any) -> When | None:
    """The checked arguments: at most one of them is given; None if none is.

    `at` is an aware datetime, or a number of seconds since the epoch; a time that is over means now. `after` is a
    number of seconds of 0 or more, or a timedelta. Raises UsageError, and warns if `after` looks like milliseconds.
    """
    if at is not None and after is not None:
        raise UsageError("give at= or after=, not both")
    if after is not None:
        return When(after=delay(after))
    return None if at is None else When(at=_moment(at))


def delay(after: Any) -> float:
    """`after` in seconds: a number of 0 or more, or a timedelta. Raises UsageError."""
    found = _seconds("after", after, zero=True)
    if found > FARTHEST:
        raise UsageError(f"after={shown(after)} is more than ten years ahead: it is in seconds")
    return found


def lasting(what: str, value: Any) -> float:
    """How long something lasts, in seconds: a number above 0, or a timedelta. Raises UsageError."""
    found = _seconds(what, value, zero=False)
    if found > FARTHEST:
        raise UsageError(f"{what}={shown(value)} is more than ten years: it is in seconds")
    return found


def _seconds(what: str, value: Any, *, zero: bool) -> float:
    if is_a(value, timedelta):
        seconds = _asked(lambda: timedelta.total_seconds(value), what, value)
        return real(f"{what} (seconds)", seconds, zero=zero)
    return in_seconds(f"{what} (seconds)", value, zero=zero)


def _moment(at: Any) -> float:
    if is_a(at, datetime):
        if _asked(lambda: datetime.utcoffset(at), "at", at) is None:
            raise UsageError(
                f"at={shown(at)} has no time zone: give an aware datetime, say datetime.now(UTC) + timedelta(hours=1)"
            )
        return float(_asked(lambda: datetime.timestamp(at), "at", at))
    if is_a(at, date):
        raise UsageError(f"at={shown(at)} is a day: give an aware datetime")
    return real("at (seconds since 1970, or an aware datetime)", at, zero=True)


def _asked(question: Callable[[], Any], name: str, value: object) -> Any:
    """The answer of a user's object, which may raise anything."""
    try:
        return question()
    except Exception as e:
        raise UsageError(f"{name}={shown(value)} can't be used as a time") from e


def _hint(at: float) -> str:
    units = {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
    unit = next((unit for unit, factor in units.items() if at <= _PLAUSIBLE * factor), None)
    return f": it is in seconds since 1970, and looks like {unit}" if unit and at > _NO_SECONDS else ""
