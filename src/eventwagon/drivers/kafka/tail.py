"""Follows partitions: at once where they are new, and sparingly where they are quiet.

A server answers a fetch as soon as one of its partitions has something new, and otherwise after a while; a client has
one fetch under way, and a partition that is added waits for its answer. So what is new is read by a client whose empty
answers come after 50 ms. What is not busy goes over to another one, whose empty answers come after a second, and comes
back when it is.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from confluent_kafka import Message

from .forward import End, Forward, ForwardPool, Sink
from .reader import offset_of

QUICK, SPARING = 50, 1000
"""Milliseconds after which the two clients' empty answers come."""
_CALM = 1.0  # s in which a partition that goes over had little
_AROUND = 200  # bytes of a record besides its value, roughly: key and headers
_LITTLE = 16_384  # bytes: so much, at most, may be read twice
_MUCH = 65_536  # bytes in that time with which it goes back


class _Followed:
    """One partition. While it goes over, both clients read it: what comes twice is told by its offset."""

    def __init__(self, topic: str, partition: int, offset: int, sink: Sink, end: End | None, now: float) -> None:
        self.topic = topic
        self.partition = partition
        self.position = offset
        """The offset after the last one that was read."""
        self.sink = sink
        self.end = end
        self.since = now
        """When its bytes began to be counted."""
        self.bytes = 0
        self.held = False
        self.quick: Forward | None = None
        """The quick client, while that reads it."""
        self.sparing: Forward | None = None
        """The one that it goes over to, or has gone over to."""

    @property
    def clients(self) -> list[Forward]:
        """Those that read it."""
        return [client for client in (self.quick, self.sparing) if client is not None]


class Tail:
    """Reads partitions from given offsets on. While a partition goes over from one client to the other, a message may
    come twice. Belongs to the event loop that made it. The clients may be others', too, and are their owner's to
    close."""

    def __init__(self, quick: ForwardPool, sparing: ForwardPool) -> None:
        self._loop = asyncio.get_running_loop()
        self._quick = quick
        self._sparing = sparing
        self._followed: dict[tuple[str, int], _Followed] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False

    def follow(self, topic: str, partition: int, offset: int, sink: Sink, end: End | None = None) -> None:
        """Read this partition from `offset` on."""
        self.leave(topic, partition)
        if self._closed:
            return
        one = _Followed(topic, partition, offset, sink, end, self._loop.time())
        self._followed[topic, partition] = one
        one.quick = self._quick.follow(topic, partition, offset, partial(self._read, one), partial(self._ended, one))
        self._look_later()

    def follows(self, topic: str, partition: int) -> bool:
        """Whether it reads this partition."""
        return (topic, partition) in self._followed

    def is_sparing(self, topic: str, partition: int) -> bool:
        """Whether a partition that it reads has gone over."""
        return self._followed[topic, partition].quick is None

    def leave(self, topic: str, partition: int) -> None:
        """Stop reading it. Idempotent."""
        if one := self._followed.pop((topic, partition), None):
            for client in one.clients:
                client.leave(topic, partition)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Go on from `offset`. Messages that were read before may still be passed on."""
        if one := self._followed.get((topic, partition)):
            one.position, one.since = offset, self._loop.time()
            for client in one.clients:
                client.seek(topic, partition, offset)

    def hold(self, topic: str, partition: int) -> None:
        """Read no more of it for now. First the quick client reads nothing at all, since pausing a partition discards
        what the client has fetched of it; if this lasts, it is paused and the others go on."""
        if one := self._followed.get((topic, partition)):
            one.held = True
            self._go_back(one).hold(topic, partition)

    def go_on(self, topic: str, partition: int) -> None:
        """Read it again."""
        if one := self._followed.get((topic, partition)):
            one.held, one.since = False, self._loop.time()
            for client in one.clients:
                client.go_on(topic, partition)

    def close(self) -> None:
        """Leave all partitions, and follow none any more. Idempotent."""
        self._closed = True
        for topic, partition in list(self._followed):
            self.leave(topic, partition)
        if self._timer is not None:
            self._timer.cancel()

    def _read(self, one: _Followed, messages: list[Message]) -> None:
        one.position = max(one.position, offset_of(messages[-1]) + 1)
        now = self._loop.time()
        if one.quick is None and now > one.since + _CALM:
            one.bytes, one.since = 0, now
        one.bytes += sum(map(len, messages)) + _AROUND * len(messages)
        if one.quick is None and one.bytes > _MUCH:
            self._go_back(one)
        one.sink(messages)

    def _go_back(self, one: _Followed) -> Forward:
        """Have it read by the quick client alone: others share the sparing one, and would wait for it."""
        sparing, one.sparing = one.sparing, None
        if sparing is not None:
            sparing.leave(one.topic, one.partition)
        if one.quick is None:
            read, ended = partial(self._read, one), partial(self._ended, one)
            one.quick = self._quick.follow(one.topic, one.partition, one.position, read, ended)
            one.bytes, one.since = 0, self._loop.time()
            self._look_later()
        return one.quick

    def _ended(self, one: _Followed, end: int) -> None:
        one.position = max(one.position, end)
        if one.end:
            one.end(end)

    def _look_later(self) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(_CALM, self._look)

    def _look(self) -> None:
        """Have the partitions that are not busy go over."""
        self._timer = None
        now = self._loop.time()
        for one in self._followed.values():
            if one.sparing is not None or one.since > now - _CALM:
                continue
            if one.bytes <= _LITTLE and not one.held:
                read, ended = partial(self._over, one, self._read), partial(self._over, one, self._ended)
                one.sparing = self._sparing.follow(one.topic, one.partition, one.position, read, ended)
            one.bytes, one.since = 0, now
        if any(one.sparing is None for one in self._followed.values()):
            self._look_later()

    def _over(self, one: _Followed, then: Callable[[_Followed, Any], None], read: Any) -> None:
        """The sparing client has had its first answer for it, or a further one."""
        if one.quick is not None:
            one.quick.leave(one.topic, one.partition)
            one.quick = None
        then(one, read)
