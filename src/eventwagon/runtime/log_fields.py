"""What is being handled, for structured logs: middleware, registered where a JsonFormatter is in use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..display.json_lines import handling, is_in_use
from ..event import wagon_name
from .batching import BatchContext
from .context import Context
from .handler import Handler
from .middleware import Next


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


class _Noted:
    def __init__(self, revision: str) -> None:
        self._revision = revision

    async def around(self, ctx: Context | BatchContext, call_next: Next) -> None:
        """Middleware: sets the fields while the handler runs."""
        fields: dict[str, Any] = {
            "train": ctx.train,
            "wagon": wagon_name(ctx.train, ctx.wagon),
            "channel": ctx.channel or ctx.train,
        }
        if isinstance(ctx, BatchContext):
            fields["events"] = [event.id for event in ctx.events]
        else:
            fields["event"] = ctx.event.id
        fields["attempt"] = ctx.attempt
        if self._revision:
            fields["revision"] = self._revision
        token = handling.set(fields)
        try:
            await call_next()
        finally:
            handling.reset(token)
