"""An event as a Kafka message: CloudEvents 1.0, Kafka protocol binding 1.0.2, binary mode; reading takes structured mode
and messages that are no CloudEvents, too.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from functools import lru_cache
from math import floor
from typing import Any

import msgspec
from confluent_kafka import Message

from ...event import BINARY, JSON, Event

PROBE = "0probe"
"""The one header of a message that is no event: written to see whether a partition takes writes."""
PROBE_HEADERS = [(PROBE, b"")]

_SPEC: tuple[str, str | bytes | None] = ("ce_specversion", b"1.0")
_OURS = ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type")
"""The headers of an event without subject and extensions, as we write them."""


def encode(event: Event) -> tuple[str | None, list[tuple[str, str | bytes | None]]]:
    """Key and headers; the data is the message's value. The key is the extension `partitionkey`, or else the subject."""
    headers: list[tuple[str, str | bytes | None]] = [
        _SPEC,
        ("ce_id", event.id),
        ("ce_source", event.source),
        ("ce_type", event.type),
        ("ce_time", _rfc3339(event.time)),
        ("content-type", event.content_type),
    ]
    key = event.subject
    if key is not None:
        headers.append(("ce_subject", key))
    if event.extensions:
        headers += [(f"ce_{name}", value) for name, value in event.extensions.items()]
        key = event.extensions.get("partitionkey", key)
    return key or None, headers


def size(event: Event) -> int:
    """Bytes that the message takes in a batch of its own, rather too many."""
    key, headers = encode(event)
    total = len(event.data) + len(headers) * 10 + 120 + (len(key.encode()) if key else 0)
    return total + sum(len(name) + len(v if isinstance(v, bytes) else (v or "").encode()) for name, v in headers)


def decode(message: Message) -> Event | None:
    """The event; None for a probe. What a foreign client left out is filled in: the time by the message's, the id by its
    position."""
    headers: list[tuple[str, bytes]] | None = message.headers()  # type: ignore[assignment]
    data: bytes = message.value() or b""
    if not headers:
        return _plain(message, data)
    if headers[0][0] == PROBE:
        return None
    if len(headers) == len(_OURS):
        (first, _), (second, name), (third, source), (fourth, kind), (fifth, at), (sixth, content) = headers
        if (first, second, third, fourth, fifth, sixth) == _OURS:
            return Event(
                name.decode(), _word(kind), _word(source), _seconds(_word(at), message), data, None, _word(content)
            )  # fmt: skip
    found: dict[str, str] = {}
    content_type = JSON
    for key, value in headers:
        if key[:3] == "ce_":
            found[key[3:]] = _text(value)
        elif key == "content-type":
            content_type = _text(value)
    if not found:
        if content_type.startswith("application/cloudevents+json"):
            return _structured(message, data)
        return _plain(message, data, content_type)
    return _event(message, found, data, content_type)


def _event(message: Message, found: dict[str, str], data: bytes, content_type: str) -> Event:
    found.pop("specversion", None)
    pop = found.pop
    name, kind, source = pop("id", None), pop("type", None), pop("source", None)
    at, subject = pop("time", None), pop("subject", None)
    return Event(
        name or _position(message),
        kind or "message",
        source or f"kafka:{message.topic()}",
        _seconds(at, message),
        data,
        subject,
        content_type,
        found,
    )


def _plain(message: Message, data: bytes, content_type: str = JSON) -> Event:
    return _event(message, {}, data, content_type)


def _structured(message: Message, data: bytes) -> Event:
    try:
        document: Any = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return _plain(message, data, "application/cloudevents+json")
    if not isinstance(document, dict):
        return _plain(message, data, "application/cloudevents+json")
    content_type = str(document.pop("datacontenttype", JSON))
    body = document.pop("data", None)
    if "data_base64" in document:
        content_type = BINARY if content_type == JSON else content_type
        try:
            payload = base64.b64decode(str(document.pop("data_base64")))
        except ValueError:
            return _plain(message, data, "application/cloudevents+json")
    elif isinstance(body, str) and "json" not in content_type:
        payload = body.encode()
    else:
        payload = b"" if body is None else msgspec.json.encode(body)
    return _event(message, {str(k): str(v) for k, v in document.items() if v is not None}, payload, content_type)


def _position(message: Message) -> str:
    return f"{message.topic()}/{message.partition()}/{message.offset()}"


@lru_cache(256)
def _word(value: bytes) -> str:
    """What comes again and again: types, sources, times."""
    return value.decode("utf-8", "replace")


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


@lru_cache(64)  # what is published together has one time
def _rfc3339(seconds: float) -> str:
    whole = floor(seconds)
    fraction = round((seconds - whole) * 1e6)
    if fraction == 1_000_000:
        whole, fraction = whole + 1, 0
    return f"{_second(whole)}.{fraction:06d}Z"


@lru_cache(64)
def _second(whole: int) -> str:
    return datetime.fromtimestamp(whole, UTC).isoformat()[:19]


@lru_cache(64)
def _parsed(text: str) -> float | None:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _seconds(text: str | None, message: Message) -> float:
    if text and (at := _parsed(text)) is not None:
        return at
    kind, milliseconds = message.timestamp()
    return milliseconds / 1000 if kind else 0.0
