"""The figures of processes that this one has started: they write theirs to files, and this one exports the sums. So no
series comes and goes with a wagon's process."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from ..runtime.bulkhead import Bulkhead
from . import instruments as i
from .instruments import Instrument
from .measures import Labels, Metrics, Point
from .series import Histogram

FIGURES = "EVENTWAGON_FIGURES"
"""The environment variable that names the directory of the files."""
_EVERY = 1.0
"""Seconds between two writings."""
_SUFFIX = ".figures"
_BYTES_MOST = 32 << 20
"""The largest file that is read. Instruments have at most 1,000 series each, of some 200 bytes."""
_logger = logging.getLogger("eventwagon")
_INSTRUMENTS = {each.name: each for each in i.INSTRUMENTS}


class _Written(msgspec.Struct, frozen=True, array_like=True):
    """One series in a file. A counter or gauge has a `value`, a histogram the rest."""

    name: str
    labels: Labels
    value: float = 0.0
    counts: tuple[int, ...] = ()
    sum: float = 0.0
    low: float | None = None
    """The smallest value and the largest; None: there is none yet, and infinity can't be written as JSON."""
    high: float | None = None

    def point(self) -> Point | None:
        """The series; None if this version does not know the instrument in this form."""
        instrument = _INSTRUMENTS.get(self.name)
        if instrument is None or len(self.labels) != len(instrument.labels):
            return None
        if instrument.kind != "histogram":
            return instrument, self.labels, self.value
        histogram = Histogram(instrument.bounds)
        if len(self.counts) != len(histogram.counts):
            return None
        histogram.counts, histogram.sum = list(self.counts), self.sum
        if self.low is not None and self.high is not None:
            histogram.low, histogram.high = self.low, self.high
        return instrument, self.labels, histogram


_decode = msgspec.json.Decoder(list[_Written]).decode


def _written(metrics: Metrics) -> bytes:
    return msgspec.json.encode(
        [_of(family.instrument, *each) for family in metrics.collect() for each in family.series.items()]
    )


def _of(instrument: Instrument, labels: Labels, value: float | Histogram) -> _Written:
    if not isinstance(value, Histogram):
        return _Written(instrument.name, labels, float(value))
    bounded = {} if value.low > value.high else {"low": value.low, "high": value.high}
    return _Written(instrument.name, labels, counts=tuple(value.counts), sum=value.sum, **bounded)


def is_gathered() -> bool:
    """Whether the process that started this one gathers figures."""
    return bool(os.environ.get(FIGURES))


@asynccontextmanager
async def handing_over(metrics: Metrics | None = None) -> AsyncIterator[Metrics | None]:
    """While entered, the figures of `metrics` (default: of new ones, which are yielded) are written for the process
    that started this one, every second and a last time at the end. If that process gathers none, None is yielded."""
    directory = os.environ.get(FIGURES, "")
    if not directory:
        yield None
        return
    metrics, bulkhead = metrics or Metrics(), Bulkhead("metrics")
    path, before = Path(directory) / f"{os.getpid()}-{os.urandom(4).hex()}{_SUFFIX}", b""

    def write() -> None:
        nonlocal before
        if (now := _written(metrics)) != before or not path.exists():
            new = path.with_suffix(".new")
            new.write_bytes(now)
            new.replace(path)
            before = now

    def write_safely() -> None:
        try:
            write()
        except OSError as e:  # a full disk, or the directory has gone with its owner
            bulkhead.report("writing the figures for the process that gathers them", e)

    async def again() -> None:
        while True:
            await asyncio.sleep(_EVERY)
            write_safely()

    writing = asyncio.create_task(again())
    try:
        yield metrics
    finally:
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
        write_safely()


@contextmanager
def gathering(metrics: Metrics) -> Iterator[None]:
    """While entered, processes that this one starts (`subprocess:`, `command:eventwagon work …`) hand their figures
    over to `metrics`, which adds them to its own. Totals of a process that has ended stay. Without a directory for
    temporary files it is logged that these figures are missing."""
    with contextlib.ExitStack() as stack:
        try:
            directory = stack.enter_context(TemporaryDirectory(prefix="eventwagon-", ignore_cleanup_errors=True))
        except OSError as e:  # a full disk, or a container whose file system is read-only
            _logger.info("the figures of processes that this one starts are missing from its own: %s", e)
        else:
            before = os.environ.get(FIGURES)
            os.environ[FIGURES] = directory
            stack.callback(_restore, before)
            children = Children(Path(directory))
            stack.callback(children.close)
            stack.callback(metrics.add(children.points))
        yield


def _restore(before: str | None) -> None:
    if before is None:
        os.environ.pop(FIGURES, None)
    else:
        os.environ[FIGURES] = before


class Children:
    """What the files in a directory say."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ended = Metrics()
        """The totals of processes that have ended."""
        self._kept: set[Path] = set()
        """Files of ended processes that could not be deleted; they are read no more."""
        self._is_closed = False
        self._bulkhead = Bulkhead("metrics")
        self._lock = threading.Lock()

    def points(self) -> list[Point]:
        """The series of all processes; gauges only of those that are alive. From any thread."""
        with self._lock:
            return list(self._points())

    def close(self) -> None:
        """Leave the directory alone from now on."""
        with self._lock:
            self._is_closed = True

    def _points(self) -> Iterator[Point]:
        for path in self._files():
            alive = _is_alive(path.name.partition("-")[0])  # first: what is read then is the last that it wrote
            points = self._read(path)
            if alive:
                yield from points
            else:
                self._keep(path, points)
        yield from self._ended.own()

    def _files(self) -> list[Path]:
        if self._is_closed:
            return []
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)  # somebody may have cleaned up
            return sorted(set(self._directory.glob(f"[0-9]*-*{_SUFFIX}")) - self._kept)
        except OSError as e:
            self._bulkhead.report("the directory of the figures of processes that this one started", e)
            return []

    def _keep(self, path: Path, points: list[Point]) -> None:
        for point in points:
            self._ended.keep(point)
        try:
            path.unlink(missing_ok=True)
        except OSError as e:  # read-only, or the directory of another
            self._kept.add(path)
            self._bulkhead.report("deleting the figures of a process that has ended", e)

    def _read(self, path: Path) -> list[Point]:
        try:
            if not path.is_file():  # a pipe would block
                return []
            with path.open("rb") as file:
                content = file.read(_BYTES_MOST + 1)
            if len(content) > _BYTES_MOST:
                raise ValueError(f"{path.name} has more than {_BYTES_MOST} bytes")
            return [point for each in _decode(content) if (point := each.point()) is not None]
        except (OSError, ValueError, RecursionError) as e:  # a full disk, or the file of another
            self._bulkhead.report("the figures of a process that this one started", e)
            return []


def _is_alive(pid: str) -> bool:
    """Whether there is a process with this number. That of an ended process may be given to another one; then its
    gauges stay a while longer."""
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError, ValueError):
        return False
    except PermissionError:
        return True
    return True
