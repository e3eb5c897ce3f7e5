"""Arrivals that were read from a source: their times and sizes, and how they spread over keys. Memory is bounded."""

from __future__ import annotations

import csv
from array import array
from bisect import bisect_left
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from ...errors import UsageError
from ..arrivals import MOST

_KEYS = 100_000
"""Beyond so many different keys they are no longer counted."""


class Arrival(NamedTuple):
    """One record: its time in seconds since the epoch, the size of its value in bytes, its key if it has one."""

    at: float
    size: int
    key: bytes | None = None


class Recorded:
    """What was read; `title` names the flow. Nothing of a record is kept but its time and its size."""

    def __init__(self, title: str, last: float) -> None:
        self.title = title
        self.last = last
        """Seconds of the flow that were asked for."""
        self.unknown = 0
        """Records without a time: they are left out."""
        self._times = array("d")
        self._sizes = array("Q")
        self._keys: Counter[int] = Counter()
        self._keyed = 0
        self._too_many_keys = False

    def __len__(self) -> int:
        return len(self._times)

    def add(self, arrival: Arrival) -> None:
        """Add one. Raises UsageError if the lab takes no more."""
        if len(self._times) >= MOST:
            raise UsageError(
                f"{self.title} has more than {MOST:,} records in {self.last:,.0f} s, which is the most that the lab "
                "takes: give a shorter --last"
            )
        self._times.append(arrival.at)
        self._sizes.append(arrival.size)
        if arrival.key is not None and not self._too_many_keys:
            self._keyed += 1
            self._keys[hash(arrival.key)] += 1
            self._too_many_keys = len(self._keys) > _KEYS

    def keep_last(self, seconds: float) -> None:
        """Keep those that are at most so much older than the newest; they are sorted."""
        self._keep(bisect_left(self._times, self._times[-1] - seconds), len(self._times))

    def sort(self) -> None:
        """Put them in the order of their times: partitions are read one beside the other."""
        order = sorted(range(len(self._times)), key=self._times.__getitem__)
        self._times = array("d", (self._times[i] for i in order))
        self._sizes = array("Q", (self._sizes[i] for i in order))

    @property
    def arrivals(self) -> list[float]:
        """Seconds since the first."""
        return [at - self._times[0] for at in self._times]

    @property
    def sizes(self) -> list[float]:
        """Bytes, in the same order."""
        return [float(size) for size in self._sizes]

    @property
    def begins(self) -> float:
        """The time of the first, in seconds since the epoch."""
        return self._times[0]

    @property
    def summary(self) -> str:
        """What was read, in one line."""
        span = self._times[-1] - self._times[0]
        sizes = sorted(self._sizes)
        parts = [
            f"{len(self):,} records in {span:,.0f} s",
            f"up to {self._busiest():,} in a second",
            f"sizes {sizes[len(sizes) // 2]:,} bytes at the median, {sizes[-1]:,} at most",
        ]
        if self._too_many_keys:
            parts.append(f"more than {_KEYS:,} keys")
        elif self._keys:
            parts.append(f"{len(self._keys):,} keys, the busiest has {max(self._keys.values()) / self._keyed:.1%}")
        if self.unknown:
            parts.append(f"{self.unknown:,} without a time left out")
        return "; ".join(parts)

    def _busiest(self) -> int:
        most = count = 0
        second = None
        for at in self._times:
            count = count + 1 if int(at) == second else 1
            second, most = int(at), max(most, count)
        return most

    @property
    def rate(self) -> float:
        """Records a second, from the first to the last."""
        return len(self) / max(self._times[-1] - self._times[0], 1.0)

    def keep_busiest(self, seconds: float) -> bool:
        """Keep the stretch of that length that has the most records; they are sorted. Says whether others were left
        out."""
        times, first, best, most = self._times, 0, 0, 0
        for i, at in enumerate(times):
            while at - times[first] > seconds:
                first += 1
            if i + 1 - first > most:
                best, most = first, i + 1 - first
        self._keep(best, best + most)
        return most < len(times)

    def _keep(self, first: int, end: int) -> None:
        self._times, self._sizes = self._times[first:end], self._sizes[first:end]

    def save(self, to: Path) -> None:
        """Write a trace that `load_trace` reads: seconds since the first and sizes, no payloads, keys or dates. Raises
        UsageError."""
        first = self._times[0]
        try:
            with to.open("w", encoding="utf-8", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(("arrival_s", "size"))
                rows.writerows((f"{at - first:.6f}", size) for at, size in zip(self._times, self._sizes, strict=True))
        except OSError as e:
            raise UsageError(f"--save-trace {to} can't be written: {e.strerror or e}") from None
