"""The list of instruments, and what is counted of facts."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from eventwagon.contracts.facts import (
    WHILE_PAUSED,
    DrainUnproven,
    EventDied,
    EventsLost,
    Fact,
    OpenRefused,
    SealWaits,
    Switched,
    SwitchRefused,
    WagonReady,
)
from eventwagon.metrics import INSTRUMENTS
from eventwagon.metrics import instruments as i
from eventwagon.metrics.counted import counted, why_died


def test_names_are_unique_in_both_worlds_and_well_formed() -> None:
    assert len({each.name for each in INSTRUMENTS}) == len(INSTRUMENTS)
    assert len({each.in_prometheus for each in INSTRUMENTS}) == len(INSTRUMENTS)
    for each in INSTRUMENTS:
        assert re.fullmatch(r"(messaging|eventwagon)(\.[a-z][a-z_]*)+", each.name)
        assert re.fullmatch(r"[a-z][a-z_]*", each.in_prometheus)
        assert each.help.endswith(".")
        assert (each.kind == "histogram") == bool(each.bounds)
        assert list(each.bounds) == sorted(set(each.bounds))


def test_the_conventions_names() -> None:
    assert [each.in_prometheus for each in INSTRUMENTS if each.name.startswith("messaging.")] == [
        "messaging_client_operation_duration_seconds",
        "messaging_client_sent_messages_total",
        "messaging_client_consumed_messages_total",
        "messaging_process_duration_seconds",
    ]


def test_each_label_is_explained_and_none_names_a_wagon() -> None:
    used = {label for each in INSTRUMENTS for label in each.labels}
    assert used == set(i.LABELS)
    assert not [label for label in used if re.search(r"wagon\.(name|number|id)$|^eventwagon\.wagon$", label)]
    assert all(i.TRAIN in each.labels for each in INSTRUMENTS), "every series says whose it is"


def test_reasons_that_are_listed_are_those_that_are_counted() -> None:
    listed = set(re.findall(r"`(\w+)`", i.REFUSALS.help))
    facts: list[Fact] = [
        SwitchRefused(train="t", number=1, pressure=1.0, figures="", because=WHILE_PAUSED),
        SwitchRefused(train="t", number=1, pressure=1.0, figures="", because="the cap of 3 live wagons is reached"),
        SwitchRefused(train="t", number=1, pressure=1.0, figures="", because="the cooldown of 3 s is not over"),
        SwitchRefused(train="t", number=1, pressure=1.0, figures="", because="t_v2 is not ready yet (no room)"),
        SwitchRefused(train="t", number=1, pressure=1.0, figures="", because="anything"),
        OpenRefused(train="t", because="3 in a row never got ready; the next is tried after a pause"),
        SealWaits(train="t", number=1, because=""),
        DrainUnproven(train="t", number=1, because=""),
    ]
    found = [labels[1] for fact in facts for which, labels, _ in counted(fact) if which is i.REFUSALS]
    assert found == [
        "paused",
        "cap",
        "cooldown",
        "next_wagon_not_ready",
        "other",
        "never_ready",
        "stale_publisher",
        "drain_unproven",
    ]
    assert set(found) <= listed


@pytest.mark.parametrize(
    ("because", "reason"),
    [
        ("rejected: no such user", "rejected"),
        ("rejected by its handler", "rejected"),
        ("can't be decoded for handler ship: ValidationError: …", "undecodable"),
        ("its process ended while it handled this event alone", "killed_its_process"),
        ("not finished after handler_timeout=30 s", "timeout"),
        ("ValueError: 7", "ValueError"),
        ("KeyError", "KeyError"),
        ("ValueError: 7 (never retried: dead_on)", "ValueError"),
        ("another task cancelled its handler (3 times)", "other"),
        ("", "other"),
        ("x" * 5000, "other"),
        ("\x1b[31m: red", "other"),
    ],
)
def test_why_an_event_died_in_a_word(because: str, reason: str) -> None:
    assert why_died(because) == reason
    died = EventDied(train="t", number=7, channel="ship", id="1", attempts=1, because=because)
    assert list(counted(died)) == [(i.DEAD_EVENTS, ("t", "t_v{wagon}.ship", reason), 1)]


@pytest.mark.parametrize(
    ("old", "pressure", "because", "cause"),
    [
        (None, 0.0, "the first wagon takes events as soon as its channels do", "first"),
        (1, 1.2, "120 of 100 events taken", "limit"),
        (1, 0.1, "asked for: by hand", "request"),
        (1, 0.1, "a channel of it has disappeared", "trouble"),
    ],
)
def test_the_cause_of_a_switch(old: int | None, pressure: float, because: str, cause: str) -> None:
    switched = Switched(train="t", old=old, new=2, pressure=pressure, because=because)
    assert list(counted(switched)) == [(i.SWITCHES, ("t", cause), 1)]


def test_amounts() -> None:
    assert list(counted(WagonReady(train="t", number=2, seconds=1.5))) == [(i.READY_TIME, ("t",), 1.5)]
    assert list(counted(WagonReady(train="t", number=2, seconds=0.0, again=True))) == []  # it was opened long before
    assert list(counted(EventsLost(train="t", number=2, count=3, total=5))) == [(i.LOST, ("t", "event"), 3)]
    assert list(counted(EventsLost(train="t", number=2, count=None, total=5))) == [(i.LOST, ("t", "event"), 0)]


def test_measuring_imports_no_exporter() -> None:
    code = "import sys, eventwagon.metrics; print(*[m for m in sys.modules if m.startswith(('prometheus', 'opentel'))])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""
