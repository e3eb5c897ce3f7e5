"""An event as a Kafka message: CloudEvents 1.0, Kafka protocol binding 1.0.2, binary mode; reading takes structured and
batch mode and messages that are no CloudEvents, too.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/kafka-protocol-binding.md
"""

from __future__ import annotations

from functools import lru_cache

from confluent_kafka import Message

from ...cloudevents import known, read, rfc3339, undecodable
from ...display.text import said
from ...event import Event

PROBE = "0probe"
"""The one header of a message that is no event: written to see whether a partition takes writes."""
PROBE_HEADERS = [(PROBE, b"")]

_SPEC: tuple[str, str | bytes | None] = ("ce_specversion", b"1.0")
_OURS = ("ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "content-type")
"""The headers of an event without subject and extensions, as we write them."""


def encode(event: Event) -> tuple[str | None, list[tuple[str, str | bytes | None]]]:
    """Key and headers; the data is the message's value. The key is the extension `partitionkey`, or else the
    subject."""
    headers: list[tuple[str, str | bytes | None]] = [
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
    return key or None, headers


def size(event: Event) -> int:
    """The bytes that the message takes in a batch of its own; never too few."""
    key, headers = encode(event)
    total = len(event.data) + len(headers) * 10 + 120 + (len(key.encode()) if key else 0)
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
    if len(headers) == len(_OURS):
        (first, spec), (second, name), (third, source), (fourth, kind), (fifth, at), (sixth, content) = headers
        if (first, second, third, fourth, fifth, sixth) == _OURS and spec == b"1.0":
            try:
                event = known(name.decode(), _word(kind), _word(source), _word(at), data, _word(content))  # type: ignore[union-attr]
            except (UnicodeDecodeError, AttributeError):  # no text, or a header without a value
                event = None
            if event is not None:
                return event
    return read(headers, data, position=_position(message), written=_written(message))


def _position(message: Message) -> str:
    return f"{message.topic()}/{message.partition()}/{message.offset()}"


def _written(message: Message) -> float:
    kind, milliseconds = message.timestamp()
    return milliseconds / 1000 if kind else 0.0


@lru_cache(256)
def _word(value: bytes | None) -> str:
    """A value that occurs often: types, sources, times."""
    return value.decode()  # type: ignore[union-attr]
