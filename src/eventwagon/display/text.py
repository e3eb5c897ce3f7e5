"""Text from elsewhere, as every broker, log and terminal takes it."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from datetime import datetime
from types import FrameType, TracebackType
from typing import Any

from .redaction import redacted

MOST = 500
"""Characters of a reason: it travels with dead letters."""

_IN_A_GROUP = 5
"""Errors of a group that are named."""
_NAMED_MOST = 50
"""Errors of nested groups that are named in all."""
TRACEBACK_MOST = 50_000
"""Characters of a traceback that is printed whole."""
MESSAGE_MOST = 200_000
"""Characters of a log's message that is printed whole. Looking for secrets in 1 MB takes seconds."""


def escaped(text: str) -> str:
    """The text on one line, with control characters, ends of lines, marks that turn the direction of writing and what
    UTF-8 can't hold written out (`\\x1b`, `\\n`, `\\u202e`). Idempotent; never raises. All that is printed goes through
    here, so that nobody's text can move the cursor or look like a line of ours."""
    if text.isascii() and text.isprintable():
        return text
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def local_time(at: float) -> str:
    """Seconds since the epoch as local time with its offset from UTC: `2027-01-31 18:00:00.000+01:00`. Seconds outside
    the calendar's range are printed as they are."""
    try:
        return datetime.fromtimestamp(at).astimezone().isoformat(" ", "milliseconds")
    except (ValueError, OverflowError, OSError):
        return f"{at:g} s"


def count(number: int | None, noun: str, nouns: str = "") -> str:
    """`1 event`, `1,234 events`, `an unknown number of events`; `nouns` where the plural has no s."""
    many = nouns or f"{noun}s"
    if number is None:
        return f"an unknown number of {many}"
    return f"{number:,} {noun if number == 1 else many}"


def span(seconds: float | None) -> str:
    """Format a duration in seconds for a person: `0.4 s`, `12 s`, `3 min`, `2.5 h`, `14 days`; None as `-`."""
    if seconds is None:
        return "-"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def plain(text: str, most: int = MOST) -> str:
    """The text as `escaped` gives it, `most` characters long at most. Never raises."""
    return escaped(text[: most + 1])[:most]


def as_line(text: str) -> str:
    """The text as people may see it: on one line, without secrets. Idempotent; never raises."""
    return escaped(redacted(text))


def parts_of(error: BaseException) -> tuple[BaseException, ...]:
    """The errors of a group, even if its class overrides that attribute; none if it is no group."""
    if not issubclass(type(error), BaseExceptionGroup):
        return ()
    found: tuple[BaseException, ...] = vars(BaseExceptionGroup)["exceptions"].__get__(error)
    return found


def without_values(error: BaseException) -> str | None:
    """The text of a validation error of Pydantic, msgspec or attrs, without the input that it quotes: personal data and
    secrets. None for all other errors. The text of a user's own check is not changed. May raise."""
    library = type(error).__module__.partition(".")[0]
    if library in ("pydantic", "pydantic_core") and callable(found := getattr(error, "errors", None)):
        try:
            each = found(include_input=False, include_url=False)
        except TypeError:  # the first Pydantic's, which quote less
            each = found()
        return "; ".join(f"{'.'.join(map(str, one['loc'])) or 'it'}: {_untagged(one)}" for one in each)
    if library == "msgspec":
        text = str(error)
        at = _AT.search(text)
        tidy = None if error.__cause__ is None else without_values(error.__cause__)
        if tidy is not None:
            return tidy + (at[0] if at else "")
        tidy = _QUOTED.sub(r"\1", text)
        return None if tidy == text else tidy
    place = innermost(error.__traceback__)
    if place is not None and str(place.f_globals.get("__name__")).partition(".")[0] == "attr":
        return f"{getattr(place.f_locals.get('attr'), 'name', 'a field')}: its validator refuses it"
    return None


_AT = re.compile(r" - at `[^`]*`\Z")
_QUOTED = re.compile(r"\A(Invalid (?:enum )?value) .*?(?= - at `[^`]*`\Z|\Z)", re.DOTALL)


def _untagged(one: Mapping[str, Any]) -> str:
    """The message of one of Pydantic's errors; the only one that quotes is about the tag of a union."""
    tag = one.get("ctx", {}).get("tag")
    return str(one["msg"] if tag is None else one["msg"].replace(f"'{tag}'", "", 1).replace("  ", " "))


def innermost(place: TracebackType | None) -> FrameType | None:
    """Where something was raised."""
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    return None if place is None else place.tb_frame


def said(error: BaseException) -> str:
    """An error in one line, without secrets, and without the input that a validation error quotes. Never raises,
    whatever the error's own text does, except KeyboardInterrupt."""
    return _said(error, [_NAMED_MOST])


def _said(error: BaseException, room: list[int]) -> str:
    """`room`: how many more errors may be named, this one included; a group may hold the same group many times."""
    room[0] -= 1
    name = "an exception"
    try:
        name = plain(str(type(error).__name__), 100)
        if parts := parts_of(error):
            text = f"({len(parts)}) " + "; ".join(_said(part, room) for part in parts[:_IN_A_GROUP] if room[0] > 0)
        else:
            tidy = without_values(error)
            text = redacted((str(error) if tidy is None else tidy)[: 4 * MOST].strip())
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a user's exception may do anything when it is printed
        text = "its text can't be had"
    text = plain(text.replace("\r\n", "\n").replace("\n", "; "))
    return f"{name}: {text}" if text else name


def without_middle(text: str, most: int = TRACEBACK_MOST) -> str:
    """The text, if it is no longer than `most` characters; otherwise its beginning and its end."""
    left_out = len(text) - most
    if left_out <= 0:
        return text
    return f"{text[: most // 2]}\n… {left_out:,} characters are left out …\n{text[-(most // 2) :]}"


def indented(text: str) -> str:
    """Lines that belong to the previous one, such as a traceback's: each begins with blanks, so that none can look like
    a line of its own."""
    return "\n".join(f"    {escaped(line)}" for line in redacted(text).splitlines())


class LogFormatter(logging.Formatter):
    """A record as one line as `as_line` gives it; its traceback follows, indented. Times are as `local_time` gives
    them."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        return local_time(record.created)

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record)
        lines = [as_line(without_middle(self.formatMessage(record), MESSAGE_MOST))]
        if record.exc_info:
            lines.append(indented(without_middle(self.formatException(record.exc_info))))
        elif record.exc_text:
            lines.append(indented(without_middle(record.exc_text)))
        if record.stack_info:
            lines.append(indented(self.formatStack(record.stack_info)))
        return "\n".join(lines)
