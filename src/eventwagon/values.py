"""Normalizes incoming numbers, texts and names, or refuses them with UsageError. Pure."""

from __future__ import annotations

import ast
import ipaddress
import math
import numbers
import operator
import re
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeGuard, TypeVar
from urllib.parse import SplitResult, urlsplit

from .display import redaction
from .errors import UsageError

T = TypeVar("T")

_PACKAGE = __name__.partition(".")[0]

MOST = 2**53
"""The largest whole number that every store keeps exactly."""

_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def is_a(value: object, *kinds: type[T]) -> TypeGuard[T]:
    """Whether the value is of one of these classes. Unlike isinstance, it does not ask the value, which may lie or
    raise."""
    return issubclass(type(value), kinds)


def plain(value: object) -> str | None:
    """The text as a plain str, whatever its class overrides; None if it is no text."""
    return str.__str__(value) if is_a(value, str) else None


def items(what: str, value: Sequence[T] | set[T]) -> tuple[T, ...]:
    """What a user's list holds. Raises UsageError if its class raises anything."""
    try:
        return tuple(value)
    except Exception as e:
        raise UsageError(f"{what}={shown(value)} can't be read as a list") from e


def class_name(value: object) -> str:
    """The name of the value's class, even if the class overrides the attribute."""
    name: str = vars(type)["__name__"].__get__(type(value))
    return name


def must_be(contract: type, value: object, what: str) -> None:
    """Raise UsageError if `value` lacks a member of the Protocol `contract`; `what` names the value in the error."""
    names = [n for n in vars(contract) if not n.startswith("_") or n in ("__aenter__", "__aexit__")]
    if lacking := [n for n in names if not _has(value, n)]:
        more = f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""
        raise UsageError(f"{what} is no {contract.__name__}: {class_name(value)} has no {', '.join(lacking[:3])}{more}")


def _has(value: object, name: str) -> bool:
    try:
        return hasattr(type(value), name) or hasattr(value, name)
    except Exception:  # noqa: BLE001 - a property may raise anything
        return True


def sum_of(counts: Iterable[int | None]) -> int | None:
    """The sum of these figures; None if one is not known."""
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def whole(what: str, value: Any, *, least: int = 1, most: int = MOST) -> int:
    """`value` as an int from `least` to `most`: 10_000 or an equal number (1e4, a numpy int). Raises UsageError."""
    number = None
    if not is_a(value, bool):
        try:
            number = operator.index(value)
        except Exception:  # noqa: BLE001 - it is no whole number, or a user's, which may raise anything
            with suppress(Exception):  # infinity, NaN; a user's number may raise anything
                if _is_real(value) and value == int(value):
                    number = int(value)
    if number is None or number < least:
        raise UsageError(f"{what} must be a whole number of at least {least}, not {shown(value)}")
    if number > most:
        raise UsageError(f"{what} must be at most {most:,}, not {shown(value)}")
    return number


def _is_real(value: object) -> bool:
    try:
        return issubclass(type(value), numbers.Real)
    except Exception:  # noqa: BLE001 - a user's class may raise anything where it is asked
        return False


def real(what: str, value: Any, *, zero: bool = False) -> float:
    """`value` as a float above 0, or with `zero` also 0, and at most 1e15. Raises UsageError."""
    number = math.nan
    if not is_a(value, bool) and _is_real(value):
        try:
            number = float(value) + 0.0  # -0.0 is 0.0
        except OverflowError:
            number = math.inf
        except Exception:  # noqa: BLE001, S110 - a user's number may raise anything: it is none
            pass
    if number > 1e15:
        raise UsageError(f"{what} must be at most 1e15, not {shown(value)}")
    if not (number >= 1e-9 or (zero and number == 0)):
        raise UsageError(f"{what} must be a number {'of 0 or more' if zero else 'above 0'}, not {shown(value)}")
    return number


_NEVER = 1e9
"""A time of this many seconds or more means never."""


def in_seconds(what: str, value: Any, *, zero: bool = False, brief: bool = False) -> float:
    """`value` as `real` returns it, in seconds. Warns, at the caller's line, if it looks like milliseconds: a round
    number of 1,000 or more that is no multiple of half an hour or, if the time is `brief` by nature, a round number of
    100 or more that is no multiple of a minute. Raises UsageError."""
    number = real(what, value, zero=zero)
    if (1000 <= number < _NEVER and number % 100 == 0 and number % 1800) or (
        brief and 100 <= number < 1000 and number % 50 == 0 and number % 60
    ):
        warnings.warn(
            f"{what.removesuffix(' (seconds)')} is in seconds, and {number:g} s are {timedelta(seconds=number)}. If "
            f"milliseconds are meant, write {number / 1000:g}",
            stacklevel=_outside(),
        )
    return number


def _outside() -> int:
    """How many frames down from the caller the first one outside this package is."""
    level, frame = 1, sys._getframe(1)
    while (deeper := frame.f_back) is not None:
        frame = deeper
        if frame.f_globals.get("__name__", "").partition(".")[0] != _PACKAGE:
            break
        level += 1
    return level + 1


def text(what: str, value: object, *, most: int = 500) -> str:
    """One line of text for people, cut to `most` characters; line ends and tabs become blanks. Raises UsageError if the
    value is not text, if UTF-8 can't encode it, and for other control characters."""
    if (given := plain(value)) is None:
        raise UsageError(f"{what} must be text, not {shown(value)}")
    line = " ".join(given[: 4 * most].split())[:most]
    if not line.isascii():
        try:
            line.encode()
        except UnicodeEncodeError:
            raise UsageError(f"{what} holds half a character, which UTF-8 can't: {shown(line)}") from None
    if any(ord(c) < 32 or 127 <= ord(c) < 160 for c in line):
        raise UsageError(f"{what} holds a control character: {shown(line)}")
    return line


def arguments(call: ast.Call, read: Callable[[ast.expr], Any] = ast.literal_eval) -> tuple[list[Any], dict[str, Any]]:
    """The arguments of a call in the text of a setting, by position and by name; `read` makes a value of each. Raises
    UsageError for a name that is given twice or starred ones, and whatever `read` raises."""
    named: dict[str, Any] = {}
    for keyword in call.keywords:
        if keyword.arg is None or keyword.arg in named:
            raise UsageError("** can't be read" if keyword.arg is None else f"{keyword.arg} is given twice")
        named[keyword.arg] = read(keyword.value)
    return [read(argument) for argument in call.args], named


def split_url(url: str) -> SplitResult:
    """The parts of a URL. From now on its secrets are hidden wherever they turn up. Raises UsageError."""
    redaction.learn(url)
    if "?" in redaction.login_of(url):  # it would be taken for the query
        raise UsageError(f"{redaction.shown(url)}: write %3F for a ? in a user name or password")
    if "#" in url:  # the rest would be cut off silently
        raise UsageError(f"{redaction.shown(url)}: write %23 for a # in a URL")
    try:
        return urlsplit(url)
    except ValueError as e:
        raise UsageError(f"{url}: it is no URL: {e}") from None


def check_revision(revision: object) -> str:
    """Return the revision of some code; empty: none. It becomes part of paths, image names and labels. Raises
    UsageError."""
    text = plain(revision)
    if text is not None and (not text or _REVISION.fullmatch(text)):
        return text
    raise UsageError(
        f"revision {shown(revision)}: use 1 to 63 of A-Z, a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
    )


def shown(value: object) -> str:
    """The value as text for a message: short, and printable everywhere. Never raises."""
    try:
        found = ascii(value)
    except Exception:  # noqa: BLE001 - what can't be shown is still refused
        found = f"a {type(value).__name__} that can't be shown"
    return found if len(found) <= 80 else f"{found[:77]}..."


def is_loopback(host: str) -> bool:
    """Whether an address, or `localhost`, can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
