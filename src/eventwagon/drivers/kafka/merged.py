"""Calls that several callers share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Generic, TypeVar

from ...background import Background
from ...bucket import Bucket
from ...errors import Unavailable

K = TypeVar("K")
V = TypeVar("V")

PROMPT = 25.0
"""Calls a second of one kind, about all trains."""
PATIENT = 5.0
"""The same for those that nobody waits for."""


class Merged(Generic[K, V]):
    """Asks for the values of keys. Where few ask, nobody waits; where many ask, those who ask meanwhile share one call,
    so that 40 trains cost hardly more than one. Belongs to the event loop that uses it first."""

    def __init__(
        self,
        call: Callable[[set[K]], Awaitable[Mapping[K, V]]],
        background: Background,
        *,
        rate: float,
        lock: asyncio.Lock | None = None,
    ) -> None:
        """`call` returns the value of each key. Up to `rate` calls begin a second, one at a time of all that share the
        `lock`; the next one waits for its turn, and takes along who asks meanwhile. `background` owns the calls that
        are under way."""
        self._call = call
        self._background = background
        self._turns = Bucket(rate, 0.0)  # full
        self._lock = lock or nullcontext()
        self._asked = set[K]()
        self._next: asyncio.Task[Mapping[K, V]] | None = None
        """The call that has not begun, for those in `_asked`."""

    async def of(self, keys: Iterable[K]) -> dict[K, V]:
        """The value of each of these keys, by a call that begins after this one. Raises what the call raises;
        Unavailable if its owner ends it."""
        wanted = set(keys)
        if not wanted:
            return {}
        self._asked |= wanted
        if self._next is None or self._next.done():  # done: ended by its owner before it could begin
            self._next = self._background.start(self._in_turn())
        call = self._next
        try:
            found = await asyncio.shield(call)  # others wait for it, too
        except asyncio.CancelledError:
            if call.cancelled() and not _is_cancelled():
                raise Unavailable("the connection was closed meanwhile: nothing was done") from None
            raise
        return {key: found[key] for key in wanted}

    async def _in_turn(self) -> Mapping[K, V]:
        loop = asyncio.get_running_loop()
        while wait := self._turns.take(1, loop.time()):  # noqa: ASYNC110 - nobody tells when it is time
            await asyncio.sleep(wait)
        async with self._lock:
            asked, self._asked, self._next = self._asked, set[K](), None
            return await self._call(asked)


def _is_cancelled() -> bool:
    """Whether the task that runs was cancelled."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
