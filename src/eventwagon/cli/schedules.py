"""Shows a train's schedules: the last tick of each, and the next."""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from ..display.text import count, local_time, span
from ..views.schedules import ScheduleView
from .console import words

_SOON = 5.0
"""Seconds within which a tick that has come is recorded as a rule."""


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
