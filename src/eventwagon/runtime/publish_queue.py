"""Concurrent publish calls, gathered into batches, and the outcome of each call. Pure except for its futures and
timers."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Callable, Sequence
from math import inf

from ..display.text import said
from ..errors import EventwagonError, PublishError, Unavailable
from ..event import Event

MOST_BYTES = 1 << 20
"""The most data in one call to the broker, in bytes, unless one event alone has more."""
_NOT_OPEN = Unavailable("the connection is not open: enter it with `async with`")
_LONG = 0.25
"""Seconds after which a call to the broker counts as hanging while others wait behind it."""
_BRIEF = 0.01
"""The least number of seconds between two checks of the waiting calls."""


class PublishCall:
    """The events of one publish call on their way, and how many of them were accepted."""

    __slots__ = ("accepted", "deadline", "done", "events", "size")

    def __init__(self, events: Sequence[Event], deadline: float, done: asyncio.Future[None]) -> None:
        self.events = events
        self.deadline = deadline
        self.done = done
        self.accepted = 0
        self.size = len(events[0].data) if len(events) == 1 else sum([len(event.data) for event in events])
        """Bytes of data."""


class Batch:
    """Publish calls that travel together, in broker calls of at most `most` events and `MOST_BYTES`.

    If the broker refuses a call, it is repeated in halves, in order, until each refused event is alone: only the
    publish calls that contain such events fail.
    """

    def __init__(self, calls: list[PublishCall], most: int) -> None:
        self._calls = calls
        self._most = most
        self._parts: list[int] = []
        """How many events each of the next calls carries, the next one last; empty: as many as fit."""

    @property
    def deadline(self) -> float:
        """The earliest of its calls', on the event loop's clock."""
        return min([p.deadline for p in self._calls])

    @property
    def patience(self) -> float:
        """The latest deadline of its calls: nobody waits longer for an answer."""
        return max([p.deadline for p in self._calls])

    @property
    def events(self) -> Sequence[Event]:
        """The events of the next call: the first of those that are not accepted yet, in order."""
        if len(self._calls) == 1:
            call = self._calls[0]
            events = call.events[call.accepted :] if call.accepted else call.events
            if len(events) > self._most or call.size > MOST_BYTES:
                events = fitting(events, self._most)
        else:
            events = []
            for call in self._calls:
                events += call.events[call.accepted :] if call.accepted else call.events
        return events[: self._parts[-1]] if self._parts else events

    def accept(self, count: int) -> None:
        """The first `count` of its events are stored. Publish calls that are complete are done."""
        if self._parts:
            self._parts[-1] -= count
            if self._parts[-1] <= 0:
                self._parts.pop()
        for call in self._calls:
            left = len(call.events) - call.accepted
            if left > count:
                call.accepted += count
                break
            call.accepted += left
            count -= left
            if not call.done.done():
                call.done.set_result(None)

    def refuse(self, count: int, error: EventwagonError) -> bool:
        """The first `count` of its events were refused together. A single event fails its publish call; of several, the
        first half is tried next. Returns whether it was a single one."""
        if self._parts:
            self._parts.pop()
        if count > 1:
            self._parts += (count - count // 2, count // 2)
            return False
        call = self._calls[0]
        if not call.done.done():
            call.done.set_exception(own(error, call.accepted))
        return True

    def waits(self) -> bool:
        """Whether a call still waits. Those that gave up or have their answer are left out from now on."""
        self._calls = [p for p in self._calls if not p.done.done()]
        return bool(self._calls)

    def fail(self, error: EventwagonError) -> None:
        """Fail all calls that still wait, each with an error of its own."""
        for call in self._calls:
            if not call.done.done():
                call.done.set_exception(own(error, call.accepted))


class PublishQueue:
    """The calls that wait to be sent. While one batch is under way the next one gathers here; no timer holds it back.

    A call that has waited until its deadline fails with the error that `late` returns. One timer serves all calls: one
    for each would be a quarter of a call's cost. `held_up` is called from time to time while calls wait to be taken,
    with the time before which a broker call must have begun to count as hanging.
    """

    def __init__(self, late: Callable[[PublishCall], EventwagonError], held_up: Callable[[float], object]) -> None:
        self._late = late
        self._held_up = held_up
        self._waiting: deque[PublishCall] = deque()
        self._open: dict[PublishCall, None] = {}
        """Calls that have no answer yet, waiting or under way."""
        self._timer: asyncio.TimerHandle | None = None
        self._due = inf
        """When the timer goes off."""
        self._look: asyncio.TimerHandle | None = None
        self._look_due = inf
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed: EventwagonError | None = _NOT_OPEN
        self.wanted = asyncio.Event()
        """Set while a call waits. Cleared by the sender that has found none."""

    @property
    def unanswered(self) -> int:
        """Calls that have no answer yet."""
        return len(self._open)

    def open(self) -> None:
        """Accept calls from now on, on this event loop."""
        self._closed = None
        self._loop = asyncio.get_running_loop()

    def close(self, error: EventwagonError) -> None:
        """Fail all waiting calls with this error, and all later ones."""
        self._closed = error
        Batch(list(self._waiting), 1).fail(error)
        self._waiting.clear()
        for timer in (self._timer, self._look):
            if timer is not None:
                timer.cancel()

    def add(self, events: Sequence[Event], deadline: float) -> PublishCall:
        """Take the events of one call. Its `done` says when they are stored; the caller must `forget` it. Raises
        Unavailable if the queue is not open."""
        loop = self._loop
        if self._closed is not None or loop is None:
            raise own(self._closed or _NOT_OPEN, 0)
        call = PublishCall(events, deadline, loop.create_future())
        if not self._waiting:
            self.wanted.set()
        self._waiting.append(call)
        self._open[call] = None
        if deadline < self._due:
            self._arm(loop, deadline)
        if deadline < self._look_due:
            self._look_soon(loop)
        return call

    def forget(self, call: PublishCall) -> None:
        """Its caller no longer waits."""
        self._open.pop(call, None)

    def _arm(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(deadline, self._on_time, loop)
        self._due = deadline

    def _on_time(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._due = None, inf
        now = loop.time()
        for call in self._open:
            if call.deadline <= now and not call.done.done():
                call.done.set_exception(self._late(call))
        if self._waiting and self._waiting[0].done.done():  # nobody takes them while all senders wait for answers
            self._waiting = deque(call for call in self._waiting if not call.done.done())
        if left := [call.deadline for call in self._open if call.deadline > now]:
            self._arm(loop, min(left))

    def _look_soon(self, loop: asyncio.AbstractEventLoop) -> None:
        """Check the waiting calls soon: at the latest at the earliest deadline."""
        if self._look is not None:
            self._look.cancel()
        now = loop.time()
        spare = min(call.deadline for call in self._waiting) - now
        self._look_due = now + max(_BRIEF, min(_LONG, spare / 2))
        self._look = loop.call_at(self._look_due, self._on_look, loop)

    def _on_look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._look, self._look_due = None, inf
        now = loop.time()
        if left := [call.deadline for call in self._waiting if call.deadline > now]:
            self._look_soon(loop)
            self._held_up(now - min(_LONG, min(left) - now))

    def take(self, most: int) -> Batch | None:
        """What waits, up to `most` events and `MOST_BYTES` but at least one call. Calls whose callers gave up are left
        out."""
        calls: list[PublishCall] = []
        events, room, waiting = most, MOST_BYTES, self._waiting
        while waiting:
            call = waiting[0]
            events -= len(call.events)
            room -= call.size
            if calls and (events < 0 or room < 0):
                break
            waiting.popleft()
            if call.done.done():
                events += len(call.events)
                room += call.size
            else:
                calls.append(call)
        return Batch(calls, most) if calls else None


def fitting(events: Sequence[Event], most: int) -> Sequence[Event]:
    """The first of these events that fit into one call, at least one."""
    room = MOST_BYTES
    for count, event in enumerate(events):
        room -= len(event.data)
        if count == most or (room < 0 and count):
            return events[:count]
    return events


def own(error: EventwagonError, accepted: int) -> EventwagonError:
    """A copy of the error for one of several callers: one object for all would collect all their tracebacks."""
    try:
        mine = copy.copy(error)
        mine.accepted = accepted
    except Exception:  # noqa: BLE001 - a class of a driver's own, which can't be copied
        mine = PublishError(said(error), accepted=accepted)
    mine.__cause__ = error.__cause__
    return mine
