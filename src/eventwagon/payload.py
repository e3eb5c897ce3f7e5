"""Payloads: what users publish and handle, to bytes and back. The type comes from the handler's annotation. Pure.

JSON by msgspec: Structs, dataclasses, attrs classes, TypedDicts, dicts, lists and plain values; Pydantic models by
their own methods; `bytes` as they are.
"""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable
from typing import Any

import msgspec

from .errors import UsageError
from .event import BINARY, JSON, Event


def _to_plain(value: Any) -> Any:
    """What msgspec does not know: Pydantic models, also inside other values."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} is no type that JSON can hold")


def _from_plain(wanted: type, value: Any) -> Any:
    if hasattr(wanted, "model_validate"):
        return wanted.model_validate(value)
    raise TypeError(f"{wanted.__name__} is no type that JSON can hold")


_json = msgspec.json.Encoder(enc_hook=_to_plain)


def encode(payload: object) -> tuple[bytes, str]:
    """The payload's bytes and content type. Raises UsageError for what can't be encoded."""
    if isinstance(payload, bytes):
        return payload, BINARY
    try:
        return _json.encode(payload), JSON
    except (TypeError, ValueError, msgspec.MsgspecError) as e:
        raise UsageError(f"{type(payload).__name__} can't be published: {e}") from e


def type_name(payload: object) -> str:
    """The event type that a payload stands for: the name of its class."""
    return type(payload).__name__


def decoder(annotation: Any) -> Callable[[Event], Any]:
    """What turns an event into the payload that a handler with this annotation wants.

    Raises UsageError for a type that nothing can decode to. The decoder itself raises ValueError (msgspec's
    ValidationError and Pydantic's are ones) for data that does not fit.
    """
    if annotation is Event:
        return lambda event: event
    if annotation is bytes:
        return lambda event: event.data
    try:
        known = msgspec.inspect.type_info(annotation)
        if isinstance(known, msgspec.inspect.CustomType) and not hasattr(annotation, "model_validate"):
            raise TypeError("no type that JSON can hold")
        decode = msgspec.json.Decoder(annotation, dec_hook=_from_plain).decode
    except TypeError as e:
        raise UsageError(f"payload type {annotation!r}: {e}") from e
    return lambda event: decode(event.data)


class Shape(msgspec.Struct, frozen=True):
    """What a handler's signature says."""

    payload: Any
    wants_context: bool
    is_async: bool


def shape(function: Callable[..., Any], local_names: dict[str, Any] | None = None) -> Shape:
    """Read a handler's signature: `(payload)` or `(payload, ctx)`, sync or async. Raises UsageError.

    `local_names` helps to resolve annotations of classes defined inside a function.
    """
    where = f"handler {getattr(function, '__qualname__', function)!r}"
    if not callable(function):
        raise UsageError(f"{where} can't be called")
    code = inspect.unwrap(function)
    if not inspect.isroutine(code) and not isinstance(code, type):
        code = getattr(code, "func", None) or type(code).__call__  # a partial or an object with __call__
    if inspect.isasyncgenfunction(code) or inspect.isgeneratorfunction(code):
        raise UsageError(f"{where} has a yield: emit with ctx.emit(channel, payload) instead")
    parameters = [
        p
        for p in inspect.signature(function).parameters.values()
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]
    required = [p for p in parameters if p.default is p.empty]
    if not parameters or len(required) > 2:
        raise UsageError(f"{where}: give it (payload) or (payload, ctx)")
    try:
        hints = typing.get_type_hints(code, localns=local_names)
    except NameError as e:
        raise UsageError(f"{where}: its annotations can't be resolved: {e}") from e
    payload = hints.get(parameters[0].name, Any)
    return Shape(payload, len(parameters) > 1, inspect.iscoroutinefunction(code))


def caller_names(depth: int) -> dict[str, Any]:
    """The local names of the function `depth` calls up: where a decorator was used."""
    return dict(sys._getframe(depth + 1).f_locals)
