"""CloudEvents 1.0 in brokers' messages, from any producer: one codec for all drivers. Pure.

Reading never fails. Any bytes become an event that passes the one check (`event.checked`): the event itself, a batch of
several (`parts`), or an undecodable message, which a worker sends to the dead letters (`undecodable`).
"""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import floor

import msgspec

from .display.text import plain, said
from .errors import UsageError
from .event import (
    BINARY,
    EARLIEST,
    JSON,
    LATEST,
    LEVEL,
    LONGEST_VALUE,
    LONGEST_WORD,
    MOST_EXTENSIONS,
    Event,
    check_word,
    checked,
)

STRUCTURED = "application/cloudevents+json"
"""Content type of a message that is one event in JSON."""
BATCH = "application/cloudevents-batch+json"
"""Content type of a message that is a JSON array of events."""
UNKNOWN = "unknown"
"""The type and source of an event that has none."""
UNDECODABLE = "undecodable"
"""The extension attribute with the position of an undecodable message."""
_HEADERS_MOST = MOST_EXTENSIONS // 2 * LONGEST_VALUE
"""The most characters kept of an undecodable message's headers."""
HEADERS = "rawheaders"
"""The extension attribute with the headers of an undecodable message, as JSON; continued in `rawheaders2` and so on if
long."""

Pairs = Sequence[tuple[str | bytes, str | bytes | None]]
"""A message's headers, properties or fields, in their order."""

_ANY = sys.maxsize  # bytes: decoding does not limit an event's size
CACHEABLE = 1000  # characters of an event's attributes beyond which none of them are kept: they may be a stranger's
_OUR_LENGTH = 27  # of a time as `rfc3339` writes it
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_document = msgspec.json.Decoder(dict[str, msgspec.Raw])
_documents = msgspec.json.Decoder(list[msgspec.Raw])
_value = msgspec.json.Decoder()


class _Bad(Exception):
    """Why a message can't be decoded."""


# --- times ----------------------------------------------------------------------------------


@lru_cache(1024)  # events published together have the same time, and those that a bridge brings one of a few
def rfc3339(time: float) -> str:
    """A time in seconds since the epoch, written like 2026-01-31T23:59:59.000001Z."""
    second = floor(time)
    rest = round((time - second) * 1e6)
    return f"{_date(second)}.{rest:06d}Z" if rest < 1_000_000 else f"{_date(second + 1)}.000000Z"


@lru_cache(64)
def _date(second: int) -> str:
    return (_EPOCH + timedelta(seconds=second)).isoformat()[:19]


def seconds(text: str) -> float | None:
    """An RFC 3339 time in seconds since the epoch; without a zone it counts as UTC. None if the text is not a time, or
    is so close to the ends of the years 1 to 9999 that it can't be written again in every zone."""
    return _as_long_as_ours(text) if len(text) == _OUR_LENGTH else _in_range(_parsed(text))


@lru_cache(64)  # events published together have the same time
def _as_long_as_ours(text: str) -> float | None:
    if text[26] == "Z" and text[19] == "." and text[20:26].isdecimal():
        second = _second(text[:19])
        return None if second is None else _in_range(second + int(text[20:26]) / 1e6)
    return _in_range(_parsed(text))


def _in_range(time: float | None) -> float | None:
    return time if time is not None and EARLIEST <= time <= LATEST else None


def _parsed(text: str) -> float | None:
    try:
        when = datetime.fromisoformat(text.upper())
        return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None


_second = lru_cache(64)(_parsed)


# --- writing --------------------------------------------------------------------------------


def document(event: Event, *, inline: bool) -> dict[str, object]:
    """The event in CloudEvents' JSON format, for msgspec. `inline`: its data are JSON (see `holds_json`), and stay as
    they are; otherwise they become `data_base64`."""
    found: dict[str, object] = {
        "specversion": "1.0",
        "id": event.id,
        "type": event.type,
        "source": event.source,
        "time": rfc3339(event.time),
        "datacontenttype": event.content_type,
    }
    if event.subject is not None:
        found["subject"] = event.subject
    found.update(event.extensions)
    if inline:
        found["data"] = msgspec.Raw(event.data)
    else:
        found["data_base64"] = event.data
    return found


def holds_json(event: Event) -> bool:
    """Whether the data can stand in a JSON document and come back byte for byte."""
    data = event.data
    if not is_json(event.content_type) or data != data.strip():
        return False
    try:
        _value.decode(data)
        data.decode()
        return True
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


# --- reading --------------------------------------------------------------------------------


def read(pairs: Pairs, data: bytes, *, position: str, written: float, bare: bool = False) -> Event:
    """The event of a message with these headers and this payload. Never raises.

    Headers that begin with `ce_` or `ce-` are attributes, and `content-type` is that of the data; others are ignored.
    With `bare`, each header is an attribute under its own name. `position` names the message, the same each time it is
    read; it was stored at `written`, in seconds since the epoch.
    """
    try:
        return _read(pairs, data, position, written, bare=bare)
    except Exception as e:  # noqa: BLE001 - a foreign message must fail alone, whatever is in it
        return undecodable(data, pairs, position=position, written=written, because=_why(e))


def known(name: str, kind: str, source: str, time: str, data: bytes, content_type: str) -> Event | None:
    """The event with these attributes and no others: the fast path for nearly all that we write. None: use `read`."""
    at = seconds(time)
    if len(kind) + len(source) + len(content_type) > CACHEABLE:
        return None
    if at is not None and is_plain(name) and are_plain(kind, source, content_type):
        return Event(name, kind, source, at, data, None, content_type)
    return None


def is_plain(word: str) -> bool:
    """Whether `known` takes it for an id, a type or a source."""
    return 0 < len(word) <= LONGEST_WORD and word.isascii() and word.isprintable() and " " not in word


@lru_cache(256)  # the same few recur
def are_plain(kind: str, source: str, content_type: str) -> bool:
    """Whether `known` takes them for an event's."""
    try:
        content = check_word("content_type", content_type)
    except UsageError:
        return False
    return is_plain(kind) and is_plain(source) and not _media(content).startswith("application/cloudevents")


def undecodable(data: bytes, pairs: Pairs, *, position: str, written: float, because: str) -> Event:
    """The event that stands for an undecodable message: its payload unchanged, its position as the id and as the
    extension attribute `undecodable`, the reason as `deadbecause`, and its headers as `rawheaders`."""
    extensions = {UNDECODABLE: position, "deadbecause": plain(f"can't be decoded: {because}")}
    if pairs:
        text = json.dumps([[_shown(name), _shown(value)] for name, value in pairs])
        text = text if len(text) <= _HEADERS_MOST else f"{text[: _HEADERS_MOST - 3]}..."
        for number, start in enumerate(range(0, len(text), LONGEST_VALUE), 1):
            extensions[HEADERS if number == 1 else f"{HEADERS}{number}"] = text[start : start + LONGEST_VALUE]
    return Event(position, UNKNOWN, UNKNOWN, within(written), data, None, BINARY, extensions)


def is_batch(event: Event) -> bool:
    """Whether the event is a message that holds several events: see `parts`."""
    return event.content_type.startswith(BATCH)


def parts(batch: Event) -> Iterator[Event]:
    """The events of a batch, in order; each one that can't be decoded becomes `undecodable`. They have the
    batch's `chainlevel`. Never raises."""
    try:
        documents = _documents.decode(batch.data)
    except Exception as e:  # noqa: BLE001 - a foreign message must fail alone, whatever is in it
        yield undecodable(batch.data, (), position=batch.id, written=batch.time, because=_why(e))
        return
    level = batch.extensions.get(LEVEL)
    for number, document in enumerate(documents):
        position = f"{batch.id[:400]}/{number}"
        try:
            part = _structured(_document.decode(document), position, batch.time)
            yield part if level is None else msgspec.structs.replace(part, extensions={**part.extensions, LEVEL: level})
        except Exception as e:  # noqa: BLE001 - the other events must not suffer for it
            yield undecodable(bytes(document), (), position=position, written=batch.time, because=_why(e))


def is_json(content_type: str) -> bool:
    """Whether data of this content type are JSON."""
    kind = _media(content_type)
    return kind == JSON or kind.endswith("+json")


def looks_structured(data: bytes) -> bool:
    """Whether the data of a message without a content type are one event in JSON."""
    try:
        return "specversion" in _document.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False


def _read(pairs: Pairs, data: bytes, position: str, written: float, *, bare: bool) -> Event:
    found: dict[str, str] = {}
    content_type: str | None = None
    for raw, value in pairs:
        name = _text(raw, "the name of an attribute").lower()
        if name == "content-type":
            content_type = content_type or _given(value, name)
            continue
        if not bare:
            if name[:3] not in ("ce_", "ce-"):
                continue
            name = name[3:]
        if value is not None:
            found.setdefault(name, _text(value, name))
    content_type = content_type or _given(found.get("datacontenttype"), "datacontenttype")
    found.pop("datacontenttype", None)
    media = "" if content_type is None else _media(content_type)
    if media.startswith("application/cloudevents"):
        if media == STRUCTURED and (not _names_event(found) or _repeats(found, data)):
            return _structured(_document.decode(data), position, written)
        if not _names_event(found):
            if media != BATCH:
                raise _Bad(f"it is a CloudEvent as {media}; only JSON is read")
            _documents.decode(data)
            return Event(position, UNKNOWN, UNKNOWN, within(written), data, None, BATCH)
    return _event(found, data, content_type or JSON, position, written)


def _names_event(found: dict[str, str]) -> bool:
    """Whether a message's headers are in binary mode, so that its content type is that of the data."""
    return not found.keys().isdisjoint(("specversion", "id", "type", "source"))


def _repeats(found: dict[str, str], data: bytes) -> bool:
    """Whether the headers of a message in structured mode only repeat its content."""
    try:
        document = _document.decode(data)
        return all(name in found and _attribute(name, document[name]) == found[name] for name in ("id", "source"))
    except Exception:  # noqa: BLE001 - then the headers are the event, and the content its data
        return False


def _structured(document: dict[str, msgspec.Raw], position: str, written: float) -> Event:
    written_data, base64 = document.pop("data", None), document.pop("data_base64", None)
    if base64 is not None and bytes(base64) == b"null":
        base64 = None
    found: dict[str, str] = {}
    for name, value in document.items():
        text = _attribute(name, value)
        if text is not None:
            found[name] = text
    content_type = _given(found.pop("datacontenttype", None), "datacontenttype")
    if base64 is not None:
        if written_data is not None:
            raise _Bad("it has both data and data_base64")
        data = msgspec.json.decode(base64, type=bytes)
        content_type = content_type or BINARY
    elif written_data is None:
        data = b""
    else:
        data = bytes(written_data)
        if content_type is not None and not is_json(content_type):
            text = _value.decode(data)
            data = text.encode() if isinstance(text, str) else data
    return _event(found, data, content_type or JSON, position, written)


def _attribute(name: str, value: msgspec.Raw) -> str | None:
    found = _value.decode(value)
    if found is None or isinstance(found, str):
        return found
    if isinstance(found, bool | int | float):
        return bytes(value).decode()
    raise _Bad(f"its attribute {plain(name, 80)} is neither text, number nor boolean")


def _event(found: dict[str, str], data: bytes, content_type: str, position: str, written: float) -> Event:
    """The event with missing attributes filled in, the same for every broker."""
    version = _given(found.pop("specversion", None), "specversion")
    if version is not None and not version.startswith("1."):
        raise _Bad(f"its CloudEvents version is {plain(version, 40)}; only 1.0 is read")
    found.pop("dataschema", None)  # `Event` has no field for it
    name, kind, source = found.pop("id", None), found.pop("type", None), found.pop("source", None)
    time, subject = seconds(found.pop("time", "")), found.pop("subject", None)
    event = Event(
        _given(name, "id") or position,
        _given(kind, "type") or UNKNOWN,
        _given(source, "source") or UNKNOWN,
        within(written) if time is None else time,
        data,
        _given(subject, "subject"),
        content_type,
        found,
    )
    return checked(event, _ANY)


def _given(value: str | bytes | None, what: str) -> str | None:
    """The text; None if it is absent, empty or blank."""
    text = "" if value is None else _text(value, what)
    return None if not text or text.isspace() else text


def _text(value: str | bytes, what: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError as e:
        raise _Bad(f"{plain(what, 80)} is no UTF-8 from byte {e.start} on") from None


def _media(content_type: str) -> str:
    return content_type.partition(";")[0].strip().lower()


def within(written: float) -> float:
    """The time, or the nearest that an event can have."""
    return min(max(written, EARLIEST), LATEST)


def _why(error: Exception) -> str:
    if isinstance(error, _Bad | UsageError):
        return str(error)
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, msgspec.DecodeError):
        return f"it is not the JSON of an event: {error}"
    return said(error)


def _shown(value: str | bytes | None) -> object:
    """The value in a form that JSON can hold without loss."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return {"base64": b64encode(value).decode()}
    return value
