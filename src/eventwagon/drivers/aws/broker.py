"""The SQS broker: a standard queue for each channel, and a DynamoDB table that keeps account of what the queues hold.

SQS can't refuse writes to a queue, and knows only roughly how many messages it holds. So an event is written to the
table before it is sent, and removed from the table when it is settled; a channel is empty when it has no rows.
docs/decisions explains why.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from ...contracts.broker import Capabilities, Depth, Finding
from ...errors import ChannelGone, PublishUncertain, Sealed, Unavailable
from ...event import Channel, Event
from .clients import TROUBLE, Clients
from .errors import AWSRefused, explain, is_forbidden, never_sent
from .inspection import inspect_queues, inspect_table
from .place import Place, parse
from .queues import NotTaken, Queues
from .rows import Counted, Rows
from .subscription import Subscription
from .table import Table
from .timetable import DynamoDBTimetable
from .wire import Letter, event_from, letter

_logger = logging.getLogger("eventwagon")
_NEAR = 100  # with fewer outstanding events by the counters, ask the rows
_AGAIN, _AGAIN_FAR = (
    1.0,
    10.0,
)  # seconds between two looks at the rows while the counters don't change: near empty, and otherwise
_REMEMBERED = 4096
_RESEND_BATCH = 100


class _Look:
    """What this process last read of a channel's rows, and when."""

    __slots__ = ("at", "bare_since", "empty_at", "left", "seen", "whole_at")

    def __init__(self) -> None:
        self.at = float("-inf")
        self.seen: Counted | None = None
        self.left = 0
        self.empty_at = -1
        """The published total that was read before no row was found: all these events are settled."""
        self.bare_since: float | None = None
        """Since when its queue has shown no message although there are rows."""
        self.whole_at = asyncio.get_running_loop().time()
        """When the queues of its wagon were last looked for."""


class SQSBroker:
    """Events in SQS and DynamoDB. `place` says where, or use `from_url`; credentials come from AWS's usual chain.
    `clock` gives seconds since the epoch. Belongs to the event loop that entered it. docs/brokers/sqs.md lists the
    rights that it needs, its costs, and what could not be tested."""

    capabilities = Capabilities(fences=False, bounds=False, totals=False, durable=True, shared=True, ordered=False)

    def __init__(self, place: Place | None = None, *, clock: Callable[[], float] = time.time) -> None:
        self.place = place or Place()
        self._clients = Clients(self.place, clock=clock)
        self.table = Table(self._clients)
        self.timetable = DynamoDBTimetable(self._clients, self.table, self.place)
        self._stack = AsyncExitStack()
        self._rows = Rows(self.table, self.place)
        self._queues = Queues(self._clients)
        self._looks: dict[Channel, _Look] = {}
        self._sealed: dict[Channel, None] = {}

    @classmethod
    def from_url(cls, url: str, *, clock: Callable[[], float] = time.time) -> SQSBroker:
        """`sqs://eu-west-1/prefix?table=eventwagon&endpoint=http://127.0.0.1:5000`. Raises UsageError."""
        return cls(parse(url), clock=clock)

    def name_of(self, channel: Channel) -> str:
        """The name of the channel's queue."""
        return self.place.queue(channel)

    async def __aenter__(self) -> SQSBroker:
        """Connect, and create the table if there is none. Raises Unavailable, StorageBroken."""
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self.table)
            await self._clients.open("sqs")
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        try:
            await self._rows.list(channel)
            await self._queues.create(channel)
            await self._rows.open(channel)
        except TROUBLE as e:
            if isinstance(e, AWSRefused) and e.gone:
                raise Unavailable(f"creating {channel}: its queue does not answer yet") from e
            raise explain(e, f"creating {channel}", self.place) from e
        self._looks.pop(channel, None)
        self._sealed.pop(channel, None)

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        """Writes the rows first, then checks the seal, then sends the messages: every admitted event has had its row
        since before the seal. An event that the seal refuses keeps its row, because an earlier call may have stored the
        same event. It is then handled in this channel, too, with the same id."""
        if not events:
            return
        if channel in self._sealed:
            raise Sealed(f"channel {channel} is sealed")
        letters = [letter(event, channel) for event in events]
        what = f"publishing to {channel}"
        try:
            await self._rows.put(channel, letters)
            outcome = await self._rows.admit(channel, len(letters))
            if outcome == "gone":
                await self._rows.remove(channel, [each.key for each in letters])
                self._forget(channel)
                raise ChannelGone(f"channel {channel} does not exist")
        except TROUBLE as e:
            if never_sent(e):
                raise explain(e, what, self.place) from e
            raise PublishUncertain(f"{what}: {e}") from e
        if outcome == "sealed":
            self._sealed[channel] = None
            _trim(self._sealed)
            raise Sealed(f"channel {channel} is sealed")
        await self._send(channel, letters)

    async def unbound(self, channel: Channel) -> None:
        """Nothing to do: queues have no bound."""

    async def warm(self, channel: Channel) -> None:
        """Connects, and looks up the URL of the channel's queue."""
        try:
            await self._rows.counted([channel])
            await self._queues.url(channel)
        except TROUBLE as e:
            if isinstance(e, AWSRefused) and e.gone:
                raise ChannelGone(f"channel {channel} does not exist") from e
            raise explain(e, f"publishing to {channel}", self.place) from e

    async def _send(self, channel: Channel, letters: Sequence[Letter]) -> None:
        """Send events whose rows are written. If this fails they are handled all the same, when they are sent again."""
        try:
            try:
                await self._queues.send(channel, letters)
            except AWSRefused as e:
                if not e.gone:
                    raise
                await self._make_again(channel)
                await self._queues.send(channel, letters)
        except TROUBLE as e:
            if isinstance(e, AWSRefused) and e.gone:
                self._forget(channel)
                raise ChannelGone(f"channel {channel} does not exist") from e
            raise PublishUncertain(f"sending to {channel}: {e}") from e
        except NotTaken as e:
            raise PublishUncertain(f"sending to {channel}: {e}") from e

    async def _make_again(self, channel: Channel) -> None:
        """Somebody deleted the queue of a channel that stands. Where it can't be made again, the ingress is sealed: the
        next wagon takes what is published, and an observer drains this one from the table. Raises one of TROUBLE,
        Sealed, and ChannelGone if the channel is gone too."""
        self._queues.forget(channel)
        counted = (await self._rows.counted([channel])).get(channel)
        if counted is None:
            self._forget(channel)
            raise ChannelGone(f"channel {channel} does not exist")
        if not counted.sealed:
            try:
                await self._queues.create(channel)
            except AWSRefused as e:
                if channel.name or not (is_forbidden(e) or e.deleted_recently):
                    raise
                _logger.warning("channel %s: its queue was deleted; the next wagon takes new events (%s)", channel, e)
                await self._rows.seal(channel)
            else:
                _logger.warning("channel %s: its queue was deleted; it was made again", channel)
                return
        self._sealed[channel] = None
        _trim(self._sealed)
        raise Sealed(f"channel {channel} is sealed")

    async def seal(self, channel: Channel) -> None:
        """Every publish that checks the seal from now on is refused. One that checked it earlier may still complete,
        but its rows are already there. So this is no fence in the contract's sense, but loses no event."""
        try:
            await self._rows.seal(channel)
        except TROUBLE as e:
            raise explain(e, f"sealing {channel}", self.place) from e

    @asynccontextmanager
    async def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> AsyncIterator[Subscription]:
        try:
            if not await self._rows.counted([channel]):
                raise ChannelGone(f"channel {channel} does not exist")
            await self._queues.url(channel)
        except TROUBLE as e:
            if isinstance(e, AWSRefused) and e.gone:
                raise Unavailable(f"consuming from {channel}: its queue was deleted; an observer makes it again") from e
            raise explain(e, f"consuming from {channel}", self.place) from e
        yield Subscription(channel, self._queues, self._rows, self.place, visibility)

    def given(self, channel: Channel, *, visibility: float) -> Subscription:
        """A consumer of messages that something else has received (an event-source mapping): for
        `Subscription.taken`."""
        return Subscription(channel, self._queues, self._rows, self.place, visibility)

    async def reclaim(self, channel: Channel, owner: str) -> int:
        return 0

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        """Reads all counters in one call. Where they say that little or nothing is left, the rows decide. `settled`
        equals `published` only if no row was found."""
        if not channels:
            return []
        try:
            counted = await self._rows.counted(channels)
            return await asyncio.gather(*(self._depth(channel, counted.get(channel)) for channel in channels))
        except TROUBLE as e:
            raise explain(e, "reading depths", self.place) from e

    async def _depth(self, channel: Channel, counted: Counted | None) -> Depth:
        if counted is None:
            self._looks.pop(channel, None)
            return Depth()
        look = self._looks.get(channel)
        if look is None:
            look = self._looks[channel] = _Look()
            _trim(self._looks)
        published = counted.published
        if look.empty_at != published:
            left = await self._left(channel, counted, look)
            if left:  # more than was counted, if a publisher died before it counted
                return Depth(published=max(published, left), settled=max(0, published - left))
        return Depth(published=published, settled=published, waiting=0, in_flight=0)

    async def _left(self, channel: Channel, counted: Counted, look: _Look) -> int:
        """How much is outstanding: an estimate while there is much; 0 only if there is no row."""
        now = asyncio.get_running_loop().time()
        about = counted.published - counted.settled
        moved, look.seen = look.seen != counted, counted
        if moved and about > _NEAR:
            look.at, look.left, look.bare_since = now, about, None
            return about
        if not moved and look.left and now - look.at < (_AGAIN if about <= _NEAR else _AGAIN_FAR):
            return look.left
        left, whole = await self._rows.count(channel, most=_NEAR)
        if left == 0:
            look.empty_at, look.bare_since = counted.published, None
        elif not moved:
            await self._mend(channel, look, now)
        look.at, look.left = now, left if whole else max(left, about)
        return look.left

    async def _mend(self, channel: Channel, look: _Look, now: float) -> None:
        """Send again the events that have had rows and no message for some time: their sender died, or SQS has lost the
        message. If nothing moves for long, see to it that all channels of the wagon have their queues."""
        if now - look.whole_at > self.place.resend:
            look.whole_at = now
            others = [c for c in await self._rows.channels(channel.train) if c.wagon == channel.wagon]
            for other in await self._rows.counted(others):
                await self._in_sight(other)
        if await self._in_sight(channel):
            look.bare_since = None
        elif look.bare_since is None:
            look.bare_since = now
        elif now - look.bare_since > self.place.resend:
            look.bare_since = now
            if await self._rows.may_resend(channel, self._clients.now(), self.place.resend):
                await self._resend(channel)

    async def _in_sight(self, channel: Channel) -> int:
        """About how many messages its queue has. One that is gone is made again: somebody deleted it, or the table was
        restored."""
        try:
            return await self._queues.in_sight(channel)
        except AWSRefused as e:
            if not e.gone:
                raise
            await self.create(channel)
            _logger.warning("channel %s: its queue was deleted; it was made again", channel)
            return 0

    async def _resend(self, channel: Channel) -> None:
        batch: list[Letter] = []
        try:
            async for key, body in self._rows.browse(channel):
                batch.append(Letter(key, body.decode(errors="replace"), len(body)))
                if len(batch) >= _RESEND_BATCH:
                    await self._queues.send(channel, batch)
                    batch = []
            await self._queues.send(channel, batch)
        except NotTaken as e:
            raise Unavailable(f"sending lost events of {channel} again: {e}") from e

    async def read(self, channel: Channel) -> AsyncIterator[Event]:
        """Reads the table, because SQS can't be browsed. Events in flight are included; attempts are not changed."""
        try:
            if not await self._rows.counted([channel]):
                raise ChannelGone(f"channel {channel} does not exist")
            async for key, body in self._rows.browse(channel):
                yield event_from(body, message=key, sent=0.0)
        except TROUBLE as e:
            raise explain(e, f"reading {channel}", self.place) from e

    async def delete(self, channel: Channel) -> None:
        """First it refuses events, and at last it is no longer listed: a sweep finds what a crash in between leaves."""
        try:
            await self._rows.close(channel)
            await self._queues.delete(channel)
            await self._rows.forget(channel)
        except TROUBLE as e:
            raise explain(e, f"deleting {channel}", self.place) from e
        self._forget(channel)

    async def channels(self, train: str) -> Sequence[Channel]:
        try:
            return await self._rows.channels(train)
        except TROUBLE as e:
            raise explain(e, f"listing the channels of {train}", self.place) from e

    async def inspect(self, channels: Sequence[Channel]) -> Sequence[Finding]:
        """See Inspectable."""
        urls = dict[str, str]()
        try:
            for channel in channels:
                with contextlib.suppress(AWSRefused):  # it may be gone, or we may not see it
                    urls[self.place.queue(channel)] = await self._queues.url(channel)
            return [
                *await inspect_table(self._clients, is_new=self.table.is_new),
                *await inspect_queues(self._clients, urls),
            ]
        except TROUBLE as e:
            raise explain(e, "reading the settings", self.place) from e

    def _forget(self, channel: Channel) -> None:
        self._queues.forget(channel)
        self._looks.pop(channel, None)
        self._sealed.pop(channel, None)


def _trim(known: dict[Channel, _Look] | dict[Channel, None]) -> None:
    while len(known) > _REMEMBERED:
        del known[next(iter(known))]
