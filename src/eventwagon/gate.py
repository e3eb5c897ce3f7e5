"""The gate through which all handlings of one process pass: it lets one event be handled with nothing else under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol


class Hand(Protocol):
    """A worker, as the gate sees it."""

    busy: bool
    """Its handler is under way."""


class Gate:
    """Open to all, or closed for the one that is alone. Who works asks `closed` before, and calls `left` after if it is
    closed then: nothing more, as long as nobody wants to be alone."""

    def __init__(self) -> None:
        self.closed = False
        """One is alone, or waits until no other is at work: nobody may begin."""
        self.hands: set[Hand] = set()
        """All workers of the process."""
        self._quiet: asyncio.Future[None] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    def left(self) -> None:
        """A handling is over."""
        if self._quiet is not None and not self._quiet.done() and not self._busy():
            self._quiet.set_result(None)

    def _busy(self) -> bool:
        return any(hand.busy for hand in self.hands)

    async def opened(self) -> None:
        """Return when it has been opened. It may be closed again by then."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Entered when nobody is at work. Those that wait at the gate begin between two that want to be alone."""
        while self.closed:
            await self.opened()
            await asyncio.sleep(0)  # the others first
        self.closed = True
        try:
            while self._busy():
                self._quiet = asyncio.get_running_loop().create_future()
                await self._quiet
            yield
        finally:
            self.closed = False
            self._quiet = None
            while self._waiting:
                waiter = self._waiting.popleft()
                if not waiter.done():
                    waiter.set_result(None)
