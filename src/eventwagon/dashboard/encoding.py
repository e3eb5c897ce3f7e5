"""JSON for browsers: no text in it can turn the direction of writing, or hide what follows."""

from __future__ import annotations

from typing import Any

import msgspec

from ..display.text import escaped

_encoder = msgspec.json.Encoder()


def encode(value: object) -> bytes:
    """The value as JSON on one line. Characters that are not printable are written out in all strings (`\\u202e`), as
    the command line prints them. Figures that JSON does not know (NaN) become null."""
    return _encoder.encode(_shown(msgspec.to_builtins(value)))


def _shown(value: Any) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() and value.isprintable() else escaped(value)
    if kind is dict:
        return {_shown(name): _shown(each) for name, each in value.items()}
    if kind is list or kind is tuple:
        return [_shown(each) for each in value]
    return value
