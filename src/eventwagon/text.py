"""Text from elsewhere, as every broker, log and terminal takes it."""

from __future__ import annotations

MOST = 500
"""Characters of a reason: it travels with dead letters."""

_IN_A_GROUP = 5
"""Errors of a group that are named."""


def plain(text: str, most: int = MOST) -> str:
    """The text on one line, without control characters or what UTF-8 can't hold (those are escaped), `most` characters
    long at most. Never raises."""
    text = text[: most + 1]
    if not (text.isascii() and text.isprintable()):
        text = text.encode("utf-8", "backslashreplace").decode()
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text[:most]


def parts_of(error: BaseException) -> tuple[BaseException, ...]:
    """The errors of a group, whatever its class makes of that attribute; none of what is no group."""
    if not issubclass(type(error), BaseExceptionGroup):
        return ()
    found: tuple[BaseException, ...] = vars(BaseExceptionGroup)["exceptions"].__get__(error)
    return found


def said(error: BaseException) -> str:
    """An error in one line. Never raises, whatever the error's own text does, but for KeyboardInterrupt."""
    name = "an exception"
    try:
        name = plain(str(type(error).__name__), 100)
        if parts := parts_of(error):
            text = f"({len(parts)}) " + "; ".join(map(said, parts[:_IN_A_GROUP]))
        else:
            text = str(error)[: 4 * MOST].strip()
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a user's exception may do anything when it is printed
        text = "its text can't be had"
    text = plain(text.replace("\r\n", "\n").replace("\n", "; "))
    return f"{name}: {text}" if text else name
