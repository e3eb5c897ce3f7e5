"""The gate through which all handlings of one process pass: it lets one event be handled with nothing else under
way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_PATIENCE = 0.5
"""Seconds for which the gate stays closed in the hope that the others end."""
_PAUSE = 5.0
"""Seconds after which it may be closed again when they did not."""
_FORCED_AFTER = 30.0
"""Seconds after which it is closed until they end, however long that takes."""
_SHARE = 4.0
"""Forced waiting is followed by so many times as long without."""


class Gate:
    """Open to all, or closed for the one that is alone. A worker asks `closed` before it begins, and calls `left` after
    if it is closed then: nothing more, as long as nobody wants to be alone.

    Handlers that take long are not waited for at once, or one of them would hold up all workers: `alone` is entered
    with False then, and tried again later. Only when that has gone on for long is the gate closed until they end.
    """

    def __init__(self) -> None:
        self.closed = False
        """One is alone, or waits until no other is at work: nobody may begin."""
        self.busy = 0
        """Handlers of the process that are under way. Written by HandlerRunner."""
        self.held = 0
        """Workers that take nothing, since a handler goes on in its thread after its attempt was ended. Written by
        HandlerRunner."""
        self._quiet: asyncio.Future[None] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._not_before = self._shut_until = float("-inf")
        self._wanted_since = self._wanted_at = float("-inf")
        """Since when somebody has wanted to be alone, in vain, and when last: often for as long as that lasts."""

    def left(self) -> None:
        """A handling is over."""
        if self._quiet is not None and not self._quiet.done() and not self.busy:
            self._quiet.set_result(None)

    async def opened(self) -> None:
        """Return when it has been opened. It may be closed again by then."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    def refuse(self) -> None:
        """Being alone was in vain, and may be again: nobody is for a while."""
        self._shut_until = asyncio.get_running_loop().time() + _PAUSE

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[bool]:
        """Entered with True when nobody is at work, with False where others would have to be waited for. Workers that
        wait at the gate begin between two that want to be alone."""
        while self.closed:
            await self.opened()
            await asyncio.sleep(0)  # the others first
        loop = asyncio.get_running_loop()
        if loop.time() - self._wanted_at > 2 * _PAUSE:
            self._wanted_since = loop.time()
        self._wanted_at = loop.time()
        if loop.time() < self._shut_until or (self.busy and loop.time() < self._not_before):
            yield False
            return
        self.closed = True
        quiet = False
        try:
            quiet = await self._quieted(loop)
        finally:
            if not quiet:
                self._open()
        if not quiet:
            yield False
            return
        self._wanted_at = float("-inf")
        try:
            yield True
        finally:
            self._open()

    async def _quieted(self, loop: asyncio.AbstractEventLoop) -> bool:
        began = loop.time()
        forced = began - self._wanted_since >= _FORCED_AFTER
        try:
            async with asyncio.timeout(None if forced else _PATIENCE):
                while self.busy:
                    self._quiet = loop.create_future()
                    await self._quiet
        except TimeoutError:
            self._not_before = loop.time() + _PAUSE
            return False
        if forced:
            self._not_before = loop.time() + _SHARE * (loop.time() - began)
        return True

    def _open(self) -> None:
        self.closed = False
        self._quiet = None
        while self._waiting:
            waiter = self._waiting.popleft()
            if not waiter.done():
                waiter.set_result(None)
