"""Log records as JSON, one object a line, with the event that is being handled."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

from .redaction import redacted
from .text import MESSAGE_MOST, as_line, escaped, said, without_middle

LOG_FORMAT = "EVENTWAGON_LOG_FORMAT"
"""The environment variable that says `text` or `json`."""
FIELDS = "eventwagon"
"""The attribute of a record that holds further fields."""

handling: ContextVar[Mapping[str, Any]] = ContextVar("eventwagon_handling", default={})  # noqa: B039 - never changed
"""The fields of the event that is being handled here."""
_in_use = False
_DEPTH = 20
"""Lists in lists; those further inside are written as text."""
_BITS = 4096
"""A larger number is written as text; Python itself refuses to print those of 4,300 digits."""


def is_in_use() -> bool:
    """Whether a JsonFormatter was made in this process: handlings note then what they handle."""
    return _in_use


def is_asked_for() -> bool:
    """Whether the environment asks for JSON."""
    return os.environ.get(LOG_FORMAT, "").strip().lower() == "json"


class JsonFormatter(logging.Formatter):
    """A record as one JSON object on one line: `time` (RFC 3339, UTC), `level`, `logger`, `message`, and `traceback` if
    there is one.

    While a handler runs, records of whatever it calls, in its thread too, also have `train`, `wagon`, `channel`,
    `event`, `attempt`, and `revision` if the program has one; those of a batch have `events`, a list of ids. So have
    records about a failure. If a span of OpenTelemetry is current, they have `trace_id` and `span_id`. Records of
    decisions have `train`, `wagon` and `fact`. Make the formatter before workers start. Secrets are hidden, and control
    characters written out, as in all of eventwagon's logs."""

    def __init__(self) -> None:
        super().__init__()
        global _in_use
        _in_use = True

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {
            "time": _time(record.created),
            "level": record.levelname,
            "logger": record.name,
            "message": _message(record),
        }
        text = record.exc_text or ""
        if record.exc_info:
            text = self._traceback(record.exc_info)
        if record.stack_info:
            text = f"{text}\n{record.stack_info}" if text else record.stack_info
        if text:
            fields["traceback"] = text
        fields |= handling.get()
        further: object = getattr(record, FIELDS, None)
        if type(further) is dict:
            fields |= further
        return as_json(fields | _span())

    def _traceback(self, info: Any) -> str:
        try:
            return self.formatException(info)
        except Exception as e:  # noqa: BLE001 - a user's exception may do anything when it is printed
            return f"the traceback can't be written: {said(e)}"


def as_json(fields: Mapping[str, Any]) -> str:
    """The fields as JSON on one line of ASCII, without secrets and control characters; a traceback keeps its ends of
    lines, as `\\n`. Never raises."""
    return json.dumps({as_line(_text(name)): _clean(name, value) for name, value in fields.items()})


def passed_on(line: str, wagon: str) -> str:
    """A line that another process has written, as JSON: what is JSON stays what it says, other text becomes the
    message. `wagon` is that of the process."""
    with suppress(ValueError, RecursionError):
        found: object = json.loads(line)
        if isinstance(found, dict) and isinstance(found.get("message"), str):
            return as_json({"wagon": wagon, **found})
    now = _time(datetime.now(UTC).timestamp())
    return as_json({"time": now, "level": "INFO", "logger": "eventwagon.output", "message": line, "wagon": wagon})


def _clean(name: str, value: object, depth: int = 0) -> object:
    """By the object's real class: its `__class__`, and its methods, may say anything."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if issubclass(kind, int):
        number: int = vars(int)["__index__"](value)
        return number if number.bit_length() <= _BITS else as_line(_text(number))
    if issubclass(kind, float):
        real: float = vars(float)["__float__"](value)
        return real if abs(real) < float("inf") else str(real)
    if issubclass(kind, list | tuple) and depth < _DEPTH:
        each = vars(list if issubclass(kind, list) else tuple)["__iter__"](value)
        return [_clean("", one, depth + 1) for one in each]
    text = _text(value)
    if name == "traceback":
        return "\n".join(escaped(line) for line in redacted(without_middle(text)).splitlines())
    return as_line(without_middle(text, MESSAGE_MOST))


def _time(seconds: float) -> str:
    try:
        at = datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError, TypeError):  # of a record that the program made by itself
        return _text(seconds)
    return at.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as e:  # noqa: BLE001 - the arguments are anybody's
        return f"{_text(record.msg):.1000} (its arguments can't be written: {said(e)})"


def _text(value: object) -> str:
    """Always a plain `str`, which does what a `str` does."""
    try:
        return _plainly(value if issubclass(type(value), str) else str(value))
    except Exception as e:  # noqa: BLE001 - a user's object may do anything when it is printed
        return said(e)


def _plainly(text: object) -> str:
    found: str = vars(str)["__str__"](text)
    return found


def _span() -> dict[str, Any]:
    """The ids of the current span, if the program uses OpenTelemetry."""
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return {}
    try:
        current = trace.get_current_span().get_span_context()
        if not current.is_valid:
            return {}
        return {"trace_id": f"{current.trace_id:032x}", "span_id": f"{current.span_id:016x}"}
    except Exception:  # noqa: BLE001 - a half-imported module, a span of the program's own
        return {}
