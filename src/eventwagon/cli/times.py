"""Times in options."""

from __future__ import annotations

import re
from datetime import datetime

from ..errors import UsageError
from ..values import shown


def time_given(option: str, text: str | None) -> datetime | None:
    """The time in an option; None if it was not given. Raises UsageError."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise UsageError(f"{option} {shown(text)}: write a time with its zone, say 2027-01-31T18:00:00+01:00")
    return found


_UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SPAN = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)([smhd]?)", re.ASCII)


def span_given(option: str, text: str) -> float:
    """The span of time in an option, in seconds. Raises UsageError."""
    found = _SPAN.fullmatch(text)
    if found is None or not (seconds := float(found[1]) * _UNITS[found[2]]):
        raise UsageError(f"{option} {shown(text)}: write a time above 0 as 90s, 15m, 24h or 7d")
    return seconds
