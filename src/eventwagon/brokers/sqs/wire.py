"""An event as an SQS message, and back. Pure.

CloudEvents has no binding for SQS, and SQS allows ten attributes: so the body is the event in CloudEvents' JSON format
(structured content mode), and the attribute `contentType` says so. JSON data stand in it byte for byte, other data as
`data_base64`. An event too large for a message stands in the table alone; its message names it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Any

import msgspec

from ...errors import EventTooLarge
from ...event import JSON, Event, seconds_of

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
REFERENCE = "application/vnd.eventwagon.reference+json"
"""The body only names the event's row: `{"key": …}`."""
INLINE = 65_536
"""The largest body in bytes that travels in a message: what SQS bills as one request."""
MOST_BYTES = 390_000
"""The largest event as JSON: what a DynamoDB item (400 KB) holds beside its key."""
_KEY = 900  # bytes: a sort key may have 1,024

_OWN = frozenset(
    ("specversion", "id", "type", "source", "time", "subject", "datacontenttype", "data", "data_base64", "dataschema")
)
_REFUSED = re.compile("[\ufffe\uffff]")  # no character of XML 1.0: SQS takes none of them
_encoder = msgspec.json.Encoder()
_parse = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder()


class Letter(msgspec.Struct, frozen=True, gc=False):
    """An event ready to be sent. `key` is its row's: the same for the same event, whoever sends it."""

    key: str
    body: str
    size: int

    @property
    def message(self) -> tuple[str, str]:
        """The body and content type of its message."""
        return (self.body, CONTENT_TYPE) if self.size <= INLINE else (self.reference, REFERENCE)

    @property
    def reference(self) -> str:
        """What stands for the event in a message: its key."""
        return _encoder.encode({"key": self.key}).decode()


def letter(event: Event, channel: object) -> Letter:
    """Raises EventTooLarge."""
    body = _body(event)
    size = len(body.encode())
    if size > MOST_BYTES:
        raise EventTooLarge(
            f"event {event.id} for {channel} is {size} bytes as JSON; a row of the table takes up to {MOST_BYTES}"
        )
    return Letter(key_of(event), body, size)


def key_of(event: Event) -> str:
    """What the event is known by: CloudEvents says that source and id together are unique. Ids of version 7 sort by time."""
    key = f"{event.id}\n{event.source}"
    raw = key.encode()
    return key if len(raw) <= _KEY else f"{event.id[:40]}\n{blake2b(raw, digest_size=16).hexdigest()}"


def _body(event: Event) -> str:
    document: dict[str, Any] = {
        "specversion": "1.0",
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "time": datetime.fromtimestamp(event.time, UTC).isoformat(timespec="microseconds")[:-6] + "Z",
        "datacontenttype": event.content_type,
    }
    if event.subject is not None:
        document["subject"] = event.subject
    document.update(event.extensions)
    if _is_json(event):
        document["data"] = msgspec.Raw(event.data)
    else:
        document["data_base64"] = event.data
    text = _encoder.encode(document).decode()
    return _REFUSED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _is_json(event: Event) -> bool:
    """Whether the data can stand in JSON and come back byte for byte."""
    kind = event.content_type.partition(";")[0].strip()
    data = event.data
    if not (kind == JSON or kind.endswith("+json")) or data != data.strip():
        return False
    try:
        _text.decode(data)
        return _REFUSED.search(data.decode()) is None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def event_from(body: str, *, message: str, sent: float) -> Event:
    """The event of a body, whoever wrote it. What is not a CloudEvent in JSON is data, of unknown type and source; its id
    is the `message` id (stable), its time that of sending."""
    raw = body.encode()
    try:
        found = _parse.decode(raw)
        specversion = found.get("specversion")
        if specversion is None:
            raise ValueError
    except (msgspec.DecodeError, ValueError):
        return Event(message, "unknown", "unknown", sent, raw)
    given: Mapping[str, str] = {name: _word(value) for name, value in found.items() if name != "data"}
    if "data_base64" in found:
        try:
            data = msgspec.json.decode(found["data_base64"], type=bytes)
        except msgspec.DecodeError:
            data = b""
    else:
        data = bytes(found.get("data", b""))
    return Event(
        given.get("id") or message,
        given.get("type") or "unknown",
        given.get("source") or "unknown",
        seconds_of(given.get("time"), sent),
        data,
        given.get("subject"),
        given.get("datacontenttype", JSON),
        {name: value for name, value in given.items() if name not in _OWN},
    )


def reference_from(body: str) -> str | None:
    """The key that a body of type REFERENCE names."""
    try:
        return str(msgspec.json.decode(body, type=dict[str, str])["key"])
    except (msgspec.DecodeError, KeyError):
        return None


def _word(value: msgspec.Raw) -> str:
    found = _text.decode(value)
    if isinstance(found, str):
        return found
    return bytes(value).decode()
