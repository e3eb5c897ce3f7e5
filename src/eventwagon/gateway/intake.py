"""From an HTTP request to the events in it, by the HTTP binding of CloudEvents 1.0. Pure.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/bindings/http-protocol-binding.md
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from urllib.parse import unquote

import msgspec

from ..cloudevents import BATCH, HEADERS, STRUCTURED, UNDECODABLE, is_json, read, seconds
from ..contracts.timetable import CHANNEL
from ..errors import EventTooLarge, UsageError
from ..event import JSON, OURS, Event, checked
from .refusal import Refused

_NEEDED = ("id", "source", "type", "specversion")
_TEXTS = (*_NEEDED, "time", "subject", "datacontenttype", "dataschema")
_OURS = OURS | {CHANNEL, UNDECODABLE}
_HALF = re.compile(rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])")
"""The escape of the first half of a surrogate pair, without the second."""
_document = msgspec.json.Decoder(dict[str, msgspec.Raw])
_documents = msgspec.json.Decoder(list[msgspec.Raw])
_any = msgspec.json.Decoder(msgspec.Raw)

Headers = Iterable[tuple[bytes, bytes]]
"""Those of ASGI: names in lower case."""


def events_of(headers: Headers, body: bytes, *, now: float, most: int, most_events: int) -> list[Event]:
    """The events of a request with this body, received at `now` (seconds since the epoch).

    `most`: bytes of an event, as `max_event_bytes`; `most_events`: of a batch. Raises Refused: 415 for a form that
    isn't read, 413 for what is too large, 400 for everything else, with the attribute that is wrong. What `publish`
    checks of a single event it leaves to that.
    """
    attributes, content_type = _attributes(headers)
    media = content_type.partition(";")[0].strip().lower()
    if media == BATCH:
        return _batch(body, now, most, most_events)
    if media == STRUCTURED:
        return [structured(body, "", now, most)]
    if media.startswith("application/cloudevents"):
        raise Refused(415, f"{_shown(media)}: events are read as {STRUCTURED}, as {BATCH}, or from ce- headers")
    if not attributes:
        raise Refused(
            415,
            f"this is no CloudEvent: send {STRUCTURED} or {BATCH}, or the headers ce-id, ce-source, ce-type and "
            "ce-specversion with any body",
        )
    return [_binary(attributes, content_type, body, now)]


def _attributes(headers: Headers) -> tuple[dict[str, str], str]:
    """The attributes in ce- headers, and the content type."""
    found: dict[str, str] = {}
    content_type: str | None = None
    for raw, value in headers:
        if raw == b"content-type":
            if content_type is not None:
                raise Refused(400, "the header content-type is there twice")
            content_type = value.decode("latin-1")
        elif raw.startswith(b"ce-"):
            name = raw[3:].decode("latin-1")
            if name in found:
                raise Refused(400, f"{_shown(name)}: the header ce-{_shown(name)} is there twice")
            found[name] = _decoded(name, value)
    return found, content_type or ""


def _decoded(name: str, value: bytes) -> str:
    """A header's value: percent-decoded, as the binding has it (3.1.3.2)."""
    text = value.decode("latin-1").strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    try:
        return unquote(text, errors="strict") if "%" in text else text
    except UnicodeDecodeError:
        raise Refused(400, f"{_shown(name)}: the header ce-{_shown(name)} is not percent-encoded UTF-8") from None


def _binary(attributes: dict[str, str], content_type: str, body: bytes, now: float) -> Event:
    _check(attributes, attributes.get("time"), attributes.get("specversion"), "")
    if "datacontenttype" in attributes:
        raise Refused(400, "datacontenttype: in this form it is the header content-type")
    content_type = content_type or JSON
    if body and is_json(content_type):
        try:
            _any.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            raise Refused(400, f"data: the body is {why_no_json(e, body)}; its content-type says JSON") from None
    time = attributes.pop("time", None)
    del attributes["specversion"]
    attributes.pop("dataschema", None)  # `Event` has no field for it
    return Event(
        attributes.pop("id"),
        attributes.pop("type"),
        attributes.pop("source"),
        now if time is None else seconds(time) or 0.0,
        body,
        attributes.pop("subject", None),
        content_type,
        attributes,
    )


def structured(body: bytes, where: str, now: float, most: int) -> Event:
    """The event in a JSON document; `where` begins the sentences of errors. Raises Refused, as `events_of` does."""
    try:
        document = _document.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise Refused(400, f"{where or 'the body: '}it is {why_no_json(e, body)}") from None
    texts = {name: _word(document[name], name, where) for name in _TEXTS if name in document}
    given = {name for name in document if name not in texts or texts[name] is not None}
    _check(given, texts.get("time"), texts.get("specversion"), where)
    for name in ("id", "source", "type"):  # else `read` would fill it in
        if not (texts[name] or "").strip():
            raise Refused(400, f"{where}{name}: it is empty")
    return _checked(read([("content-type", STRUCTURED)], body, position="here", written=now), where, most)


def _word(value: msgspec.Raw, name: str, where: str) -> str | None:
    """The text of an attribute; None for null."""
    try:
        found = msgspec.json.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise Refused(400, f"{where}{name}: it is {why_no_json(e, bytes(value))}") from None
    if found is not None and not isinstance(found, str):
        raise Refused(400, f"{where}{name}: it must be text")
    return found


def _batch(body: bytes, now: float, most: int, most_events: int) -> list[Event]:
    try:
        documents = _documents.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise Refused(400, f"the body is {why_no_json(e, body)}; a batch is a JSON array of events") from None
    if len(documents) > most_events:
        raise Refused(413, f"the batch has {len(documents):,} events; {most_events:,} are taken at once")
    return [
        structured(bytes(document), f"event {number} of {len(documents)}: ", now, most)
        for number, document in enumerate(documents, 1)
    ]


def _check(names: Collection[str], time: str | None, version: str | None, where: str) -> None:
    """The attributes that an event must have, and those that it must not."""
    if missing := [name for name in _NEEDED if name not in names]:
        raise Refused(400, f"{where}{', '.join(missing)}: missing")
    if version != "1.0":
        raise Refused(400, f"{where}specversion: it is {_shown(version or '')}; give 1.0")
    if time is not None and seconds(time) is None:
        raise Refused(400, f"{where}time: {_shown(time)} is no time of RFC 3339, such as 2027-01-31T18:00:00Z")
    for name in names:
        if name in _OURS or name.startswith(HEADERS):
            raise Refused(400, f"{where}{name}: this attribute is eventwagon's own")


def _checked(event: Event, where: str, most: int) -> Event:
    """The event, unless it could not be read."""
    if UNDECODABLE in event.extensions:
        raise Refused(400, where + event.extensions["deadbecause"].removeprefix("can't be decoded: "))
    try:
        return checked(event, most)
    except EventTooLarge as e:
        raise Refused(413, f"{where}{e}") from None
    except UsageError as e:
        raise Refused(400, f"{where}{e}") from None


def why_no_json(error: Exception, text: bytes) -> str:
    """Why a text can't be read, after "it is"."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if isinstance(error, msgspec.ValidationError):
        return f"JSON of another form than is due: {error}"
    if isinstance(error, UnicodeDecodeError):
        return "no UTF-8"
    if "surrogate" in str(error) or _HALF.search(text):  # the decoder takes one for the end of the text
        return "no Unicode text: it has half of a surrogate pair, as where a text was cut inside a character"
    return f"no JSON: {str(error).removeprefix('JSON is malformed: ')}"


def _shown(text: str) -> str:
    return ascii(text if len(text) <= 60 else f"{text[:60]}…")[1:-1]


def answer_to(events: Sequence[Event]) -> bytes:
    """The body of the answer when all are stored."""
    return b'{"accepted":%d}' % len(events)
