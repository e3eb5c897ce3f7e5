"""A consumer of one channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...contracts.broker import Delivery
from ...errors import ChannelGone, Displaced
from ...event import Channel
from . import scripts
from .client import Client, Script
from .entries import unpack
from .link import pack

_MOST = scripts.MOST
_PAGE = 64
"""How many new events to request if the sizes of those just before are not known."""
_BYTES = 4 << 20
"""The most bytes of an answer, roughly."""
_SHORT = 0.1
"""Seconds: a receive that waits for less asks the server, whatever the one before found."""

Token = tuple[bytes, bytes]
"""The entry's id and the mark of its claim."""


class _Empty(NamedTuple):
    """Nothing is there until this notification or this time (the loop's)."""

    notice: asyncio.Event
    until: float


class RedisSubscription:
    """A consumer of one channel; the broker attaches it. `known` is the answer of ATTACH."""

    def __init__(
        self,
        client: Client,
        channel: Channel,
        keys: list[str],
        visibility: float,
        owner: str,
        known: Sequence[Any],
        next_notice: Callable[[], asyncio.Event],
    ) -> None:
        self._client = client
        self._channel = channel
        self._keys = keys
        self._visibility = max(1, int(visibility * 1000))
        self._next_notice = next_notice
        name = f":{owner}".encode("utf-8", "surrogatepass") if owner else b""
        self._consumer = b"%d%b" % (self._visibility, name)
        self._largest = int(known[0])  # roughly the size of the largest event so far
        self._suspects = bool(known[1])  # some may be available now
        self._suspect_first = True
        self._page = _PAGE
        self._more = False  # some come back now
        self._turn = 0
        self._idle = False  # nothing came the last time
        self._empty: _Empty | None = None

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        looked = False
        if timeout < _SHORT:
            self._empty = None
        while True:
            if (empty := self._empty) is not None and loop.time() < empty.until:
                try:
                    async with asyncio.timeout_at(min(deadline, empty.until)):
                        await empty.notice.wait()
                except TimeoutError:
                    if loop.time() >= deadline:
                        return []
            self._empty = None
            notice = self._next_notice()  # before the read, so that no notification is missed in between
            patient = self._idle and timeout > 0
            got, due = await self._take(min(limit, _MOST), patient)
            self._idle = not got
            if got:
                self._suspect_first = not got[0].suspect
                return got
            if (self._more or self._suspects) and not looked:
                looked = self._suspect_first = True  # they were noticed when others had been requested only
                continue
            looked = False
            if patient:  # another receive need not ask again
                self._empty = _Empty(notice, loop.time() + min(self._client.notifier.poll, due))
            if loop.time() >= deadline:  # otherwise it asks for a notification: a busy consumer needs none
                return []

    async def _take(self, limit: int, patient: bool) -> tuple[list[Delivery], float]:
        """What is available now; otherwise nothing, and the seconds after which something may come back by itself."""
        claim = self._client.spawn(self._claim(limit, patient))
        try:
            return await asyncio.shield(claim)
        except asyncio.CancelledError:
            claim.add_done_callback(self._give_back)
            raise

    def _split(self, limit: int) -> tuple[int, int]:
        """How many new events to request, and how many others there is room for. If some come back, half and half:
        neither starves the other."""
        self._turn += 1
        new = limit
        if self._more:
            new = limit // 2 if limit > 1 or self._turn % 4 else 1
        return min(new, self._page, max(1, _BYTES // self._largest)), limit - new

    async def _claim(self, limit: int, patient: bool) -> tuple[list[Delivery], float]:
        if self._suspects and self._suspect_first:
            self._suspect_first = False
            got = await self._ask(0, 0, patient, suspect=True)
            if got[0]:
                return got
        return await self._ask(*self._split(limit), patient)

    async def _ask(self, new: int, room: int, patient: bool, *, suspect: bool = False) -> tuple[list[Delivery], float]:
        what = f"receiving from {self._channel}"
        arguments = (room, self._consumer, int(patient), _BYTES, self._visibility, int(suspect))
        first = pack("XREADGROUP", "GROUP", scripts.GROUP, self._consumer, "COUNT", new, "STREAMS", self._keys[0], ">")
        try:
            head, answer = await self._client.pair(what, first if new else b"", scripts.AGAIN, self._keys, arguments)
        except Displaced as e:
            raise ChannelGone(str(e)) from None  # attaching again says what is left of it
        if answer[0] == b"gone":
            raise gone(self._channel)
        _, ticket, old, attempts, more, wait, largest, suspects = answer
        fresh = head[0][1] if head else []
        self._more, self._suspects = bool(more), suspects > 0
        self._largest = largest
        self._page = min(_MOST, 2 * self._page) if new and len(fresh) == new else _PAGE
        return self._deliveries(ticket, fresh, old, attempts, suspect=suspect), wait / 1000

    def _deliveries(
        self, ticket: int, fresh: list[Any], old: list[Any], attempts: list[int], *, suspect: bool
    ) -> list[Delivery]:
        name = str(self._channel)
        got = [
            Delivery(event, attempt, (entry[0], b"%d:%d" % (ticket, attempt)), suspect)
            for entry, event, attempt in zip(old, unpack(name, old), attempts, strict=True)
        ]
        got += [Delivery(event, 1, (entry[0], b"0:1")) for entry, event in zip(fresh, unpack(name, fresh), strict=True)]
        return got

    def _give_back(self, claim: asyncio.Task[tuple[list[Delivery], float]]) -> None:
        """Give back events received for a caller that was cancelled meanwhile. If this fails, their visibility time
        ends."""
        if claim.cancelled() or claim.exception() is not None:
            return
        got, _ = claim.result()
        if got:
            task = self._client.spawn(self.release(got, tried=False))
            task.add_done_callback(lambda task: task.cancelled() or task.exception())  # nobody waits for it

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        for start in range(0, len(deliveries), _MOST):
            ids = [d.token[0] for d in deliveries[start : start + _MOST]]
            await self._change("settling in", scripts.SETTLE, ids)

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None:
        head = [int(delay * 1000 + 0.999), int(tried), int(cleared)]
        for start in range(0, len(deliveries), _MOST):
            await self._change("giving back to", scripts.RELEASE, [*head, *_pairs(deliveries[start : start + _MOST])])
        self._more = self._more or not delay
        self._empty = None
        self._suspects = self._suspects or any(d.suspect for d in deliveries)

    async def alone(self, delivery: Delivery) -> bool:
        return bool(await self._change("marking in", scripts.ALONE, delivery.token))

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        for start in range(0, len(deliveries), _MOST):
            pairs = _pairs(deliveries[start : start + _MOST])
            await self._change("extending claims in", scripts.EXTEND, [self._consumer, *pairs])

    async def _change(self, what: str, script: Script, arguments: Sequence[Any]) -> Any:
        try:
            answer = await self._client.run(f"{what} {self._channel}", script, self._keys, arguments)
        except Displaced as e:
            raise ChannelGone(str(e)) from None  # attaching again says what is left of it
        if answer == b"gone":
            raise gone(self._channel)
        return answer


def _pairs(deliveries: Sequence[Delivery]) -> list[bytes]:
    pairs: list[bytes] = []
    for delivery in deliveries:
        pairs += delivery.token
    return pairs


def gone(channel: Channel) -> ChannelGone:
    return ChannelGone(f"channel {channel} does not exist (any more)")
