"""Receiving: one client consumer for all who receive from a channel in this process."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from functools import partial
from secrets import token_hex
from typing import Any

import pulsar  # type: ignore[import-untyped]

from ...broker import Delivery
from ...errors import BrokerError, ChannelGone, Unavailable
from ...event import Channel
from .address import Address
from .admin import Admin
from .claims import Claims, Key
from .handed import handed
from .native import Native, Result, log
from .positions import Position
from .wire import event_from

_NOTE = 2.0  # seconds for attempts to be noted
_MOST_NOTED = 300
_FORGET = 60.0  # seconds for the server to send again what was lost with a connection
_PATIENCE = 5.0  # seconds for a connection to come back before a settle gives up


class Attachment:
    """The consumer of one channel, and what came through it. Belongs to the loop; made by `attach`."""

    def __init__(
        self,
        native: Native,
        admin: Admin,
        address: Address,
        channel: Channel,
        *,
        before: Position,
        tried: Mapping[Position, int],
        attempts: Mapping[Key, int],
    ) -> None:
        self.channel = channel
        self.name = f"eventwagon-{token_hex(6)}"
        self.users = 0
        self.gone = False
        self.claims = Claims(attempts)
        self.connected = asyncio.Event()
        self.settled_at = float("-inf")
        self._native = native
        self._address = address
        self._before = before
        """Entries before it were given to a consumer that is no more: it may have tried them, and the server has not counted."""
        self._tried = dict(tried)
        self._suspects: set[Key] = set()  # given to somebody before, and to be noted when they are given out
        self._admin = admin
        self._connected_at = float("-inf")  # when it was last seen to be
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
        """Attach to the server. Raises Refused."""
        self._client, self._consumer = await self._native.consumer(self._address.topic(self.channel), self.name)
        self._connected_at = self._loop.time()
        self.connected.set()

    async def close(self) -> None:
        """Detach: the server gives what is not acknowledged to others."""
        self.gone = True
        self.wake()
        if self._consumer is not None:
            await self._native.end(self._client, self._consumer)
            self._consumer = self._client = None

    def is_connected(self) -> bool:
        return self._consumer is not None and bool(self._consumer.is_connected())

    async def receive(self, limit: int, timeout: float, visibility: float) -> list[Delivery]:
        deadline = self._loop.time() + timeout
        await asyncio.sleep(0)  # a consumer in a loop must let others run
        while True:
            if self.gone:
                raise ChannelGone(f"channel {self.channel} does not exist any more")
            now = self._loop.time()
            got = self.claims.take(limit, now, now + visibility)
            while len(got) < limit and self._pull(limit - len(got), now):
                got += self.claims.take(limit - len(got), now, now + visibility)
            if got:
                await self._note(got)
                return got
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
        """Acknowledge what is settled; what the client refuses is tried again."""
        while self._owed:
            self._acknowledge(self._owed[0])
            self._owed.popleft()

    def _acknowledge(self, handle: Any) -> None:
        try:
            self._consumer.acknowledge(handle)  # does not wait for the server: the client sends these together, soon
        except (RuntimeError, pulsar.PulsarException) as e:
            raise Unavailable(f"{self.channel} at {self._address.place}: {e}") from None

    async def _reach(self) -> None:
        """Until the server is connected: what is acknowledged without is lost. Raises ChannelGone, Unavailable."""
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
        """Notice whether the connection broke or came back. Whether it is there."""
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
        """The connection broke: the server gives to others, or again, what it had sent."""
        self.connected.clear()
        self.claims.disconnected(self._connected_at)
        self.wake()

    def idle(self) -> bool:
        """Whether it can be closed: nobody receives, and no claim would end early by it."""
        return self.users == 0 and not self.claims.claimed(self._loop.time())

    def wake(self) -> None:
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def _pull(self, most: int, now: float) -> bool:
        """Take up to `most` from the client; asks for one more than it has. Whether any came."""
        came = 0
        while came < most:
            while self._arrived and came < most:
                self._add(self._arrived.popleft(), now)
                came += 1
            if came >= most or self._asked or self._consumer is None:
                break
            self._asked = True
            self._consumer.receive_async(
                handed(partial(self._on_message))
            )  # calls back at once while the client has some
        return came > 0

    def _on_message(self, result: Any, message: Any) -> None:
        """From the client's thread, or within `_pull`."""
        if result == Result.Ok:  # else the consumer is closed: nothing more is asked of it
            self._arrived.append(message)
            self._asked = False
        if threading.get_ident() != self._thread:
            self._native.landing.post(self.wake)

    async def _note(self, got: Sequence[Delivery]) -> None:
        """Have it known, before they are handled, of those that somebody had before: this process may crash of them too."""
        if not self._suspects:
            return
        suspects = [d for d in got if d.token.key in self._suspects]
        if not suspects:
            return
        for key in [key for key in self._suspects if self.claims.is_settled(key)]:
            self._suspects.discard(key)
            self._tried.pop(key[:2], None)
        self._tried.update((d.token.key[:2], d.attempt) for d in suspects)
        try:
            async with asyncio.timeout(_NOTE):
                there = await self._admin.tried(self.channel)  # other processes note theirs
                known = {**there, **self._tried}
                await self._admin.note_tried(self.channel, dict(sorted(known.items())[-_MOST_NOTED:]))
        except (TimeoutError, BrokerError) as e:
            log.info("%s: attempts could not be noted: %s", self.channel, e)
        except BaseException:
            now = self._loop.time()
            self.claims.release(got, now, now, False)
            raise

    def _add(self, message: Any, now: float) -> None:
        handle = message.message_id()
        key = (handle.ledger_id(), handle.entry_id(), handle.batch_index())
        published = message.publish_timestamp() / 1000
        try:
            found = message.properties()
        except UnicodeDecodeError:  # somebody else's, not of CloudEvents
            found = {}
        event = event_from(
            found, message.data(), position=f"{self.channel}/{key[0]}:{key[1]}:{key[2]}", published=published
        )
        attempt = 1 + message.redelivery_count()
        if key[:2] < self._before or key < self._highest or key[:2] in self._tried:
            attempt = max(attempt, self._tried.get(key[:2], 1) + 1)
            self._suspects.add(key)
        else:
            self._highest = key
        if again := self.claims.arrive(key, event, message, attempt, now):
            self._acknowledge(again)

    async def _wait(self, until: float) -> None:
        waiter = self._loop.create_future()
        timer = self._loop.call_at(until, _wake, waiter)
        self._waiters.add(waiter)
        if self._arrived:  # it came between the look and now
            _wake(waiter)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiters.discard(waiter)


class Subscription:
    """A consumer's view of the attachment. See `broker.Subscription` for the contract."""

    def __init__(self, attachment: Attachment, visibility: float) -> None:
        self._attachment = attachment
        self._visibility = visibility
        self.left = False

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        return await self._open.receive(limit, timeout, self._visibility)

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        await self._open.settle(deliveries)

    async def release(self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True) -> None:
        attachment = self._open
        now = asyncio.get_running_loop().time()
        attachment.claims.release(deliveries, now, now + delay, tried)
        attachment.wake()

    async def alone(self, delivery: Delivery) -> bool:
        return True

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        attachment = self._open
        now = asyncio.get_running_loop().time()
        attachment.claims.extend(deliveries, now, now + self._visibility)
        attachment.wake()

    @property
    def _open(self) -> Attachment:
        if self.left:
            raise RuntimeError(f"the consumer of channel {self._attachment.channel} was left")
        if self._attachment.gone:
            raise ChannelGone(f"channel {self._attachment.channel} does not exist any more")
        return self._attachment


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
