"""A train's schedules as data: the last tick of each, and the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import msgspec

from ..schedules import Schedule
from .source import Source


class ScheduleView(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule of a train. Times are in seconds since the epoch, by the store's clock."""

    name: str
    when: str | None
    """When it ticks, as its program declares it; None: the program is not known here, or has no such schedule."""
    channel: str = ""
    """The inner channel of its events; empty: the ingress."""
    last: float | None
    """Its latest tick on record; None: no observer has seen the schedule yet."""
    next: float | None = None
    """Its next tick; None: unknown, or there is none."""
    missed: float | None = None
    """The first tick after the last one, if it has come and is not on record."""


async def schedules_of(c: Source, now: float) -> list[ScheduleView]:
    """The schedules that the program declares, then those that are on record only. `now` is by the store's clock.
    Raises UsageError if nothing keeps events for later, Unavailable, StorageBroken."""
    return viewed(c.train.schedules, await c.ticks(), now)


def viewed(declared: Mapping[str, Schedule], ticks: Mapping[str, float], now: float) -> list[ScheduleView]:
    """The same, from what is on record."""
    of_others = sorted(ticks.keys() - declared.keys())
    return [
        *(_viewed(schedule, ticks.get(schedule.name), now) for schedule in declared.values()),
        *(ScheduleView(name=name, when=None, last=ticks[name]) for name in of_others),
    ]


def _viewed(schedule: Schedule, last: float | None, now: float) -> ScheduleView:
    following = None if last is None else _tick(schedule.ticks.next, last)
    return ScheduleView(
        name=schedule.name,
        when=schedule.stated,
        channel=schedule.channel,
        last=last,
        next=_tick(schedule.ticks.next, now),
        missed=following if following is not None and following <= now else None,
    )


def _tick(ask: Callable[[float], float], now: float) -> float | None:
    """A tick; None if there is none, or the user's time zone fails."""
    try:
        tick = ask(now)
    except Exception:  # noqa: BLE001 - the train is shown all the same
        return None
    return tick if math.isfinite(tick) else None
