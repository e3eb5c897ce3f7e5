"""The ids of events that are published one at a time."""

from __future__ import annotations

import os

from ..event import random_parts, time_part
from .forks import forks

_BLOCK = 64
"""How many ids' random parts are made at a time."""


class NewIds:
    """New event ids, like those of `new_ids`. Their random parts are made ahead in blocks, because the call to the
    system for random bytes costs more than the rest of an id. A fork uses none of its parent's. From any thread."""

    __slots__ = ("_ahead", "_forks")

    def __init__(self) -> None:
        self._ahead: list[str] = []
        self._forks = forks()

    def next(self, now: float) -> str:
        """An id with the time `now`, in seconds since the epoch."""
        if self._forks != forks():
            self._ahead, self._forks = [], forks()
        try:
            part = self._ahead.pop()
        except IndexError:  # another thread may be here too: each has a block of its own then
            ahead = random_parts(os.urandom(10 * _BLOCK))
            part = ahead.pop()
            self._ahead = ahead
        return time_part(int(now * 1000)) + part
