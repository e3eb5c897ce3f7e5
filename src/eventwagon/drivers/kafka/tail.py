"""Follows partitions: at once where they are new, and sparingly where they are quiet.

A server answers a fetch as soon as one of its partitions has something new, and otherwise after a while; a client has
one fetch under way, and a partition that is added waits for its answer. So what is new is read by a client whose empty
answers come after 50 ms. What is not busy goes over to another one, whose empty answers come after a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from confluent_kafka import Message

from .forward import End, Forward, Sink
from .reader import offset_of

_QUICK, _SPARING = 50, 1000  # ms after which an empty answer comes
_CALM = 1.0  # s in which a partition that goes over had little
_LITTLE = 16_384  # bytes: so much, at most, may be read twice


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
        self.by: Literal["quick", "both", "sparing"] = "quick"


class Tail:
    """Reads partitions from given offsets on. While a partition goes over from one client to the other, a message may
    come twice. Belongs to the event loop that made it."""

    def __init__(self, config: Callable[..., dict[str, Any]], name: str) -> None:
        """`config`: the consumer's options, for a `wait` in ms."""
        self._loop = asyncio.get_running_loop()
        self.quick = Forward(config(wait=_QUICK), name, prompt=True)
        self.sparing = Forward(config(wait=_SPARING), f"{name}-quiet", prompt=False)
        self._followed: dict[tuple[str, int], _Followed] = {}
        self._timer: asyncio.TimerHandle | None = None

    def follow(self, topic: str, partition: int, offset: int, sink: Sink, end: End | None = None) -> None:
        """Read this partition from `offset` on."""
        self.leave(topic, partition)
        one = _Followed(topic, partition, offset, sink, end, self._loop.time())
        self._followed[topic, partition] = one
        self.quick.follow(topic, partition, offset, partial(self._read, one), partial(self._ended, one))
        self._look_later()

    def follows(self, topic: str, partition: int) -> bool:
        """Whether it reads this partition."""
        return (topic, partition) in self._followed

    def is_sparing(self, topic: str, partition: int) -> bool:
        """Whether a partition that it reads has gone over."""
        return self._followed[topic, partition].by == "sparing"

    def leave(self, topic: str, partition: int) -> None:
        """Stop reading it. Idempotent."""
        if one := self._followed.pop((topic, partition), None):
            for client in self._clients(one):
                client.leave(topic, partition)

    def seek(self, topic: str, partition: int, offset: int) -> None:
        """Go on from `offset`. Messages that were read before may still be passed on."""
        if one := self._followed.get((topic, partition)):
            one.position, one.since = offset, self._loop.time()
            for client in self._clients(one):
                client.seek(topic, partition, offset)

    def hold(self, topic: str, partition: int) -> None:
        """Read no more of it for now. First nothing at all is read, since pausing a partition discards what the client
        has fetched of it; if this lasts, it is paused and the others go on."""
        if one := self._followed.get((topic, partition)):
            one.held = True
            for client in self._clients(one):
                client.hold(topic, partition)

    def go_on(self, topic: str, partition: int) -> None:
        """Read it again."""
        if one := self._followed.get((topic, partition)):
            one.held, one.since = False, self._loop.time()
            for client in self._clients(one):
                client.go_on(topic, partition)

    async def close(self) -> None:
        """End the threads and the clients."""
        if self._timer is not None:
            self._timer.cancel()
        await asyncio.gather(self.quick.close(), self.sparing.close())

    def _clients(self, one: _Followed) -> list[Forward]:
        """Those that read it."""
        return [self.quick] * (one.by != "sparing") + [self.sparing] * (one.by != "quick")

    def _read(self, one: _Followed, messages: list[Message]) -> None:
        one.position = max(one.position, offset_of(messages[-1]) + 1)
        if one.by == "quick":
            one.bytes += sum(map(len, messages))
        one.sink(messages)

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
            if one.by != "quick" or one.since > now - _CALM:
                continue
            if one.bytes <= _LITTLE and not one.held:
                one.by = "both"
                read, ended = partial(self._over, one, self._read), partial(self._over, one, self._ended)
                self.sparing.follow(one.topic, one.partition, one.position, read, ended)
            one.bytes, one.since = 0, now
        if any(one.by == "quick" for one in self._followed.values()):
            self._look_later()

    def _over(self, one: _Followed, then: Callable[[_Followed, Any], None], read: Any) -> None:
        """The sparing client has had its first answer for it, or a further one."""
        if one.by == "both":
            one.by = "sparing"
            self.quick.leave(one.topic, one.partition)
        then(one, read)
