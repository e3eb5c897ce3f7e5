"""For how long a wagon has been active: clocks that are an hour apart, or that are set, deceive nobody for long."""

from __future__ import annotations

from eventwagon.contracts.lifecycle import State
from eventwagon.policy.seen import ActiveAges

from .plans import NOW, manifest, wagon

HOUR = 3600.0


def test_the_steady_clock_counts_from_the_first_sight_on() -> None:
    """Whatever becomes of the wall clock."""
    ages, m = ActiveAges(), manifest(wagon(1, State.ACTIVE, active_at=NOW - 5))
    assert ages.look(m, now=NOW, steady=100.0) == {1: 5.0}
    assert ages.look(m, now=NOW + HOUR, steady=101.0) == {1: 6.0}
    assert ages.look(m, now=NOW - HOUR, steady=103.0) == {1: 8.0}


def test_a_wagon_that_was_seen_to_become_active_is_no_older_than_the_look_before() -> None:
    """Though the process that switched wrote down a time of an hour ago."""
    ages, old = ActiveAges(), wagon(1, State.ACTIVE, active_at=NOW - 50)
    assert ages.look(manifest(old, wagon(2, State.READY)), now=NOW, steady=7.0) == {1: 50.0, 2: 0.0}
    drains, new = wagon(1, State.DRAINING, active_at=NOW - 50), wagon(2, State.ACTIVE, active_at=NOW - HOUR)
    assert ages.look(manifest(drains, new), now=NOW + 1, steady=8.0) == {1: 51.0, 2: 1.0}


def test_a_look_after_a_long_stop_learns_from_the_wall_clock_how_long_it_was() -> None:
    ages = ActiveAges()
    ages.look(manifest(wagon(1, State.ACTIVE)), now=NOW, steady=0.0)
    new = manifest(wagon(2, State.ACTIVE, active_at=NOW + 100))
    assert ages.look(new, now=NOW + HOUR, steady=HOUR) == {2: HOUR - 100}


def test_no_age_is_negative() -> None:
    m = manifest(wagon(1, State.ACTIVE, active_at=NOW + HOUR))
    ages = ActiveAges()
    assert ages.look(m, now=NOW, steady=0.0) == {1: 0.0}
    assert ages.look(m, now=NOW, steady=9.0) == {1: 9.0}, "it grows all the same"


def test_a_start_with_the_clock_ahead_deceives_once() -> None:
    ages = ActiveAges()
    assert ages.look(manifest(wagon(1, State.ACTIVE, active_at=NOW)), now=NOW + HOUR, steady=0.0) == {1: HOUR}
    new = manifest(wagon(2, State.ACTIVE, active_at=NOW + 1))
    assert ages.look(new, now=NOW + HOUR + 1, steady=1.0) == {2: 1.0}


def test_one_that_became_active_anew_after_the_registry_stepped_back_begins_anew() -> None:
    ages = ActiveAges()
    ages.look(manifest(wagon(1, State.ACTIVE, active_at=NOW)), now=NOW, steady=0.0)
    again = manifest(wagon(1, State.ACTIVE, active_at=NOW + 9))
    assert ages.look(again, now=NOW + 10, steady=10.0) == {1: 1.0}
