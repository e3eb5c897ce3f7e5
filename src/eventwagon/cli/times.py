"""Times in options."""

from __future__ import annotations

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
