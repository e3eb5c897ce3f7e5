"""Text from elsewhere, as every broker, log and terminal takes it."""

from __future__ import annotations

import logging

from .redaction import redacted

MOST = 500
"""Characters of a reason: it travels with dead letters."""

_IN_A_GROUP = 5
"""Errors of a group that are named."""


def escaped(text: str) -> str:
    """The text on one line, with control characters, ends of lines, marks that turn the direction of writing and what
    UTF-8 can't hold written out (`\\x1b`, `\\n`, `\\u202e`). Idempotent; never raises. All that is printed goes through
    here, so that nobody's text can move the cursor or look like a line of ours."""
    if text.isascii() and text.isprintable():
        return text
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plain(text: str, most: int = MOST) -> str:
    """The text as `escaped` gives it, `most` characters long at most. Never raises."""
    return escaped(text[: most + 1])[:most]


def as_line(text: str) -> str:
    """The text as people may see it: on one line, without secrets. Idempotent; never raises."""
    return escaped(redacted(text))


def parts_of(error: BaseException) -> tuple[BaseException, ...]:
    """The errors of a group, whatever its class makes of that attribute; none of what is no group."""
    if not issubclass(type(error), BaseExceptionGroup):
        return ()
    found: tuple[BaseException, ...] = vars(BaseExceptionGroup)["exceptions"].__get__(error)
    return found


def said(error: BaseException) -> str:
    """An error in one line, without secrets. Never raises, whatever the error's own text does, but for
    KeyboardInterrupt."""
    name = "an exception"
    try:
        name = plain(str(type(error).__name__), 100)
        if parts := parts_of(error):
            text = f"({len(parts)}) " + "; ".join(map(said, parts[:_IN_A_GROUP]))
        else:
            text = redacted(str(error)[: 4 * MOST].strip())
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a user's exception may do anything when it is printed
        text = "its text can't be had"
    text = plain(text.replace("\r\n", "\n").replace("\n", "; "))
    return f"{name}: {text}" if text else name


def indented(text: str) -> str:
    """Lines that belong to the one before, a traceback's say: each begins with blanks, so that none of them can look
    like a line of its own."""
    return "\n".join(f"    {escaped(line)}" for line in redacted(text).splitlines())


class LogFormatter(logging.Formatter):
    """A record as one line as `as_line` gives it; its traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        lines = [as_line(self.formatMessage(record))]
        if record.exc_info:
            lines.append(indented(self.formatException(record.exc_info)))
        elif record.exc_text:
            lines.append(indented(record.exc_text))
        if record.stack_info:
            lines.append(indented(self.formatStack(record.stack_info)))
        return "\n".join(lines)
