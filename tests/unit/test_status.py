"""What `status` prints: the reason for a wagon's state, and a table that fits the terminal."""

from __future__ import annotations

import io
from datetime import datetime, timedelta, tzinfo

import msgspec
import pytest
from rich.console import Console

from eventwagon import Train
from eventwagon.cli.status import table
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Wagon
from eventwagon.contracts.registry import Member, bridge_member
from eventwagon.views.following import values_of
from eventwagon.views.schedules import ScheduleView, viewed
from eventwagon.views.train import View, reason

from .plans import NOW, manifest, wagon

LONG = "a new event would wait 1.24 s (103 events before it, 83 settled per second); the mark is 1.09 s (…)"
TRIED = "not ready within 30 s: no process works"
COLUMNS = ("wagon", "state", "taken", "waiting", "in flight", "workers", "age")


def view(wagons: int, why: str = LONG) -> View:
    one = {
        "number": 1,
        "name": "signups_v1",
        "state": "draining",
        "published": 10_000,
        "limit": 10_000,
        "waiting": 4_821,
        "in_flight": 8,
        "settled": 5_171,
        "inside": 12,
        "dead": 0,
        "lost": 0,
        "workers": 8,
        "revision": "",
        "asleep": False,
        "paused": "",
        "age": 75.0,
        "reason": why,
        "opened_at": 0.0,
        "sealed_at": None,
        "drained_at": None,
    }
    words = ("asked", "watched", "refusing", "at_risk", "stepped_back", "paused", "removal", "url")
    rest = {
        "train": "signups",
        "at": 0.0,
        "version": 1,
        "dead": 0,
        "dead_lost": 0,
        "members": [],
        "declared": {"limit": "Wait(2)", "workers": "Workers(total=8)"},
        "elastic_by_default": False,
        "channels": [],
        "open": {},
        "at_budget": {},
        "threatened": [],
        "crashed": [],
        "removed": [],
        "wagons": [{**one, "number": n, "name": f"signups_v{n}"} for n in range(1, wagons + 1)],
    }
    return msgspec.convert({**dict.fromkeys(words, ""), **rest}, View)


def printed(shown: View, width: int, high: int | None = None) -> list[str]:
    console = Console(file=io.StringIO(), width=width, height=high or 25)
    with console.capture() as capture:
        console.print(table(shown, console, high=high))
    return capture.get().splitlines()


@pytest.mark.parametrize(
    "text", ["1j", "1e999", "{1}", "b'x'", "inf", "9" * 30, "9" * 5000, "[" * 9000, "\x00", "Wait(2)", "kept"]
)
def test_what_is_no_value_in_json_stays_as_it_is_declared(text: str) -> None:
    assert values_of({"a": text, "b": "2"}) == {"a": text, "b": 2}


def test_a_train_that_only_publishers_know_has_no_limit_to_show() -> None:
    head = printed(msgspec.structs.replace(view(1), declared={}), 80)[0]
    assert head == "signups  not declared: no program with handlers has run"


def test_workers_of_an_orchestrator_work() -> None:
    members = [Member(name="o", roles=("observe",)), *(Member(name=f"pod-{n}", roles=("serve",)) for n in range(2))]
    head = printed(msgspec.structs.replace(view(1), members=members), 80)[1]
    assert head == "3 processes (1 observing, 2 working), 0 dead letters"


def test_a_bridge_that_is_held_up_is_told_and_its_process_counted_once() -> None:
    held_up = Member(
        name=bridge_member("b", "redis://h/orders"),
        roles=("bridge",),
        trouble="the bridge from x is held up: y",
    )
    members = [Member(name="b", roles=("observe",)), held_up]
    lines = printed(msgspec.structs.replace(view(1), members=members), 140)
    assert lines[1] == "1 process (1 observing, 0 working, 1 bridging), 0 dead letters"
    assert any("the bridge from x is held up: y" in line for line in lines)


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_a_reason_is_never_cut_and_the_columns_have_their_names(width: int) -> None:
    lines = printed(view(3), width)
    assert all(len(line.rstrip()) <= width for line in lines)
    assert " ".join(lines).replace("  ", " ").count("103 events before it") == 3
    assert "…" not in "".join(lines).replace("(…)", "")
    head = next(line for line in lines if line.startswith("wagon  "))
    assert set(COLUMNS) <= {name.strip() for name in head.split("  ")}


def test_short_reasons_stand_in_the_row() -> None:
    lines = printed(view(2, "takes the new events"), 110)
    assert len([line for line in lines if line.rstrip().endswith("takes the new events")]) == 2


@pytest.mark.parametrize("width", [80, 200])
def test_a_pause_is_told_once(width: int) -> None:
    pause = "1.6 s ago by ada@desk: the van is full"
    found = view(2, "takes the new events")
    one = msgspec.structs.replace(found.wagons[0], paused=pause, reason=f"paused {pause}")
    text = "\n".join(printed(msgspec.structs.replace(found, wagons=[one, found.wagons[1]]), width))
    assert text.count("the van is full") == 1
    assert f"signups_v1 was paused {pause}" in text
    train = [msgspec.structs.replace(each, paused=pause, reason="paused with the train") for each in found.wagons]
    text = "\n".join(printed(msgspec.structs.replace(found, paused=pause, wagons=train), width))
    assert (text.count("the van is full"), text.count("paused with the train")) == (1, 2)


@pytest.mark.parametrize(("width", "high"), [(80, 24), (140, 40), (200, 10)])
def test_it_fits_the_height_and_says_what_was_left_out(width: int, high: int) -> None:
    lines = printed(view(32), width, high)
    assert len(lines) <= high
    shown = [line.split()[0] for line in lines if " draining " in line]
    assert shown[0] == "signups_v1"
    assert shown[-1] == "signups_v32"
    assert f"and {32 - len(shown)} wagons between these" in "".join(lines)
    assert len(printed(view(2), width, high)) < high


@pytest.mark.parametrize(
    ("one", "said"),
    [
        (wagon(1, State.PROVISIONING, opened_because="a spare is missing"), "opened: a spare is missing"),
        (wagon(1, State.PROVISIONING, opened_because="a spare is missing", trouble=TRIED), TRIED),
        (wagon(1, State.READY, opened_because="a spare is missing", trouble=TRIED), "opened: a spare is missing"),
        (wagon(1, State.ACTIVE, opened_because="a spare is missing", trouble=TRIED), "takes the new events"),
        (wagon(1, State.ACTIVE, found_sealed=True), "found sealed: new events wait for the next wagon"),
        (wagon(1, State.DRAINING, opened_because="a spare", trouble=TRIED, closed_because=LONG), f"cut off: {LONG}"),
        (wagon(1, State.DRAINING, active_at=None, closed_because="not needed"), "discarded: not needed"),
        (wagon(1, State.DRAINING, active_at=None, closed_because="replay t/7 of t_v2", replay=7), "replay t/7 of t_v2"),
        (wagon(1, State.FAILED, opened_because="a spare", trouble=TRIED), TRIED),
    ],
)
def test_the_reason_is_that_of_the_present_state(one: Wagon, said: str) -> None:
    assert reason(manifest(one), one, NOW) == said


def test_workers_that_follow_the_traffic_by_default_are_shown_as_such() -> None:
    found = msgspec.structs.replace(view(1), elastic_by_default=True)
    text = "\n".join(printed(found, 120))
    assert "Workers(each=Elastic(2, 64)) by default" in text
    assert "Workers(total=8)" not in text


@pytest.mark.parametrize("width", [57, 60, 70])
def test_a_narrow_terminal_leaves_columns_out_and_cuts_no_name(width: int) -> None:
    lines = printed(view(3, "takes the new events"), width)
    head = next(line for line in lines if line.startswith("wagon  "))
    names = [name.strip() for name in head.split("  ") if name.strip()]
    assert set(names) <= set(COLUMNS)
    assert {"wagon", "state", "taken", "waiting", "age"} <= set(names)
    assert sum("signups_v3" in line for line in lines) == 2


@pytest.mark.parametrize("width", [40, 80, 200])
def test_a_schedule_shows_its_last_tick_and_the_next(width: int) -> None:
    def report() -> None: ...

    train = Train("signups")
    train.every("*/5 * * * *", tz="Europe/Madrid")(report)
    train.every(60, name="hourly", channel="mail")(report)
    shown = msgspec.structs.replace(view(1), at=1000.0, schedules=viewed(train.schedules, {"report": 300.0}, 1000.0))
    lines = printed(shown, width)
    assert all(len(line.rstrip()) <= width for line in lines)
    said = " ".join(" ".join(lines).split())
    assert "schedule report, */5 * * * * (Europe/Madrid): last tick 1970-01-01 " in said
    assert ", 12 min ago; next 1970-01-01 " in said
    assert ", in 200 s; the tick of 1970-01-01 " in said or ", in 3 min; the tick of 1970-01-01 " in said
    assert "is missing" in said
    assert "schedule hourly to mail, every 60 s: no tick is on record; next 1970-01-01 " in said


def test_a_schedule_that_is_only_on_record() -> None:
    (known,) = viewed({}, {"report": 300.0}, 1000.0)
    assert (known.name, known.when, known.last, known.next, known.missed) == ("report", None, 300.0, None, None)
    shown = msgspec.structs.replace(view(1), at=1000.0, schedules=[known])
    assert "name it as module:attribute" in " ".join(printed(shown, 200))


def test_many_schedules_leave_room_for_the_wagons() -> None:
    schedules = [ScheduleView(name=f"s{n}", when=None, last=0.0) for n in range(50)]
    lines = printed(msgspec.structs.replace(view(2), schedules=schedules), 200, 24)
    assert "and 44 schedules more" in "".join(lines)
    assert len(lines) <= 24
    assert len(printed(msgspec.structs.replace(view(2), schedules=schedules), 200)) > 50


def nothing() -> None: ...


class Broken(tzinfo):
    """A zone that works at declaration only."""

    fails = False

    def utcoffset(self, _: datetime | None) -> timedelta:
        if self.fails:
            raise ZeroDivisionError
        return timedelta(0)

    def dst(self, _: datetime | None) -> timedelta:
        return timedelta(0)

    def tzname(self, _: datetime | None) -> str:
        return "broken"

    def __str__(self) -> str:
        raise ZeroDivisionError


def test_a_zone_that_fails_hides_nothing_else() -> None:
    zone, train = Broken(), Train("signups")
    train.every("0 * * * *", tz=zone, name="s")(nothing)
    zone.fails = True
    (found,) = viewed(train.schedules, {"s": 300.0}, 1000.0)
    assert (found.when, found.last, found.next) == ("0 * * * * (Broken)", 300.0, None)
