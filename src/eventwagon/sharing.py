"""Things that several owners in one event loop use together: the first one opens it, the last one closes it."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Hashable
from contextlib import asynccontextmanager
from typing import Generic, Protocol, TypeVar


class Closable(Protocol):
    """What can be shared. Opening it takes no time and can't fail; it connects when it is first needed."""

    async def close(self) -> None: ...


T = TypeVar("T", bound=Closable)


class _Used(Generic[T]):
    def __init__(self, thing: T) -> None:
        self.thing = thing
        self.users = 0


class Shared(Generic[T]):
    """One thing for each key and event loop, for as long as anybody uses it. From any thread; each loop has its own,
    and so has a forked process."""

    def __init__(self) -> None:
        self._of: dict[asyncio.AbstractEventLoop, dict[Hashable, _Used[T]]] = {}
        self._lock = threading.Lock()

    @asynccontextmanager
    async def use(self, key: Hashable, make: Callable[[], T]) -> AsyncIterator[T]:
        """The thing with this key; the first user makes it. The last one closes it on leaving, and waits for that.
        Whoever comes meanwhile gets a new one."""
        loop, key = asyncio.get_running_loop(), (os.getpid(), key)
        with self._lock:
            for closed in [known for known in self._of if known.is_closed()]:  # it was closed without leaving
                del self._of[closed]
            mine = self._of.setdefault(loop, {})
        used = mine.get(key)
        if used is None:
            used = mine[key] = _Used(make())
        used.users += 1
        try:
            yield used.thing
        finally:
            used.users -= 1
            if not used.users:
                del mine[key]
                with self._lock:
                    if not mine and self._of.get(loop) is mine:
                        del self._of[loop]
                await used.thing.close()
