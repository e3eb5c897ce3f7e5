"""The broker: which channels this process is attached to, and the contract's methods on top."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from typing import Any
from weakref import WeakValueDictionary

from ...contracts.broker import Capabilities, Depth, Finding
from ...display.text import count, said
from ...errors import BrokerError, ChannelGone, EventTooLarge, Sealed
from ...event import Channel, Event
from .address import SUBSCRIPTION, TOTALS, PulsarAddress, parse
from .admin import Admin
from .books import Books, TopicTotals
from .browse import messages
from .claims import Key
from .consumer import ChannelConsumer, Subscription
from .native import Native, ResultRefused, error, log
from .positions import Position, TopicSnapshot
from .producer import Sender
from .wire import event_of

MOST_BYTES = 5 * 1024 * 1024
"""The server's default limit (maxMessageSize). A server with a lower one refuses by itself."""

_WATCH = 0.04  # seconds between checks of the connections: the client waits 0.1 before it connects again
_PROBE = 0.25  # seconds between checks whether a channel without a connection still exists
_FENCED = 1.0  # seconds for a sealed topic to accept a reader; otherwise it is fenced
_SEEN = 1.0  # seconds for events settled here to show in the server's figures
_POLICIES = 30.0  # seconds between checks of the server's policies for a channel
_PATIENCE = 2.0  # seconds for such a check: figures must not wait for it
_MADE = 1.0  # seconds in which a topic is created, with its subscriptions
_AGAIN = "all events left there come again, settled or not"
_BOOKS = 4096  # channels whose figures are remembered
_REMEMBERED = 256  # channels not in use of which something is known


class PulsarBroker:
    """Channels on an Apache Pulsar cluster, 3.0 or later. `from_url` makes it.

    Entering it raises Unavailable if the cluster can't be reached, and StorageBroken if its namespace would create
    deleted topics again. A namespace that would lose events is reported in the log, and gets no new channels.
    """

    def __init__(self, address: PulsarAddress, *, clock: Callable[[], float] = time.time) -> None:
        self.capabilities = Capabilities(fences=True, bounds=False, totals=True, durable=True, shared=True, losses=True)
        self._address = address
        self._clock = clock
        self._admin = Admin(address)
        self._senders: dict[Channel, asyncio.Task[Sender]] = {}
        self._attachments: dict[Channel, ChannelConsumer] = {}
        self._leaving: dict[Channel, ChannelConsumer] = {}
        self._known: dict[Channel, dict[Key, tuple[int, bool]]] = {}
        self._turns: WeakValueDictionary[Channel, asyncio.Lock] = WeakValueDictionary()
        self._sealed: dict[Channel, None] = {}
        self._probes: set[Channel] = set()
        self._fit_at = float("-inf")
        self._books: dict[Channel, Books] = {}
        self._bare: dict[Channel, float] = {}
        """Topics without the subscription of the events, and when that was first seen: some are just being created."""
        self._threats: dict[Channel, tuple[float, str]] = {}
        """What would drop events of a channel, and when that was checked."""
        self._stack = AsyncExitStack()
        self._native: Native

    @classmethod
    def from_url(cls, url: str, *, clock: Callable[[], float] = time.time) -> PulsarBroker:
        """For `pulsar://host:6650/tenant/namespace?admin=http://host:8080&token=…`. Raises UsageError."""
        return cls(parse(url), clock=clock)

    async def __aenter__(self) -> PulsarBroker:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._admin)
            await self._admin.prove_fit()
            self._native = Native(self._address)
            stack.push_async_callback(self._native.close)
            stack.push_async_callback(self._end)
            watch = asyncio.create_task(self._watch())
            stack.push_async_callback(_cancel, watch)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def _end(self) -> None:
        for task in list(self._senders.values()):
            task.cancel()
            await asyncio.wait([task])
            if not task.cancelled() and task.exception() is None:
                task.result().close()
        self._senders.clear()
        attachments = list(self._attachments.values())
        self._attachments.clear()
        await asyncio.gather(*(attachment.close() for attachment in attachments))

    def name_of(self, channel: Channel) -> str:
        """See Named. The whole name of its topic."""
        return self._address.topic(channel)

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._fit_at + _POLICIES:
            await self._admin.prove_fit_to_create()
            self._fit_at = now
        self._sealed.pop(channel, None)
        await self._admin.create(channel)

    async def unbound(self, channel: Channel) -> None:
        """Nothing to do: topics have no bound."""

    async def warm(self, channel: Channel) -> None:
        """Opens the channel's producer."""
        if channel in self._sealed:
            raise Sealed(f"channel {channel} is sealed")
        await self._sender(channel)

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        if not events:
            return
        if channel in self._sealed:
            raise Sealed(f"channel {channel} is sealed")
        for event in events:
            if event.size + 64 * len(event.extensions) > MOST_BYTES:
                raise EventTooLarge(
                    f"event {event.id} for {channel} has {event.size} bytes; Pulsar takes up to {MOST_BYTES} "
                    "(maxMessageSize)"
                )
        sender = await self._sender(channel)
        try:
            await sender.send(events)
        except (Sealed, ChannelGone) as e:
            self._drop_sender(channel, sender)
            if isinstance(e, Sealed):
                self._remember_sealed(channel)
            raise

    async def _sender(self, channel: Channel) -> Sender:
        task = self._senders.get(channel)
        if task is None:
            task = self._senders[channel] = asyncio.create_task(self._open_sender(channel))
            task.add_done_callback(lambda done: self._opened(channel, done))
        elif task.done():
            return task.result()
        return await asyncio.shield(task)

    async def _open_sender(self, channel: Channel) -> Sender:
        sender = Sender(self._native, self._admin, self._address, channel)
        await sender.open()
        return sender

    def _opened(self, channel: Channel, task: asyncio.Task[Sender]) -> None:
        failed = task.cancelled() or task.exception() is not None
        if failed and self._senders.get(channel) is task:
            del self._senders[channel]

    def _drop_sender(self, channel: Channel, sender: Sender | None = None) -> None:
        task = self._senders.get(channel)
        if task is None or not task.done() or (sender is not None and task.result() is not sender):
            return
        del self._senders[channel]
        task.result().close()

    def _remember_sealed(self, channel: Channel) -> None:
        self._sealed[channel] = None
        _trim(self._sealed)

    async def seal(self, channel: Channel) -> None:
        if not await self._admin.terminate(channel):
            return
        self._remember_sealed(channel)
        # a topic that was being written to may stay fenced after that: it accepts no new consumers until it is unloaded
        found = await self._admin.snapshot(channel)
        if found is None:
            return
        try:
            parts = await self._native.reader(self._address.topic(channel), found.last, patience=_FENCED)
        except ResultRefused as e:
            log.info("%s is fenced after it was sealed (%s): unloading it", channel, e)
            try:
                await self._admin.unload(channel)
            except BrokerError as trouble:
                log.warning("%s takes no new consumers until it is unloaded: %s", channel, said(trouble))
        else:
            self._native.spawn(self._native.end(*parts))

    @asynccontextmanager
    async def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> AsyncIterator[Subscription]:
        attachment = await self._attach(channel)
        subscription = Subscription(attachment, visibility)
        try:
            yield subscription
        finally:
            subscription.left = True
            attachment.users -= 1
            if attachment.idle():
                self._native.spawn(self._detach(attachment))

    async def _attach(self, channel: Channel) -> ChannelConsumer:
        async with self._turn(channel):
            attachment = self._attachments.get(channel)
            if attachment is None:
                found, tried = await asyncio.gather(self._admin.snapshot(channel), self._admin.tried(channel))
                if found is None and await self._admin.is_bare(channel):
                    await self._mended(channel, SUBSCRIPTION, _AGAIN)
                    found = await self._admin.snapshot(channel)
                if found is None:
                    raise ChannelGone(f"channel {channel} does not exist")
                attachment = ChannelConsumer(
                    self._native,
                    self._admin,
                    self._address,
                    channel,
                    before=found.read,
                    tried=tried,
                    known=self._known.pop(channel, {}),
                )
                try:
                    await attachment.open()
                except ResultRefused as e:
                    raise error(e, self._address, f"consuming from {channel}") from None
                self._attachments[channel] = attachment
                self._native.spawn(self._threat(channel))
            attachment.users += 1
            return attachment

    async def _detach(self, attachment: ChannelConsumer) -> None:
        channel = attachment.channel
        async with self._turn(channel):
            if self._attachments.get(channel) is attachment and attachment.idle():
                del self._attachments[channel]
                if known := attachment.known():
                    self._known[channel] = known
                    _trim(self._known)
                self._leaving[channel] = attachment
                try:
                    await attachment.close()
                finally:
                    del self._leaving[channel]

    def _turn(self, channel: Channel) -> asyncio.Lock:
        lock = self._turns.get(channel)
        if lock is None:
            lock = self._turns[channel] = asyncio.Lock()
        return lock

    async def reclaim(self, channel: Channel, owner: str) -> int:
        return 0

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        return await asyncio.gather(*(self._depth(channel) for channel in channels))

    async def inspect(self, channels: Sequence[Channel]) -> Sequence[Finding]:
        """See Inspectable."""
        return await self._admin.inspect(channels)

    async def _depth(self, channel: Channel) -> Depth:
        found, lacking = await self._look(channel), ""
        if found is None:
            if not await self._admin.is_bare(channel):
                self._bare.pop(channel, None)
                return Depth()
            now = asyncio.get_running_loop().time()
            _trim(self._bare, _BOOKS)
            if now < self._bare.setdefault(channel, now) + _MADE:
                return Depth()
            lacking = await self._mended(channel, SUBSCRIPTION, _AGAIN)
            found = await self._look(channel)
        self._bare.pop(channel, None)
        if found is None:
            return Depth(trouble=lacking)
        if not found.counted:
            lacking = await self._mended(channel, TOTALS, "entries may have been dropped uncounted meanwhile")
        threat = "; ".join(filter(None, (await self._threat(channel), lacking)))
        figures = await self._figures(channel, found, threatened=bool(threat))
        published, settled = figures.published, figures.settled
        left = published - settled
        attachment = self._attachments.get(channel)
        claimed = attachment.claims.claimed(asyncio.get_running_loop().time()) if attachment else 0
        others: int | None = 0
        if found.attached and left:
            # only the clients of other consumers know which of their messages a worker has taken
            others = await self._admin.others_in_flight(channel, [attachment.name] if attachment else [])
        known = others == 0 and claimed <= left
        return Depth(
            published=published,
            settled=settled,
            waiting=left - claimed if known else None,
            in_flight=claimed if known else None,
            lost=figures.lost,
            trouble=threat,
        )

    async def _figures(self, channel: Channel, found: TopicSnapshot, *, threatened: bool) -> TopicTotals:
        books = self._of(channel)
        expired, own = None, set[Position]()
        if books.unknown(found):
            books.learn(await self._admin.note(channel))
            expired = await self._admin.expired(channel) if books.blank and found.dropped else None
            found = await self._look(channel) or found  # the note's ledgers count
            for attachment in filter(None, (self._attachments.get(channel), self._leaving.get(channel))):
                own |= attachment.claims.settled()
        now = asyncio.get_running_loop().time()
        figures = books.look(found, now, threatened=threatened, own=own, expired=expired)
        if figures.fresh:
            log.warning(
                "channel %s at %s lost %s that were not settled: dropped by the server's policies (message TTL, "
                "backlog quota) or by hand; see eventwagon doctor",
                channel,
                self._address.place,
                count(figures.fresh, "event"),
            )
        if books.due(now, threatened=threatened):
            try:
                await self._admin.store_note(channel, books.note)
                books.stored(now)
            except BrokerError as e:
                books.refused(now)
                log.info("%s: the loss could not be recorded: %s", channel, said(e))
        return figures

    def _of(self, channel: Channel) -> Books:
        books = self._books.get(channel)
        if books is None:
            books = self._books[channel] = Books()
            _trim(self._books, _BOOKS)
        return books

    async def _threat(self, channel: Channel) -> str:
        """What would drop events from the channel, by the last check."""
        now = asyncio.get_running_loop().time()
        at, before = self._threats.get(channel, (float("-inf"), ""))
        if now < at + _POLICIES:
            return before
        try:
            async with asyncio.timeout(_PATIENCE):
                threat = await self._admin.threat(channel, fresh=_POLICIES)
        except (TimeoutError, BrokerError) as e:
            log.info("%s: the policies could not be read: %s", channel, said(e))
            threat = before
        if threat and all(threat != told for _, told in self._threats.values()):
            log.warning("%s", threat)
        self._threats[channel] = (now, threat)
        _trim(self._threats, _BOOKS)
        return threat

    async def _mended(self, channel: Channel, name: str, then: str) -> str:
        """A subscription is gone: create it again. Returns the threat if that is not allowed."""
        gone = f"{self._address.topic(channel)} has no subscription {name} any more (expired, or removed by hand)"
        try:
            await self._admin.subscribe(channel)
        except BrokerError as e:
            return f"{gone}, and it can't be made anew ({said(e)}): a process with the role of a tenant's admin does so"
        log.warning("%s: made anew; %s", gone, then)
        return ""

    async def _look(self, channel: Channel) -> TopicSnapshot | None:
        """The topic's state, including everything settled here so far: the client sends that with a delay."""
        loop = asyncio.get_running_loop()
        attachment = self._attachments.get(channel) or self._leaving.get(channel)
        newest = attachment.claims.newest_settled() if attachment else None
        deadline = attachment.settled_at + _SEEN if attachment else 0.0
        while True:
            found = await self._admin.snapshot(channel, self._of(channel))
            if found is None or newest is None or newest[2] >= 0:
                return found
            if found.is_settled(newest[:2]) or loop.time() > deadline:
                return found
            await asyncio.sleep(0.02)

    async def read(self, channel: Channel) -> AsyncIterator[Event]:
        found = await self._look(channel)
        if found is None:
            raise ChannelGone(f"channel {channel} does not exist")
        try:
            topic = self._address.topic(channel)
            async with aclosing(messages(self._native, topic, found.marked, found.last)) as browsing:
                async for message in browsing:
                    handle = message.message_id()
                    position = (handle.ledger_id(), handle.entry_id())
                    if found.is_settled(position):
                        continue
                    yield event_of(message, channel)
        except ResultRefused as e:
            raise error(e, self._address, f"reading {channel}") from None

    async def delete(self, channel: Channel) -> None:
        await self._admin.delete(channel)
        await self._gone(channel)

    async def channels(self, train: str) -> Sequence[Channel]:
        return await self._admin.channels(train)

    async def _gone(self, channel: Channel) -> None:
        """The channel no longer exists: release everything attached to it."""
        self._drop_sender(channel)
        self._known.pop(channel, None)
        self._books.pop(channel, None)
        self._threats.pop(channel, None)
        if attachment := self._attachments.pop(channel, None):
            await attachment.close()

    async def _watch(self) -> None:
        """Notice connections that break and come back, and close unused ones."""
        while True:
            for channel, attachment in list(self._attachments.items()):
                if not attachment.look():
                    self._probe(channel)
                elif attachment.idle():
                    self._native.spawn(self._detach(attachment))
            for channel, task in list(self._senders.items()):
                opened = task.done() and not task.cancelled() and task.exception() is None
                if opened and not task.result().is_connected():
                    self._probe(channel)
            await asyncio.sleep(_WATCH)

    def _probe(self, channel: Channel) -> None:
        if channel not in self._probes:
            self._probes.add(channel)
            self._native.spawn(self._find_out(channel))

    async def _find_out(self, channel: Channel) -> None:
        """Find out whether a channel that lost its connection still exists."""
        try:
            found = await self._admin.snapshot(channel)
            if found is None:
                await self._gone(channel)
            elif found.sealed:
                self._drop_sender(channel)
        except BrokerError as e:
            log.info("%s: not connected, and can't see whether it exists: %s", channel, e)
        finally:
            await asyncio.sleep(_PROBE)
            self._probes.discard(channel)


def _trim(known: dict[Channel, Any], most: int = _REMEMBERED) -> None:
    while len(known) > most:
        del known[next(iter(known))]


async def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
