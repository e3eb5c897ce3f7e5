"""Publishing to one channel: sends in order, many messages at the same time, and reports exactly what was stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

import _pulsar  # type: ignore[import-not-found]

from ...errors import ChannelGone, EventTooLarge, PublishUncertain, Sealed, Unavailable
from ...event import Channel, Event
from .address import PulsarAddress
from .admin import Admin
from .browse import messages
from .native import Native, Result, ResultRefused, error
from .native_refs import native_ref
from .positions import Position
from .wire import event_of, properties

_CHUNK = 500  # messages passed on before other tasks get their turn
_UNDER_WAY = 5_000  # messages of one channel that were sent and not answered
_RECONNECT = 2.0  # seconds for a connection to come back before a publish gives up
_BLOCKED = (Result.ProducerBlockedQuotaExceededError, Result.ProducerBlockedQuotaExceededException)


class Flight:
    """Messages that were sent together, and the outcome of each."""

    def __init__(self, count: int, landed: asyncio.Future[None]) -> None:
        self.outcomes: list[Any] = [None] * count
        self.landed = landed
        self.refused = False
        self._answers: list[None] = []

    def note(self, sender: Sender, place: int, result: Any, handle: Any) -> None:
        """Called by the client's thread."""
        if result == Result.Ok:
            self.outcomes[place] = handle
        else:
            self.refused = True
            self.outcomes[place] = ResultRefused(result)
        self._answers.append(None)  # one atomic step, whichever threads answer
        if len(self._answers) == len(self.outcomes):
            sender.native.landing.post(sender.land, self)


class Sender:
    """The producer of one channel. Belongs to the event loop."""

    def __init__(self, native: Native, admin: Admin, address: PulsarAddress, channel: Channel) -> None:
        self.native = native
        self.channel = channel
        self.closed = False
        self._admin = admin
        self._address = address
        self._client: Any = None
        self._producer: Any = None
        self._under_way = 0
        self._room = asyncio.Condition()
        self._last: Position = (-1, -1)
        """The newest position that the server has confirmed."""
        self._calls: dict[int, Position] = {}
        """The newest position at the beginning of each call in progress."""
        self._number = 0
        self._tail: asyncio.Task[set[str]] | None = None

    async def open(self) -> None:
        """Attach to the server. Raises Sealed, ChannelGone, Unavailable, StorageBroken."""
        await self._standing()
        try:
            self._client, self._producer = await self.native.producer(self._address.topic(self.channel))
        except ResultRefused as e:
            await self._standing()
            raise error(e, self._address, f"publishing to {self.channel}") from None

    async def _standing(self) -> None:
        """Raise Sealed or ChannelGone if that is the reason: a topic that is briefly fenced does not say so by
        itself."""
        state = await self._admin.snapshot(self.channel)
        if state is None:
            raise ChannelGone(f"channel {self.channel} does not exist")
        if state.sealed:
            raise Sealed(f"channel {self.channel} is sealed")

    def close(self) -> None:
        """Detach, in the background. Calls in progress fail at once."""
        if not self.closed:
            self.closed = True
            self.native.spawn(self.native.end(self._client, self._producer))

    def is_connected(self) -> bool:
        return not self.closed and bool(self._producer.is_connected())

    async def send(self, events: Sequence[Event]) -> None:
        """Store the events. Raises the errors of `Broker.publish`."""
        built = [_built(event) for event in events]
        await self._reach()
        number = self._number = self._number + 1
        self._calls[number] = self._last
        flights: list[Flight] = []
        try:
            for first in range(0, len(built), _CHUNK):
                flight = await self._launch(built[first : first + _CHUNK])
                flights.append(flight)
            for flight in flights:
                await flight.landed
            if any(flight.refused for flight in flights):
                await self._tell(events, [outcome for flight in flights for outcome in flight.outcomes])
        finally:
            del self._calls[number]

    async def _launch(self, built: Sequence[Any]) -> Flight:
        if self._under_way >= _UNDER_WAY:
            async with self._room:
                await self._room.wait_for(lambda: self._under_way < _UNDER_WAY)
        flight = native_ref(Flight(len(built), asyncio.get_running_loop().create_future()))
        self._under_way += len(built)
        for place, message in enumerate(built):
            self._producer.send_async(message, partial(flight.note, self, place))
        return flight

    def land(self, flight: Flight) -> None:
        """All of its messages were answered."""
        self._under_way -= len(flight.outcomes)
        for outcome in reversed(flight.outcomes):
            if not isinstance(outcome, ResultRefused):
                self._last = max(self._last, (outcome.ledger_id(), outcome.entry_id()))
                break
        if not flight.landed.done():
            flight.landed.set_result(None)
        if self._room._waiters:
            self.native.spawn(self._notify())

    async def _notify(self) -> None:
        async with self._room:
            self._room.notify_all()

    async def _reach(self) -> None:
        """Wait until the server is connected; nothing is sent before that. Raises Sealed, ChannelGone, Unavailable."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _RECONNECT
        while not self.is_connected():
            await self._standing()
            if self.closed or loop.time() > deadline:
                raise Unavailable(
                    f"publishing to {self.channel} at {self._address.place}: not connected; nothing was stored, try "
                    "again"
                )
            await asyncio.sleep(0.05)

    async def _tell(self, events: Sequence[Event], outcomes: Sequence[Any]) -> None:
        """Raise the right error for a call that was not stored completely."""
        failed = [place for place, outcome in enumerate(outcomes) if isinstance(outcome, ResultRefused)]
        first = failed[0]
        refused: ResultRefused = outcomes[first]
        at = f"publishing to {self.channel} at {self._address.place}"
        leading = failed == list(range(first, len(events)))
        if refused.result == Result.MessageTooBig and not first and len(failed) == len(events):
            raise EventTooLarge(f"{at}: the event is larger than the server takes (maxMessageSize)")
        if refused.result in _BLOCKED and not first and leading:
            raise error(refused, self._address, f"publishing to {self.channel}")
        trouble = ""
        try:
            state = await self._admin.snapshot(self.channel)
            if state is None:
                raise ChannelGone(f"channel {self.channel} does not exist any more")
            if state.sealed:
                # events on their way when it was sealed may be stored without an answer: check
                if self._tail is None or (self._tail.done() and self._tail.exception()):
                    self._tail = self.native.spawn(self._ids(min(self._calls.values()), state.last))
                stored = await asyncio.shield(self._tail)
                while first < len(events) and (first not in failed or events[first].id in stored):
                    first += 1
                if first == len(events):
                    return
                if not any(event.id in stored for event in events[first:]):
                    raise Sealed(f"channel {self.channel} is sealed", accepted=first)
        except (Unavailable, ResultRefused) as e:
            trouble = f"; {e}"
        raise PublishUncertain(
            f"{at}: {refused} after sending{trouble}; {first if leading else 'some'} of {len(events)} events are "
            "stored, the others perhaps: publish again with the same ids"
        )

    async def _ids(self, after: Position, last: Position) -> set[str]:
        found: set[str] = set()
        async for message in messages(self.native, self._address.topic(self.channel), after, last):
            found.add(event_of(message, self.channel).id)
        return found


def _built(event: Event) -> Any:
    builder = _pulsar.MessageBuilder()
    builder.content(event.data)
    builder.properties(properties(event))
    if event.subject:
        builder.partition_key(event.subject)
    return builder.build()
