"""Traces by OpenTelemetry: a span for each handling, each publishing and each switch. See docs/traces.md.

Nothing of OpenTelemetry is imported, and nothing is registered, unless traces are wanted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..contracts.broker import Broker
from ..display.text import said
from ..errors import UsageError
from ..runtime.middleware import Middleware
from ..runtime.runtime import SwitchTraces
from .wanted import Traced, is_wanted, missing, tell

if TYPE_CHECKING:
    from .spans import Spans

__all__ = ["trace"]


def trace(train: Traced) -> None:
    """Let the train's handlings and publishing be traced, by the global tracer provider of this process. Every train is
    that is declared while the environment asks for traces; call it in a program that sets its provider up in code.
    Idempotent. Raises UsageError if OpenTelemetry is not installed."""
    try:
        from .spans import surround
    except ImportError as e:
        raise UsageError(missing(e)) from e
    surround(train)


def trace_if_wanted(train: Traced) -> None:
    """`trace` the train if the environment asks for it. If OpenTelemetry is not installed, that is logged once."""
    if is_wanted():
        try:
            trace(train)
        except UsageError as e:
            tell(str(e))
        except Exception as e:  # noqa: BLE001 - a variable of the environment that OpenTelemetry can't read
            tell(said(e))


def connected(train: Traced, broker: Broker) -> None:
    """Tell the train's spans, if it is traced, which broker it is connected to."""
    if (spans := _spans(train.around_publishing)) is not None:
        spans.connected(broker)


def switch_traces(around_publishing: Sequence[Middleware]) -> SwitchTraces | None:
    """What traces the switches of the train that has this middleware; None if it is not traced."""
    spans = _spans(around_publishing)
    return None if spans is None else spans.switching


def _spans(around_publishing: Sequence[Middleware]) -> Spans | None:
    if f"{__name__}.spans" not in sys.modules:
        return None
    from .spans import spans_among

    return spans_among(around_publishing)
