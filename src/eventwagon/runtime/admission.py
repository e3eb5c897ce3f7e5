"""The gate that all handlings of one process pass: it lets one event be handled with nothing else under way."""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

_PATIENCE, _PATIENCE_MOST = 0.5, 5.0
"""Seconds for which the gate stays closed to wait for the others: twice as long as a handling usually takes, within
these bounds; the first, if one takes longer than both. That is also how long it stays open for them to begin."""
OTHERS_FIRST = 0.5
"""Seconds for which a new process lets others begin before the first event is handled alone: that one may be what ended
the last process, and would else be all that each of them ever handles."""
_PAUSE = 5.0
"""Seconds before it may be closed again if they did not end."""
_CROWDED = 0.2
"""Seconds after which a worker that waits for room looks whether it is still wanted."""
_FORCED_AFTER = 30.0
"""Seconds of failed tries after which it stays closed until the others end, for as long as somebody wants to be alone:
under constant traffic there is always another."""
_SHARE = 4.0
"""After a longer wait the gate stays open for this many times as long."""


class Gate:
    """Open to all workers, or closed for one that is alone. A worker checks `closed` before it begins, and calls `left`
    afterwards if the gate is closed then; it calls `began` if it begins while `others_first`. Nothing else is needed
    while nobody wants to be alone.

    Long handlers are not waited for at first, or one of them would hold up all workers: `alone` yields False, and the
    caller tries again later. The gate is closed until they end only when this has gone on for some time. The longer it
    was closed, the longer others may begin again.
    """

    def __init__(self, others_first_for: float = 0.0, most: int | None = None) -> None:
        self.closed = False
        """A worker is alone, or waits for the others to finish: nobody may begin."""
        self.busy = 0
        """Handlers of the process that are under way. Written by HandlerRunner."""
        self.held = 0
        """Workers that take nothing because a handler goes on in its thread after its attempt was ended. Written by
        HandlerRunner."""
        self.usual = 0.0
        """Seconds that a handling takes, averaged over the recent ones. Written by HandlerRunner."""
        self.bounded = most is not None
        """It may be `full`."""
        self._most = math.inf if most is None else most
        """Handlers that may be under way at a time, those that go on in their threads included."""
        self.crowd: deque[asyncio.Future[None]] = deque()
        """Workers that have an event to take, and wait until one may begin."""
        self.others_first = False
        """A worker was alone, and no other has begun since: the next that wants to be alone waits for that, briefly."""
        self._begun = asyncio.Event()
        self._others_for = 0.0
        """Seconds for which it waits at most."""
        self._quiet: asyncio.Future[None] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._turn = asyncio.Lock()
        self._not_before = self._shut_until = float("-inf")
        self._at_first = others_first_for
        """Seconds for which others begin once somebody wants to be alone for the first time."""
        self._others_until: float | None = None
        self._wanted_since = self._wanted_at = float("-inf")
        """When somebody first tried to be alone and failed, and when last; workers try again often while that lasts."""

    @property
    def full(self) -> bool:
        """As many handlers are under way as may be."""
        return self.busy + self.held >= self._most

    async def room(self) -> None:
        """Wait, briefly, until one more handler may begin. The caller looks again, since it may have been asked to end,
        or another may have been faster."""
        waiter = asyncio.get_running_loop().create_future()
        self.crowd.append(waiter)
        try:
            async with asyncio.timeout(_CROWDED):
                await waiter
        except TimeoutError:
            pass
        finally:
            if waiter in self.crowd:
                self.crowd.remove(waiter)

    def make_room(self) -> None:
        """A handling has ended: let the worker that has waited longest begin."""
        while self.crowd and not self.full:
            waiter = self.crowd.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def left(self) -> None:
        """A handling has ended."""
        if self._quiet is not None and not self._quiet.done() and not self.busy:
            self._quiet.set_result(None)

    def began(self) -> None:
        """A handling has begun. Idempotent."""
        self.others_first = False
        self._begun.set()

    async def opened(self) -> None:
        """Wait until the gate opens. It may be closed again by then."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def refuse(self) -> None:
        """Being alone did not help and may not help again: let nobody be alone for a while."""
        self._shut_until = asyncio.get_running_loop().time() + _PAUSE

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[bool]:
        """Yield True once nobody else is at work, False if that would take too long. Those that want to be alone get
        their turns in the order in which they ask. Others begin between two of them, and before the first of them in
        this process."""
        async with self._turn, self._alone() as entered:
            yield entered

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[bool]:
        loop = asyncio.get_running_loop()
        if self._others_until is None:
            self._others_until = loop.time() + self._at_first
        if (pause := self._others_until - loop.time()) > 0:
            await asyncio.sleep(pause)
        if self.others_first:  # their events may have gone back meanwhile, and must be fetched again
            with suppress(TimeoutError):
                async with asyncio.timeout(self._others_for):
                    await self._begun.wait()
            self.others_first = False
            await asyncio.sleep(0)  # the others first
        if loop.time() - self._wanted_at > 2 * _PAUSE:
            self._wanted_since = loop.time()
        self._wanted_at = loop.time()
        if loop.time() < self._shut_until or (self.busy and loop.time() < self._not_before):
            yield False
            return
        self.closed = True
        quiet, forced = False, loop.time() - self._wanted_since >= _FORCED_AFTER
        try:
            quiet = await self._quieted(loop, forced)
        finally:
            if not quiet:
                self._open()
        if not quiet:
            yield False
            return
        since = loop.time()
        try:
            yield True
        finally:
            self._wanted_at = loop.time() if forced else float("-inf")
            self.others_first, self._others_for = True, min(_PATIENCE, loop.time() - since)
            self._begun.clear()
            self._open()

    async def _quieted(self, loop: asyncio.AbstractEventLoop, forced: bool) -> bool:
        began = loop.time()
        try:
            hopeless = self.usual > _PATIENCE_MOST
            patience = _PATIENCE if hopeless else max(_PATIENCE, min(_PATIENCE_MOST, 2 * self.usual))
            async with asyncio.timeout(None if forced else patience):
                while self.busy:
                    self._quiet = loop.create_future()
                    await self._quiet
        except TimeoutError:
            self._not_before = loop.time() + max(_PAUSE, _SHARE * (loop.time() - began))
            return False
        if (waited := loop.time() - began) > _PATIENCE:
            self._not_before = loop.time() + _SHARE * waited
        return True

    def _open(self) -> None:
        self.closed = False
        self._quiet = None
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
