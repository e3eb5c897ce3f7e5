"""Events, the one check that all of them pass, their ids, and the channels they travel in. Pure."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b

import msgspec

from .errors import EventTooLarge, UsageError
from .values import class_name, is_a, plain, shown

RandomBytes = Callable[[int], bytes]

JSON = "application/json"
BINARY = "application/octet-stream"


class Event(msgspec.Struct, frozen=True, gc=False):
    """One immutable fact, with the attributes of CloudEvents 1.0 (https://cloudevents.io).

    `time` is in seconds since the Unix epoch (UTC), `data` the encoded payload, `subject` the key, and `extensions` the
    CloudEvents extension attributes (names of lower-case letters and digits). Creating an Event checks nothing;
    `publish` and `emit` do, see `checked`.
    """

    id: str
    type: str
    source: str
    time: float
    data: bytes
    subject: str | None = None
    content_type: str = JSON
    extensions: Mapping[str, str] = {}

    @property
    def size(self) -> int:
        """Bytes that count against `max_event_bytes`: the data and the attributes' text."""
        words = f"{self.id}{self.type}{self.source}{self.content_type}{self.subject or ''}"
        if self.extensions:
            words += "".join([f"{name}{value}" for name, value in self.extensions.items()])
        return len(self.data) + (len(words) if words.isascii() else _bytes(words))


LONGEST_WORD = 2048
"""Bytes of UTF-8 in the longest id, type, source, subject or content type."""
LONGEST_VALUE = 8192
"""Bytes of UTF-8 in the longest value of an extension attribute: room for a W3C baggage header."""
MOST_EXTENSIONS = 500
"""The most extension attributes of one event: stores accept about this many fields per message."""
_LONGEST_WORDS = 5 * LONGEST_WORD
_LONGEST_EXTENSION = 64 + LONGEST_VALUE
EARLIEST, LATEST = -62_135_510_400.0, 253_402_214_400.0
"""The times that RFC 3339 can express in UTC (years 1 to 9999), less a day at either end for zones and rounding."""
DEATH = frozenset(("deadbecause", "deadchannel", "deadwagon", "deadattempts", "deadat", "deadsize", "deadretries"))
"""The extension attributes that a dead letter has in addition to those of the event. An event that was retried keeps
two of them: `deadretries` says how often, `deadattempts` how many attempts it had before."""

_EXTENSION = re.compile("[a-z0-9]{1,64}")
_CORE = frozenset(
    ("id", "source", "specversion", "type", "subject", "time", "datacontenttype", "dataschema", "data")
)  # `data_base64` is no valid extension name anyway
_NO_TEXT = re.compile(
    "[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | 0xFFFE) + chr(plane << 16 | 0xFFFF) for plane in range(17))
    + "]"
)
"""Characters that a CloudEvents string may not contain: control characters, half surrogate pairs, noncharacters."""
_UNITS = {"milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
_PLAUSIBLE = 4_102_444_800.0  # the year 2100


def checked(event: Event, most: int) -> Event:
    """The one check for events: `event` in a form that any broker can carry, of at most `most` bytes
    (`max_event_bytes`).

    Usually returns the same object; a new, equal one if a value had to be converted (an int as time, a bytearray as
    data). Raises EventTooLarge, and UsageError for anything that CloudEvents does not allow.
    """
    name, kind, source, subject, content_type = event.id, event.type, event.source, event.subject, event.content_type
    if (  # the fast path for nearly all events: short ASCII words without blanks
        type(event) is Event
        and type(name) is type(kind) is type(source) is type(content_type) is str
        and (subject is None or (type(subject) is str and subject))
        and type(event.time) is float
        and EARLIEST <= event.time <= LATEST
        and type(event.data) is bytes
        and type(event.extensions) is dict
        and name
        and kind
        and source
        and content_type
    ):
        words = (
            name + kind + source + content_type if subject is None else name + kind + source + content_type + subject
        )
        if len(words) <= LONGEST_WORD and words.isascii() and words.isprintable() and " " not in words:
            if event.extensions:
                extensions = check_extensions(event.extensions)
                event = Event(name, kind, source, event.time, event.data, subject, content_type, extensions)
                return fitting(event, most)
            if len(words) + len(event.data) > most:
                raise _too_large(event, most)
            return event
    event = Event(
        check_word("id", name),
        check_word("type", kind),
        check_word("source", source),
        _time(event.time),
        _data(event.data),
        None if subject is None else check_word("subject", subject),
        check_word("content_type", content_type),
        check_extensions(event.extensions),
    )
    return fitting(event, most)


class CheckedEvents(list[Event]):
    """Events that have passed `checked` with this `most`: `publish_many` does not check them again."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most


def fitting(event: Event, most: int) -> Event:
    """The event, whose attributes have all been checked already. Raises EventTooLarge."""
    longest = len(event.data) + _LONGEST_WORDS + len(event.extensions) * _LONGEST_EXTENSION
    if longest > most and event.size > most:  # few come near: the exact size takes longer
        raise _too_large(event, most)
    return event


def _too_large(event: Event, most: int) -> EventTooLarge:
    return EventTooLarge(
        f"event {event.id} has {event.size:,} bytes, more than max_event_bytes={most:,}: send a reference to the data, "
        "or raise the setting"
    )


def check_word(attribute: str, text: object) -> str:
    """Return the value of an attribute `id`, `type`, `source`, `subject` or `content_type`, or raise UsageError."""
    if type(text) is str and len(text) <= LONGEST_WORD and text.isascii() and text.isprintable() and text.strip():
        return text
    text = _text(attribute, text, LONGEST_WORD)
    if not text or text.isspace():
        raise UsageError(
            f"an event's {attribute} can't be empty" + (": leave it out" if attribute == "subject" else "")
        )
    return text


def _text(what: str, text: object, most: int) -> str:
    if not is_a(text, str):
        raise UsageError(f"an event's {what} must be a str, not a {class_name(text)}")
    text = str.__str__(text)  # the plain text of an enum or another subclass of str
    if _bytes(text) > most:  # first: a foreign text may be so long that checking each character takes seconds
        raise UsageError(f"an event's {what} has {_bytes(text):,} bytes, more than {most:,}: {_show(text)}")
    if found := _NO_TEXT.search(text):
        raise UsageError(
            f"an event's {what} holds U+{ord(found[0]):04X} at {found.start()}, which is no character of text: "
            f"{_show(text)}"
        )
    return text


def _show(text: str) -> str:
    return ascii(text if len(text) <= 60 else text[:60] + "…")


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode(errors="surrogatepass"))


def _time(time: object) -> float:
    if is_a(time, bool) or not is_a(time, int, float):
        raise UsageError(f"an event's time must be a number (seconds since 1970, UTC), not a {class_name(time)}")
    if EARLIEST <= time <= LATEST:
        return float(time)
    for unit, factor in _UNITS.items():
        if LATEST < time <= _PLAUSIBLE * factor:
            raise UsageError(f"an event's time is in seconds; {time!r} looks like {unit}: divide it by {factor:,.0f}")
    shown = f"an int of {time.bit_length()} bits" if is_a(time, int) else repr(time)
    raise UsageError(f"an event's time must be in seconds since 1970 (UTC), between the years 1 and 9999, not {shown}")


def _data(data: object) -> bytes:
    if is_a(data, bytes, bytearray, memoryview):
        return bytes(data)
    raise UsageError(
        f"an event's data must be bytes, not a {class_name(data)}: give it as the payload to have it encoded"
    )


def check_extensions(extensions: object) -> dict[str, str]:
    """Return a copy of the extension attributes, or raise UsageError."""
    if type(extensions) is not dict and not is_a(extensions, Mapping):  # type: ignore[type-abstract]
        raise UsageError(f"an event's extensions must be a mapping, not a {class_name(extensions)}")
    if len(extensions) > MOST_EXTENSIONS and len(extensions.keys() - DEATH - _MARKS) > MOST_EXTENSIONS:
        raise UsageError(f"an event has {len(extensions):,} extension attributes, more than {MOST_EXTENSIONS}")
    return {
        check_extension_name(name) if type(name) is str else _extension(name): check_value(name, value)
        for name, value in extensions.items()
    }


def check_value(name: str, value: object) -> str:
    """Return the value of the extension attribute with this name, or raise UsageError."""
    if type(value) is str and len(value) <= LONGEST_VALUE and value.isascii() and value.isprintable():
        return value
    return _text(f"extension {name}", value, LONGEST_VALUE)


def _extension(name: object) -> str:
    if not is_a(name, str) or not _EXTENSION.fullmatch(name):
        shown = _show(name) if is_a(name, str) else f"a {class_name(name)}"
        raise UsageError(f"an extension attribute's name is 1 to 64 of a-z and 0-9, not {shown}")
    if name in _CORE:
        raise UsageError(f"{name} is an attribute of CloudEvents itself, and no extension")
    return str.__str__(name)


check_extension_name = lru_cache(1024)(_extension)  # the same names recur
"""Return the name of an extension attribute, or raise UsageError."""


def legible(text: str) -> str:
    """The text, with U+FFFD for each character that an event can't hold."""
    return text if text.isascii() and text.isprintable() else _NO_TEXT.sub("\ufffd", text)


@lru_cache(256)  # the same sources recur
def _tidy(text: str) -> str:
    """The text in a form that `check_word` accepts; empty if nothing is left of it."""
    text = legible(text)
    if _bytes(text) > LONGEST_WORD:
        text = text[: LONGEST_WORD // 4]  # a character has up to four bytes
    return "" if text.isspace() else text


def heritage(parent: Event) -> tuple[str, str | None, dict[str, str]]:
    """The source, subject and extensions that a child event inherits, without what was of the parent only. Values by a
    foreign client that would not pass `checked` are made legible or left out: the handler can't do anything about them.
    """
    source = _tidy(parent.source) or "unknown"
    subject = parent.subject
    if subject is not None:
        subject = _tidy(subject) or None
    extensions: dict[str, str] = {}
    for name, value in parent.extensions.items():
        if name in DEATH or name in UNDO_MARKS or name == LEVEL or name in _CORE:
            continue
        if len(extensions) < MOST_EXTENSIONS and _EXTENSION.fullmatch(name):
            value = legible(value)
            if _bytes(value) <= LONGEST_VALUE:
                extensions[name] = value
    return source, subject, extensions


class Channel(msgspec.Struct, frozen=True, gc=False):
    """One queue of one wagon. `name` is empty for the ingress; `wagon` is 0 for a train's own channels.

    `str(channel)` is the name that a broker sees: `signups_v1`, `signups_v1.welcome_email`, `signups.dead`.
    """

    train: str
    wagon: int
    name: str = ""

    def __str__(self) -> str:
        base = wagon_name(self.train, self.wagon) if self.wagon else self.train
        return f"{base}.{self.name}" if self.name else base


def wagon_name(train: str, number: object) -> str:
    """A wagon's one name, in messages and arguments: `signups_v1`."""
    return f"{train}_v{number}"


def template_of(train: str, name: str) -> str:
    """A channel's name in any wagon: `orders_v{wagon}.ship`."""
    return f"{train}_v{{wagon}}.{name}" if name else f"{train}_v{{wagon}}"


REPLAY, REPLAYED_FROM = "replay", "replayedfrom"
"""The extension attributes of a replayed event: the replay (`orders/12`), and the wagon that the event comes from
(`orders_v7`). The events that its handlers emit inherit both."""

UNDO, UNDO_OF, UNDO_CHANNEL, UNDO_ATTEMPTS = UNDO_MARKS = ("undo", "undoof", "undochannel", "undoattempts")
"""The extension attributes of an event for an undo handler: the undo (`orders/12`), the wagon and the channel in which
the event was handled (`orders_v7`; empty: the ingress), and how often it had been delivered. Nothing inherits them."""

LEVEL = "chainlevel"
"""The extension attribute of an event that a chain came to by a step back, to its own channel or to an earlier one: the
wagon, and how many such steps there were before in that wagon (`7/2`). Undo goes by it."""

_MARKS = frozenset((REPLAY, REPLAYED_FROM, LEVEL, *UNDO_MARKS))
OURS = DEATH | _MARKS
"""The extension attributes that have a meaning here: nothing from outside may bring them along."""


def level_of(event: Event, wagon: int) -> int:
    """How many steps back the event's chain has made in this wagon."""
    where, _, level = event.extensions.get(LEVEL, "").partition("/")
    return int(level) if where == str(wagon) and level.isascii() and level.isdigit() and len(level) < 10 else 0


def at_level(wagon: int, level: int) -> str:
    """The value of `LEVEL` for an event whose chain has made so many steps back in this wagon."""
    return f"{wagon}/{level}"


ARCHIVE = "archive-rows"  # of each wagon of a train with an archive: what became of its events
DEAD = "dead"  # the dead-letter channel: of each wagon, and the train's own, where they are kept

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,47}")
_WAGON_LIKE = re.compile(r".*_v\d+")


def check_train_name(name: str) -> str:
    """Return `name`, or raise UsageError. Names must be safe as a topic, file name and label on any system."""
    text = plain(name)
    if text is None or not _NAME.fullmatch(text):
        raise UsageError(
            f"train name {shown(name)}: use 1 to 48 of a-z, 0-9, '_' and '-', beginning with a letter (say "
            "'user_registrations')"
        )
    if _WAGON_LIKE.fullmatch(text):
        raise UsageError(f"train name {text!r} ends like a wagon's ('_v' and digits): choose another")
    return text


def check_channel_name(name: str) -> str:
    """Return `name`, or raise UsageError. `dead` and `archive-rows` are taken."""
    text = plain(name)
    if text is None or not _NAME.fullmatch(text):
        raise UsageError(f"channel name {shown(name)}: use 1 to 48 of a-z, 0-9, '_' and '-', beginning with a letter")
    if text == DEAD:
        raise UsageError(f"channel name {text!r} is taken: it holds a wagon's dead letters")
    if text == ARCHIVE:
        raise UsageError(f"channel name {text!r} is taken: it holds what a wagon's archive gets")
    return text


def uuid7(milliseconds: int, random: bytes) -> str:
    """A version 7 UUID (RFC 9562, 5.7) from a time and ten random bytes."""
    return time_part(milliseconds) + random_parts(random)[0]


@lru_cache(16)  # many events share a millisecond
def time_part(milliseconds: int) -> str:
    """What version 7 UUIDs begin with: `random_parts` has the rest."""
    t = f"{milliseconds & 0xFFFFFFFFFFFF:012x}"
    return f"{t[:8]}-{t[8:]}-7"


_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def random_parts(random: bytes) -> list[str]:
    """What follows the time in version 7 UUIDs: one for each ten of these bytes."""
    r = random.hex()
    return [f"{r[i : i + 3]}-{_VARIANT[r[i + 3]]}{r[i + 5 : i + 8]}-{r[i + 8 : i + 20]}" for i in range(0, len(r), 20)]


def new_ids(count: int, now: float, random: RandomBytes = os.urandom) -> list[str]:
    """`count` new event ids: version 7 UUIDs with the time `now` (seconds since the epoch)."""
    time = time_part(int(now * 1000))
    return [time + part for part in random_parts(random(10 * count))]


def born(event: Event) -> float:
    """When the chain of events that this one belongs to began, in seconds since the epoch: the time in its id, which
    children inherit. For a foreign id (not a version 7 UUID) the event's own time."""
    name = event.id
    if len(name) == 36 and name[14] == "7":
        try:
            return int(name[:8] + name[9:13], 16) / 1000
        except ValueError:
            pass
    return event.time


def child_id(parent: Event, channel: str, index: int) -> str:
    """The id of the `index`-th event emitted to `channel` while `parent` was handled: the same at each attempt.

    It keeps the time at which the chain began, so that ids of one chain sort together and `born` can read it. Below an
    event that a handler published, or emitted for later, it has no time: that of its parent is its `time`, which is
    another one at each attempt.
    """
    if len(parent.id) == 36 and parent.id[14] == "8":
        return _timeless(f"{parent.id}\0{channel}\0{index}")
    digest = blake2b(f"{parent.id}\0{channel}\0{index}".encode(), digest_size=10).digest()
    began = born(parent)
    return uuid7(int(began * 1000 + 0.5) if 0 <= began <= LATEST else 0, digest)


def later_id(parent: Event, channel: str, index: int) -> str:
    """The same for an event that is emitted for later. It begins a chain of its own, which is as old as its `time`: a
    version 8 UUID, which holds no time."""
    return _timeless(f"{parent.id}\0{channel}\0{index}", b"later")


def published_id(parent: Event, train: str, index: int) -> str:
    """The id of the `index`-th event published to `train` while `parent` was handled: the same at each attempt. A
    version 8 UUID, without a time: unlike one that is emitted, this event is new to its train (`born` is its own time),
    however long the chain before it took."""
    return _timeless(f"{parent.id}\0@{train}\0{index}")


def _timeless(of: str, person: bytes = b"") -> str:
    d = blake2b(of.encode(), digest_size=16, person=person).hexdigest()
    return f"{d[:8]}-{d[8:12]}-8{d[13:16]}-{'89ab'[int(d[16], 16) & 3]}{d[17:20]}-{d[20:]}"
