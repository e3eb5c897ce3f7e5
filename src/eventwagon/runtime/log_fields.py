"""What is being handled, for structured logs: middleware, registered where a JsonFormatter is in use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from ..display.json_lines import handling, is_in_use
from ..event import Event, wagon_name
from .batching import BatchContext
from .context import Context
from .handler import Handler
from .middleware import Next

_TRACE = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}")
"""A `traceparent`: https://www.w3.org/TR/trace-context/"""


def note_handlings(handlers: Iterable[Handler], revision: str) -> None:
    """Let log records have the fields of the event that is handled, if a JsonFormatter is in use. Idempotent."""
    if not is_in_use():
        return
    noted = _Noted(revision)
    for handler in handlers:
        if any(type(getattr(each, "__self__", None)) is _Noted for each in handler.around):
            handler.is_plain = False
        elif isinstance(handler.around, list):  # the train's, which its handlers share
            handler.around.insert(0, noted.around)
            handler.is_plain = False


def about(
    train: str, wagon: int, channel: str, events: Sequence[Event], attempt: int, revision: str
) -> AbstractContextManager[object]:
    """While entered, log records have the fields of these events, whose handling has ended, if a JsonFormatter is in
    use."""
    if not is_in_use():
        return nullcontext()
    fields = _fields(train, wagon, channel, events, attempt, revision, is_batch=len(events) > 1)
    if len(events) == 1 and (found := _TRACE.fullmatch(events[0].extensions.get("traceparent", ""))):
        fields["trace_id"] = found[1]
    return _set(fields)


class _Noted:
    def __init__(self, revision: str) -> None:
        self._revision = revision

    async def around(self, ctx: Context | BatchContext, call_next: Next) -> None:
        """Middleware: sets the fields while the handler runs."""
        is_batch = isinstance(ctx, BatchContext)
        events = ctx.events if isinstance(ctx, BatchContext) else (ctx.event,)
        with _set(_fields(ctx.train, ctx.wagon, ctx.channel, events, ctx.attempt, self._revision, is_batch=is_batch)):
            await call_next()


def _fields(
    train: str, wagon: int, channel: str, events: Sequence[Event], attempt: int, revision: str, *, is_batch: bool
) -> dict[str, Any]:
    fields: dict[str, Any] = {"train": train, "wagon": wagon_name(train, wagon), "channel": channel or train}
    if is_batch:
        fields["events"] = [event.id for event in events]
    else:
        fields["event"] = events[0].id
    fields["attempt"] = attempt
    if revision:
        fields["revision"] = revision
    return fields


@contextmanager
def _set(fields: dict[str, Any]) -> Iterator[None]:
    token = handling.set(fields)
    try:
        yield
    finally:
        handling.reset(token)
