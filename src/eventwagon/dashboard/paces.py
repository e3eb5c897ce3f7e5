"""How fast wagons settle what is in all their channels, over the last seconds. Pure, no clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

from ..contracts.broker import Depth
from ..event import DEAD

_WINDOW = 10.0
"""Seconds over which it is measured."""
_MOST = 32


class Paces:
    """Remembers how many events each live wagon had settled, for some seconds."""

    def __init__(self) -> None:
        self._of: dict[int, deque[tuple[float, int]]] = {}

    def look(self, depths: Mapping[int, Mapping[str, Depth]], at: float) -> Mapping[int, float]:
        """Take in one look at the channels of all live wagons, by number; `at` is in seconds of a steady clock. Returns
        the events that each settles per second, if two looks show it."""
        found: dict[int, deque[tuple[float, int]]] = {}
        for number, of in depths.items():
            settled = [d.settled for name, d in of.items() if name != DEAD]
            known = [n for n in settled if n is not None]
            if not known or len(known) < len(settled):
                continue
            samples = self._of.get(number, deque(maxlen=_MOST))
            if samples and samples[-1][1] > sum(known):
                samples.clear()  # a channel has gone
            samples.append((at, sum(known)))
            while len(samples) > 2 and samples[1][0] < at - _WINDOW:
                samples.popleft()
            found[number] = samples
        self._of = found
        return {number: pace for number, samples in found.items() if (pace := _pace(samples)) is not None}


def _pace(samples: deque[tuple[float, int]]) -> float | None:
    (first, before), (last, after) = samples[0], samples[-1]
    return (after - before) / (last - first) if last > first else None
