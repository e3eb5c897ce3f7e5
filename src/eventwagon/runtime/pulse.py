"""The signs of life of one train in this process: what is published here, what its workers receive and what they emit
for later, that an observer sees events come to others, each change of the manifest."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Pulse:
    """Ends the long pauses of those that look less often while nothing happens. For one event loop at a time."""

    def __init__(self) -> None:
        self._at = float("-inf")
        self.event_at = float("-inf")
        """When an event was published or received here last (the loop's time)."""
        self._resting: list[asyncio.Event] = []

    def beat(self) -> None:
        """An event is published or received here now."""
        self.event_at = asyncio.get_running_loop().time()
        self.news()

    def news(self) -> None:
        """Something else has happened: a change of the manifest, or events of other processes."""
        self._at = asyncio.get_running_loop().time()
        for woken in self._resting:
            woken.set()

    @property
    def quiet(self) -> float:
        """Seconds since the last sign of life."""
        return asyncio.get_running_loop().time() - self._at

    @contextmanager
    def ending(self, woken: asyncio.Event) -> Iterator[None]:
        """A sign of life sets `woken` meanwhile."""
        self._resting.append(woken)
        try:
            yield
        finally:
            self._resting.remove(woken)
