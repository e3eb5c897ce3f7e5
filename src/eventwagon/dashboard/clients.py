"""The browsers that look: each gets the same bytes from a short queue, and is cut off if it does not read them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_MOST = 8
"""Messages that wait for a client. One comes each second."""


class Client:
    """One open stream of events."""

    def __init__(self, train: str | None, first: bytes, allowed: Callable[[], bool]) -> None:
        self.train = train
        """The train that it looks at in full; None: at the overview only."""
        self.first = first
        """What it is sent first."""
        self.allowed = allowed
        """Whether it may still read: it is asked before each message."""
        self.places: dict[str, tuple[int, int] | None] = {}
        """How far it has come in each list."""
        self.jobs_seen = -1
        self.is_new = True
        self.came_at = asyncio.get_running_loop().time()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()

    def offer(self, chunk: bytes) -> bool:
        """Send this next. Returns False if too much waits for it already: then it is over."""
        if self._queue.qsize() >= _MOST:
            self.end()
            return False
        self._queue.put_nowait(chunk)
        return True

    def end(self) -> None:
        """Send nothing more."""
        while not self._queue.empty():
            self._queue.get_nowait()
        self._queue.put_nowait(None)

    async def next(self) -> bytes | None:
        """What to send next; None: nothing more."""
        return await self._queue.get()


def message(event: str, data: bytes) -> bytes:
    """A server-sent event. `data` is JSON, which has no line ends."""
    return b"event: " + event.encode() + b"\ndata: " + data + b"\n\n"


HELLO = b"retry: 2000\n\n"
