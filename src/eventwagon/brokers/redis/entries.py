"""Events as entries of a stream: the attributes of CloudEvents 1.0 as fields, and back. Pure.

Redis has no CloudEvents binding of its own; the names are those of the specification
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md), the payload is the field `data`, as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import floor

import msgspec

from ...event import JSON, Event

Entry = tuple[bytes, list[bytes]]
"""What the server gives: an id (milliseconds-number) and names and values in turn."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NAMES = [b"specversion", b"id", b"source", b"type", b"time", b"datacontenttype", b"data"]
_CORE = frozenset([*_NAMES, b"subject"])

_Z, _POINT = b"Z."

_pack = msgspec.msgpack.Encoder().encode


def _rfc3339(time: float) -> str:
    """As in 2026-01-31T23:59:59.000001Z."""
    second = floor(time)
    rest = round((time - second) * 1e6)
    return f"{_date(second)}.{rest:06d}Z" if rest < 1_000_000 else f"{_date(second + 1)}.000000Z"


@lru_cache(64)
def _date(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")


def _seconds(text: bytes) -> float | None:
    """Seconds since the epoch; None for what is no time. One without a zone is UTC."""
    if len(text) == 27 and text[26] == _Z and text[19] == _POINT and text[20:26].isdigit():  # as we write it
        second = _parsed(text[:19])
        return None if second is None else second + int(text[20:26]) / 1e6
    return _parsed(text)


@lru_cache(64)
def _parsed(text: bytes) -> float | None:
    try:
        time = datetime.fromisoformat(text.decode())
    except ValueError:
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def pack(events: Sequence[Event], largest: int) -> list[bytes | int]:
    """The arguments of a publish: about the `largest` one's size, the fields of all but the data, packed for the server's script,
    and each one's data."""
    return [
        1 << largest.bit_length(),  # rounded up: seldom news
        _pack(
            [
                ("specversion", "1.0", "id", e.id, "source", e.source, "type", e.type, "time", _rfc3339(e.time),
                 "datacontenttype", e.content_type)
                if e.subject is None and not e.extensions
                else _fields(e)
                for e in events
            ]
        ),
        *[e.data for e in events],
    ]  # fmt: skip


def _fields(e: Event) -> list[str]:
    fields = ["specversion", "1.0", "id", e.id, "source", e.source, "type", e.type, "time", _rfc3339(e.time),
              "datacontenttype", e.content_type]  # fmt: skip
    if e.subject is not None:
        fields += ("subject", e.subject)
    for name, value in e.extensions.items():
        fields += (name, value)
    return fields


def unpack(channel: str, entries: Iterable[Entry]) -> list[Event]:
    """The events of these entries. What a foreign client left out is filled in: the time by the entry's own, the id by
    its place."""
    events = []
    for place, fields in entries:
        if fields[::2] == _NAMES:
            time = _seconds(fields[9])
            if time is not None:
                events.append(
                    Event(
                        fields[3].decode(), fields[7].decode(), fields[5].decode(), time, fields[13],
                        None, fields[11].decode(),
                    )
                )  # fmt: skip
                continue
        events.append(_any(channel, place, fields))
    return events


def _any(channel: str, place: bytes, fields: list[bytes]) -> Event:
    found: dict[bytes, bytes] = {}
    for name, value in zip(fields[::2], fields[1::2], strict=True):
        found.setdefault(name, value)
    time = _seconds(found[b"time"]) if b"time" in found else None
    subject = found.get(b"subject")
    return Event(
        id=_text(found.get(b"id")) or f"{channel}/{place.decode()}",
        type=_text(found.get(b"type")),
        source=_text(found.get(b"source")),
        time=written_at(place) if time is None else time,
        data=found.get(b"data", b""),
        subject=None if subject is None else _text(subject),
        content_type=JSON if b"datacontenttype" not in found else _text(found[b"datacontenttype"]),
        extensions={_text(name): _text(value) for name, value in found.items() if name not in _CORE},
    )


def _text(value: bytes | None) -> str:
    return "" if value is None else value.decode(errors="replace")


def written_at(place: bytes) -> float:
    """When the entry was written, by the server's clock."""
    return int(place.partition(b"-")[0]) / 1000


def event_time(about: Sequence[bytes] | None) -> float | None:
    """The event's time from an entry's id and its field `time`; None for no entry."""
    if not about:
        return None
    time = _seconds(about[1])
    return written_at(about[0]) if time is None else time
