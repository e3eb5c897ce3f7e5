"""Group commit: what a process proposes while a record of its own is under way goes into the next one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from .claims import Grant
from .proposals import Op

_AT_ONCE = 50  # proposals in one record

Append = Callable[[Sequence[Op]], asyncio.Future[Any]]
"""Appends a record of these proposals; the future has their results."""


class Committer:
    """The proposals of one process to one wagon. The fewer records, the less there is for all others to read."""

    def __init__(
        self, append: Append, translate: Callable[[Op, BaseException], BaseException], pause: Callable[[], float]
    ) -> None:
        self._append = append
        self._translate = translate
        self._pause = pause
        self._loop = asyncio.get_running_loop()
        self._waiting: list[tuple[Op, asyncio.Future[list[Grant]]]] = []
        self._under_way = 0
        self._timer: asyncio.Handle | None = None
        self.idle = asyncio.Event()
        """Nothing is proposed or under way."""
        self.idle.set()

    def propose(self, op: Op) -> asyncio.Future[list[Grant]]:
        """See `KafkaWagon.propose`."""
        done: asyncio.Future[list[Grant]] = self._loop.create_future()
        self._waiting.append((op, done))
        self.idle.clear()
        if not self._under_way and self._timer is None:
            self._timer = self._loop.call_soon(self._flush)
        return done

    def _flush(self) -> None:
        self._timer = None
        waiting, self._waiting = self._waiting, []
        groups = [waiting[first : first + _AT_ONCE] for first in range(0, len(waiting), _AT_ONCE)]
        self._under_way = len(groups)
        for group in groups:
            appended = self._append([op for op, _ in group])
            appended.add_done_callback(lambda appended, group=group: self._tell(group, appended))  # type: ignore[misc]

    def _tell(self, group: list[tuple[Op, asyncio.Future[list[Grant]]]], appended: asyncio.Future[Any]) -> None:
        error = appended.exception()
        for i, (op, done) in enumerate(group):
            if done.done():
                continue
            if error is None:
                done.set_result(appended.result()[i][1])
            else:
                done.set_exception(self._translate(op, error))
                done.exception()
        self._under_way -= 1
        if self._under_way:
            return
        if self._waiting:
            pause = self._pause()
            self._timer = self._loop.call_later(pause, self._flush) if pause else self._loop.call_soon(self._flush)
        else:
            self.idle.set()
