"""One batch and its handler: decode the payloads, call the handler once, say what came of each event.

A handler that returns has handled all events; one that raises `Failed` has handled those that are not named. After any
other exception nobody knows which event was to blame: the whole batch failed, and each of its events comes again as a
batch of its own (`forming.is_alone`), so that a bad event costs the others one attempt and never more. The same holds
for what a process had in hand that died: it comes again in batches (`HandlerRunner.handle_suspects`), and if one of
those ends its process too, each event of it as a batch of its own.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

from ..cloudevents import UNDECODABLE, is_batch, parts
from ..contracts.broker import Delivery
from ..display.text import count
from ..errors import Failed as SomeFailed
from ..errors import UsageError
from ..event import UNDO, Event
from ..options import Options
from ..payload import Shape, one_of
from ..values import class_name, shown
from .context import Context, Destination, Place
from .handler import Handler
from .handling import call, no_payload, to_be_undone
from .outcomes import HANDLED, Dead, Failed, Handled, Outcome, Snoozed, decided, meaning, meant
from .run_state import RunState
from .threads import Threads

_P = TypeVar("_P")


def checked_shape(shape: Shape, options: Options, where: str) -> Shape:
    """The shape of a handler with the type of one payload, whether it takes one or a list. Raises UsageError if its
    annotations and `batch=` do not fit together."""
    if options.batch is None:
        if shape.context is BatchContext:
            raise UsageError(f"{where}: ctx is a BatchContext only with batch=; annotate Context")
        return shape
    if shape.context is Context:
        raise UsageError(f"{where}: with batch= ctx is a BatchContext: annotate that")
    return Shape(one_of(shape.payload, where), shape.wants_context, shape.is_async, shape.context)


class BatchContext:
    """The second argument of a handler of batches: the events, their train, wagon and channel, the process's state,
    `emit` and `publish`."""

    __slots__ = ("_closed", "_contexts", "_first", "attempt", "channel", "events", "state", "train", "wagon")

    def __init__(self, first: Context, events: Sequence[Event]) -> None:
        self.events = events
        """The events themselves, at the same index as their payloads."""
        self.attempt = first.attempt
        """1 for the first attempt. A batch at a later attempt is a single event."""
        self.train = first.train
        self.wagon = first.wagon
        """The number of the wagon whose events these are."""
        self.channel = first.channel
        """The inner channel's name; empty for the ingress."""
        self.state = first.state
        """What the train's lifespan yielded in this process; None if it has none."""
        self._first = first
        self._closed = False
        self._contexts: dict[int, Context] = {}
        """By index: of the events for which something was emitted."""

    def emit(
        self,
        channel: Place[_P],
        payload: _P | Event,
        *,
        of: int,
        after: float | timedelta | None = None,
        event_type: str | None = None,
        subject: str | None = None,
        extensions: Mapping[str, str] | None = None,
    ) -> Awaitable[None]:
        """Send `payload` on, to an inner channel of this wagon (with `after`: later), on behalf of the event at index
        `of`.

        It is `Context.emit` of that event: the id is derived from it, its source, subject and extension attributes are
        inherited. It is stored if and only if that event was handled. Raises UsageError for an index that no payload
        has, and what `Context.emit` raises."""
        context = self._context_of(of, lambda: f"emit to {shown(channel)}", "emit(channel, payload, of=index)")
        return context.emit(
            channel, payload, after=after, event_type=event_type, subject=subject, extensions=extensions
        )

    def publish(
        self,
        payload: object,
        *,
        of: int,
        to: Destination | None = None,
        event_type: str | None = None,
        subject: str | None = None,
        extensions: Mapping[str, str] | None = None,
    ) -> Awaitable[None]:
        """Publish `payload` to the active wagon of this train, or of `to`, on behalf of the event at index `of`.

        It is `Context.publish` of that event, and stored if and only if that event was handled. Raises UsageError for
        an index that no payload has, and what `Context.publish` raises."""
        context = self._context_of(of, lambda: "publish", "publish(payload, of=index)")
        return context.publish(payload, to=to, event_type=event_type, subject=subject, extensions=extensions)

    def _context_of(self, of: int, what: Callable[[], str], call: str) -> Context:
        if type(of) is bool or not hasattr(type(of), "__index__") or not 0 <= of.__index__() < len(self.events):
            raise UsageError(
                f"{what()}: of={shown(of)} is no index of the batch, which has "
                f"{count(len(self.events), 'payload')}: {call}"
            )
        if self._closed:
            raise UsageError(
                f"{what()}: the handler of the batch has ended; {call.partition('(')[0]} before it returns"
            )
        index = of.__index__()
        if index not in self._contexts:
            self._contexts[index] = self._first.of(self.events[index])
        return self._contexts[index]

    def hand_on(self, extensions: Mapping[str, str]) -> None:
        """`Context.hand_on` for each of the events."""
        for index, event in enumerate(self.events):
            if index not in self._contexts:
                self._contexts[index] = self._first.of(event)
            self._contexts[index].hand_on(extensions)

    def emitted_by(self, index: int) -> Sequence[tuple[str, Event]]:
        """What was emitted on behalf of the event at this index, each with its channel's name."""
        context = self._contexts.get(index)
        return context.emitted if context is not None else ()

    @property
    def emitted(self) -> Sequence[tuple[str, Event]]:
        """What was emitted on behalf of all of them."""
        return [each for context in self._contexts.values() for each in context.emitted]

    def close(self) -> None:
        """The handler has ended: from now on `emit` raises."""
        self._closed = True


class Batched(NamedTuple):
    """The handler has dealt with each event of the batch by itself: what came of each."""

    results: Sequence[tuple[Delivery, Outcome]]


Result = Outcome | Batched


def error_of(outcome: Result, *, expired: bool) -> str:
    """What went wrong with a handling, as a word: the class of what its handler raised, `timeout`, `dead` if no attempt
    can succeed, `failed` otherwise. Empty if nothing did; of a batch, if one of its events was handled."""
    match outcome:
        case Failed() if expired:
            return "timeout"
        case Failed(error=error):
            return "failed" if error is None else class_name(error)
        case Dead():
            return "dead"
        case Batched(results=results):
            errors = [error_of(each, expired=expired) for _, each in results]
            return "" if "" in errors else next(iter(errors), "")
    return ""


class _Batch:
    """The messages that a handler gets in one call, and their payloads. A message may hold several events; it is
    settled as a whole."""

    def __init__(self, handler: Handler, deliveries: Sequence[Delivery], context: Context) -> None:
        self.payloads: list[Any] = []
        self.events: list[Event] = []
        """At the same index as their payloads."""
        self._handler = handler
        self._deliveries = deliveries
        self._context = context
        self._places: list[int] = []
        """For each payload: the place of its delivery."""
        self._unfit: dict[int, list[tuple[Event, Dead]]] = {}
        """By the place of the delivery: events that have no payload, and why."""
        for place, delivery in enumerate(deliveries):
            for event in parts(delivery.event) if is_batch(delivery.event) else (delivery.event,):
                self._decode(place, event)
        self.context = BatchContext(context, tuple(self.events))

    def _decode(self, place: int, event: Event) -> None:
        if UNDECODABLE in event.extensions:
            unfit = no_payload(event, self._handler)
        elif UNDO in (of := self._deliveries[place].event).extensions:
            unfit = to_be_undone(of)
        else:
            try:
                self.payloads.append(self._handler.decode(event))
                self.events.append(event)
                self._places.append(place)
                return
            except KeyboardInterrupt:
                raise
            except BaseException as e:  # noqa: BLE001 - as in `begin`
                unfit = no_payload(event, self._handler, e)
        self._unfit.setdefault(place, []).append((event, unfit))

    def outcome(self, called: Outcome) -> Result:
        """What came of the batch, from the outcome of its one call."""
        match called:
            case Handled():
                return self._each({})
            case Failed(error=error) if error is not None:
                errors = _named(error)
                if errors is None:
                    return called
                if beyond := [index for index in errors if index >= len(self.events)]:
                    many = count(len(self.events), "payload")
                    return Failed(f"it raised Failed for payload {beyond[0]}, and the batch has {many}", error)
                return self._each(errors)
            case Dead(because=because) if len(self.events) > 1 or len(self._deliveries) > 1:
                return Failed(because)  # it may have meant one of them
        return called

    def _each(self, errors: Mapping[int, BaseException]) -> Batched:
        if not (errors or self._unfit or self.context.emitted):
            return Batched([(delivery, HANDLED) for delivery in self._deliveries])
        found: list[list[tuple[Event, Outcome]]] = [[] for _ in self._deliveries]
        for place, unfit in self._unfit.items():
            found[place] += unfit
        for index, (place, event) in enumerate(zip(self._places, self.events, strict=True)):
            outcome = meaning(errors[index]) if index in errors else Handled(self.context.emitted_by(index))
            found[place].append((event, decided(self._handler, outcome)))
        return Batched([(d, self._of_message(d, each)) for d, each in zip(self._deliveries, found, strict=True)])

    def _of_message(self, delivery: Delivery, found: Sequence[tuple[Event, Outcome]]) -> Outcome:
        """What came of a message, from the outcomes of its events. If one of several is to come again, all do."""
        if not is_batch(delivery.event):
            return found[0][1]
        again = [outcome for _, outcome in found if isinstance(outcome, Failed | Snoozed)]
        if again:
            return next((outcome for outcome in again if isinstance(outcome, Failed)), again[0])
        emitted: list[tuple[str, Event]] = []
        for event, outcome in found:
            if isinstance(outcome, Dead):
                emitted.append(self._context.of(event).died(outcome.because))
            elif isinstance(outcome, Handled):
                emitted += outcome.emitted
        return Handled(emitted)


def holds_several(deliveries: Sequence[Delivery]) -> bool:
    """Whether several events were handled together, so that it is not known which of them a failure is about."""
    event = deliveries[0].event
    return len(deliveries) > 1 or (is_batch(event) and sum(1 for _ in parts(event)) > 1)


def begin_batch(
    handler: Handler, deliveries: Sequence[Delivery], context: Context, run: RunState, threads: Threads
) -> Result | Awaitable[Result]:
    """Let the handler work on these messages together, as `handling.begin` does on one. `context` is that of the first.
    An event without a payload that fits dies alone; the handler gets all others."""
    batch = _Batch(handler, deliveries, context)
    if not batch.events:
        return batch.outcome(HANDLED)
    arguments = (batch.payloads, batch.context) if handler.wants_context else (batch.payloads,)
    outcome = call(handler, batch.context, run, threads, arguments)
    return batch.outcome(outcome) if isinstance(outcome, Outcome) else _awaited(batch, outcome)


async def _awaited(batch: _Batch, outcome: Awaitable[Outcome]) -> Result:
    return batch.outcome(await outcome)


def _named(error: BaseException) -> Mapping[int, BaseException] | None:
    """The exceptions by index, if the handler has raised `Failed`; None for any other exception."""
    error = meant(error)
    if not issubclass(type(error), SomeFailed):
        return None
    try:
        return SomeFailed(error.errors).errors  # type: ignore[attr-defined]
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a class of the user's may hold anything
        return None
