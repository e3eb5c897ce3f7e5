"""The gate through which all handlings of one process pass: it lets one event be handled with nothing else under way."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Gate:
    """Open to all, or closed for the one that is alone. `enter` and `leave` cost nothing while nobody wants to be alone."""

    def __init__(self) -> None:
        self.closed = False
        """One is alone, or waits for the others to leave: nobody may enter."""
        self._inside = 0
        self._quiet: asyncio.Future[None] | None = None
        self._waiting: deque[asyncio.Future[None]] = deque()

    def enter(self) -> None:
        """One handling begins. Only while it is not closed."""
        self._inside += 1

    def leave(self) -> None:
        """It is over."""
        self._inside -= 1
        if not self._inside and self._quiet is not None and not self._quiet.done():
            self._quiet.set_result(None)

    async def opened(self) -> None:
        """Return when it has been opened. It may be closed again by then."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        await waiter

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """Entered when nobody is inside. Those that wait at the gate enter between two that want to be alone."""
        while self.closed:
            await self.opened()
            await asyncio.sleep(0)  # the others first
        self.closed = True
        try:
            while self._inside:
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
