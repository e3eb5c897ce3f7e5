"""Concurrent publish calls gathered into batches, and what each of them was told. Pure but for its futures and one timer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Sequence

from .errors import BrokerError, EventwagonError, PublishError, Unavailable
from .event import Event

_CHUNK = 500


class Parcel:
    """The events of one publish call on their way, and how many of them were accepted."""

    __slots__ = ("accepted", "deadline", "done", "events")

    def __init__(self, events: Sequence[Event], deadline: float, done: asyncio.Future[None]) -> None:
        self.events = events
        self.deadline = deadline
        self.done = done
        self.accepted = 0


class Batch:
    """Parcels that travel in one call to the broker."""

    def __init__(self, parcels: list[Parcel]) -> None:
        self._parcels = parcels

    @property
    def deadline(self) -> float:
        """The earliest of its parcels', on the event loop's clock."""
        return min(p.deadline for p in self._parcels)

    @property
    def patience(self) -> float:
        """The latest of its parcels' deadlines: longer nobody waits for an answer."""
        return max(p.deadline for p in self._parcels)

    @property
    def events(self) -> Sequence[Event]:
        """What is still to be accepted, in order."""
        if len(self._parcels) == 1:
            parcel = self._parcels[0]
            return parcel.events[parcel.accepted :] if parcel.accepted else parcel.events
        return [event for p in self._parcels for event in p.events[p.accepted :]]

    def accept(self, count: int) -> None:
        """The first `count` of its events are stored; parcels that are whole are done."""
        for parcel in self._parcels:
            took = min(count, len(parcel.events) - parcel.accepted)
            parcel.accepted += took
            count -= took
            if parcel.accepted == len(parcel.events) and not parcel.done.done():
                parcel.done.set_result(None)

    def waits(self) -> bool:
        """Does any call still want something? Those that gave up or were answered are left out from now on."""
        self._parcels = [p for p in self._parcels if not p.done.done()]
        return bool(self._parcels)

    def fail(self, error: EventwagonError) -> None:
        """Tell all that still wait, each with an error of its own."""
        for parcel in self._parcels:
            if not parcel.done.done():
                parcel.done.set_exception(own(error, parcel.accepted))


class Gathering:
    """What waits to be sent: while one batch is under way the next gathers here, and no timer holds it back.

    Whoever has waited until the deadline is told what `late` says. One timer does for all calls: one each would be a
    quarter of what a call costs.
    """

    def __init__(self, late: Callable[[Parcel], EventwagonError]) -> None:
        self._late = late
        self._waiting: deque[Parcel] = deque()
        self._open: dict[Parcel, None] = {}
        """Those that have no answer yet, waiting or under way."""
        self._timer: asyncio.TimerHandle | None = None
        self._closed: EventwagonError | None = Unavailable("the connection is not open: enter it with `async with`")
        self.wanted = asyncio.Event()

    def open(self) -> None:
        """Take calls from now on."""
        self._closed = None

    def close(self, error: EventwagonError) -> None:
        """Tell all that wait, and all that come."""
        self._closed = error
        Batch(list(self._waiting)).fail(error)
        self._waiting.clear()
        if self._timer is not None:
            self._timer.cancel()

    def add(self, events: Sequence[Event], deadline: float) -> Parcel:
        """Take the events of one call, to be forgotten by its caller; its `done` tells when they are stored. Raises
        Unavailable when not open."""
        if self._closed is not None:
            raise own(self._closed, 0)
        loop = asyncio.get_running_loop()
        parcel = Parcel(events, deadline, loop.create_future())
        self._waiting.append(parcel)
        self._open[parcel] = None
        if self._timer is None or deadline < self._timer.when():
            self._arm(loop, deadline)
        self.wanted.set()
        return parcel

    def forget(self, parcel: Parcel) -> None:
        """Its caller waits no more."""
        self._open.pop(parcel, None)

    def _arm(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(deadline, self._on_time, loop)

    def _on_time(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for parcel in self._open:
            if parcel.deadline <= now and not parcel.done.done():
                parcel.done.set_exception(self._late(parcel))
        if left := [parcel.deadline for parcel in self._open if parcel.deadline > now]:
            self._arm(loop, min(left))

    def take(self, most: int) -> Batch | None:
        """What waits, up to `most` events but at least one call's; callers that gave up are left out."""
        parcels: list[Parcel] = []
        while self._waiting and (not parcels or len(self._waiting[0].events) <= most):
            parcel = self._waiting.popleft()
            if not parcel.done.done():
                parcels.append(parcel)
                most -= len(parcel.events)
        return Batch(parcels) if parcels else None


def own(error: EventwagonError, accepted: int) -> EventwagonError:
    """The error for one of several callers: one object for all would pile up their tracebacks."""
    if isinstance(error, PublishError):
        return type(error)(str(error), accepted=accepted)
    if isinstance(error, BrokerError):
        return type(error)(str(error))
    return error


async def chunks(payloads: Iterable[object] | AsyncIterable[object]) -> AsyncIterator[list[object]]:
    """The payloads in lists of a size that is worth a call."""
    chunk: list[object] = []
    if isinstance(payloads, AsyncIterable):
        async for payload in payloads:
            chunk.append(payload)
            if len(chunk) >= _CHUNK:
                yield chunk
                chunk = []
    else:
        for payload in payloads:
            chunk.append(payload)
            if len(chunk) >= _CHUNK:
                yield chunk
                chunk = []
    if chunk:
        yield chunk
