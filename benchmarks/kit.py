"""What the benchmarks share: figures taken in turn, what they come to, and what is aimed at."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Literal, TypeVar

import msgspec

Side = Callable[[], Awaitable[float]]
"""Does one side's work once and returns its figure."""
T = TypeVar("T")


class Aim(msgspec.Struct, frozen=True):
    """What the median should be: of the ratio, or of our own figure."""

    of: Literal["ratio", "ours"]
    least: float | None = None
    most: float | None = None

    def met(self, value: float) -> bool:
        """Whether `value` reaches it."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        sign, bound = ("≥", self.least) if self.least is not None else ("≤", self.most)
        return f"{sign} {bound:,g}" + ("×" if self.of == "ratio" else "")


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Two rows of figures, taken in turn: the n-th of ours and the n-th of theirs belong together."""

    what: str
    against: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float]
    aim: Aim | None = None
    note: str = ""

    @property
    def ratios(self) -> list[float]:
        """Ours ÷ theirs, pair by pair."""
        return [a / b if b else float("inf") for a, b in zip(self.ours, self.theirs, strict=True)]

    @property
    def reached(self) -> bool | None:
        """Whether the aim is reached by the median; None where there is none."""
        if self.aim is None:
            return None
        return self.aim.met(median(self.ratios if self.aim.of == "ratio" else self.ours))


class Run(msgspec.Struct, frozen=True):
    """How to run: with fewer and shorter rounds, and in which directory files may be made."""

    quick: bool
    directory: str

    def pick(self, full: int, quick: int) -> int:
        """One of the two, as asked for."""
        return quick if self.quick else full

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A directory that goes again."""
        with TemporaryDirectory(prefix="eventwagon-bench-", dir=self.directory) as name:
            yield Path(name)


class Benchmark(msgspec.Struct, frozen=True):
    """One benchmark: what it is called, what it asks in a sentence, and how it finds out."""

    name: str
    question: str
    run: Callable[[Run], Awaitable[list[Line]]]


async def in_turn(rounds: int, *sides: Callable[[], Awaitable[T]], warm: bool = True) -> list[list[T]]:
    """What each side returns, over `rounds`. All sides once in each round: what disturbs the machine disturbs all."""
    if warm:
        for side in sides:
            await side()
    figures: list[list[T]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, mine in zip(sides, figures, strict=True):
            gc.collect()
            mine.append(await side())
    return figures


class Stopwatch:
    """Seconds since it was made: of the clock, and of CPU time of this process."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._cpu_began = time.process_time()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @property
    def cpu_seconds(self) -> float:
        return time.process_time() - self._cpu_began


def percentile(values: Sequence[float], share: float) -> float:
    """The value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Order(msgspec.Struct):
    """The payload of all benchmarks: about 200 bytes as JSON."""

    number: int
    name: str
    address: str


def orders(count: int, start: int = 0) -> list[Order]:
    """`count` of them, all different."""
    return [Order(n, f"customer {n}", "x" * 150) for n in range(start, start + count)]


_names = itertools.count(1)


def unused(stem: str) -> str:
    """A name not given before in this process."""
    return f"{stem}{next(_names)}"
