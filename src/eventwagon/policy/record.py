"""Encodes a look as one word of text, to be logged, stored, and replayed elsewhere. Pure.

The word is `eventwagon-look-1:` followed by the compressed JSON of a `Record` in URL-safe, unpadded Base64. A log keeps
such a word intact, whatever it does to lines of text.
"""

from __future__ import annotations

import base64
import binascii
import re
import warnings
import zlib
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, TypeVar

import msgspec

from ..breaker import Breaker
from ..contracts.broker import Capabilities
from ..contracts.manifest import decode, encode
from ..contracts.orchestrator import Deployment
from ..contracts.reading import Reading
from ..contracts.registry import Member
from ..display.redaction import redacted
from ..display.text import said
from ..errors import EventwagonError, UsageError
from ..event import Channel
from ..limits import Limit, Pressure, capacity, measured, parse_limit, slo, written
from ..pause_on import PauseOn
from ..settings import Settings
from ..workers import parse_workers
from .demand import Demand
from .latest_outcomes import Outcomes
from .seen import Ages, Seen

FORM = 1
_WORD = re.compile(r"eventwagon-look-(\d{1,9}):([A-Za-z0-9_-]*)")
_MOST = 64 * 1024 * 1024
"""The most bytes of JSON in a look: anything larger is not one of ours."""

T = TypeVar("T")


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A limit's result in a look: `why` and `pressure` are those of the active wagon."""

    written: str
    bound: int | None = None
    slo: float | None = None
    pressure: float = 0.0
    why: str = "not looked at yet"

    def __repr__(self) -> str:
        return self.written

    def measure(self, reading: Reading) -> Pressure:
        """The recorded result, whatever the reading. Pure."""
        return Pressure(self.pressure, self.why)


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """A look in its stored form. Settings are stored as plain values, the limit with its result: a user's own limit may
    not be importable where the look is replayed."""

    now: float
    settings: Mapping[str, str | bool | int | float | None]
    breaker: Breaker | None
    limit: Measured
    capabilities: Capabilities
    manifest: msgspec.Raw
    readings: dict[int, Reading]
    deployments: dict[int, Deployment]
    members: tuple[Member, ...]
    ages: Ages
    leftovers: tuple[Channel, ...]
    orchestrated: bool
    demand: Demand = Demand()
    step: int = 1
    pause_on: PauseOn | None = None
    outcomes: dict[int, Outcomes] = {}


def record(seen: Seen) -> Record:
    """The look in its stored form, without secrets. Past `samples` are kept for the active wagon only: no decision uses
    those of the others."""
    settings, active = seen.settings, seen.manifest.active
    number = active.number if active is not None else 0
    others = {n: msgspec.structs.replace(r, samples=()) for n, r in seen.readings.items() if n != number}
    apart = ("limit", "workers", "breaker", "pause_on")
    plain = {name: getattr(settings, name) for name in Settings.__struct_fields__ if name not in apart}
    return _redacted(
        Record(
            now=seen.now,
            settings={**plain, "workers": repr(settings.workers)},
            breaker=settings.breaker,
            limit=_measured(settings.limit, seen.readings.get(number)),
            capabilities=seen.capabilities,
            manifest=msgspec.Raw(encode(_redacted(seen.manifest))),
            readings={**seen.readings, **others},
            deployments=dict(seen.deployments),
            members=tuple(seen.members),
            ages=seen.ages,
            leftovers=tuple(seen.leftovers),
            orchestrated=seen.orchestrated,
            demand=seen.demand,
            step=seen.step,
            pause_on=settings.pause_on,
            outcomes=dict(seen.outcomes),
        )
    )


def encode_look(seen: Seen) -> str:
    """The look as one word of text, without secrets. An error in a user's limit is not raised."""
    data = zlib.compress(msgspec.json.encode(record(seen)), 9)
    return f"eventwagon-look-{FORM}:{base64.urlsafe_b64encode(data).decode().rstrip('=')}"


def find_looks(text: str) -> Iterator[str]:
    """The looks in a log line or any other text, as `decode_look` accepts them."""
    return (found[0] for found in _WORD.finditer(text))


def decode_look(word: str) -> Seen:
    """The look in a word. A limit that can't be rebuilt from its text (a user's own) returns its recorded result.
    Raises UsageError if the look is cut short, changed, or written by a newer eventwagon."""
    found = _WORD.fullmatch(word)
    if found is None:
        raise UsageError("this is no look: it does not begin with eventwagon-look-1:")
    if int(found[1]) > FORM:
        raise UsageError(
            f"this look was written by a newer eventwagon (form {found[1]}, this one knows {FORM}): upgrade this "
            "program (pip install --upgrade eventwagon)"
        )
    data = _unpacked(found[2])
    try:
        stored = msgspec.json.decode(data, type=Record)
        return Seen(
            now=stored.now,
            settings=_settings(stored),
            capabilities=stored.capabilities,
            manifest=decode(bytes(stored.manifest), kept="the stored look"),
            readings=stored.readings,
            deployments=stored.deployments,
            members=stored.members,
            ages=stored.ages,
            leftovers=stored.leftovers,
            orchestrated=stored.orchestrated,
            demand=stored.demand,
            step=stored.step,
            outcomes=stored.outcomes,
        )
    except (ValueError, TypeError, LookupError, RecursionError, EventwagonError) as e:
        raise UsageError(f"this look can't be read: {said(e)}") from e


def _unpacked(text: str) -> bytes:
    """The JSON in a word. Raises UsageError."""
    try:
        packed = base64.urlsafe_b64decode(
            text[: len(text) // 4 * 4] if len(text) % 4 == 1 else text + "=" * (-len(text) % 4)
        )
        unpacking = zlib.decompressobj()
        data = unpacking.decompress(packed, _MOST)
    except (binascii.Error, zlib.error) as e:
        raise UsageError(f"this look was changed after it was written: {said(e)}") from e
    if unpacking.unconsumed_tail:
        raise UsageError(f"this look holds more than {_MOST:,} bytes")
    if not unpacking.eof:
        raise UsageError(
            f"this look is cut short, {len(text):,} characters of it are there: take the whole line of the log, which "
            "a terminal may have wrapped"
        )
    return data


def _measured(limit: Limit, reading: Reading | None) -> Measured:
    found, _ = measured(limit, reading) if reading is not None else (Pressure(0.0, "not looked at yet"), "")
    return Measured(
        written=written(limit), bound=capacity(limit), slo=slo(limit), pressure=float(found.value), why=found.why
    )


def _settings(stored: Record) -> Settings:
    """The settings of the look; fields of a newer version are ignored."""
    known: dict[str, Any] = {n: value for n, value in stored.settings.items() if n in Settings.__struct_fields__}
    limit: Limit = stored.limit
    try:
        read = parse_limit(stored.limit.written)
    except (UsageError, RecursionError, MemoryError):
        pass
    else:
        limit = read if written(read) == stored.limit.written else limit
    with warnings.catch_warnings(action="ignore"):  # warned where the numbers were set
        known["workers"] = parse_workers(str(known["workers"]))
        return Settings(**known, breaker=stored.breaker, pause_on=stored.pause_on, limit=limit)


def _redacted(value: T) -> T:
    """The value with secrets removed from its strings; field names stay."""
    found: Any = value
    match found:
        case Enum() | msgspec.Raw():
            pass
        case str():
            found = redacted(found if found.isascii() else found.encode(errors="backslashreplace").decode())
        case msgspec.Struct():
            fields = {name: _redacted(getattr(found, name)) for name in found.__struct_fields__}
            found = msgspec.structs.replace(found, **fields)
        case Mapping():
            found = {_redacted(name): _redacted(each) for name, each in found.items()}
        case tuple() | list():
            found = tuple(map(_redacted, found))
    return found  # type: ignore[no-any-return]
