"""The spans around handlers and around publishing, by OpenTelemetry's conventions for messaging."""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from opentelemetry.context import Context as Ambient
from opentelemetry.context import attach, detach
from opentelemetry.trace import (
    INVALID_SPAN,
    Link,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    get_tracer,
    set_span_in_context,
)
from opentelemetry.trace import NonRecordingSpan as Remote

from ..contracts.broker import Broker
from ..contracts.facts import Switched
from ..contracts.manifest import Wagon
from ..display.redaction import redacted
from ..display.text import as_line, said, without_middle
from ..errors import Failed, Snooze
from ..event import MOST_EXTENSIONS, Channel, Event, template_of
from ..runtime.batching import BatchContext
from ..runtime.bulkhead import Seldom, log_safely, shown
from ..runtime.context import Context
from ..runtime.handling import handlers_own
from ..runtime.middleware import Middleware, Next, Surrounded
from ..runtime.observed import own_version, system_of
from ..runtime.outcomes import meant
from ..values import class_name
from .wanted import Traced

_logger = logging.getLogger("eventwagon")
_PARENT, _STATE = "traceparent", "tracestate"
_PARENT_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[!-~]*)?")
_LONGEST = 512
"""Characters of a `traceparent` or `tracestate` that are read, as W3C has it."""
_MEMBER = re.compile(
    r"([a-z][_0-9a-z\-*/]{0,255}|[a-z0-9][_0-9a-z\-*/]{0,240}@[a-z][_0-9a-z\-*/]{0,13})"
    r"=([ -+\--<>-~]{0,255}[!-+\--<>-~])"
)
_MEMBERS = 32
_LINKS = 128
"""The most links of one span, which is the SDK's own default too."""
_UNKNOWN = "eventwagon"
"""The messaging system, as long as that of the broker is not known, or there are several."""


def context_in(extensions: Mapping[str, str]) -> SpanContext | None:
    """The W3C trace context of an event; None if it has none, or one that can't be read. Never raises."""
    parent = extensions.get(_PARENT)
    if parent is None or len(parent) > _LONGEST or (found := _PARENT_FORM.fullmatch(parent)) is None:
        return None
    if found[1] == "00" and found[5] is not None:
        return None  # only later versions may have more
    flags = TraceFlags(int(found[4], 16))
    read = SpanContext(int(found[2], 16), int(found[3], 16), True, flags, _state(extensions.get(_STATE, "")))
    return read if read.is_valid else None


def _state(text: str) -> TraceState | None:
    members: dict[str, str] = {}
    if len(text) > _LONGEST:
        return None
    for each in filter(None, (part.strip(" \t") for part in text.split(","))):
        found = _MEMBER.fullmatch(each)
        if found is None or found[1] in members or len(members) == _MEMBERS:
            return None
        members[found[1]] = found[2]
    return TraceState(list(members.items())) if members else None


def context_as(span: SpanContext) -> dict[str, str]:
    """The extension attributes that hand this context on; an empty `tracestate` if it has none. Empty if the context is
    invalid: nobody traces here."""
    if not span.is_valid:
        return {}
    state = span.trace_state.to_header()
    return {
        _PARENT: f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}",
        _STATE: state if len(state) <= _LONGEST else "",
    }


def surround(train: Traced) -> None:
    """Register the spans as the outermost middleware of the train. Idempotent."""
    if spans_among(train.around_publishing) is not None:
        return
    spans = Spans(train)
    train.around_handling.insert(0, spans.handling)
    train.around_publishing.insert(0, spans.publishing)
    for handler in train.handlers.values():
        handler.is_plain = False


def spans_among(middleware: Sequence[Middleware]) -> Spans | None:
    """The spans of the train whose middleware this is; None if it is not traced."""
    owners = (getattr(each, "__self__", None) for each in middleware)
    return next((each for each in owners if type(each) is Spans), None)


def _stamped(event: Event, own: Mapping[str, str], most: int) -> Event:
    """The event with the context, unless it has one, or no room for it."""
    extensions = event.extensions
    if _PARENT in extensions or _STATE in extensions or len(extensions) + len(own) > MOST_EXTENSIONS:
        return event
    added = {name: value for name, value in own.items() if value}
    stamped = msgspec.structs.replace(event, extensions={**extensions, **added})
    return stamped if stamped.size <= most else event


class Spans:
    """The spans of one train. No failure of OpenTelemetry, or of what the program has added to it, reaches the events:
    it is logged once a minute for each kind."""

    def __init__(self, train: Traced) -> None:
        self._train = train
        self._tracer = get_tracer("eventwagon", own_version())
        self._failures = Seldom()
        self._system = ""

    def connected(self, broker: Broker) -> None:
        """The train is connected to this broker."""
        system = system_of(broker)
        self._system = system if self._system in ("", system) else _UNKNOWN

    async def handling(self, ctx: Context | BatchContext, call_next: Next) -> None:
        """Middleware: a CONSUMER span around a handler. A single event's is the child of the event's context; that of a
        batch has links to the contexts of its events."""
        train = self._train
        events = ctx.events if isinstance(ctx, BatchContext) else (ctx.event,)
        attributes: dict[str, Any] = {
            **self._of_operation("process", f"{Channel(train.name, ctx.wagon, ctx.channel)}", ctx.channel, events),
            "eventwagon.wagon": ctx.wagon,
            "eventwagon.channel": ctx.channel or train.name,
            "eventwagon.attempt": ctx.attempt,
        }
        if train.revision:
            attributes["eventwagon.revision"] = train.revision
        contexts = _contexts(events)
        parent = Ambient()  # not what the worker was started in
        if contexts and not isinstance(ctx, BatchContext):
            parent = set_span_in_context(Remote(contexts[0]), parent)
        with self._span("process", SpanKind.CONSUMER, attributes, contexts, parent) as span:
            if own := self._context_of(span):
                ctx.hand_on(own)
            await call_next()

    async def publishing(self, events: list[Event], call_next: Next) -> None:
        """Middleware: a PRODUCER span around publishing, whose context is written into the events. Those that have a
        context keep it, and the span is linked to it."""
        attributes = self._of_operation("send", self._train.name, "", events)
        with self._span("send", SpanKind.PRODUCER, attributes, _contexts(events), None) as span:
            own = self._context_of(span)
            most = events.most if isinstance(events, Surrounded) else self._train.settings.max_event_bytes
            await call_next([_stamped(each, own, most) for each in events] if own else events)

    def switching(self, fact: Switched, wagon: Wagon) -> tuple[Switched, Callable[[], None]]:
        """See SwitchTraces: a trace with the time from opening the wagon to its switch, in two parts."""
        root: Span = INVALID_SPAN
        name = self._train.name
        ready, active = _ns(wagon.ready_at), _ns(wagon.active_at)

        def start() -> None:
            nonlocal root
            attributes: dict[str, Any] = {
                "eventwagon.train": name,
                "eventwagon.wagon": fact.new,
                "eventwagon.pressure": fact.pressure,
                "eventwagon.because": as_line(fact.because),
            }
            if fact.old is not None:
                attributes["eventwagon.wagon.old"] = fact.old
            if fact.revision:
                attributes["eventwagon.revision"] = fact.revision
            began = _ns(wagon.opened_at)
            root = self._tracer.start_span(f"switch {name}", Ambient(), attributes=attributes, start_time=began)

        def parts() -> None:
            inside, opened = set_span_in_context(root, Ambient()), _ns(wagon.opened_at)
            self._tracer.start_span(f"provision {name}", inside, start_time=opened).end(ready or active)
            if ready is not None and active is not None and ready < active:  # the first wagon is both at once
                self._tracer.start_span(f"stand ready {name}", inside, start_time=ready).end(active)

        def end() -> None:
            if root.is_recording():
                self._safely(parts)
                self._safely(lambda: root.end(active))

        self._safely(start)
        trace = f"{root.get_span_context().trace_id:032x}" if root.is_recording() else ""
        return msgspec.structs.replace(fact, trace=trace), end

    def _of_operation(self, name: str, destination: str, channel: str, events: Sequence[Event]) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "messaging.system": self._system or _UNKNOWN,
            "messaging.operation.name": name,
            "messaging.operation.type": name,
            "messaging.destination.name": destination,
            "messaging.destination.template": template_of(self._train.name, channel),
        }
        if len(events) == 1:
            attributes["messaging.message.id"] = events[0].id
        else:
            attributes["messaging.batch.message_count"] = len(events)
        return attributes

    @contextmanager
    def _span(
        self,
        operation: str,
        kind: SpanKind,
        attributes: Mapping[str, Any],
        links: Sequence[SpanContext],
        parent: Ambient | None,
    ) -> Iterator[Span]:
        """The current span while entered. `parent` holds its parent; None: the current span is that."""
        span: Span = INVALID_SPAN

        def start() -> None:
            nonlocal span
            span = self._tracer.start_span(
                f"{operation} {self._train.name}",
                context=parent,
                kind=kind,
                attributes=attributes,
                links=[Link(each) for each in links[:_LINKS]],
            )

        self._safely(start)
        token = attach(set_span_in_context(span))
        try:
            yield span
        except BaseException as e:
            error = e
            self._safely(lambda: _fail(span, error))
            raise
        finally:
            detach(token)
            self._safely(span.end)

    def _context_of(self, span: Span) -> dict[str, str]:
        found: dict[str, str] = {}
        self._safely(lambda: found.update(context_as(span.get_span_context())))
        return found

    def _safely(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Exception as e:  # noqa: BLE001 - samplers, processors and id generators are the program's
            if self._failures.due(type(e).__qualname__) is not None:
                log_safely(
                    _logger, logging.ERROR, "%s: tracing raised %s", self._train.name, said(e), exc_info=shown(e)
                )


def _ns(seconds: float | None) -> int | None:
    return None if seconds is None else int(seconds * 1e9)


def _contexts(events: Sequence[Event]) -> list[SpanContext]:
    return [found for each in events if each.extensions and (found := context_in(each.extensions)) is not None]


def _fail(span: Span, error: BaseException) -> None:
    """Say on the span what came out: without secrets, and without the input that a validation error quotes."""
    error = meant(error)
    if issubclass(type(error), Snooze):
        span.set_attribute("eventwagon.outcome", "snoozed")
        return
    kind = f"{type(error).__module__}.{type(error).__qualname__}".removeprefix("builtins.")
    text = said(error)
    span.set_attribute("error.type", class_name(error))  # as in the metrics
    span.set_status(Status(StatusCode.ERROR, text))
    event: dict[str, Any] = {"exception.type": kind, "exception.message": text}
    if not issubclass(type(error), Failed):
        lines = "".join(traceback.format_exception(*shown(error, handlers_own(error))))
        event["exception.stacktrace"] = without_middle(redacted(lines))
    span.add_event("exception", event)
