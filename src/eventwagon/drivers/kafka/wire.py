"""An event as a Kafka message: CloudEvents 1.0, Kafka protocol binding 1.0.2, in binary or structured mode. Reading
takes both, batch mode, and messages that are no CloudEvents.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

from functools import lru_cache

import msgspec
from confluent_kafka import Message

from ...cloudevents import CACHEABLE, STRUCTURED, are_plain, is_plain, known, read, rfc3339, seconds, undecodable
from ...display.text import said
from ...event import JSON, Event

PROBE = "0probe"
"""The one header of a message that is no event: written to see whether a partition takes writes."""
PROBE_HEADERS = [(PROBE, b"")]

_SPEC: tuple[str, str | bytes | None] = ("ce_specversion", b"1.0")
_OURS = ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type")
"""The headers of an event without subject and extensions, as we write them."""

Headers = list[tuple[str, str | bytes | None]]

_STRUCTURED: Headers = [("content-type", STRUCTURED.encode())]
"""The headers of an event in structured mode, as we write them."""


class _Document(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """An event without subject and extensions in structured mode, as we write it."""

    specversion: str
    id: str
    source: str
    type: str
    time: str
    datacontenttype: str
    data: msgspec.Raw


_json = msgspec.json.Encoder()
_value = msgspec.json.Decoder(msgspec.Raw)
_document = msgspec.json.Decoder(_Document)


def encode(event: Event, *, structured: bool = False) -> tuple[str | None, bytes, Headers]:
    """Key, value and headers. The key is the extension `partitionkey`, or else the subject. With `structured`, an event
    whose data would come back unchanged is one JSON document; any other is in binary mode all the same."""
    if structured and (document := _structured(event)) is not None:
        return event.extensions.get("partitionkey", event.subject) or None, document, _STRUCTURED
    headers: Headers = [
        _SPEC,
        ("ce_id", event.id),
        ("ce_source", event.source),
        ("ce_type", event.type),
        ("ce_time", rfc3339(event.time)),
        ("content-type", event.content_type),
    ]
    key = event.subject
    if key is not None:
        headers.append(("ce_subject", key))
    if event.extensions:
        headers += [(f"ce_{name}", value) for name, value in event.extensions.items()]
        key = event.extensions.get("partitionkey", key)
    return key or None, event.data, headers


def _structured(event: Event) -> bytes | None:
    """The event as JSON; None if its data would not come back byte for byte, or are no JSON for others."""
    if event.content_type != JSON or not event.data:
        return None
    try:
        if not event.data.isascii():
            event.data.decode()
        data = _value.decode(event.data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if len(data) != len(event.data):  # spaces around it
        return None
    if event.subject is None and not event.extensions:
        return _json.encode(
            _Document("1.0", event.id, event.source, event.type, rfc3339(event.time), event.content_type, data)
        )
    subject = {} if event.subject is None else {"subject": event.subject}
    return _json.encode(
        {
            "specversion": "1.0",
            "id": event.id,
            "source": event.source,
            "type": event.type,
            "time": rfc3339(event.time),
            "datacontenttype": event.content_type,
            **subject,
            **event.extensions,
            "data": data,
        }
    )


def size(event: Event, *, structured: bool = False) -> int:
    """The bytes that the message takes in a batch of its own; never too few."""
    key, value, headers = encode(event, structured=structured)
    total = len(value) + len(headers) * 10 + 120 + (len(key.encode()) if key else 0)
    return total + sum(len(name) + len(v if isinstance(v, bytes) else (v or "").encode()) for name, v in headers)


def decode(message: Message) -> Event | None:
    """The event; None for a probe. See `cloudevents.read` for what others wrote. Never raises."""
    data: bytes = message.value() or b""
    try:
        headers: list[tuple[str, bytes | None]] = message.headers() or []  # type: ignore[assignment]
    except Exception as e:  # noqa: BLE001 - the client reads their names as UTF-8
        return undecodable(data, (), position=_position(message), written=_written(message), because=said(e))
    if headers and headers[0][0] == PROBE:
        return None
    event: Event | None = None
    if len(headers) == len(_OURS):
        event = _of_headers(headers, data)
    elif headers == _STRUCTURED:
        event = _of_document(data)
    return event or read(headers, data, position=_position(message), written=_written(message))


def _of_headers(headers: list[tuple[str, bytes | None]], data: bytes) -> Event | None:
    """The event of a message in binary mode as `encode` writes it; None: use `read`."""
    (first, spec), (second, name), (third, source), (fourth, kind), (fifth, time), (sixth, content) = headers
    if (first, second, third, fourth, fifth, sixth) != _OURS or spec != b"1.0" or not name or not name.isascii():
        return None
    if not (kind and source and time and content) or len(kind) + len(source) + len(time) + len(content) > CACHEABLE:
        return None
    words, at, text = _words(kind, source, content), _time(time), name.decode()
    if words is None or at is None or not is_plain(text):
        return None
    return Event(text, words[0], words[1], at, data, None, words[2])


def _of_document(document: bytes) -> Event | None:
    """The event of a message in structured mode as `encode` writes it; None: use `read`."""
    try:
        found = _document.decode(document)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):  # it has more attributes, or is not ours
        return None
    if found.specversion != "1.0" or found.datacontenttype != JSON:  # of another type, a text in quotes may stand there
        return None
    return known(found.id, found.type, found.source, found.time, bytes(found.data), found.datacontenttype)


def _position(message: Message) -> str:
    return f"{message.topic()}/{message.partition()}/{message.offset()}"


def _written(message: Message) -> float:
    kind, milliseconds = message.timestamp()
    return milliseconds / 1000 if kind else 0.0


@lru_cache(256)  # the same few recur
def _words(kind: bytes, source: bytes, content: bytes) -> tuple[str, str, str] | None:
    """Type, source and content type; None: use `read`."""
    try:
        words = kind.decode(), source.decode(), content.decode()
    except UnicodeDecodeError:
        return None
    return words if are_plain(*words) else None


@lru_cache(64)  # events published together have the same time
def _time(value: bytes) -> float | None:
    try:
        return seconds(value.decode())
    except UnicodeDecodeError:
        return None
