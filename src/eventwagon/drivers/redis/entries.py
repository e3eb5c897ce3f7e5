"""Events as entries of a stream: the attributes of CloudEvents 1.0 as fields, and back. Pure.

CloudEvents has no binding for Redis; the names are those of the specification
(https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/spec.md), the payload is the unchanged field `data`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from ...cloudevents import known, read, rfc3339, seconds
from ...event import LATEST, Event

Entry = tuple[bytes, list[bytes]]
"""An entry as the server returns it: an id (milliseconds-number), and names and values in turn."""

_NAMES = [b"specversion", b"id", b"source", b"type", b"time", b"datacontenttype", b"data"]

_pack = msgspec.msgpack.Encoder().encode


def pack(events: Sequence[Event], largest: int) -> list[bytes | int]:
    """The arguments of a publish: roughly the size of the `largest` event; all fields but the data, packed for the
    server's script; and each event's data."""
    return [
        1 << largest.bit_length(),  # rounded up, so that it rarely changes
        _pack([_fields(e) for e in events]),
        *[e.data for e in events],
    ]


def _fields(e: Event) -> tuple[str, ...]:
    fields: tuple[str, ...] = (
        "specversion",
        "1.0",
        "id",
        e.id,
        "source",
        e.source,
        "type",
        e.type,
        "time",
        rfc3339(e.time),
        "datacontenttype",
        e.content_type,
    )
    if e.subject is not None:
        fields += ("subject", e.subject)
    for name, value in e.extensions.items():
        fields += (name, value)
    return fields


def unpack(channel: str, entries: Iterable[Entry]) -> list[Event]:
    """The events of these entries, one for each; see `cloudevents.read` for those of other senders. Never raises."""
    return [_ours(fields) or _any(channel, place, fields) for place, fields in entries]


def _ours(fields: list[bytes]) -> Event | None:
    if fields[::2] != _NAMES or fields[1] != b"1.0":
        return None
    try:
        return known(
            fields[3].decode(),
            fields[7].decode(),
            fields[5].decode(),
            fields[9].decode(),
            fields[13],
            fields[11].decode(),
        )
    except UnicodeDecodeError:
        return None


def _any(channel: str, place: bytes, fields: list[bytes]) -> Event:
    pairs = list(zip(fields[::2], fields[1::2], strict=False))
    data = next((value for name, value in pairs if name == b"data"), b"")
    rest = [(name, value) for name, value in pairs if name != b"data"]
    return read(rest, data, position=f"{channel}/{place.decode()}", written=written_at(place), bare=True)


def written_at(place: bytes) -> float:
    """When the entry was written, by the server's clock or by the process that set its id."""
    return min(int(place.partition(b"-")[0]) / 1000, LATEST)


def event_time(about: Sequence[bytes] | None) -> float | None:
    """The event's time from an entry's id and its field `time`; None for no entry."""
    if not about:
        return None
    time = seconds(about[1].decode(errors="replace"))
    return written_at(about[0]) if time is None else time
