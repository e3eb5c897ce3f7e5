"""Publishes the events of the timetable that are due. Any number of processes may run it at once."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from functools import partial

from ..contracts.manifest import Manifest
from ..contracts.timetable import CHANNEL, Due, Timetable
from ..display.text import said
from ..errors import EventRefused, PublishError
from ..event import Event
from ..policy.leading import LONGEST
from ..policy.pace import CALM
from .dead_letters import bury, died
from .publish_queue import MOST_BYTES
from .runtime import Runtime, Steps
from .switcher import Switcher
from .tasks import to_the_end
from .train_state import TrainState, no_publishing

_EVERY = 0.5
"""Seconds between two looks at the timetable, so that events of other processes are on time. Sooner if something is due
sooner; `LONGEST` where nothing waits and nothing happens, until a sign of life ends that pause."""
_LEASE = 10.0
"""Seconds for which a process claims due events. If it is killed, they are late by as long."""
_TO_PUBLISH = 8.0
"""Seconds that it then has to publish them; less than the lease, or another process would publish them too."""
_TO_THE_END = 2.0
"""Seconds that a publish which has begun still has when its process stops; else its events would be published twice."""
_MOST = 500
"""The most events in one claim."""
_DEFECTS = 3
"""After this many failures of a driver the event itself counts as the cause."""


def publishes(manifest: Manifest) -> bool:
    """Whether the train accepts events now; while it does not, they wait in the timetable, where they can be
    cancelled."""
    return manifest.active is not None and not manifest.refusing and no_publishing(manifest) is None


class DueEvents:
    """Moves events from a train's timetable to its active wagon.

    They are claimed, published with their ids, and removed. A process that dies in between leaves claims that expire:
    then another one publishes these events again, with the same ids.
    """

    def __init__(
        self,
        runtime: Runtime,
        state: TrainState,
        switcher: Switcher,
        timetable: Timetable,
    ) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._state = state
        self._switcher = switcher
        self._timetable = timetable
        self._pulse = runtime.pulse
        self._defects: dict[str, int] = {}
        """By key: how often the broker's driver has failed on the event."""
        self._steps = Steps(runtime)
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look now: something may be due sooner than the next look."""
        self._woken.set()

    async def run(self) -> None:
        """Publish what is due until cancelled. A failure is reported once while it lasts, and nothing is lost by it."""
        while True:
            self._woken.clear()
            pause = _EVERY
            with self._steps.going_on("publishing events that are due"):
                pause = await self._look()
            if pause > 0:
                with suppress(TimeoutError), self._pulse.ending(self._woken) if pause > _EVERY else nullcontext():
                    async with asyncio.timeout(pause):
                        await self._woken.wait()

    async def _look(self) -> float:
        """Publish what is due now. Returns the seconds until the next look."""
        if not publishes(self._state.snapshot.manifest):
            return _EVERY
        asked = asyncio.get_running_loop().time()
        due = await self._timetable.claim(self._train, limit=_MOST, most_bytes=MOST_BYTES, lease=_LEASE)
        if due.events:
            await to_the_end(partial(self._publish, due, asked + _TO_PUBLISH), _TO_THE_END)
            return 0.0
        if due.next_at is None:
            return LONGEST if self._pulse.quiet >= CALM else _EVERY
        return min(_EVERY, max(0.001, due.next_at - due.now))

    # --- what is due -----------------------------------------------------------------------------

    async def _publish(self, due: Due, deadline: float) -> None:
        """Publish the claimed events, and forget them. What can't be published now is due again when its claim ends."""
        left = list(zip(due.keys, due.events, strict=True))
        while left and asyncio.get_running_loop().time() < deadline:
            done, error = len(left), None
            try:
                await self._switcher.publish([event for _, event in left], deadline=deadline)
            except PublishError as e:
                done, error = e.accepted, e
            if done:
                await self._remove(left[:done], due)
            if error is None:
                return
            if not _blames_event(error):
                raise error
            if await self._buried(*left[done], error):
                await self._remove(left[done : done + 1], due)
            left = left[done + 1 :]

    async def _remove(self, done: Sequence[tuple[str, Event]], due: Due) -> None:
        await self._timetable.remove(self._train, [name for name, _ in done], until=due.until)

    async def _buried(self, name: str, event: Event, error: PublishError) -> bool:
        """Put an event that can never be published into the train's dead letters. Returns False if the broker's driver
        failed on it, and it is tried again when its claim ends."""
        if not isinstance(error, EventRefused):
            failures = self._defects[name] = self._defects.pop(name, 0) + 1
            if failures < _DEFECTS:
                return False
        because = f"it was due, and could not be published: {said(error)}"
        _, letter = died(event, event.extensions.get(CHANNEL, ""), 0, because, 0, self._runtime.clock())
        await bury(self._runtime.broker, self._train, letter, self._runtime.settings.publish_timeout)
        self._defects.pop(name, None)
        return True


def _blames_event(error: PublishError) -> bool:
    """Whether this is about the first event that was not accepted; any other error holds for all events."""
    return isinstance(error, EventRefused) or type(error) is PublishError
