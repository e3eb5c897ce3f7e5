"""Receiving: one client consumer for all subscriptions of this process to a channel."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from secrets import token_hex
from typing import Any, Literal

import pulsar  # type: ignore[import-untyped]

from ...contracts.broker import Delivery
from ...display.text import said
from ...errors import BrokerError, ChannelGone, Unavailable
from ...event import Channel
from .address import PulsarAddress
from .admin import Admin
from .claims import Claims, Key
from .native import Native, Result, log
from .native_refs import native_ref
from .positions import Position
from .wire import event_of

_NOTE = 2.0  # seconds for the look-up of attempts
_UNKNOWN = 5.0  # seconds without another look-up after one failed: every suspect would wait for it
_MOST_NOTED = 300
_NOTES = 5  # attempts to store a note: processes that do so at the same time overwrite each other
_FORGET = 60.0  # seconds for the server to send again what was lost with a connection
_PATIENCE = 5.0  # seconds for a connection to come back before a settle gives up


class ChannelConsumer:
    """The consumer of one channel, and the messages that it received. Belongs to the event loop; made by `attach`."""

    def __init__(
        self,
        native: Native,
        admin: Admin,
        address: PulsarAddress,
        channel: Channel,
        *,
        before: Position,
        tried: Mapping[Position, int],
        known: Mapping[Key, tuple[int, bool]],
    ) -> None:
        self.channel = channel
        self.name = f"eventwagon-{token_hex(6)}"
        self.users = 0
        self.gone = False
        self.claims = Claims(known)
        self.connected = asyncio.Event()
        self.settled_at = float("-inf")
        self._native = native
        self._address = address
        self._before = before
        """Entries before it were delivered to a consumer that no longer exists: it may have died of one."""
        self._tried = dict(tried)
        """The attempt with which they come next, if a consumer was alone with them."""
        self._noted: set[Key] = set()  # by this process
        self._looked_up_at = float("-inf")  # when the notes of other processes were read
        self._no_look_up_until = float("-inf")
        self._admin = admin
        self._connected_at = float("-inf")  # when it was last seen connected
        self._highest: Key = (-1, -1, -1)
        self._client: Any = None
        self._consumer: Any = None
        self._arrived: deque[Any] = deque()
        self._owed: deque[Any] = deque()
        self._asked = False  # a receive of the client is under way
        self._thread = threading.get_ident()
        self._waiters: set[asyncio.Future[None]] = set()
        self._loop = asyncio.get_running_loop()

    async def open(self) -> None:
        """Attach to the server. Raises ResultRefused."""
        self._client, self._consumer = await self._native.consumer(self._address.topic(self.channel), self.name)
        self._connected_at = self._loop.time()
        self.connected.set()

    async def close(self) -> None:
        """Detach: the server delivers unacknowledged messages to others."""
        self.gone = True
        self.wake()
        if self._consumer is not None:
            await self._native.end(self._client, self._consumer)
            self._consumer = self._client = None

    def is_connected(self) -> bool:
        return self._consumer is not None and bool(self._consumer.is_connected())

    async def receive(self, limit: int, timeout: float, visibility: float, *, suspect_first: bool) -> list[Delivery]:
        deadline = self._loop.time() + timeout
        await asyncio.sleep(0)  # a consumer in a loop must let others run
        while True:
            if self.gone:
                raise ChannelGone(f"channel {self.channel} does not exist any more")
            now = self._loop.time()
            turn: Literal["first", "none"] = "first" if suspect_first else "none"
            got = self._take(limit, now, now + visibility, turn)
            while len(got) < limit and not (got and got[0].suspect) and self._pull(limit - len(got), now):
                got += self._take(limit - len(got), now, now + visibility, "none" if got else turn)
            if got := got or self._take(limit, now, now + visibility, "last"):
                return [await self._looked_up(got[0])] if got[0].suspect else got
            if now >= deadline:
                if not self.connected.is_set():
                    raise Unavailable(
                        f"{self.channel} at {self._address.place}: not connected; it tries again by itself"
                    )
                return []
            await self._wait(min(deadline, self.claims.next_due()))

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        if not deliveries:
            return
        await self._reach()
        self._owed.extend(self.claims.settle(deliveries))
        self._pay()
        self.settled_at = self._loop.time()

    def _pay(self) -> None:
        """Acknowledge settled messages; those that the client refuses are tried again."""
        while self._owed:
            self._acknowledge(self._owed[0])
            self._owed.popleft()

    def _acknowledge(self, handle: Any) -> None:
        try:
            self._consumer.acknowledge(handle)  # does not wait for the server: the client soon sends these together
        except (RuntimeError, pulsar.PulsarException) as e:
            raise Unavailable(f"{self.channel} at {self._address.place}: {e}") from None

    async def _reach(self) -> None:
        """Wait until the server is connected: acknowledgements without a connection are lost. Raises ChannelGone,
        Unavailable."""
        if self.gone:
            raise ChannelGone(f"channel {self.channel} does not exist any more")
        if not self.is_connected():
            if self.connected.is_set():
                self.lost()
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self.connected.wait()
            except TimeoutError:
                raise Unavailable(f"{self.channel} at {self._address.place}: not connected; try again later") from None
            if self.gone:
                raise ChannelGone(f"channel {self.channel} does not exist any more")

    def look(self) -> bool:
        """Check whether the connection broke or came back. Returns whether it is connected."""
        now = self._loop.time()
        if not self.is_connected():
            if self.connected.is_set():
                self.lost()
            return False
        self._connected_at = now
        if not self.connected.is_set():
            self.connected.set()
            self.claims.forget(now, _FORGET)
            self.wake()
        if self._owed:
            try:
                self._pay()
            except Unavailable as e:
                log.info("%s", e)
        return True

    def lost(self) -> None:
        """The connection broke: the server delivers its messages to others, or again."""
        self.connected.clear()
        self.claims.disconnected(self._connected_at)
        self.wake()

    def known(self) -> dict[Key, tuple[int, bool]]:
        """What a later consumer of this process should know of all messages that came, so that few of them seem
        suspect."""
        self._pull(self._address.prefetch, self._loop.time())
        return self.claims.known()

    def idle(self) -> bool:
        """Whether it can be closed: no receive is waiting, and no claim would end early."""
        return self.users == 0 and not self.claims.claimed(self._loop.time())

    def wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _take(self, limit: int, now: float, due: float, turn: Literal["first", "last", "none"]) -> list[Delivery]:
        if turn != "none" and self.claims.has_suspects():
            self._pull(self._address.prefetch, now)  # of all that came, the one with the most attempts
        return self.claims.take(limit, now, due, turn)

    def _pull(self, most: int, now: float) -> bool:
        """Take up to `most` messages from the client, and request one more than it has. Returns whether any came."""
        came = 0
        while came < most:
            while self._arrived and came < most:
                self._add(self._arrived.popleft(), now)
                came += 1
            if came >= most or self._asked or self._consumer is None:
                break
            self._asked = True
            self._consumer.receive_async(
                native_ref(partial(self._on_message))
            )  # calls back at once while the client has messages
        return came > 0

    def _on_message(self, result: Any, message: Any) -> None:
        """Called by the client's thread, or within `_pull`."""
        if result == Result.Ok:  # otherwise the consumer is closed: request nothing more of it
            self._arrived.append(message)
            self._asked = False
        if threading.get_ident() != self._thread:
            self._native.landing.post(self.wake)

    async def _looked_up(self, suspect: Delivery) -> Delivery:
        """The delivery with the attempt that other processes had recorded before it came here."""
        hold, now = suspect.token, self._loop.time()
        try:
            if hold.seen >= self._looked_up_at and now >= self._no_look_up_until:
                async with asyncio.timeout(_NOTE):
                    self._tried = await self._admin.tried(self.channel)
                self._looked_up_at = now
        except (TimeoutError, BrokerError) as e:
            self._no_look_up_until = self._loop.time() + _UNKNOWN
            log.info("%s: attempts could not be looked up: %s", self.channel, said(e))
        except BaseException:
            self.claims.release([suspect], now, now, tried=False)
            raise
        hold.attempt = max(hold.attempt, self._tried.get(hold.key[:2], 1))
        return Delivery(suspect.event, hold.attempt, hold, True)

    async def alone(self, delivery: Delivery) -> bool:
        hold = delivery.token
        if not hold.alone and self.claims.stands(delivery, self._loop.time()):
            await self._note(hold.key, delivery.attempt + 1)
            hold.alone = True
        return self.claims.stands(delivery, self._loop.time())

    async def release(self, deliveries: Sequence[Delivery], delay: float, *, tried: bool, cleared: bool) -> None:
        for delivery in [] if tried else deliveries:
            if delivery.token.alone and self.claims.stands(delivery, self._loop.time()):
                await self._note(delivery.token.key, delivery.attempt)
        now = self._loop.time()
        self.claims.release(deliveries, now, now + delay, tried=tried, cleared=cleared)
        self.wake()

    async def _note(self, key: Key, attempt: int) -> None:
        """Store the message's next attempt with the subscription, so that it survives this process. Raises
        Unavailable."""
        settled = {noted for noted in self._noted if self.claims.is_settled(noted)}
        dropped = {noted[:2] for noted in settled}
        self._noted = (self._noted - settled) | {key}
        for _ in range(_NOTES):
            there = await self._admin.tried(self.channel)
            if there.get(key[:2]) == attempt:
                self._tried = there
                return
            known = {place: count for place, count in there.items() if place not in dropped and place != key[:2]}
            kept = dict(sorted(known.items())[1 - _MOST_NOTED :])
            await self._admin.note_tried(self.channel, {**kept, key[:2]: attempt})
        raise Unavailable(f"{self.channel} at {self._address.place}: an attempt could not be noted; try again")

    def _add(self, message: Any, now: float) -> None:
        handle = message.message_id()
        key = (handle.ledger_id(), handle.entry_id(), handle.batch_index())
        event = event_of(message, self.channel)
        attempt = max(1 + message.redelivery_count(), self._tried.get(key[:2], 1))
        suspect = key[:2] < self._before or key < self._highest or key[:2] in self._tried
        if not suspect:
            self._highest = key
        if again := self.claims.arrive(key, event, message, attempt, now, suspect=suspect):
            self._acknowledge(again)

    async def _wait(self, until: float) -> None:
        waiter = self._loop.create_future()
        timer = self._loop.call_at(until, _wake, waiter)
        self._waiters.add(waiter)
        if self._arrived:  # it came between the check and now
            _wake(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)


class Subscription:
    """One caller's view of the shared consumer. See `broker.Subscription` for the contract."""

    def __init__(self, attachment: ChannelConsumer, visibility: float) -> None:
        self._attachment = attachment
        self._visibility = visibility
        self._suspect_first = True
        self.left = False

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        got = await self._open.receive(limit, timeout, self._visibility, suspect_first=self._suspect_first)
        if got:
            self._suspect_first = not got[0].suspect
        return got

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        await self._open.settle(deliveries)

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None:
        await self._open.release(deliveries, delay, tried=tried, cleared=cleared)

    async def alone(self, delivery: Delivery) -> bool:
        return await self._open.alone(delivery)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        attachment = self._open
        now = asyncio.get_running_loop().time()
        attachment.claims.extend(deliveries, now, now + self._visibility)
        attachment.wake()

    @property
    def _open(self) -> ChannelConsumer:
        if self.left:
            raise RuntimeError(f"the consumer of channel {self._attachment.channel} was left")
        if self._attachment.gone:
            raise ChannelGone(f"channel {self._attachment.channel} does not exist any more")
        return self._attachment


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
