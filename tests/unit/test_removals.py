"""What is asked for while a unit is being removed comes after it, once, and the latest of it."""

from __future__ import annotations

from eventwagon.contracts.orchestrator import WagonSpec
from eventwagon.event import DEAD, Channel
from eventwagon.orchestrators.removals import UnitRemovals


def spec(number: int) -> WagonSpec:
    channel, dead = Channel("t", number), Channel("t", number, DEAD)
    return WagonSpec(train="t", number=number, unit=1, channels=(channel,), dead_letters=dead, workers=1)


def test_the_latest_spec_comes_after_the_last_removal() -> None:
    removals, unit = UnitRemovals(), ("t", 1)
    assert not removals.postpone(spec(1))
    with removals.removing(unit):
        assert unit in removals
        assert removals.postpone(spec(1))
        with removals.removing(unit):
            assert removals.postpone(spec(2))
        assert removals.postponed(unit) is None  # the other one is under way
        assert unit in removals
    assert unit not in removals
    assert removals.postponed(unit) == spec(2)
    assert removals.postponed(unit) is None
    assert not removals.postpone(spec(3))


def test_a_removal_that_fails_is_over() -> None:
    removals, unit = UnitRemovals(), ("t", 1)
    try:
        with removals.removing(unit):
            assert removals.postpone(spec(1))
            raise OSError
    except OSError:
        assert unit not in removals
    assert removals.postponed(unit) == spec(1)


def test_what_a_failed_removal_postponed_does_not_outlive_the_next() -> None:
    removals, unit = UnitRemovals(), ("t", 1)
    try:
        with removals.removing(unit):
            assert removals.postpone(spec(1))
            raise OSError
    except OSError:
        pass
    with removals.removing(unit):
        pass
    assert removals.postponed(unit) is None
