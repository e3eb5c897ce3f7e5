"""A train as it is known from outside, by the declaration in its manifest."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any

from ..errors import UsageError
from ..limits import parse_limit
from ..settings import make_settings
from ..train import Train
from ..workers import parse_workers

Value = str | int | float | bool | None
"""What a setting is in JSON."""
_LARGEST = 2**63 - 1
"""The largest number that JSON has; a declaration is anybody's text."""


def values_of(declared: Mapping[str, str]) -> dict[str, Value]:
    """What is declared, for machines: `60.0`, `'fill'` and `None` as the number, the text and the null that they mean.
    What has no such form, such as limits and workers, stays as it is written."""
    return {name: _value_of(text) for name, text in declared.items()}


@lru_cache(256)  # read with each look; and what `literal_eval` leaves behind is cyclic, which stays for minutes
def _value_of(text: str) -> Value:
    with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
        found: object = ast.literal_eval(text)
        if found is None or isinstance(found, str) or (isinstance(found, int | float) and abs(found) <= _LARGEST):
            return found
    return text


def follower(name: str, declared: dict[str, str]) -> Train:
    """A train without handlers, with the settings that its programs `declared`: enough to publish. Leaves out settings
    that this version can't read."""
    settings: dict[str, Any] = {}
    for key, text in declared.items():
        # A user's own limit: publishers don't measure it. A setting of a newer version: it is not ours to follow.
        with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
            match key:
                case "limit":
                    value: object = parse_limit(text)
                case "workers":
                    value = parse_workers(text)
                case _:
                    value = ast.literal_eval(text)
            settings[key] = value
    try:
        return Train(name, revision="", **settings)
    except UsageError:
        return Train(name, revision="", **{key: value for key, value in settings.items() if _is_setting(key, value)})


def _is_setting(name: str, value: object) -> bool:
    try:
        make_settings(**{name: value})
    except UsageError:
        return False
    return True
