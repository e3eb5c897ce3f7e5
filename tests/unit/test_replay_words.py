"""A replay or an undo in one line."""

from __future__ import annotations

from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest
from eventwagon.contracts.replay import PastEvents, Replay
from eventwagon.contracts.undo import Slice, Undo
from eventwagon.views.replays import job_of, replay_in_words
from tests.unit.plans import wagon


def test_an_undo_that_has_stopped_says_what_to_do() -> None:
    undo = Undo(wagon=1, kept=(), whole=3, slice=Slice(channel="mail", count=3), stopped="1 dead letter")
    replay = Replay(number=6, of=PastEvents(wagon=1), count=3, why="prices", at=0.0, undo=undo)
    words = replay_in_words(replay, Manifest(train="shop", replays=(replay,)))
    assert words == (
        "undo 6 of shop_v1: stopped at mail; 1 dead letter (prices): eventwagon undo shop --resume 6, or --cancel 6"
    )


def test_the_first_one_runs_and_the_others_wait() -> None:
    first, second = (Replay(number=n, of=PastEvents(wagon=1), count=3, why="prices", at=0.0, by="me") for n in (6, 7))
    manifest = Manifest(train="shop", replays=(first, second))
    assert replay_in_words(first, manifest) == "replay 6 of shop_v1: 0 of 3 published (by me: prices)"
    assert replay_in_words(second, manifest) == "replay 7 of shop_v1: waits (by me: prices)"


def test_a_wagon_that_is_gone_takes_no_events() -> None:
    """An undo that has stopped remembers its last wagon."""
    undo = Undo(wagon=1, kept=(), whole=3, slice=Slice(channel="mail", count=3), stopped="1 dead letter")
    replay = Replay(number=6, of=PastEvents(wagon=1), count=3, why="prices", at=0.0, undo=undo, wagon=7)
    assert job_of(replay, Manifest(train="shop", replays=(replay,))).to is None
    there = Manifest(train="shop", replays=(replay,), wagons=(wagon(7, State.DRAINING),))
    assert job_of(replay, there).to == 7
