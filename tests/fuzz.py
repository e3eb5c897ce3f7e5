"""How many examples the property tests try: their own number, or EVENTWAGON_FUZZ times as many (`make fuzz`)."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import settings

TIMES = int(os.environ.get("EVENTWAGON_FUZZ", "1"))


def examples(count: int, **others: Any) -> settings:
    """So many, and so many times more where that is asked for; without a deadline for each."""
    return settings(max_examples=count * TIMES, deadline=None, **others)


def by_default() -> None:
    """For tests that name no number. None of them has a deadline: the clock of a busy machine proves nothing."""
    settings.register_profile("eventwagon", settings.default, max_examples=100 * TIMES, deadline=None)
    settings.load_profile("eventwagon")
