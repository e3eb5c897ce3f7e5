"""What the demo takes of the machine, and whether the machine kept up: compressed time compresses all but the code."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from ...lab.queueing import percentile

_EVERY = 0.05
"""Real seconds between two looks at how late the event loop is."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Real seconds, except the last two."""

    seconds: float = 0.0
    """How long it took."""
    cpu: float = 0.0
    """CPU time of the process."""
    cores: int = 1
    """Of the machine, as far as this process may use them."""
    late_p99: float = 0.0
    """How late the event loop was, in seconds of the burst: 99 in 100 looks found no more."""
    late_most: float = 0.0

    @property
    def busy(self) -> float:
        """Cores in use on average."""
        return self.cpu / self.seconds if self.seconds else 0.0


class Machine:
    """Measures while something runs."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._late: list[float] = []
        self._began = self._cpu = 0.0
        self.usage = Usage()

    @asynccontextmanager
    async def measured(self) -> AsyncIterator[None]:
        """While the body runs; afterwards `usage` says what it took."""
        self._began, self._cpu = time.monotonic(), time.process_time()
        async with asyncio.TaskGroup() as tasks:
            looking = tasks.create_task(self._look())
            try:
                yield
            finally:
                looking.cancel()
        self.usage = self.so_far()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _EVERY * self._speed
            await asyncio.sleep(_EVERY * self._speed)
            self._late.append(max(0.0, loop.time() - due))

    def so_far(self) -> Usage:
        """What it has taken until now."""
        return Usage(
            seconds=max(1e-9, time.monotonic() - self._began),
            cpu=time.process_time() - self._cpu,
            cores=_cores(),
            late_p99=percentile(self._late, 0.99),
            late_most=max(self._late, default=0.0),
        )


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
