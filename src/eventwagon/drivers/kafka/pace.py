"""Whether the next batch is worth a claim before it is asked for. Pure."""

from __future__ import annotations

_LARGE = 100  # events of a batch that is worth it
_FAST = 0.05  # s within which such a batch is handled
_IN_A_ROW = 2


class Pace:
    """Sees whether a consumer settles large batches as fast as they come, each as a whole."""

    def __init__(self) -> None:
        self.batch = 0
        """How many events it received last, if they were all that it had asked for; else 0."""
        self._at = 0.0
        self._in_a_row = 0

    def received(self, count: int, limit: int, now: float) -> None:
        """It asked for `limit` events, and got so many (`now` in s, as below)."""
        self.batch, self._at = (count if count == limit else 0), now

    def settled(self, count: int, now: float) -> bool:
        """It settles so many events. Whether it will probably ask for as many at once."""
        is_fast = count == self.batch >= _LARGE and now - self._at < _FAST
        self._in_a_row = self._in_a_row + 1 if is_fast else 0
        return self._in_a_row >= _IN_A_ROW

    def stop(self) -> None:
        """It did not ask for them."""
        self._in_a_row = 0
