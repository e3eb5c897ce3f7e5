"""What becomes of a record: an event, or the reason why it can't be one. Pure."""

from __future__ import annotations

import json
from base64 import b64encode
from functools import lru_cache
from typing import Literal

import msgspec

from ..cloudevents import HEADERS, STRUCTURED, UNDECODABLE, UNKNOWN, Pairs, looks_structured, read, undecodable, within
from ..contracts.timetable import CHANNEL, for_channel
from ..display.text import said
from ..errors import EventTooLarge, UsageError
from ..event import (
    EARLIEST,
    LATEST,
    LONGEST_VALUE,
    LONGEST_WORD,
    MOST_EXTENSIONS,
    OURS,
    Event,
    check_channel_name,
    check_extension_name,
    check_value,
    check_word,
    checked,
)
from ..values import shown
from .source import Record

RESERVED = OURS | {CHANNEL, UNDECODABLE, HEADERS}
"""Extension attributes that have a meaning of their own in a train: no other writer can set them."""
KEY = "partitionkey"
"""The extension attribute with a record's key, unless that is the subject (CloudEvents' partitioning extension)."""
RAW_KEY = "rawkey"
"""The same in base64, for a key that is no text."""
_MOST_HEADERS = MOST_EXTENSIONS // 2
_LONGEST_HEADER = 256
"""Characters of the longest header's name that may become an extension attribute's."""
_LONGEST_OWN = len("content-type") + 1
"""Characters of a header's name that tell whether it is one of CloudEvents."""
_PAIR = ("content-type", STRUCTURED)
_DOCUMENTS = "application/cloudevents"
_object = msgspec.json.Decoder(dict[str, msgspec.Raw])
_value = msgspec.json.Decoder()


class _Bad(Exception):
    """Why a record can't be mapped."""


class From(msgspec.Struct, frozen=True):
    """Where an attribute comes from: the record's `key`, the `header` or the field of the `body` with that name, or
    the `text` itself."""

    place: Literal["key", "header", "body", "text"]
    name: str = ""

    @classmethod
    def parse(cls, text: str, option: str, *, constant: bool = False) -> From:
        """`key`, `header:NAME`, `body:FIELD`; with `constant` anything else is the attribute itself. Raises
        UsageError."""
        place, _, name = text.partition(":")
        if text == "key":
            return cls("key")
        if place in ("header", "body") and name:
            return cls("header" if place == "header" else "body", name)
        if constant and place not in ("header", "body"):
            return cls("text", check_word("type", text))
        say = "key, header:NAME or body:FIELD" + (", or the type itself" if constant else "")
        raise UsageError(f"{option} {shown(text)}: give {say}")


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """How records become events. `subject` and `kind` (the event's type): where they come from; None: from the record's
    own CloudEvents attributes, the subject else from its key. `channel`: the inner channel that the events are for;
    empty: the ingress. `most`: the most bytes of an event."""

    source: str
    """The events' `source`, unless they have one."""
    subject: From | None = None
    kind: From | None = None
    channel: str = ""
    most: int

    @classmethod
    def parse(cls, source: str, most: int, *, key: str = "", kind: str = "", channel: str = "") -> Rules:
        """From options of the command line; empty: not given. Raises UsageError."""
        return cls(
            source=source,
            subject=From.parse(key, "--key") if key else None,
            kind=From.parse(kind, "--type", constant=True) if kind else None,
            channel=check_channel_name(channel) if channel else "",
            most=most,
        )


class Unmapped(msgspec.Struct, frozen=True):
    """A record that can't be mapped: the event that stands for it, with its bytes, its position and its headers; and
    why."""

    letter: Event
    because: str


def event_of(record: Record, rules: Rules) -> Event | Unmapped:
    """The event of this record, the same at each call. Never raises, whatever is in the record."""
    try:
        return _event_of(record, rules)
    except (_Bad, UsageError, EventTooLarge) as e:
        because = str(e)
    except Exception as e:  # noqa: BLE001 - a foreign record must fail alone, whatever is in it
        because = said(e)
    return unmapped(record, rules, because)


def unmapped(record: Record, rules: Rules, because: str) -> Unmapped:
    """What stands for a record that can't be an event, or that the broker refuses for good."""
    pairs = [*record.headers, *([("key", record.key)] if record.key else [])]
    written = record.time if EARLIEST <= record.time <= LATEST else 0.0  # a letter with another time can't be stored
    letter = undecodable(record.value, pairs, position=record.position, written=written, because=because)
    return Unmapped(msgspec.structs.replace(letter, source=rules.source), because)


def _event_of(record: Record, rules: Rules) -> Event:
    if record.trouble:
        raise _Bad(record.trouble)
    own, others = _parted(record.headers)
    if own and not record.value:  # a tombstone: what says that a body is an event speaks of none
        own = [pair for pair in own if not _says_event(pair)]
    if not own and b'"specversion"' in record.value and looks_structured(record.value):
        own = [_PAIR]
    if own:
        found = read(own, record.value, position=record.position, written=record.time)
        if found.extensions.get(UNDECODABLE) == record.position:
            raise _Bad(found.extensions["deadbecause"].removeprefix("can't be decoded: "))
        extensions = {name: value for name, value in found.extensions.items() if name not in RESERVED}
    else:  # what `read` makes of such a message
        found = Event(record.position, UNKNOWN, UNKNOWN, within(record.time), record.value)
        extensions = {}
    if others:
        _add(others, extensions)
    subject = found.subject
    if rules.subject is not None:
        subject = _word("subject", _taken(rules.subject, record, found))
    key = _key(record.key, extensions) if record.key else None
    if subject is None:
        subject = key
    elif key is not None and key != subject and extensions.setdefault(KEY, key) != key:  # a header has that name
        extensions.setdefault(RAW_KEY, b64encode(key.encode()).decode())
    kind = found.type if rules.kind is None else _word("type", _taken(rules.kind, record, found))
    source = rules.source if found.source == UNKNOWN else found.source
    event = Event(found.id, kind, source, found.time, found.data, subject, found.content_type, extensions)
    return checked(for_channel(event, rules.channel), rules.most)


def _parted(pairs: Pairs) -> tuple[Pairs, Pairs]:
    """The headers of CloudEvents, and the others."""
    if not pairs:
        return (), ()
    own: list[tuple[str | bytes, str | bytes | None]] = []
    others: list[tuple[str | bytes, str | bytes | None]] = []
    for pair in pairs:
        (own if _is_own(pair[0][:_LONGEST_OWN]) else others).append(pair)
    return own, others


@lru_cache(1024)  # the same names recur
def _is_own(name: str | bytes) -> bool:
    """Whether a header whose name begins like this is one of CloudEvents."""
    low = (name if isinstance(name, str) else name.decode("utf-8", "replace")).lower()
    return low == "content-type" or low[:3] in ("ce_", "ce-")


def _says_event(pair: tuple[str | bytes, str | bytes | None]) -> bool:
    """Whether the header is a content type of CloudEvents documents."""
    name, value = _text(pair[0][:_LONGEST_OWN]), None if pair[1] is None else _text(pair[1][:_LONGEST_HEADER])
    is_type = name is not None and name.lower() == "content-type"
    return is_type and value is not None and value.strip().lower().startswith(_DOCUMENTS)


def _add(pairs: Pairs, extensions: dict[str, str]) -> None:
    """Add headers as extension attributes: lower-case, without what no such name may hold (`X-Tenant-Id` becomes
    `xtenantid`). Those that can't be one, and those whose name is taken, are kept together in `rawheaders`, as JSON."""
    rest: list[list[object]] = []
    for raw, value in pairs:
        short = _short_name(raw) if len(raw) <= _LONGEST_HEADER else ""
        text = "" if value is None else _text(value)
        if text is not None and short and short not in extensions and len(extensions) < _MOST_HEADERS:
            try:
                extensions[short] = check_value(short, text)
                continue
            except UsageError:
                pass
        rest.append([_shown(raw), _shown(value)])
    if rest:
        kept = json.dumps(rest)
        if len(kept) > LONGEST_VALUE * _MOST_HEADERS:
            raise _Bad(f"its headers have {len(kept):,} characters, more than an event can hold")
        for number, start in enumerate(range(0, len(kept), LONGEST_VALUE), 1):
            extensions[HEADERS if number == 1 else f"{HEADERS}{number}"] = kept[start : start + LONGEST_VALUE]


@lru_cache(1024)  # the same names recur
def _short_name(header: str | bytes) -> str:
    """The header's name as that of an extension attribute; empty if it can't be one."""
    name = "".join(c for c in (_text(header) or "").lower() if "a" <= c <= "z" or "0" <= c <= "9")
    try:
        is_ours = name in RESERVED or name == RAW_KEY or name.startswith(HEADERS)  # it is continued in `rawheaders2`
        return "" if is_ours else check_extension_name(name)
    except UsageError:
        return ""


def _key(key: bytes, extensions: dict[str, str]) -> str | None:
    """The record's key, if it can be a subject. Any other is kept as `rawkey`."""
    if (text := _text(key)) is not None and len(key) <= LONGEST_WORD:
        try:
            return check_word("subject", text)
        except UsageError:
            pass
    encoded = b64encode(key).decode()
    if len(encoded) > LONGEST_VALUE:
        raise _Bad(f"its key has {len(key):,} bytes, more than an event can hold")
    extensions.setdefault(RAW_KEY, encoded)
    return None


def _taken(which: From, record: Record, event: Event) -> str:
    """The value of an attribute, from where the rules say."""
    match which.place:
        case "text":
            return which.name
        case "key":
            found = None if not record.key else _text(record.key)
            if found is None:
                raise _Bad("it has no key" if not record.key else "its key is no UTF-8")
            return found
        case "header":
            for raw, value in record.headers:
                name = _text(raw)
                if name is not None and name.lower() == which.name.lower() and value is not None:
                    if (text := _text(value)) is None:
                        raise _Bad(f"its header {which.name} is no UTF-8")
                    return text
            raise _Bad(f"it has no header {which.name}")
        case "body":
            return _field(event.data, which.name)


def _field(data: bytes, name: str) -> str:
    """A field of the body: text as it is, a number or boolean as it is written."""
    try:
        raw = _object.decode(data).get(name)
        found = None if raw is None else _value.decode(raw)
    except RecursionError:
        raise _Bad("it is nested too deeply") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as e:
        raise _Bad(f"it is no JSON object with a field {name}: {said(e)}") from None
    if raw is None or found is None or isinstance(found, dict | list):
        raise _Bad(f"it has no field {name} with a text or number")
    return found if isinstance(found, str) else bytes(raw).decode()


def _word(attribute: str, text: str) -> str:
    try:
        return check_word(attribute, text)
    except UsageError as e:
        raise _Bad(str(e)) from None


def _text(value: str | bytes) -> str | None:
    if isinstance(value, str):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return None


def _shown(value: str | bytes | None) -> object:
    """In a form that JSON can hold without loss."""
    text = None if value is None else _text(value)
    return text if value is None or text is not None else {"base64": b64encode(value).decode()}  # type: ignore[arg-type]
