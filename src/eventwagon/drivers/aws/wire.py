"""An event as an SQS message, and back. Pure.

CloudEvents has no binding for SQS, and SQS allows ten attributes. So the body is the event in CloudEvents' JSON format
(structured content mode), and the attribute `contentType` says so. JSON data is included byte for byte, other data as
`data_base64`. An event too large for a message is stored only in the table; its message contains its key.
"""

from __future__ import annotations

import re
from hashlib import blake2b

import msgspec

from ...cloudevents import document, holds_json, looks_structured, read
from ...errors import EventTooLarge
from ...event import Event

CONTENT_TYPE = "application/cloudevents+json; charset=utf-8"
REFERENCE = "application/vnd.eventwagon.reference+json"
"""The body only names the event's row: `{"key": …}`."""
MARK = "eventwagon"
"""The attribute of messages whose event has, or had, a row. Other senders may use our content type. The previous
release did not write it."""
INLINE = 65_536
"""The largest body in bytes that is sent in a message: what SQS bills as one request."""
MOST_BYTES = 390_000
"""The largest event as JSON: what fits into a DynamoDB item (400 KB) beside its key."""
_KEY_MOST = 1024  # bytes of a sort key
_KEY = 900  # bytes of an id that is used unchanged

_REFUSED = re.compile("[\ufffe\uffff]")  # not allowed in XML 1.0: SQS refuses these characters
_encoder = msgspec.json.Encoder()


class Letter(msgspec.Struct, frozen=True, gc=False):
    """An event ready to be sent. `key` is its row's key: the same for the same event, whoever sends it."""

    key: str
    body: str
    size: int

    @property
    def message(self) -> tuple[str, str]:
        """The body and content type of its message."""
        return (self.body, CONTENT_TYPE) if self.size <= INLINE else (self.reference, REFERENCE)

    @property
    def reference(self) -> str:
        """The message's reference to the event: its key."""
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
    """The event's key: in CloudEvents, source and id together are unique. Ids of version 7 sort by time."""
    key = f"{event.id}\n{event.source}"
    raw = key.encode()
    return key if len(raw) <= _KEY else f"{event.id[:40]}\n{blake2b(raw, digest_size=16).hexdigest()}"


def _body(event: Event) -> str:
    inline = holds_json(event) and _REFUSED.search(event.data.decode()) is None
    text = _encoder.encode(document(event, inline=inline)).decode()
    return _REFUSED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def event_from(body: bytes, *, message: str, sent: float, kind: str | None = CONTENT_TYPE) -> Event:
    """The event of a body, whoever wrote it; `kind` is its attribute `contentType`. See `cloudevents.read`: the
    `message` id replaces a missing id, the time of sending a missing time. Never raises."""
    if kind is None and looks_structured(body):
        kind = CONTENT_TYPE
    return read([("content-type", kind)], body, position=message, written=sent)


def reference_from(body: str) -> str | None:
    """The key that a body of type REFERENCE contains; None if it is not a possible key."""
    try:
        key = str(msgspec.json.decode(body, type=dict[str, str])["key"])
        return key if 0 < len(key.encode()) <= _KEY_MOST else None
    except (msgspec.DecodeError, KeyError, RecursionError, UnicodeError):
        return None
