"""A context for tests that call a handler themselves."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Mapping
from typing import Any, NamedTuple, Protocol

from ..contracts.timetable import CHANNEL
from ..errors import UsageError
from ..event import Event, check_channel_name, checked, new_ids
from ..payload import Shape
from ..settings import Settings
from ..values import whole
from .context import LATER, OUT, Context, Destination, Place, destination_of
from .handler import Handler


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
        self._own = _Named(name, Settings(), {}) if train is None else train

    def destination(self, to: Destination | None) -> Destination:
        return self._own if to is None else destination_of(to)

    async def publish(self, train: str, events: list[Event]) -> None:
        events.clear()


class _Named(NamedTuple):
    name: str
    settings: Settings
    handlers: Mapping[str, Handler]


class _AnyChannel(dict[str, Handler]):
    """Has a handler for each channel."""

    def get(self, name: str, _: Any = None) -> Handler:
        return Handler(check_channel_name(name), print, Shape(Any, False, False))
