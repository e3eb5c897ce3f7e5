"""What a handler gets beside its payload: the event, and how to emit and publish. And what a test gives it instead."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple, Protocol, TypeVar, cast

import msgspec

from ..contracts.timetable import CHANNEL, for_channel
from ..contracts.undo import Undone
from ..errors import UsageError
from ..event import (
    LEVEL,
    MOST_EXTENSIONS,
    Channel,
    Event,
    at_level,
    check_channel_name,
    check_extensions,
    check_word,
    checked,
    child_id,
    fitting,
    heritage,
    later_id,
    level_of,
    new_ids,
    published_id,
)
from ..payload import Shape, encode, type_name
from ..policy.slices import is_after
from ..settings import Settings
from ..times import delay
from ..values import is_a, shown, whole
from .dead_letters import died
from .handler import Handler, handler_of

_P = TypeVar("_P")
Place = (
    str
    | Callable[[_P], object]
    | Callable[[_P, Any], object]
    | Callable[[list[_P]], object]
    | Callable[[list[_P], Any], object]
)
"""An inner channel: its name, or the function that handles its payloads (or lists of them)."""

LATER = "later:"
"""Stands for the train's timetable among the channels that a handler has emitted to; it is no channel's name. Until
these events are stored, the `time` of each is how many seconds later it is due."""


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


class NamedTrain(NamedTuple):
    """A Destination without a Train."""

    name: str
    settings: Settings
    handlers: Mapping[str, Handler]


class Publisher(Protocol):
    """The way from this process's handlers to the active wagons of trains."""

    def destination(self, to: Destination | None) -> Destination:
        """The train to publish to; None: the handler's own. From any thread. Raises UsageError if it is no train."""
        ...

    def max_event_bytes(self, to: Destination) -> int:
        """How many bytes an event may have for a train that `destination` has returned: as that declares it, or as this
        program does until its declaration is known. From any thread."""
        ...

    async def publish(self, train: str, events: list[Event]) -> None:
        """Store the events in the active wagon of a train that `destination` has returned, and take those that are
        stored from the list. Raises EventwagonError; then the rest can be published again."""
        ...


def destination_of(to: object) -> Destination:
    """The train that `Context.publish` was given. Raises UsageError."""
    if (
        not issubclass(type(getattr(to, "name", None)), str)
        or not issubclass(type(getattr(to, "settings", None)), Settings)
        or not hasattr(to, "handlers")
    ):
        raise UsageError(f"publish: `to` must be a Train, as in publish(payload, to=billing), not {shown(to)}")
    return cast("Destination", to)


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
        "_order",
        "_publisher",
        "attempt",
        "channel",
        "emitted",
        "event",
        "is_part",
        "state",
        "train",
        "undone",
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
        order: Sequence[Channel] | None = None,
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
        self.is_part = False
        """The event is one of several in a message, which is settled as a whole."""
        self.undone: Undone | None = None
        """What an undo handler takes back; None in other handlers."""
        self.emitted: list[tuple[str, Event]] = []
        """Each with the name of its inner channel, or `OUT` and the name of the train that it is published to."""
        self._handlers = handlers
        self._max_bytes = max_bytes
        self._clock = clock
        self._keeps_times = keeps_times
        self._order = order
        """The wagon's channels, parents before children; None: it is not archived, so nobody will undo it."""
        self._publisher = publisher
        self._closed = False
        self._heritage: tuple[str, str | None, dict[str, str]] | None = None
        self._counts: dict[str, int] | None = None
        """How many events were emitted, by channel."""

    def emit(
        self,
        channel: Place[_P],
        payload: _P | Event,
        *,
        event_type: str | None = None,
        subject: str | None = None,
        extensions: Mapping[str, str] | None = None,
        after: float | timedelta | None = None,
    ) -> Awaitable[None]:
        """Send `payload` on, to an inner channel of this wagon; with `after`, in seconds or as a timedelta, to that of
        the wagon which is active then (docs/later.md). `channel` is its name, or its handler: then type checkers know
        what `payload` must be.

        What a handler emits is stored when it has returned, before its event is settled; when it raises, nothing is
        sent. The id is derived from the event, the channel and how many were emitted there before, so a repeated
        attempt sends the same ids. The source, the subject and the extension attributes (a trace's context, a tenant)
        are those of the event, unless `subject` or `extensions` replace them; `extensions` are added to the inherited
        ones. An `Event` as the payload is sent as it is; where an undo must know, `chainlevel` is added. May be
        awaited or just called, also from sync handlers.

        Raises UsageError for an unknown channel, a payload that the channel's handler would not get back equal,
        attributes that no event may have, a handler that has returned already, and `after` where nothing keeps events
        for later. Raises EventTooLarge.
        """
        handler = self._handlers.get(channel) if is_a(channel, str) else handler_of(self._handlers, channel)
        if self._closed:
            raise self._ended(f"emit to {shown(channel)}", "emit")
        if self.undone is not None:
            raise UsageError(
                f"emit to {shown(channel)}: an undo handler can't emit, since the channels of its wagon are undone one "
                "after the other; ctx.publish starts something new"
            )
        if handler is None or not handler.channel:
            raise UsageError(
                f"emit to {shown(channel)}: no handler is declared for it in train {self.train!r}; there are: "
                f"{', '.join(sorted(filter(None, self._handlers))) or 'none'} "
                "(nothing can be emitted to the ingress: `publish` goes there)"
            )
        channel = handler.channel
        what = f"emit to {channel!r}"
        if after is None:
            event = self._add(what, channel, handler.encode, child_id, payload, event_type, subject, extensions)
            self.emitted.append((channel, event))
            return _STORED
        due = self._later(after)
        event = self._add(what, channel, handler.encode, later_id, payload, event_type, subject, extensions)
        self.emitted.append((LATER, for_channel(msgspec.structs.replace(event, time=due), channel)))
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
        train, undone = self._publisher.destination(to), self.undone
        name = train.name if undone is None else f"{train.name}\0undo {undone.undo} {undone.channel}"
        what, handler = f"publish to train {train.name!r}", train.handlers.get("")
        event = self._add(
            what,
            OUT + train.name,
            encode if handler is None else handler.encode,
            lambda parent, _, index: published_id(parent, name, index),
            payload,
            event_type,
            subject,
            extensions,
            most=self._publisher.max_event_bytes(train),
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
            if level := self._level(place):
                marks = {**event.extensions, LEVEL: level}
                event = fitting(msgspec.structs.replace(event, extensions=marks), most)
        else:
            try:
                data, content_type = encoded(payload)
            except UsageError as e:
                raise UsageError(f"{what}: {e}") from e.__cause__
            if self._heritage is None:
                self._heritage = heritage(self.event)
            source, inherited, handed_on = self._heritage
            if extensions is not None:
                handed_on = check_extensions(handed_on | check_extensions(extensions))
            if level := self._level(place):
                handed_on = {**handed_on, LEVEL: level}
            event = Event(
                new_id(self.event, place, self._counts.get(place, 0)),
                type_name(payload) if event_type is None else check_word("type", event_type),
                source,
                self._clock(),
                data,
                inherited if subject is None else check_word("subject", subject),
                content_type,
                handed_on,
            )
            fitting(event, most)
        self._counts[place] = self._counts.get(place, 0) + 1
        return event

    def _level(self, place: str) -> str:
        """The attribute `chainlevel` of an event for that place; empty: it needs none."""
        if self._order is None or (place.startswith(OUT) and place != OUT + self.train):
            return ""
        level = level_of(self.event, self.wagon)
        level += not is_after(self._order, "" if place.startswith(OUT) else place, self.channel)
        return at_level(self.wagon, level) if level else ""

    @property
    def counts(self) -> dict[str, int]:
        """How many events were emitted so far, by place: a copy. The ids of the next ones depend on it."""
        return dict(self._counts or {})

    def emit_again(self, emitted: Iterable[tuple[str, Event]], counts: Mapping[str, int]) -> None:
        """Emit what an earlier attempt has emitted, which counted as `counts`."""
        self.emitted += emitted
        self._counts = self.counts
        for place, count in counts.items():
            self._counts[place] = self._counts.get(place, 0) + count

    @contextmanager
    def together(self) -> Iterator[None]:
        """All that is emitted while entered is emitted, or nothing of it if the block raises."""
        before, counts = len(self.emitted), self.counts
        try:
            yield
        except BaseException:
            del self.emitted[before:]
            self._counts = counts
            raise

    def _later(self, after: float | timedelta) -> float:
        seconds = delay(after)
        if not self._keeps_times:
            raise UsageError(
                "emit with after=: this process can't keep events for later, since its broker can't (docs/later.md)"
            )
        return seconds

    def of(self, event: Event) -> Context:
        """The same for another event of a batch."""
        own = Context(
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
            self._order,
        )
        own.undone, own.is_part = self.undone, True
        return own

    def hand_on(self, extensions: Mapping[str, str]) -> None:
        """What is emitted and published from now on inherits these extension attributes in place of the event's own; an
        empty value takes one away. If the event would have too many, nothing changes. For middleware of eventwagon."""
        source, subject, inherited = heritage(self.event) if self._heritage is None else self._heritage
        own = {name: value for name, value in {**inherited, **extensions}.items() if value or name not in extensions}
        if len(own) <= MOST_EXTENSIONS:
            self._heritage = source, subject, own

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
        undone: Undone | None = None,
    ) -> FakeContext:
        """For tests: a context with which to call a handler like any function, `await ship(order, ctx)`.

        Afterwards `ctx.emitted` lists the channel and the payload of each `emit`, and `ctx.published` the train's name
        and the payload of each `publish`. With `train` both are checked as in a process that runs it; without, any
        channel takes any payload. `undone` makes it one for an undo handler. Raises UsageError.
        """
        fake = FakeContext(event, train, channel, attempt, wagon, state)
        fake.undone = undone
        return fake


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

    def emit(self, channel: Place[Any], payload: object, **options: Any) -> Awaitable[None]:
        """See Context.emit."""
        stored = super().emit(channel, payload, **options)
        place, event = self.emitted[-1]
        self.events.append(event)
        self.emitted[-1] = event.extensions[CHANNEL] if place == LATER else place, payload
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
        self._own = NamedTrain(name, Settings(), {}) if train is None else train

    def destination(self, to: Destination | None) -> Destination:
        return self._own if to is None else destination_of(to)

    def max_event_bytes(self, to: Destination) -> int:
        return to.settings.max_event_bytes

    async def publish(self, train: str, events: list[Event]) -> None:
        events.clear()


class _AnyChannel(dict[str, Handler]):
    """Has a handler for each channel."""

    def get(self, name: str, _: Any = None) -> Handler:
        return Handler(check_channel_name(name), print, Shape(Any, False, False))
