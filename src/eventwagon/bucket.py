"""Limits how often something happens."""

from __future__ import annotations

_NOTHING = 1e-9
"""Less of a token than a clock can wait for."""


class Bucket:
    """A token bucket: `rate` tokens a second, and up to a second's worth (at least one) at a time."""

    def __init__(self, rate: float, now: float) -> None:
        self._rate = rate
        self._most = max(1.0, rate)
        self._left = self._most
        self._at = now

    def take(self, tokens: int, now: float) -> float:
        """Take that many tokens. Returns 0, or the seconds to wait if there are too few; then none is taken.
        More than the bucket holds are taken when it is full, and delay those after them."""
        self._left = min(self._most, self._left + (now - self._at) * self._rate)
        self._at = now
        if self._left >= min(tokens, self._most) - _NOTHING:
            self._left -= tokens
            return 0.0
        return (min(tokens, self._most) - self._left) / self._rate
