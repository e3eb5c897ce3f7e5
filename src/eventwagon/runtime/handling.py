"""One event and its handler: decode the payload, call the handler, return the outcome."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import partial
from types import CoroutineType, TracebackType
from typing import Any, NamedTuple, Protocol, cast

import msgspec

from ..cloudevents import UNDECODABLE, is_batch, parts
from ..contracts.timetable import CHANNEL
from ..display.text import parts_of, plain, said
from ..errors import Failed as SomeFailed
from ..errors import Reject, Retry, Snooze, UsageError, check_pause
from ..event import (
    DEAD,
    Event,
    check_channel_name,
    check_extensions,
    check_word,
    checked,
    child_id,
    fitting,
    heritage,
    later_id,
    new_ids,
    published_id,
)
from ..options import NONE, Options
from ..payload import Shape, codec, encode, name_of, type_name
from ..settings import Settings
from ..times import delay
from ..values import shown, whole
from .bulkhead import log_safely, traceback_of
from .forks import forks, leave
from .middleware import Middleware, through

_logger = logging.getLogger("eventwagon.worker")

LATER = "later:"
"""Stands for the train's timetable among the channels that a handler has emitted to; it is no channel's name. Until
these events are stored, the `time` of each is how many seconds later it is due."""


class Handler:
    """A user's function for one channel, and how to call it."""

    __slots__ = (
        "_warned",
        "around",
        "batch",
        "call",
        "channel",
        "decode",
        "encode",
        "is_async",
        "is_plain",
        "name",
        "options",
        "wants_context",
    )

    def __init__(
        self,
        channel: str,
        function: Callable[..., Any],
        shape: Shape,
        options: Options = NONE,
        around: Sequence[Middleware] = (),
    ) -> None:
        self.channel = channel
        self.around = around
        """The train's middleware, the outermost first."""
        self.options = options
        self.batch = options.batch
        """It takes a list of at most this many payloads; None: it takes one."""
        self.name = name_of(function)
        self.call = function
        self.encode, self.decode = codec(shape.payload)
        self.wants_context = shape.wants_context
        self.is_plain = not (shape.wants_context or self.batch or around)
        """It is called with one payload and nothing else, and nothing surrounds it. Written by Train too."""
        self.is_async = shape.is_async
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


class _Stored(Coroutine[None, None, None]):
    """What `emit` returns. It may be awaited, made a task, or ignored."""

    __slots__ = ()

    def __await__(self) -> Generator[None, None, None]:
        return
        yield  # pragma: no cover - makes this a generator

    def send(self, value: None) -> None:
        raise StopIteration

    def throw(self, *error: Any) -> None:
        raise error[0]

    def close(self) -> None:
        pass


_STORED = _Stored()

OUT = "@"
"""Begins the place of an event that a handler publishes to a train; no channel's name does."""


class Destination(Protocol):
    """What must be known of a train to publish to it. A `Train` is one."""

    @property
    def name(self) -> str: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def handlers(self) -> Mapping[str, Handler]: ...


class Publisher(Protocol):
    """The way from this process's handlers to the active wagons of trains."""

    def destination(self, to: Destination | None) -> Destination:
        """The train to publish to; None: the handler's own. From any thread. Raises UsageError if it is no train."""
        ...

    async def publish(self, train: str, events: list[Event]) -> None:
        """Store the events in the active wagon of a train that `destination` has returned, and take those that are
        stored from the list. Raises EventwagonError; then the rest can be published again."""
        ...


class Context:
    """A handler's second argument: the event, its train, wagon and channel, the process's state, `emit` and
    `publish`."""

    __slots__ = (
        "_clock",
        "_closed",
        "_counts",
        "_handlers",
        "_heritage",
        "_keeps_times",
        "_max_bytes",
        "_publisher",
        "attempt",
        "channel",
        "emitted",
        "event",
        "state",
        "train",
        "wagon",
    )

    def __init__(
        self,
        event: Event,
        attempt: int,
        train: str,
        wagon: int,
        channel: str,
        handlers: Mapping[str, Handler],
        max_bytes: int,
        clock: Callable[[], float],
        state: Any = None,
        keeps_times: bool = False,
        publisher: Publisher | None = None,
    ) -> None:
        self.event = event
        """The event itself."""
        self.attempt = attempt
        """1 for the first attempt."""
        self.train = train
        self.wagon = wagon
        """The number of the wagon whose event this is."""
        self.channel = channel
        """The inner channel's name; empty for the ingress."""
        self.state = state
        """What the train's lifespan yielded in this process; None if it has none."""
        self.emitted: list[tuple[str, Event]] = []
        """Each with the name of its inner channel, or `OUT` and the name of the train that it is published to."""
        self._handlers = handlers
        self._max_bytes = max_bytes
        self._clock = clock
        self._keeps_times = keeps_times
        self._publisher = publisher
        self._closed = False
        self._heritage: tuple[str, str | None, dict[str, str]] | None = None
        self._counts: dict[str, int] | None = None
        """How many events were emitted, by channel."""

    def emit(
        self,
        channel: str,
        payload: object,
        *,
        event_type: str | None = None,
        subject: str | None = None,
        extensions: Mapping[str, str] | None = None,
        after: float | timedelta | None = None,
    ) -> Awaitable[None]:
        """Send `payload` on, to an inner channel of this wagon; with `after`, in seconds or as a timedelta, to that of
        the wagon which is active then (docs/later.md).

        What a handler emits is stored when it has returned, before its event is settled; when it raises, nothing is
        sent. The id is derived from the event, the channel and how many were emitted there before, so a repeated
        attempt sends the same ids. The source, the subject and the extension attributes (a trace's context, a tenant)
        are those of the event, unless `subject` or `extensions` replace them; `extensions` are added to the inherited
        ones. An `Event` as the payload is sent as it is. May be awaited or just called, also from sync handlers.

        Raises UsageError for an unknown channel, a payload that the channel's handler would not get back equal,
        attributes that no event may have, a handler that has returned already, and `after` where nothing keeps events
        for later. Raises EventTooLarge.
        """
        handler = self._handlers.get(channel) if issubclass(type(channel), str) and channel else None
        if self._closed:
            raise self._ended(f"emit to {shown(channel)}", "emit")
        if handler is None:
            raise UsageError(
                f"emit to {shown(channel)}: no handler is declared for it in train {self.train!r}; there are: "
                f"{', '.join(sorted(filter(None, self._handlers))) or 'none'} "
                "(nothing can be emitted to the ingress: `publish` goes there)"
            )
        what = f"emit to {channel!r}"
        if after is None:
            event = self._add(what, channel, handler.encode, child_id, payload, event_type, subject, extensions)
            self.emitted.append((channel, event))
            return _STORED
        due = self._later(after)
        event = self._add(what, channel, handler.encode, later_id, payload, event_type, subject, extensions)
        more = {**event.extensions, CHANNEL: channel}
        self.emitted.append((LATER, msgspec.structs.replace(event, time=due, extensions=more)))
        return _STORED

    def publish(
        self,
        payload: object,
        *,
        to: Destination | None = None,
        event_type: str | None = None,
        subject: str | None = None,
        extensions: Mapping[str, str] | None = None,
    ) -> Awaitable[None]:
        """Publish `payload` to the active wagon of this train, or of the train `to`, which runs at the same URL.

        As with `emit`, it is stored when the handler has returned, before its event is settled, and not at all when the
        handler raises; a repeated attempt publishes the same ids; source, subject and extensions are inherited. While
        the other train refuses events (TrainFull, TrainPaused), the handler's event waits, and with it its channel in
        this process; this train refuses its own handlers nothing. May be awaited or just called, also from sync
        handlers.

        Raises UsageError as `emit` does, and in a Lambda function, which is frozen between its calls and so can't
        follow a train's wagons. Raises EventTooLarge.
        """
        if self._closed:
            raise self._ended("publish", "publish")
        if self._publisher is None:
            raise UsageError(
                "publish: no handler can publish in this process (a Lambda function can't follow a train's wagons): "
                "emit to an inner channel, or let processes of `eventwagon work` handle this"
            )
        train = self._publisher.destination(to)
        what, handler = f"publish to train {train.name!r}", train.handlers.get("")
        event = self._add(
            what,
            OUT + train.name,
            encode if handler is None else handler.encode,
            lambda parent, _, index: published_id(parent, train.name, index),
            payload,
            event_type,
            subject,
            extensions,
            most=train.settings.max_event_bytes,
        )
        self.emitted.append((OUT + train.name, event))
        return _STORED

    def _ended(self, what: str, verb: str) -> UsageError:
        return UsageError(f"{what}: the handler of event {self.event.id!r} has ended; {verb} before it returns")

    def _add(
        self,
        what: str,
        place: str,
        encoded: Callable[[Any], tuple[bytes, str]],
        new_id: Callable[[Event, str, int], str],
        payload: object,
        event_type: str | None,
        subject: str | None,
        extensions: Mapping[str, str] | None,
        most: int | None = None,
    ) -> Event:
        """Make the event of a payload, and count it for `place`."""
        most = self._max_bytes if most is None else most
        if self._counts is None:
            self._counts = {}
        if issubclass(type(payload), Event):
            if event_type is not None or subject is not None or extensions is not None:
                raise UsageError(
                    f"{what.partition(' ')[0]} of an Event: it has its own type, subject and extensions; change them "
                    "there"
                )
            event = checked(cast("Event", payload), most)
        else:
            try:
                data, content_type = encoded(payload)
            except UsageError as e:
                raise UsageError(f"{what}: {e}") from e.__cause__
            if self._heritage is None:
                self._heritage = heritage(self.event)
            source, inherited, handed_on = self._heritage
            event = Event(
                new_id(self.event, place, self._counts.get(place, 0)),
                type_name(payload) if event_type is None else check_word("type", event_type),
                source,
                self._clock(),
                data,
                inherited if subject is None else check_word("subject", subject),
                content_type,
                handed_on if extensions is None else check_extensions(handed_on | check_extensions(extensions)),
            )
            fitting(event, most)
        self._counts[place] = self._counts.get(place, 0) + 1
        return event

    def _later(self, after: float | timedelta) -> float:
        seconds = delay(after)
        if not self._keeps_times:
            raise UsageError(
                "emit with after=: this process can't keep events for later, since its broker can't (docs/later.md)"
            )
        return seconds

    def of(self, event: Event) -> Context:
        """The same for another event of a batch."""
        return Context(
            event,
            self.attempt,
            self.train,
            self.wagon,
            self.channel,
            self._handlers,
            self._max_bytes,
            self._clock,
            self.state,
            self._keeps_times,
            self._publisher,
        )

    def died(self, because: str) -> tuple[str, Event]:
        """The event's dead letter."""
        return died(self.event, self.channel, self.wagon, because, self.attempt, self._clock())

    def close(self) -> None:
        """The handler has ended: from now on `emit` raises."""
        self._closed = True

    @staticmethod
    def fake(
        event: Event | None = None,
        *,
        train: Declares | None = None,
        channel: str = "",
        attempt: int = 1,
        wagon: int = 1,
        state: Any = None,
    ) -> FakeContext:
        """For tests: a context with which to call a handler like any function, `await ship(order, ctx)`.

        Afterwards `ctx.emitted` lists the channel and the payload of each `emit`. With `train` what is emitted is
        checked as in a process that runs it; without, any channel takes any payload. Raises UsageError.
        """
        return FakeContext(event, train, channel, attempt, wagon, state)


class Declares(Protocol):
    """What a fake context needs to know of a train: a `Train` is one."""

    name: str
    handlers: dict[str, Handler]
    settings: Settings


class FakeContext(Context):
    """A context for tests that call a handler themselves, see `Context.fake`."""

    __slots__ = ("events", "published")

    emitted: list[tuple[str, Any]]
    """The channel and the payload of each `emit`."""

    def __init__(
        self, event: Event | None, train: Declares | None, channel: str, attempt: int, wagon: int, state: Any
    ) -> None:
        name = "test" if train is None else train.name
        if channel == name:
            channel = ""
        if train is None or channel not in train.handlers:
            channel = channel and check_channel_name(channel)
        if train is not None and channel not in train.handlers:
            raise UsageError(f"Context.fake: train {name!r} has no handler for {channel or name!r}")
        if event is None:
            event = Event(new_ids(1, time.time())[0], "test", f"/eventwagon/{name}", time.time(), b"null")
        most = Settings().max_event_bytes if train is None else train.settings.max_event_bytes
        super().__init__(
            checked(event, most),
            whole("Context.fake: attempt", attempt),
            name,
            whole("Context.fake: wagon", wagon),
            channel,
            _AnyChannel() if train is None else train.handlers,
            most,
            time.time,
            state,
            keeps_times=True,
            publisher=_NoPublisher(name, train),
        )
        self.events: list[Event] = []
        """The events that were emitted or published, in order."""
        self.published: list[tuple[str, Any]] = []
        """The train's name and the payload of each `publish`."""

    def emit(self, channel: str, payload: object, **options: Any) -> Awaitable[None]:
        """See Context.emit."""
        stored = super().emit(channel, payload, **options)
        self.events.append(self.emitted[-1][1])
        self.emitted[-1] = channel, payload
        return stored

    def publish(
        self,
        payload: object,
        *,
        to: Destination | None = None,
        event_type: str | None = None,
        subject: str | None = None,
        extensions: Mapping[str, str] | None = None,
    ) -> Awaitable[None]:
        """See Context.publish."""
        stored = super().publish(payload, to=to, event_type=event_type, subject=subject, extensions=extensions)
        place, event = self.emitted.pop()
        self.events.append(event)
        self.published.append((place.removeprefix(OUT), payload))
        return stored


class _NoPublisher:
    """Takes what a fake context publishes, which goes nowhere."""

    def __init__(self, name: str, train: Destination | None) -> None:
        self._own = _Named(name, Settings(), {}) if train is None else train

    def destination(self, to: Destination | None) -> Destination:
        return self._own if to is None else destination_of(to)

    async def publish(self, train: str, events: list[Event]) -> None:
        events.clear()


class _Named(NamedTuple):
    name: str
    settings: Settings
    handlers: Mapping[str, Handler]


def destination_of(to: object) -> Destination:
    """The train that `Context.publish` was given. Raises UsageError."""
    if (
        not issubclass(type(getattr(to, "name", None)), str)
        or not issubclass(type(getattr(to, "settings", None)), Settings)
        or not hasattr(to, "handlers")
    ):
        raise UsageError(f"publish: `to` must be a Train, as in publish(payload, to=billing), not {shown(to)}")
    return cast("Destination", to)


class _AnyChannel(dict[str, Handler]):
    """Has a handler for each channel."""

    def get(self, name: str, _: Any = None) -> Handler:
        return Handler(check_channel_name(name), print, Shape(Any, False, False))


class Emitting(Protocol):
    """What a handler emits by: the context of an event, or that of a batch."""

    @property
    def emitted(self) -> Sequence[tuple[str, Event]]:
        """What it has emitted, each with its channel's name."""
        ...

    def close(self) -> None:
        """The handler has ended: from now on nothing can be emitted."""
        ...


class Handled(NamedTuple):
    """The handler returned: store what it emitted, then settle its event. What was emitted includes the dead letters of
    events of a batch."""

    emitted: Sequence[tuple[str, Event]]


class Dead(NamedTuple):
    """No attempt can succeed: the event goes to the dead letters."""

    because: str


class Failed(NamedTuple):
    """This attempt failed; another may succeed. `error` is what the handler raised, if it raised anything."""

    because: str
    error: BaseException | None = None
    after: float | None = None
    """The pause in seconds that the handler asked for."""


class Snoozed(NamedTuple):
    """The handler wants the event later; this does not count as an attempt."""

    after: float
    because: str


Outcome = Handled | Dead | Failed | Snoozed


def died(event: Event, channel: str, wagon: int, because: str, attempt: int, now: float) -> tuple[str, Event]:
    """The event's dead letter: the event as it was, with the reason, place and time as extension attributes."""
    why = {
        "deadbecause": plain(because),
        "deadchannel": channel,
        "deadwagon": str(wagon),
        "deadattempts": str(attempt),
        "deadat": f"{now:.3f}",
    }
    return DEAD, msgspec.structs.replace(event, extensions={**event.extensions, **why})


def smaller(letter: Event, *, cut: bool) -> Event | None:
    """A smaller form of `letter`, which the broker refused; None if there is none.

    A letter is larger than its event, and may have attributes that can't be stored. First it loses everything that the
    event brought besides its data. Then, if `cut` (the broker refused it for good), it loses the end of its data, more
    each time; `deadsize` is the original number of bytes.
    """
    ours = {name: plain(value, 100) for name, value in letter.extensions.items() if name.startswith("dead")}
    bare = msgspec.structs.replace(
        letter,
        id=plain(letter.id, 200),
        type=plain(letter.type, 200),
        source=plain(letter.source, 200),
        subject=None if letter.subject is None else plain(letter.subject, 200),
        content_type=plain(letter.content_type, 100),
        extensions=ours,
    )
    if bare != letter:
        return bare
    size = len(letter.data)
    if not size or not cut:
        return None
    less = size // 2 if "deadsize" in ours else min(size, 1024)
    extensions = {"deadsize": str(size), **ours}
    return msgspec.structs.replace(letter, data=letter.data[: size - less], extensions=extensions)


def handlers_own(error: BaseException) -> TracebackType | None:
    """The error's traceback from the handler on: the frames before that are eventwagon's."""
    place = traceback_of(error)
    while place is not None and place.tb_frame.f_code.co_filename in (__file__, through.__code__.co_filename):
        place = place.tb_next
    return place


class RunState:
    """One worker's current handler call, and how it is cut short. A worker uses one object for all its calls."""

    __slots__ = ("because", "forks", "given_up", "not_started", "strayed", "thread")

    def __init__(self) -> None:
        self.because = ""
        """Why it was cut short; empty while it was not."""
        self.forks = forks()
        self.given_up = False
        """It was cut short, went on all the same, and is no longer run."""
        self.strayed = False
        """While the handler waited, somebody else cancelled the task that it runs in."""
        self.not_started: BaseException | None = None
        """Why there was no thread to run it in."""
        self.thread: ThreadCall | None = None
        """The call that runs in a thread."""


_MEANT = (Reject, Retry, Snooze, SomeFailed)
"""Exceptions by which handlers say something. One that is returned was meant to be raised."""

HANDLED = Handled(())
"""The handler returned, and emitted nothing."""


def begin(
    handler: Handler, event: Event, context: Context | None, run: RunState, threads: Threads
) -> Outcome | Awaitable[Outcome]:
    """Let the handler work on one event. Returns the outcome, or an awaitable of it if the handler waits. `context` is
    None for a handler that takes none; a batch and middleware need one.

    Whatever the handler raises is an outcome, except KeyboardInterrupt. If the caller cancels (it has set
    `run.because`), the handler is cancelled. One that goes on all the same is no longer run once `run.given_up` is set
    and it is cancelled again. A handler in a thread goes on in any case; `run.thread` says when it has ended.
    """
    if event.extensions and UNDECODABLE in event.extensions:
        return no_payload(event, handler)
    if context is not None and is_batch(event):
        return _each(handler, event, context, run, threads)
    try:
        payload = handler.decode(event)
    except KeyboardInterrupt:
        raise
    except BaseException as e:  # noqa: BLE001 - whatever a decoder raises, the data does not fit, and never will
        return no_payload(event, handler, e)
    if handler.around and context is not None:
        return call(handler, context, run, threads, (payload, context) if handler.wants_context else (payload,))
    if not handler.is_async:
        return _in_thread(handler, context, run, threads, (payload,) if context is None else (payload, context))
    try:
        work = handler.call(payload) if context is None else handler.call(payload, context)
    except BaseException as e:  # noqa: BLE001 - what it raises is the outcome
        return _outcome(e, context)
    return _driven(handler, context, run, work)


def call(
    handler: Handler, context: Emitting, run: RunState, threads: Threads, arguments: tuple[object, ...]
) -> Outcome | Awaitable[Outcome]:
    """Call the handler with these arguments, as `begin` does, inside of the middleware."""
    if handler.around:
        inner = partial(_innermost, handler, run, threads, arguments)
        return _driven(handler, context, run, _surrounded(handler, inner, context))
    if not handler.is_async:
        return _in_thread(handler, context, run, threads, arguments)
    try:
        work = handler.call(*arguments)
    except BaseException as e:  # noqa: BLE001 - what it raises is the outcome
        return _outcome(e, context)
    return _driven(handler, context, run, work)


async def _surrounded(handler: Handler, inner: Callable[[], Awaitable[None]], context: Emitting) -> object:
    result = await through(handler.around, inner, context)
    return result if issubclass(type(result), _MEANT) else None  # what else a middleware returns, nobody gets


async def _innermost(handler: Handler, run: RunState, threads: Threads, arguments: tuple[object, ...]) -> None:
    """Call the handler; whatever it means by its result is raised, so that the middleware sees it."""
    if handler.is_async:
        result = await handler.call(*arguments)
    else:
        result, error = await threads.run(run, handler.call, *arguments)
        if error is not None:
            raise error
        if _is_awaitable(result):
            result = await result
    if issubclass(type(result), _MEANT):
        raise result
    if result is not None:
        handler.warn_of(result)


def no_payload(event: Event, handler: Handler, error: BaseException | None = None) -> Dead:
    """The outcome of an event whose data are no payload for this handler. `error` is what the decoder raised; None: the
    message could not even be read."""
    if error is None:
        return Dead(event.extensions.get("deadbecause", "can't be decoded"))
    return Dead(f"can't be decoded for handler {handler.name}: {said(error)}")


async def _each(handler: Handler, batch: Event, context: Context, run: RunState, threads: Threads) -> Outcome:
    """Handle the events of a batch one after the other. The outcome has everything that they emitted and the dead
    letters of those that died. If one fails or is snoozed, the whole batch comes again: it is one message at the
    broker."""
    emitted: list[tuple[str, Event]] = []
    for event in parts(batch):
        own = context.of(event)
        try:
            await asyncio.sleep(0)  # handlers that never wait must let others run
        except asyncio.CancelledError as e:
            run.strayed = True
            return _outcome(e, own)
        outcome = begin(handler, event, own if handler.wants_context or handler.around else None, run, threads)
        if not isinstance(outcome, Outcome):
            outcome = await outcome
        if run.because:
            return Failed(run.because)
        match outcome:
            case Handled(emitted=more):
                emitted += more
            case Failed(because=because, error=error) if error is not None and (why := never_retried(handler, error)):
                emitted.append(own.died(f"{because} ({why})"))
            case Dead(because=because):
                emitted.append(own.died(because))
            case _:
                return outcome
    return Handled(emitted) if emitted else HANDLED


def _driven(handler: Handler, context: Emitting | None, run: RunState, work: Any) -> Outcome | Awaitable[Outcome]:
    """Run the awaitable that a handler returned. If it never waits, it ends at once."""
    coroutine = work if type(work) is CoroutineType else _awaiting(work)
    try:
        signal = coroutine.send(None)
    except StopIteration as e:
        return HANDLED if context is None and e.value is None else _returned(handler, context, e.value)
    except BaseException as e:  # noqa: BLE001 - what it raises is the outcome
        return _outcome(e, context)
    return _Rest(handler, context, run, coroutine, signal)


async def _awaiting(awaitable: Any) -> Any:
    return await awaitable


class _Rest:
    """The rest of an async handler that waits. It is run step by step, so that an error which it raises is not taken
    for one of its worker."""

    __slots__ = ("_context", "_coroutine", "_handler", "_run", "_signal")

    def __init__(
        self,
        handler: Handler,
        context: Emitting | None,
        run: RunState,
        coroutine: Coroutine[Any, Any, Any],
        signal: Any,
    ) -> None:
        self._handler = handler
        self._context = context
        self._run = run
        self._coroutine = coroutine
        self._signal = signal

    def __await__(self) -> Generator[Any, Any, Outcome]:
        coroutine, signal = self._coroutine, self._signal
        me = asyncio.current_task()
        assert me is not None  # noqa: S101 - for the type checker: this runs in a worker
        while True:
            value: Any = None
            thrown: BaseException | None = None
            cancelled = me.cancelling()
            try:
                value = yield signal
            except GeneratorExit:  # the worker itself is thrown away
                coroutine.close()
                raise
            except BaseException as e:  # noqa: BLE001 - it is the handler's to answer
                if self._run.given_up:
                    with suppress(BaseException):  # it ends where it stands, or at least is run no further
                        coroutine.close()
                    return _outcome(e, self._context)
                thrown = e
                self._run.strayed = self._run.strayed or me.cancelling() > cancelled
            try:
                signal = coroutine.send(value) if thrown is None else coroutine.throw(thrown)
            except StopIteration as e:
                return _returned(self._handler, self._context, e.value)
            except BaseException as e:  # noqa: BLE001 - what it raises is the outcome
                return _outcome(e, self._context)


async def _in_thread(
    handler: Handler, context: Emitting | None, run: RunState, threads: Threads, arguments: tuple[object, ...]
) -> Outcome:
    try:
        result, error = await threads.run(run, handler.call, *arguments)
    except asyncio.CancelledError as e:
        error, run.strayed = e, True
    if error is not None:
        return _outcome(error, context)
    if not _is_awaitable(result):
        return _returned(handler, context, result)
    outcome = _driven(handler, context, run, result)
    return outcome if isinstance(outcome, Outcome) else await outcome


def _is_awaitable(result: object) -> bool:
    try:
        return inspect.isawaitable(result)
    except Exception:  # noqa: BLE001 - a user's object may do anything when it is asked what it is
        return False


def _returned(handler: Handler, context: Emitting | None, result: object) -> Outcome:
    if issubclass(type(result), _MEANT):
        assert isinstance(result, Exception)  # noqa: S101 - for the type checker
        return _outcome(result, context)  # it meant to raise it
    if context is not None:
        context.close()
    if result is not None:
        handler.warn_of(result)
    return Handled(context.emitted) if context is not None and context.emitted else HANDLED


def meaning(error: BaseException) -> Outcome:
    """The outcome that a handler of batches means by this exception of one event."""
    return Failed(said(error), error) if issubclass(type(error), KeyboardInterrupt) else _outcome(error, None)


def _outcome(error: BaseException, context: Emitting | None) -> Outcome:
    """The outcome that a handler means by raising this."""
    if context is not None:
        context.close()
    if issubclass(type(error), KeyboardInterrupt):
        raise error
    try:
        match meant(error):
            case Reject() as reject:
                reason = said(reject).partition(": ")[2]
                return Dead(f"rejected: {reason}" if reason else "rejected by its handler")
            case Snooze() as snooze:
                return Snoozed(check_pause("Snooze", snooze.after), plain(snooze.because) or "snoozed by its handler")
            case Retry() as retry:
                after = None if retry.after is None else check_pause("Retry", retry.after)
                return Failed(plain(retry.because) or "its handler asked for another attempt", after=after)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001, S110 - one that can't even be asked what it is, is a failure like any other
        pass
    return Failed(said(error), error)


def never_retried(handler: Handler, error: BaseException) -> str:
    """Why the handler's options exclude a retry after this error, in words; empty if they don't. Never raises, except
    KeyboardInterrupt."""
    options = handler.options
    if not options.dead_on and options.retry_on is None:
        return ""
    try:
        return options.never_retried(meant(error))
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001 - a user's class may do anything when it is asked about another
        return ""


def meant(error: BaseException) -> BaseException:
    """What a handler raised, without the groups that contain nothing else: a TaskGroup wraps what its tasks raise."""
    while len(parts := parts_of(error)) == 1:
        error = parts[0]
    return error


class ThreadCall:
    """A function's call in a thread. `done` gets its result, unless nobody waits for it any more."""

    __slots__ = ("_ended", "done", "on_end", "over")

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.done: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
        self.over = False
        self.on_end: Callable[[], object] = lambda: None
        """Called when the function has returned or raised."""
        self._ended: asyncio.Future[None] | None = None

    def finish(self, result: object, error: BaseException | None) -> None:
        """The function has returned or raised."""
        self.over = True
        self.on_end()
        if not self.done.done():
            self.done.set_result((result, error))
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def ended(self) -> None:
        """Wait until the function has returned or raised."""
        if not self.over:
            self._ended = asyncio.get_running_loop().create_future()
            await self._ended


class Threads:
    """Threads for sync handlers, reused when free. They are daemon threads: one that hangs blocks neither others nor
    the program's exit."""

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[Callable[[], None] | None]] = []
        self._ended = False

    async def run(
        self, run: RunState, function: Callable[..., Any], *arguments: object
    ) -> tuple[Any, BaseException | None]:
        """Call the function in a thread, in a copy of the caller's context. Returns its result and what it raised.
        Cancelling ends the wait, not the thread; `run.thread` says when that has ended."""
        loop = asyncio.get_running_loop()
        context = contextvars.copy_context()
        try:
            mine = self._idle.pop() if self._idle else self._start()
        except RuntimeError as e:  # the system has no thread left
            run.not_started = e
            return None, e
        run.thread = call = ThreadCall(loop)

        def finish(result: object, error: BaseException | None) -> None:
            if self._ended:
                mine.put(None)
            else:
                self._idle.append(mine)
            call.finish(result, error)

        def job() -> None:
            result, error = None, None
            try:
                result = context.run(function, *arguments)
            except BaseException as e:  # noqa: BLE001 - carried over to the awaiting side, whatever it is
                error = e
            if forks() != run.forks:
                leave(error)
            try:
                loop.call_soon_threadsafe(finish, result, error)
            except RuntimeError:
                mine.put(None)  # the loop is closed: nobody waits any more

        mine.put(job)
        return await call.done

    def _start(self) -> queue.SimpleQueue[Callable[[], None] | None]:
        jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()

        def work() -> None:
            while (job := jobs.get()) is not None:
                job()

        threading.Thread(target=work, name="eventwagon-handler", daemon=True).start()
        return jobs

    def end(self) -> None:
        """End the idle threads now, and the busy ones when they have finished."""
        self._ended = True
        for jobs in self._idle:
            jobs.put(None)
        self._idle.clear()
