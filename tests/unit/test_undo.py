"""What an undo notices of its wagons, and what it leaves alone."""

from __future__ import annotations

import msgspec
import pytest

from eventwagon.cloudevents import BATCH, parts
from eventwagon.contracts.facts import UndoStopped
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, Wagon
from eventwagon.contracts.once import key_of
from eventwagon.contracts.replay import PastEvent, PastEvents, Replay
from eventwagon.contracts.undo import Slice, Undo
from eventwagon.event import LEVEL, MOST_EXTENSIONS, Event, check_extensions, heritage, level_of
from eventwagon.policy.edits import replays_kept
from eventwagon.policy.replays import let_go, run_replays
from eventwagon.policy.slices import marked, undone_of, wagon_gone
from eventwagon.policy.undo import resumed

EVENT = Event("i", "x", "s", 1.0, b"1", None, "application/json", {"trace": "a"})
UNDO = Undo(
    wagon=7, kept=(), slice=Slice(channel="a", count=2), then=(Slice(channel="", count=3),), whole=2, opened=(5,)
)
REPLAY = Replay(number=4, of=PastEvents(wagon=7), count=2, fed=2, wagon=5, why="w", at=1.0, undo=UNDO)
GONE = Wagon(number=5, state=State.REMOVING, opened_at=1.0, ready_at=1.0, replay=4, undoes=7, undo_channel="a")


def train(replay: Replay) -> Manifest:
    active = Wagon(number=1, state=State.ACTIVE, opened_at=0.0, created_at=0.0, turn=1)
    return Manifest(train="t", wagons=(active,), next_number=9, turns=1, replays=(replay,))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"letters_kept": 2}, "2 dead letters"),
        ({"letters_kept": None}, "how many dead letters wagon 5 had is not known"),
        ({"letters_taken": 1}, "dead letters of wagon 5 are gone (1)"),
        ({"letters_lost": 1}, "dead letters of wagon 5 are gone (1)"),
        ({"lost": 2}, "2 events of wagon 5 disappeared"),
        ({"state": State.FAILED, "trouble": "broken"}, "wagon 5 failed: broken"),
        ({"state": State.FAILED, "ready_at": None, "letters_kept": None}, ""),
    ],
)
def test_it_goes_on_only_if_all_are_known_to_be_undone(changes: dict[str, object], why: str) -> None:
    after = wagon_gone(REPLAY, msgspec.structs.replace(GONE, **changes))
    edit = run_replays(train(after), 1.0)
    (replay,) = edit.manifest.replays
    assert replay.undo is not None
    assert why in replay.undo.stopped
    assert bool(replay.undo.stopped) == bool(why)
    assert replay.undo.step == (1 if why else 2)
    assert any(isinstance(f, UndoStopped) for f in edit.facts) == bool(why)
    assert run_replays(edit.manifest, 1.0).facts == () or not why  # told once


def test_a_wagon_that_the_registry_forgot_stops_it() -> None:
    (replay,) = run_replays(train(REPLAY), 1.0).manifest.replays
    assert replay.undo is not None
    assert "forgot t_v5" in replay.undo.stopped


def test_nobody_resumes_what_has_stopped_elsewhere_meanwhile() -> None:
    stopped = run_replays(train(REPLAY), 1.0).manifest
    rest = Slice(channel="a", count=1)
    assert resumed(stopped, 4, rest, "w", "me", step=2).manifest == stopped
    assert resumed(stopped, 99, rest, "w", "me").manifest == stopped
    assert resumed(train(REPLAY), 4, rest, "w", "me").manifest == train(REPLAY)
    (replay,) = resumed(stopped, 4, rest, "w", "me", step=1).manifest.replays
    assert (replay.count, replay.fed, replay.wagon) == (1, 0, 0)


def test_after_a_step_back_the_later_slice_counts() -> None:
    later = msgspec.structs.replace(REPLAY, fed=0, count=3, undo=msgspec.structs.replace(UNDO, step=2))
    for known, there in ((later, REPLAY), (REPLAY, later)):
        (kept,) = replays_kept(train(known), train(there)).replays
        assert kept.undo is not None
        assert (kept.undo.step, kept.fed) == (2, 0)


def test_the_marks_tell_the_handler_and_are_not_inherited() -> None:
    for channel in ("", "a"):
        undo = msgspec.structs.replace(UNDO, slice=Slice(channel=channel, count=1))
        event = marked(EVENT, 3, job="t/4", train="t", undo=undo)
        assert undone_of(event, "t", 7, channel) == (4, 7, channel, 3)
        assert event.extensions == {
            "trace": "a",
            "undo": "t/4",
            "undoof": "t_v7",
            "undochannel": channel or "t",
            "undoattempts": "3",
        }
        assert heritage(event)[2] == {"trace": "a"}
        assert not PastEvents(wagon=5).takes(PastEvent(event, "", "handled", 1)), "it is never replayed"
    spoiled = msgspec.structs.replace(EVENT, extensions={"undo": "nonsense", "undoattempts": "²"})
    assert undone_of(spoiled, "t", 7, "a") == (0, 7, "a", 0)


def test_an_event_with_as_many_attributes_as_may_be_can_be_undone() -> None:
    full = msgspec.structs.replace(EVENT, extensions={f"x{n}": "v" for n in range(MOST_EXTENSIONS)})
    event = marked(full, 1, job="t/4", train="t", undo=UNDO)
    assert check_extensions(event.extensions) == event.extensions


def test_to_once_each_undo_of_an_event_is_another_event() -> None:
    events = [EVENT] + [
        marked(EVENT, 1, job=job, train="t", undo=msgspec.structs.replace(UNDO, slice=Slice(channel=c, count=1)))
        for job in ("t/4", "t/5")
        for c in ("", "a")
    ]
    assert len({key_of("", event) for event in events}) == 5


def test_what_was_stored_of_one_slice_does_not_count_for_the_next() -> None:
    now = msgspec.structs.replace(REPLAY, fed=100, count=600, wagon=6, feeder="me")
    for wagon, fed in ((5, 100), (6, 500)):
        (replay,) = let_go(train(now), 4, "me", wagon, 500).manifest.replays
        assert (replay.feeder, replay.fed) == ("", fed)


@pytest.mark.parametrize(
    ("said", "level"), [("7/2", 2), ("6/2", 0), ("7/", 0), ("7/²", 0), ("7/-1", 0), ("7/" + "9" * 5000, 0), ("", 0)]
)
def test_an_event_says_how_often_its_chain_went_back_in_its_wagon(said: str, level: int) -> None:
    event = msgspec.structs.replace(EVENT, extensions={LEVEL: said})
    assert level_of(event, 7) == level
    assert LEVEL not in heritage(event)[2]


def test_the_events_of_a_batch_are_as_deep_as_the_batch() -> None:
    """A handler may emit a whole batch of CloudEvents: what its events lead to came from the one that emitted it."""
    document = b'[{"specversion":"1.0","id":"a","source":"s","type":"x","chainlevel":"7/1"}]'
    batch = Event("b", "x", "s", 1.0, document, None, BATCH, {LEVEL: "7/3"})
    assert [level_of(part, 7) for part in parts(batch)] == [3]
