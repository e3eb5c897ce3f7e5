"""What repeats is logged seldom."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable


class Seldom:
    """Lets the first lines of a kind through, `most` in `every` seconds, and counts the others."""

    def __init__(self, most: int, *, every: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._every = every
        self._clock = clock
        self._kinds: dict[Hashable, tuple[float, int, int]] = {}
        """By kind: since when its lines are counted, how many were let through, and how many were not."""

    def left_out(self, kind: Hashable) -> int | None:
        """None: don't log this one. Otherwise log it; the number of those that were left out since the last one. Not
        idempotent."""
        now = self._clock()
        since, through, left_out = self._kinds.get(kind, (now, 0, 0))
        if now - since >= self._every:
            self._kinds[kind] = (now, 1, 0)
            return left_out
        if through < self._most:
            self._kinds[kind] = (since, through + 1, 0)
            return 0
        self._kinds[kind] = (since, through, left_out + 1)
        return None


def counted_in(text: str, left_out: int) -> str:
    """The line's text, with the number of those that were left out before it."""
    were = "was" if left_out == 1 else "were"
    return f"{text} ({left_out:,} before it {were} not logged)" if left_out else text
