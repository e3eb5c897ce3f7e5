"""Pauses between attempts."""

from __future__ import annotations


class Backoff:
    """Pauses that double from `least` to `most` seconds, until `reset`."""

    def __init__(self, least: float, most: float) -> None:
        self._least = least
        self._most = most
        self._next = least
        self._begun = False

    @property
    def begun(self) -> bool:
        """Whether an attempt has failed since the last `reset`."""
        return self._begun

    def next(self) -> float:
        """The pause before the next attempt, in seconds. Not idempotent."""
        self._begun = True
        pause, self._next = self._next, min(self._most, 2 * self._next)
        return pause

    def reset(self) -> None:
        """An attempt succeeded: start again with the first pause."""
        self._next = self._least
        self._begun = False


def pause_after(failures: int, least: float, most: float) -> float:
    """The pause in seconds after that many failures in a row (1 or more): the same sequence as `Backoff`, for callers
    that count failures themselves."""
    return min(most, least * 2.0 ** min(60, failures - 1))
