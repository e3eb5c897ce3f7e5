"""Records the ticks of a train's schedules in its timetable, each with its event. Any number of processes may do it at
once: of those that record a tick one succeeds."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime

import msgspec

from ..contracts.timetable import Timetable, for_channel
from ..errors import Unavailable
from ..event import Event, checked, fitting
from ..payload import encode, type_name
from ..schedules import Schedule
from .bulkhead import is_ours
from .due_events import publishes
from .forks import forks, leave
from .middleware import Middleware, publish_through
from .run_state import RunState
from .runtime import Runtime, Steps, report_failure, why_failed
from .threads import Threads
from .train_state import TrainState

_EVERY = 0.5
"""Seconds between two looks at the timetable's clock; sooner if a tick comes sooner."""
_LEAST = 0.001
_AGAIN = 5.0
"""Seconds before a schedule's function that failed is called again."""


class Ticking:
    """Calls the functions of a train's schedules when their ticks come, each in a task of its own, and keeps their
    events. `on_recorded` is called when there may be one that is due."""

    def __init__(
        self,
        runtime: Runtime,
        state: TrainState,
        timetable: Timetable,
        schedules: Mapping[str, Schedule],
        source: str,
        *,
        around: Sequence[Middleware] = (),
        on_recorded: Callable[[], object],
    ) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._state = state
        self._timetable = timetable
        self._schedules = list(schedules.values())
        self._source = source
        self._around = around
        """The train's middleware around publishing, the outermost first."""
        self._on_recorded = on_recorded
        self._ticks: dict[str, float] = {}
        """By schedule: its next tick, by the timetable's clock."""
        self._busy: set[str] = set()
        """Schedules whose tick is being recorded."""
        self._calls = {name: RunState() for name in schedules}
        """By schedule: the latest call of its function, if that is a plain one."""
        self._steps = Steps(runtime)
        self._threads = Threads()

    async def run(self) -> None:
        """Record the ticks that come until cancelled. A failure is reported, and holds up no other schedule."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    pause = _EVERY
                    with self._steps.going_on("looking for ticks"):
                        pause = await self._look(tasks)
                    await asyncio.sleep(pause)
        finally:
            self._busy.clear()
            self._threads.end()

    async def _look(self, tasks: asyncio.TaskGroup) -> float:
        """Begin to record the ticks that have come. Returns the seconds until the next look."""
        if not publishes(self._state.snapshot.manifest):
            return _EVERY
        now = await self._timetable.now(self._train)
        waiting = [schedule for schedule in self._schedules if schedule.name not in self._busy]
        for schedule in waiting:
            if now >= self._ticks.get(schedule.name, -math.inf):
                self._busy.add(schedule.name)
                tasks.create_task(self._tick(schedule, now))
        ahead = (self._ticks.get(schedule.name, math.inf) - now for schedule in waiting)
        return min([_EVERY, *(max(_LEAST, seconds) for seconds in ahead if seconds > 0)])

    async def _tick(self, schedule: Schedule, now: float) -> None:
        try:
            await self._record(schedule, schedule.ticks.last(now))
            self._ticks[schedule.name] = schedule.ticks.next(now)
        except BaseException as e:
            if is_ours(e):
                raise
            self._ticks[schedule.name] = now + _AGAIN
            step = f"schedule {schedule.name}"
            report_failure(self._runtime, step, why_failed(self._runtime, step, e))
        finally:
            self._busy.discard(schedule.name)

    async def _record(self, schedule: Schedule, tick: float) -> None:
        """Record the tick with its event, unless another process has done so. A new schedule begins with its next
        tick."""
        series, timetable = schedule.name, self._timetable
        latest = await timetable.latest(self._train, series)
        if latest is not None and latest >= tick:
            return
        event = None
        if latest is not None:
            async with asyncio.timeout(self._runtime.settings.handler_timeout):
                event = await self._event(schedule, tick)
                if event is not None and self._around:
                    event = await self._passed(event)
        if event is not None:
            event = for_channel(event, schedule.channel)
        await timetable.tick(self._train, series, tick, event)
        self._on_recorded()

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
        most = self._runtime.publishing.now.max_event_bytes
        return fitting(checked(event, most), most)

    async def _passed(self, event: Event) -> Event | None:
        """The event as the middleware passes it on; None if it does not. The tick stays its time."""
        found: list[Event] = []

        async def keep(passed_on: Sequence[Event]) -> None:
            found.extend(passed_on)

        await publish_through(self._around, keep, [event], self._runtime.publishing.now.max_event_bytes)
        return msgspec.structs.replace(found[0], time=event.time) if found else None

    async def _returned(self, schedule: Schedule, tick: float) -> object:
        """What its function returns or raises. A plain function runs in a thread that does not keep the program from
        ending; while it goes on there, it is not called again."""
        arguments = (datetime.fromtimestamp(tick, UTC),) if schedule.wants_tick else ()
        if inspect.iscoroutinefunction(schedule.function):
            return await _unforked(schedule.function(*arguments))
        call = self._calls[schedule.name]
        if call.thread is not None and not call.thread.over:
            raise Unavailable("the last call of its function has not ended yet")
        result, error = await self._threads.run(call, schedule.function, *arguments)
        if error is not None:
            raise error
        return await result if inspect.isawaitable(result) else result


async def _unforked(call: Awaitable[object]) -> object:
    """What it returns or raises; in a fork that it has made, the process ends."""
    before = forks()
    try:
        result = await call
    except BaseException as e:
        if forks() != before:
            leave(e)
        raise
    if forks() != before:
        leave(None)
    return result
