"""Schedules: the times at which a train publishes an event by itself (`Train.every`). Pure, but for the package that
reads cron expressions."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Container, Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from hashlib import blake2b
from typing import Any, Protocol

import msgspec

from .display.text import said
from .errors import UsageError
from .event import uuid7
from .times import FARTHEST
from .values import class_name, in_seconds, is_a, plain, real, shown

_LEAST = 1.0
"""The shortest time between two ticks, in seconds."""
_NAME_MOST = 100


class Ticks(Protocol):
    """The times of a schedule, in seconds since the epoch."""

    def last(self, now: float) -> float:
        """The latest tick that is not after `now`."""
        ...

    def next(self, now: float) -> float:
        """The first tick after `now`; infinity if there is none."""
        ...


class Schedule(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule of a train: at each tick, what `function` returns is published. `channel` is the inner channel; empty:
    the ingress."""

    name: str
    stated: str
    """When, for people: `*/5 * * * * (Europe/Madrid)`, or `every 300 s`."""
    ticks: Ticks
    function: Callable[..., Any]
    wants_tick: bool
    channel: str = ""

    def event_id(self, train: str, tick: float) -> str:
        """The id of a tick's event: the same in every process."""
        digest = blake2b(f"{train}\0{self.name}\0{tick!r}".encode(), digest_size=10).digest()
        return uuid7(int(tick * 1000), digest)


def make_schedule(when: Any, function: Any, *, tz: Any, name: str | None, channel: str) -> Schedule:
    """The schedule that `Train.every` declares. Raises UsageError."""
    if not callable(function):
        raise UsageError(f"every: {shown(function)} is no function: write `@train.every(…)` above `def …():`")
    name = getattr(function, "__name__", "") if name is None else name
    known = plain(name)
    if known is None or not known.isidentifier() or not known.isascii() or len(known) > _NAME_MOST:
        raise UsageError(f"every: name={shown(name)}: give the schedule a name of letters, digits and '_'")
    try:
        parameters = inspect.signature(function).parameters.values()
    except Exception:  # noqa: BLE001 - none can be seen, or a user's object raises what it likes
        parameters = {}.values()
    needed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    if len(needed) > 1 or any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        raise UsageError(f"every: {known} must take no argument, or one: the time of the tick")
    ticks, stated = _ticks(when, tz)
    return Schedule(
        name=known,
        stated=stated,
        ticks=ticks,
        function=function,
        wants_tick=bool(needed),
        channel=channel,
    )


def check_channels(schedules: Iterable[Schedule], channels: Container[str]) -> None:
    """Each schedule's inner channel must be among those with a handler. Raises UsageError."""
    for schedule in schedules:
        if schedule.channel and schedule.channel not in channels:
            raise UsageError(f"schedule {schedule.name}: channel {schedule.channel!r} has no handler")


def _ticks(when: Any, tz: Any) -> tuple[Ticks, str]:
    """The times, and how to say them."""
    if is_a(when, str):
        expression, zone = str.__str__(when), _zone(tz)
        return Cron(expression, zone), f"{expression} ({_named(zone)})"
    if tz is not None:
        raise UsageError("every: tz= is for cron expressions; ticks of an interval are counted from 1970 (UTC)")
    if is_a(when, timedelta):
        seconds = real("every", timedelta.total_seconds(when))
    elif is_a(when, int, float):
        seconds = in_seconds("every (seconds)", when)
    else:
        raise UsageError(
            f"every: give a cron expression ('*/5 * * * *'), seconds or a timedelta, not a {class_name(when)}"
        )
    if seconds > FARTHEST:
        raise UsageError(f"every: {shown(when)} is more than ten years")
    if seconds < _LEAST:
        raise UsageError(f"every: the shortest interval is {_LEAST:g} s, not {shown(when)}")
    return Interval(seconds), f"every {seconds:.15g} s"


def _zone(tz: Any) -> tzinfo:
    if tz is None:
        return UTC
    if issubclass(type(tz), tzinfo):
        found: tzinfo = tz
        return found
    from zoneinfo import ZoneInfo  # which reads the interpreter's configuration: not at each import of eventwagon

    try:
        return UTC if tz == "UTC" else ZoneInfo(tz)
    except Exception as e:
        raise UsageError(
            f"every: tz={shown(tz)} is no time zone that this system knows (say 'Europe/Madrid'; pip install tzdata if "
            "it has none)"
        ) from e


def _named(zone: tzinfo) -> str:
    """The zone's name; that of its class if it is a user's own, which may raise anything."""
    try:
        return plain(str(zone)) or class_name(zone)
    except Exception:  # noqa: BLE001
        return class_name(zone)


class Interval:
    """A tick every so many seconds, counted from 1970 (UTC), so that all processes agree."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def last(self, now: float) -> float:
        return math.floor(now / self._seconds) * self._seconds

    def next(self, now: float) -> float:
        return (math.floor(now / self._seconds) + 1) * self._seconds


class Cron:
    """The times that a cron expression names in a time zone: five fields, or six with seconds first. Raises
    UsageError."""

    def __init__(self, expression: str, zone: tzinfo) -> None:
        try:
            from cronsim import CronSim, CronSimError
        except ModuleNotFoundError:
            raise UsageError(
                "every: cron expressions need a package that is not installed (cronsim): pip install 'eventwagon[cron]'"
            ) from None
        self._make, self._expression, self._zone = CronSim, expression, zone
        try:
            next(CronSim(expression, datetime(2024, 1, 1, tzinfo=zone)))
        except (CronSimError, ValueError, RecursionError, OverflowError) as e:
            raise UsageError(f"every: {shown(expression)} is no cron expression: {e}") from None
        except StopIteration:
            raise UsageError(f"every: {shown(expression)} names no day that there will ever be") from None
        except Exception as e:
            raise UsageError(f"every: tz={shown(zone)} fails: {said(e)}") from e

    def last(self, now: float) -> float:
        """See Ticks. Minus infinity if there is none in the last fifty years."""
        before = self._make(self._expression, self._at(math.floor(now) + 1), reverse=True)
        for moment in before:
            if (tick := moment.timestamp()) <= now:
                return tick
        return -math.inf

    def next(self, now: float) -> float:
        for moment in self._make(self._expression, self._at(math.floor(now))):
            if (tick := moment.timestamp()) > now:
                return tick
        return math.inf

    def _at(self, now: float) -> datetime:
        return datetime.fromtimestamp(now, self._zone)
