"""What `status` prints: the reason for a wagon's state, and a table that fits the terminal."""

from __future__ import annotations

import io

import msgspec
import pytest
from rich.console import Console

from eventwagon.cli.status import View, reason, table
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Wagon

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
