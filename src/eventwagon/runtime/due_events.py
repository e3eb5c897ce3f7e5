"""Publishes the events of the timetable that are due, and those of the train's schedules. Any number of processes may
run it at once."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

import msgspec

from ..contracts.timetable import CHANNEL, Due, Timetable
from ..display.text import said
from ..errors import EventRefused, PublishError
from ..event import DEAD, Channel, Event, checked, fitting
from ..payload import encode, type_name
from ..schedules import Schedule
from .bulkhead import is_ours
from .dead_letters import died, smaller
from .later import for_channel
from .middleware import Middleware, publish_through
from .publish_queue import MOST_BYTES
from .run_state import RunState
from .runtime import Runtime, report_failure, why_failed
from .switcher import Switcher
from .tasks import to_the_end
from .threads import Threads
from .train_state import TrainState

_EVERY = 0.5
"""Seconds between two looks at the timetable, so that events of other processes are on time. Sooner if something is due
sooner."""
_LEASE = 10.0
"""Seconds for which a process claims due events. If it is killed, they are late by as long."""
_TO_PUBLISH = 8.0
"""Seconds that it then has to publish them; less than the lease, or another process would publish them too."""
_TO_THE_END = 2.0
"""Seconds that a publish which has begun still has when its process stops; else its events would be published twice."""
_MOST = 500
"""The most events in one claim."""
_AGAIN = 5.0
"""Seconds before a schedule's function that failed is called again."""
_DEFECTS = 3
"""After this many failures of a driver the event itself counts as the cause."""


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
        schedules: Mapping[str, Schedule],
        source: str,
        around: Sequence[Middleware] = (),
    ) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._state = state
        self._switcher = switcher
        self._timetable = timetable
        self._schedules = list(schedules.values())
        self._source = source
        self._around = around
        """The train's middleware around publishing, the outermost first."""
        self._ticks: dict[str, float] = {}
        """By schedule: its next tick, by the timetable's clock."""
        self._defects: dict[str, int] = {}
        """By key: how often the broker's driver has failed on the event."""
        self._failing = False
        self._threads = Threads()
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look now: something may be due sooner than the next look."""
        self._woken.set()

    async def run(self) -> None:
        """Publish what is due until cancelled. A failure is reported once while it lasts, and nothing is lost by it."""
        try:
            await self._run()
        finally:
            self._threads.end()

    async def _run(self) -> None:
        while True:
            self._woken.clear()
            pause = _EVERY
            try:
                pause = min(_EVERY, await self._look())
                self._failing = False
            except BaseException as e:
                if is_ours(e):
                    raise
                step = "publishing events that are due"
                why = why_failed(self._runtime, step, e)
                if not self._failing:
                    report_failure(self._runtime, step, why)
                self._failing = True
            if pause > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._woken.wait()

    async def _look(self) -> float:
        """Publish what is due now. Returns the seconds until something else is."""
        if not self._publishes:
            return _EVERY
        if self._schedules:
            await self._record_ticks(await self._timetable.now(self._train))
        asked = asyncio.get_running_loop().time()
        due = await self._timetable.claim(self._train, limit=_MOST, most_bytes=MOST_BYTES, lease=_LEASE)
        if due.events:
            await to_the_end(partial(self._publish, due, asked + _TO_PUBLISH), _TO_THE_END)
            return 0.0
        times = [*self._ticks.values(), *([] if due.next_at is None else [due.next_at])]
        return max(0.001, min(times, default=math.inf) - due.now)

    @property
    def _publishes(self) -> bool:
        """Whether the train accepts events now; while it does not, they wait here, where they can be cancelled."""
        manifest = self._state.snapshot.manifest
        paused = manifest.paused is not None and manifest.paused.publishing
        return manifest.active is not None and manifest.removal is None and not paused and not manifest.refusing

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
        await self._bury(letter)
        self._defects.pop(name, None)
        return True

    async def _bury(self, letter: Event) -> None:
        kept, broker = Channel(self._train, 0, DEAD), self._runtime.broker
        while True:
            try:
                async with asyncio.timeout(self._runtime.settings.publish_timeout):
                    await broker.create(kept)
                    await broker.publish(kept, [letter])
                return
            except EventRefused:
                less = smaller(letter, cut=True)
                if less is None:
                    raise
                letter = less

    # --- schedules -------------------------------------------------------------------------------

    async def _record_ticks(self, now: float) -> None:
        """Record the ticks that have come. One that fails is reported, and holds up no other."""
        for schedule in self._schedules:
            if now < self._ticks.get(schedule.name, -math.inf):
                continue
            try:
                await self._record(schedule, schedule.ticks.last(now))
                self._ticks[schedule.name] = schedule.ticks.next(now)
            except BaseException as e:
                if is_ours(e):
                    raise
                self._ticks[schedule.name] = now + _AGAIN
                step = f"schedule {schedule.name}"
                report_failure(self._runtime, step, why_failed(self._runtime, step, e))

    async def _record(self, schedule: Schedule, tick: float) -> None:
        """Record the tick with its event, unless another process has done so. A new schedule begins with its next
        tick."""
        series, timetable = schedule.name, self._timetable
        latest = await timetable.latest(self._train, series)
        if latest is not None and latest >= tick:
            return
        async with asyncio.timeout(self._runtime.settings.handler_timeout):
            event = None if latest is None else await self._event(schedule, tick)
            if event is not None and self._around:
                event = await self._passed(event)
        if event is not None:
            event = for_channel(event, schedule.channel)
        await timetable.tick(self._train, series, tick, event)

    async def _passed(self, event: Event) -> Event | None:
        """The event as the middleware passes it on; None if it does not. The tick stays its time."""
        found: list[Event] = []

        async def keep(passed_on: Sequence[Event]) -> None:
            found.extend(passed_on)

        await publish_through(self._around, keep, [event], self._runtime.settings.max_event_bytes)
        return msgspec.structs.replace(found[0], time=event.time) if found else None

    async def _returned(self, schedule: Schedule, tick: float) -> object:
        """What its function returns or raises. A plain function runs in a thread that does not keep the program from
        ending."""
        arguments = (datetime.fromtimestamp(tick, UTC),) if schedule.wants_tick else ()
        if inspect.iscoroutinefunction(schedule.function):
            return await schedule.function(*arguments)
        result, error = await self._threads.run(RunState(), schedule.function, *arguments)
        if error is not None:
            raise error
        return await result if inspect.isawaitable(result) else result

    async def _event(self, schedule: Schedule, tick: float) -> Event | None:
        """The event of this tick; None if its function returns None."""
        payload = await self._returned(schedule, tick)
        if payload is None:
            return None
        handler = self._runtime.handlers.get(schedule.channel)
        data, content_type = handler.encode(payload) if handler else encode(payload)
        event = Event(
            schedule.event_id(self._train, tick),
            type_name(payload),
            self._source,
            tick,
            data,
            None,
            content_type,
        )
        most = self._runtime.settings.max_event_bytes
        return fitting(checked(event, most), most)


def _blames_event(error: PublishError) -> bool:
    """Whether this is about the first event that was not accepted; any other error holds for all events."""
    return isinstance(error, EventRefused) or type(error) is PublishError
