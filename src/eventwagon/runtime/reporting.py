"""Reports on the whole train to the process's meter, if this process's observer is the one that does so."""

from __future__ import annotations

import asyncio

from ..policy.figures import figures_of, reporter
from ..policy.seen import Seen
from .observed import Metering
from .runtime import Runtime, Steps

_LATER_EVERY = 5.0
"""Seconds between two looks at the timetable."""


class Reporter:
    """Tells the meter of each look at the train. Of all observers one reports, so that no sum counts a train twice."""

    def __init__(self, runtime: Runtime, metering: Metering) -> None:
        self._runtime = runtime
        self._metering = metering
        self._steps = Steps(runtime)
        self._reports = False
        """Its last report stands. Another observer of this process may report on the train, too, to the same meter."""
        self._later: int | None = None
        self._asked = float("-inf")
        """When the timetable was last asked (the loop's time)."""

    def look(self, seen: Seen, dead_letters: int | None, tasks: asyncio.TaskGroup) -> None:
        """Report on this look, or take back the last report if another process reports now."""
        if reporter(seen.members) not in (self._runtime.name, None):
            self.end()
            return
        now = asyncio.get_running_loop().time()
        if self._runtime.timetable is not None and now - self._asked >= _LATER_EVERY:
            self._asked = now
            tasks.create_task(self._count_later())
        self._reports = True
        with self._steps.going_on("reporting on the train"):
            self._metering.looked(figures_of(seen, dead_letters=dead_letters, later=self._later))

    def end(self) -> None:
        """Take back the last report. Idempotent."""
        if self._reports:
            self._reports = False
            self._metering.looked(None)

    async def _count_later(self) -> None:
        """Beside the looks, which must not wait for it."""
        timetable = self._runtime.timetable
        if timetable is None:
            return
        found = None
        with self._steps.going_on("counting the events for later"):
            async with asyncio.timeout(self._runtime.settings.publish_timeout):
                found = (await timetable.waiting(self._runtime.train)).count
        self._later = found
