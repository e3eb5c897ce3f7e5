"""A train as it is known from outside, by the declaration in its manifest."""

from __future__ import annotations

import ast
from contextlib import suppress
from typing import Any

from ..errors import UsageError
from ..limits import parse_limit
from ..settings import make_settings
from ..train import Train
from ..workers import parse_workers


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
