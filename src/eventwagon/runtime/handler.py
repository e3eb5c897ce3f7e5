"""A handler as it is declared: a user's function for one channel, and how to call it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from types import MethodType
from typing import Any, Protocol

from ..event import Event
from ..options import NONE, Options
from ..payload import Shape, codec, name_of
from .budgets import Part
from .bulkhead import log_safely
from .middleware import Middleware

_logger = logging.getLogger("eventwagon.worker")


class Elsewhere(Protocol):
    """Where a handler's events are handled instead: by other programs, for which its middleware waits."""

    def room(self, channel: str) -> Part:
        """What bounds the handlings of this channel (empty: the ingress): an event begins while there is room."""
        ...

    def died(self, event: Event, because: str) -> None:
        """The event is becoming a dead letter."""
        ...

    def settled(self, event: Event) -> None:
        """The event is settled, and what it emitted was stored before."""
        ...

    def ended(self, event: Event) -> None:
        """The event is no longer this process's: settled, given back, or its claim is left to expire."""
        ...


class Handler:
    """A user's function for one channel, and how to call it."""

    __slots__ = (
        "_warned",
        "around",
        "batch",
        "call",
        "channel",
        "decode",
        "elsewhere",
        "encode",
        "is_async",
        "is_plain",
        "name",
        "options",
        "undoes",
        "wants_context",
    )

    def __init__(
        self,
        channel: str,
        function: Callable[..., Any],
        shape: Shape,
        options: Options = NONE,
        around: Sequence[Middleware] = (),
        *,
        undoes: bool = False,
    ) -> None:
        self.channel = channel
        self.around = around
        """The train's middleware, the outermost first."""
        self.options = options
        self.batch = options.batch
        """It takes a list of at most this many payloads; None: it takes one."""
        self.undoes = undoes
        """It takes back what was handled in its channel."""
        self.name = name_of(function)
        self.call = function
        self.encode, self.decode = codec(shape.payload)
        self.wants_context = shape.wants_context
        self.is_plain = not (shape.wants_context or self.batch or around)
        """It is called with one payload and nothing else, and nothing surrounds it. Written by Train too."""
        self.is_async = shape.is_async
        self.elsewhere: Elsewhere | None = None
        """Its events are handled there; None: here. Set before the train is connected."""
        self._warned = False

    def warn_of(self, value: object) -> None:
        """Warn, once, that a handler's return value is ignored."""
        if not self._warned:
            self._warned = True
            log_safely(
                _logger,
                logging.WARNING,
                "handler %s returned a %s, which is ignored; emit with ctx.emit(channel, payload)",
                self.name,
                type(value).__name__,
            )


def handler_of(handlers: Mapping[str, Handler], function: object) -> Handler | None:
    """The handler that this function is; None if it is none of them."""
    is_method = type(function) is MethodType  # a new object each time that it is asked for
    for handler in handlers.values():
        known = handler.call
        if known is function or (is_method and type(known) is MethodType and known == function):
            return handler
    return None
