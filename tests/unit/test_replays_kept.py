"""Replays after the registry stepped back."""

from __future__ import annotations

import msgspec

from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, Wagon
from eventwagon.contracts.replay import PastEvents, Replay
from eventwagon.policy.edits import kept

WAGON = Wagon(number=1, state=State.ACTIVE, opened_at=0.0, created_at=0.0, active_at=5.0, turn=1)
OLD = Manifest(train="t", wagons=(WAGON,), next_number=10, turns=1)
replace = msgspec.structs.replace


def replay(number: int, **fields: object) -> Replay:
    made = Replay(number=number, of=PastEvents(wagon=1), count=9, why="w", at=float(number))
    return replace(made, **fields)


def test_one_that_was_requested_since_gets_a_new_number() -> None:
    known = replace(OLD, next_number=20)
    found = replace(OLD, next_number=11, replays=(replay(10, at=30.0),))
    now = kept(known, found).manifest
    assert [(r.number, r.at) for r in now.replays] == [(20, 30.0)]
    assert now.next_number == 21
    assert kept(known, now).manifest == now
    assert [r.number for r in kept(OLD, now).manifest.replays] == [20]


def test_what_is_over_does_not_come_back() -> None:
    known, older = replace(OLD, next_number=20, replays_over=12.0), replace(OLD, next_number=13, replays=(replay(12),))
    now = kept(known, older).manifest
    assert not now.replays
    assert not kept(older, now).manifest.replays


def test_of_one_that_both_have_the_one_that_got_further_is_kept_and_it_stays_cancelled() -> None:
    known = replace(OLD, replays=(replay(8, start=3, fed=3, wagon=9),))
    found = replace(OLD, replays=(replay(8, fed=3, wagon=7, cancelled="enough"),))
    (now,) = kept(known, found).manifest.replays
    assert (now.wagon, now.start, now.cancelled) == (9, 3, "enough")
    assert kept(found, kept(known, found).manifest).manifest.replays == (now,)
