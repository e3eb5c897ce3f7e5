"""Does an event's data fit the payload type of the handler that it is for? Asked before the event is published."""

from __future__ import annotations

from ..event import Event
from ..runtime.handler import Handler


class Misfit(Exception):
    """It does not; the message says why."""


def decoded(handler: Handler, event: Event) -> object:
    """The payload as the handler would get it. Raises Misfit."""
    try:
        return handler.decode(event)
    except Exception as e:  # noqa: BLE001 - any error of the payload type's own checks means that the data do not fit
        why = "; ".join(str(e).split("\n"))
        raise Misfit(f"does not fit handler {handler.name}: {why}") from None
