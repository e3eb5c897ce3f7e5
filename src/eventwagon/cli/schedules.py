"""Shows a train's schedules: the last tick of each, and the next."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import msgspec
from rich.text import Text

from ..connection import Connection
from ..display.text import count, local_time
from ..schedules import Schedule
from .console import span, words

_SOON = 5.0
"""Seconds within which a tick that has come is recorded as a rule."""


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


async def schedules_of(c: Connection, now: float) -> list[ScheduleView]:
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


def schedule_lines(schedules: Sequence[ScheduleView], now: float, most: int | None = None) -> list[Text]:
    """A line for each schedule; with `most`, for so many of them."""
    hint = (
        "this program has no such schedule"
        if any(each.when is not None for each in schedules)
        else "when the next comes its program knows: name it as module:attribute"
    )
    shown = [_line(each, now, hint) for each in schedules[:most]]
    if left_out := len(schedules) - len(shown):
        shown.append(Text(f"and {count(left_out, 'schedule')} more", style="dim"))
    return shown


def _line(schedule: ScheduleView, now: float, hint: str) -> Text:
    into = f" to {schedule.channel}" if schedule.channel else ""
    rule = f", {schedule.when}" if schedule.when is not None else ""
    last = (
        "no tick is on record"
        if schedule.last is None
        else f"last tick {local_time(schedule.last)}, {_ago(schedule.last, now)}"
    )
    if schedule.when is None:
        following = hint
    elif schedule.next is None:
        following = "there is no next one"
    else:
        following = f"next {local_time(schedule.next)}, in {span(max(0.0, schedule.next - now))}"
    text = f"schedule {schedule.name}{into}{rule}: {last}; {following}"
    if schedule.missed is None or now - schedule.missed < _SOON:
        return words(text)
    return words(
        f"{text}; the tick of {local_time(schedule.missed)}, {_ago(schedule.missed, now)}, is missing", "yellow"
    )


def _ago(at: float, now: float) -> str:
    return f"{span(max(0.0, now - at))} ago"
