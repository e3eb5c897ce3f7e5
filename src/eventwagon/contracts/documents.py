"""The check of documents that processes share: a document is stored only as it will be read again. Pure.

Text from elsewhere (an error's, a user's limit's) is repaired: half surrogate pairs are written out, and long text is
cut. Anything else that would not come back equal is a defect of eventwagon.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from ..display.text import said
from ..errors import Defect

T = TypeVar("T", bound=msgspec.Struct)

_LARGE = 8_192
"""Bytes of a document above which its texts are checked."""
_LONG = 1_000
"""Characters of one text that are kept in a large document."""

_encode = msgspec.json.encode


def as_read(document: T, decoder: msgspec.json.Decoder[T]) -> T:
    """The document as readers of its JSON will have it. Raises Defect if they could not read it, or would read
    another."""
    try:
        data = _encode(document)
        if len(data) > _LARGE:
            document = _tidied(document)
            data = _encode(document)
    except UnicodeEncodeError:
        document = _tidied(document)
        data = _encode(document)
    except Exception as e:
        raise Defect(f"a {type(document).__name__} can't be stored: {said(e)}") from e
    try:
        read = decoder.decode(data)
    except Exception as e:
        raise Defect(f"a {type(document).__name__} could not be read again: {said(e)}") from e
    if read != document:
        raise Defect(f"a {type(document).__name__} would be read as another: {data[:500].decode(errors='replace')}")
    return read


def _tidied(value: Any) -> Any:
    """The value with its texts repaired."""
    match value:
        case str():
            found = value if value.isascii() else value.encode(errors="backslashreplace").decode()
            return found if len(found) <= _LONG else f"{found[:_LONG]}…"
        case msgspec.Struct():
            fields = {name: getattr(value, name) for name in value.__struct_fields__}
            return msgspec.structs.replace(value, **{name: _tidied(each) for name, each in fields.items()})
        case Mapping():
            return {_tidied(name): _tidied(each) for name, each in value.items()}
        case tuple() | list():
            return tuple(map(_tidied, value))
        case _:
            return value
