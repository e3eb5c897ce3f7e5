"""A log of JSON lines: an object a line, one of whose fields is the time."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

import msgspec

from ...errors import UsageError
from ...values import shown
from .recorded import Arrival

_USUAL = ("time", "timestamp", "@timestamp", "ts", "at", "created_at")
_BATCH = 2000
_LONGEST = 16_000_000
"""Bytes of a line."""
_MILLISECONDS = 1e11
"""From here on a number counts milliseconds: as seconds it would be after the year 5000."""
_FAR = 253_402_300_800.0  # the year 10000


class JsonLines:
    """A file, or `-` for stdin. `field` may lead into objects: `record.time`. Times are ISO 8601 (UTC unless they say
    otherwise), or numbers: seconds, or milliseconds if they are large."""

    is_live = False

    def __init__(self, path: str, field: str) -> None:
        self.title = "stdin" if path == "-" else Path(path).name
        self._path = path
        self._field = field

    async def batches(self, since: float) -> AsyncIterator[Sequence[Arrival | None]]:
        """See Source.batches; `since` is not looked at. A line that is no JSON object is refused; one that was cut off
        at the end of the file is left out."""
        try:
            with _opened(self._path) as file:
                batch: list[Arrival] = []
                for line in self._arrivals(file):
                    batch.append(line)
                    if len(batch) == _BATCH:
                        yield batch
                        batch = []
                if batch:
                    yield batch
        except OSError as e:
            raise UsageError(f"--source {shown(self._path)} can't be read: {e.strerror or e}") from None

    def _arrivals(self, file: BinaryIO) -> Iterator[Arrival]:
        number = 0
        while line := file.readline(_LONGEST):
            number += 1
            ended = line.endswith(b"\n")
            if not ended and len(line) >= _LONGEST:
                raise self._wrong(number, f"it is longer than {_LONGEST:,} bytes")
            text = line.strip()
            if not text:
                continue
            try:
                found = msgspec.json.decode(text)
            except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as e:
                if not ended:
                    return  # still being written
                raise self._wrong(number, f"it is no JSON: {e}") from None
            yield Arrival(self._time(number, found), len(text))

    def _time(self, number: int, found: object) -> float:
        if not isinstance(found, dict):
            raise self._wrong(number, "it is no JSON object")
        if not self._field:
            self._field = next((name for name in _USUAL if name in found), "")
            if not self._field:
                raise self._wrong(number, f"it has none of the fields {', '.join(_USUAL)}: name one with --time-field")
        value: object = found
        for name in [self._field] if self._field in found else self._field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        at = seconds(value)
        if at is None:
            raise self._wrong(number, f"its field {shown(self._field)} is no time: {shown(value)}")
        return at

    def _wrong(self, number: int, why: str) -> UsageError:
        return UsageError(f"{self.title}:{number}: {why}")


def seconds(value: object) -> float | None:
    """A time in seconds since the epoch; None if it is none."""
    if isinstance(value, str):
        try:
            return _of_text(value)
        except (ValueError, OverflowError):
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        at = float(value)
    except OverflowError:
        return None
    if at >= _MILLISECONDS:
        at /= 1000
    return at if math.isfinite(at) and 0 <= at < _FAR else None


def _of_text(text: str) -> float | None:
    try:
        return seconds(float(text))
    except ValueError:
        at = datetime.fromisoformat(text)
    return seconds((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp())


def _opened(path: str) -> BinaryIO:
    return sys.stdin.buffer if path == "-" else Path(path).open("rb")
