"""Members of the sets of names that another program, or a person, has added: skipped, told, never deleted."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from typing import TypeVar

from ...contracts.broker import Finding

T = TypeVar("T")
_logger = logging.getLogger("eventwagon")
_NAMED = 3
_LONGEST = 60


def split(members: Iterable[bytes], known: Callable[[str], T | None]) -> tuple[list[T], list[bytes]]:
    """What the members of a set stand for, and those that are not eventwagon's: no UTF-8, or unknown."""
    ours, strangers = list[T](), list[bytes]()
    for member in members:
        try:
            meant = known(member.decode())
        except UnicodeDecodeError:
            meant = None
        if meant is None:
            strangers.append(member)
        else:
            ours.append(meant)
    return ours, sorted(strangers)


class Strangers:
    """Warns of the strangers of each key, once as long as they are there. `where` is the server's address."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._told: dict[str, frozenset[bytes]] = {}

    def tell(self, key: str, strangers: Collection[bytes]) -> None:
        """Warn of those of `key` that are new. Idempotent."""
        new = sorted(frozenset(strangers) - self._told.get(key, frozenset()))
        self._told[key] = frozenset(strangers)
        if new:
            _logger.warning("%s: %s: %s", self._where, _what(key, new), _MEANS)


def told(key: str, strangers: Collection[bytes]) -> list[Finding]:
    """The finding about the strangers of `key`, if there are any."""
    if not strangers:
        return []
    todo = f"look who adds them, and remove them: SREM {key} MEMBER"
    return [Finding(severity="costs", what=_what(key, sorted(strangers)), means=_MEANS, todo=todo)]


_MEANS = "another program, or a person, has added what is no name of eventwagon's; it is skipped and left alone"


def _what(key: str, strangers: Collection[bytes]) -> str:
    names = ", ".join(_shown(member) for member in list(strangers)[:_NAMED])
    more = f" and {len(strangers) - _NAMED:,} more" if len(strangers) > _NAMED else ""
    return f"the set {key} has the member{'s' if len(strangers) > 1 else ''} {names}{more}"


def _shown(member: bytes) -> str:
    text = repr(member.decode(errors="backslashreplace"))
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(member):,} bytes)"
