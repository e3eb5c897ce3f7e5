"""API keys: who may publish to which trains. Only the hashes of keys are stored."""

from __future__ import annotations

import re
import secrets
import tomllib
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from ..errors import UsageError
from ..event import check_train_name
from ..values import shown

_HASH = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
ANY = "*"
"""In place of trains: all of the gateway."""


class Key(msgspec.Struct, frozen=True):
    """What is known of a key. `rate`: events a second that it may publish, on average; None: any number. `work`: it may
    receive and settle events, too."""

    name: str
    trains: frozenset[str]
    rate: float | None = None
    work: bool = False

    def may(self, train: str) -> bool:
        """Whether it is for this train."""
        return ANY in self.trains or train in self.trains


def new_key(name: str, trains: Sequence[str], *, work: bool = False) -> tuple[str, str]:
    """A new key of 256 random bits, and its lines for the file of keys. `work`: it may work. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"key {shown(name)}: its name is 1 to 60 letters, digits, _ and -")
    key = f"ew_{secrets.token_urlsafe(32)}"
    names = ", ".join(f'"{each if each == ANY else check_train_name(each)}"' for each in trains)
    rights = "work = true\n" if work else ""
    return key, f'[{name}]\nsha256 = "{hashed(key)}"\ntrains = [{names}]\n{rights}'


def hashed(key: str) -> str:
    """The hash under which a key is stored. The keys are random: a slow hash would add nothing."""
    return sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def load_keys(path: Path) -> dict[str, Key]:
    """The keys in a TOML file, by their hash: a table for each, with `sha256`, `trains`, and maybe `rate`. Raises
    UsageError."""
    try:
        if not path.is_file() and path.exists():  # reading from a pipe would wait for ever
            raise UsageError(f"--keys {path} is no regular file")
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as e:
        raise UsageError(f"--keys {path} can't be read: {e.strerror or e}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise UsageError(f"--keys {path} is no TOML: {e}") from None
    found: dict[str, Key] = {}
    for name, table in tables.items():
        digest, key = _key(f"--keys {path}: [{name}]", name, table)
        if digest in found:
            raise UsageError(f"--keys {path}: [{name}] and [{found[digest].name}] are the same key")
        found[digest] = key
    if not found:
        raise UsageError(f"--keys {path} holds no key: make one with --new-key NAME")
    return found


def _key(where: str, name: str, table: Any) -> tuple[str, Key]:
    if not isinstance(table, Mapping):
        raise UsageError(f"{where}: it must be a table with sha256 and trains")
    if unknown := sorted(table.keys() - {"sha256", "trains", "rate", "work"}):
        raise UsageError(f"{where}: unknown field {shown(unknown[0])}; there are sha256, trains, rate and work")
    digest, trains, rate = table.get("sha256"), table.get("trains"), table.get("rate")
    if not isinstance(digest, str) or not _HASH.fullmatch(digest):
        raise UsageError(f"{where}: sha256 must be the 64 digits that --new-key prints, and never the key itself")
    if not isinstance(trains, list) or not trains or not all(isinstance(each, str) for each in trains):
        raise UsageError(f'{where}: trains must be a list of names, or ["*"]')
    if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 < rate < 1e9):
        raise UsageError(f"{where}: rate must be a number of events a second, above 0")
    work = table.get("work", False)
    if not isinstance(work, bool):
        raise UsageError(f"{where}: work must be true or false")
    return digest, Key(name, frozenset(each if each == ANY else check_train_name(each) for each in trains), rate, work)
