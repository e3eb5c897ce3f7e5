"""Schedules: what `every` takes, and when the ticks are."""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock
from zoneinfo import ZoneInfo

import pytest

from eventwagon import Train, UsageError
from eventwagon.schedules import Cron, Interval


def at(text: str, zone: str = "UTC") -> float:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()


def nothing() -> None: ...


@pytest.mark.parametrize(
    ("when", "says"),
    [
        ("every day", "no cron expression"),
        ("", "no cron expression"),
        ("* * * *", "no cron expression"),
        ("61 * * * *", "no cron expression"),
        ("0 0 30 2 *", "no cron expression"),
        ("\ud800 * * * *", "no cron expression"),
        ("²/5 * * * *", "no cron expression"),
        ("L * * * *", "no cron expression"),
        (0, "must be a number above 0"),
        (-5, "must be a number above 0"),
        (True, "must be a number above 0"),
        (float("nan"), "must be a number"),
        (0.5, "shortest interval"),
        (timedelta(milliseconds=1), "shortest interval"),
        (None, "not a NoneType"),
        (["*"], "not a list"),
    ],
)
def test_what_is_refused(when: Any, says: str) -> None:
    train = Train("t")
    with pytest.raises(UsageError, match=says):
        train.every(when)(nothing)
    assert train.schedules == {}


def test_what_else_is_refused() -> None:
    train = Train("t")
    for tz in ("Mars/Olympus", "", "../../etc/passwd", 5, "\0"):
        with pytest.raises(UsageError, match="no time zone"):
            train.every("* * * * *", tz=tz)(nothing)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="tz= is for cron"):
        train.every(60, tz="UTC")(nothing)
    with pytest.raises(UsageError, match="no function"):
        train.every(60)(5)  # type: ignore[type-var]
    for name in ("", "a b", "a" * 101, "é", 5):
        with pytest.raises(UsageError, match="give the schedule a name"):
            train.every(60, name=name)(nothing)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="give the schedule a name"):
        train.every(60)(lambda: None)
    with pytest.raises(UsageError, match="no argument, or one"):

        @train.every(60)
        def two(a: int, b: int) -> None: ...

    with pytest.raises(UsageError, match="channel name"):
        train.every(60, channel="A B")(nothing)
    train.every(60)(nothing)
    with pytest.raises(UsageError, match="already"):
        train.every(120)(nothing)
    train.every(120, name="other")(nothing)
    assert sorted(train.schedules) == ["nothing", "other"]


def test_without_the_package() -> None:
    with mock.patch.dict(sys.modules, {"cronsim": None}):
        Train("t").every(60)(nothing)
        with pytest.raises(UsageError, match=r"eventwagon\[cron\]"):
            Train("t").every("* * * * *")(nothing)


def test_intervals_are_counted_from_1970() -> None:
    ticks = Interval(300.0)
    assert (ticks.last(1000.0), ticks.next(1000.0)) == (900.0, 1200.0)
    assert (ticks.last(900.0), ticks.next(900.0)) == (900.0, 1200.0)


def test_the_ticks_of_a_cron_expression() -> None:
    ticks = Cron("*/5 * * * *", UTC)
    noon = at("2026-03-01T12:00:00")
    assert (ticks.last(noon), ticks.next(noon)) == (noon, noon + 300)
    assert (ticks.last(noon - 0.001), ticks.next(noon - 0.001)) == (noon - 300, noon)
    assert (ticks.last(noon + 0.001), ticks.next(noon + 0.001)) == (noon, noon + 300)
    seconds = Cron("*/10 * * * * *", UTC)
    assert (seconds.last(noon + 19.5), seconds.next(noon + 19.5)) == (noon + 10, noon + 20)
    yearly = Cron("0 0 29 2 *", UTC)
    assert yearly.last(noon) == at("2024-02-29T00:00:00")
    assert yearly.next(noon) == at("2028-02-29T00:00:00")


MADRID = "Europe/Madrid"


def walked(expression: str, zone: str, start: str, hours: int) -> list[str]:
    """What a process that looks every minute finds: each tick once."""
    ticks, found, latest = Cron(expression, ZoneInfo(zone)), [], at(start, zone)
    for minute in range(hours * 60):
        tick = ticks.last(at(start, zone) + minute * 60.0)
        if tick > latest:
            found.append(datetime.fromtimestamp(tick, ZoneInfo(zone)).isoformat()[:22])
            latest = tick
    return found


def test_when_the_clocks_change() -> None:
    """As cron of Debian does: a time that is skipped comes at the end of the gap; one that comes twice counts once.
    What comes each hour or more often goes by the time that passes."""
    spring, autumn = "2026-03-28T12:00:00", "2026-10-24T12:00:00"
    assert walked("30 2 * * *", MADRID, spring, 24) == ["2026-03-29T03:00:00+02:00"[:22]]
    assert walked("30 2 * * *", MADRID, autumn, 24) == ["2026-10-25T02:30:00+02:00"[:22]]
    assert len(walked("0 * * * *", MADRID, autumn, 24)) == 23
    assert len(walked("0 3 * * *", MADRID, "2026-01-01T12:00:00", 24 * 30)) == 30


def test_each_tick_has_one_id() -> None:
    train = Train("t")
    train.every(60)(nothing)
    schedule = train.schedules["nothing"]
    assert schedule.event_id("t", 60.0) == schedule.event_id("t", 60.0)
    assert len({schedule.event_id("t", 60.0), schedule.event_id("t", 120.0), schedule.event_id("u", 60.0)}) == 3
