"""`spares="auto"`: as many wagons ahead as switches are expected while one gets ready."""

from __future__ import annotations

import pytest

from eventwagon import Settings, Train, UsageError, Volume, Workers
from eventwagon.contracts.facts import Discarded, WagonOpened
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest
from eventwagon.policy.scheduling import expected_switches
from tests.unit.plans import NOW, decide, manifest, reading, ready, wagon

SETTINGS = Settings(limit=Volume(100), workers=Workers(each=2), spares="auto", keep_warm=60.0)


def of_slow_wagons(*, active_for: float) -> Manifest:
    """Wagon 2 took 10 s to get ready, and is active for so long."""
    active = wagon(
        2, State.ACTIVE, opened_at=NOW - active_for - 10, ready_at=NOW - active_for, active_at=NOW - active_for
    )
    return manifest(active)


@pytest.mark.parametrize(
    ("active_for", "pressure", "expected"),
    [(100.0, 0.5, 1), (5.0, 0.5, 1), (2.0, 0.5, 3), (1.0, 1.0, 10), (1.0, 0.0, 1), (0.0, 0.5, 1), (0.01, 1.0, 31)],
)
def test_as_many_as_switches_are_expected(active_for: float, pressure: float, expected: int) -> None:
    assert expected_switches(of_slow_wagons(active_for=active_for), pressure, NOW, 31) == expected


def test_those_that_drain_show_the_pace_after_a_switch() -> None:
    """The active wagon is new and empty; the two before it lived for 2 s each."""
    drained = wagon(2, State.DRAINING, opened_at=NOW - 14, ready_at=NOW - 4, active_at=NOW - 2.1, closed_at=NOW - 0.1)
    new = wagon(3, State.ACTIVE, opened_at=NOW - 10, ready_at=NOW - 1, active_at=NOW - 0.1)
    assert expected_switches(manifest(drained, new), 0.0, NOW, 31) == 5


def test_a_spare_that_lost_its_workers_does_not_show_how_long_one_takes() -> None:
    active = wagon(2, State.ACTIVE, opened_at=NOW - 12, ready_at=NOW - 11, active_at=NOW - 2)
    again = wagon(3, State.READY, opened_at=NOW - 600, ready_at=NOW - 1, losses=1)
    assert expected_switches(manifest(active, again), 0.5, NOW, 31) == 1


def test_nothing_is_known_of_a_new_train() -> None:
    assert expected_switches(manifest(wagon(1, State.ACTIVE)), 0.9, NOW, 31) == 1
    assert expected_switches(manifest(), 0.0, NOW, 31) == 1


def test_they_are_opened_one_a_look_and_kept_for_a_while() -> None:
    m = of_slow_wagons(active_for=2.0)
    full_by_half = [reading(2, 50, age=2.0)]
    for _ in range(5):
        decided = decide(m, full_by_half, ready(2), settings=SETTINGS)
        m = decided.manifest
    assert len(m.in_state(State.PROVISIONING)) == 3
    slower = decide(m, [reading(2, 1, age=2.0)], ready(2, 3, 4, 5), settings=SETTINGS)
    assert not [f for f in slower.facts if isinstance(f, Discarded | WagonOpened)]


def test_it_is_a_setting_that_programs_agree_on() -> None:
    assert Train("t", spares="auto").settings.declared()["spares"] == "'auto'"
    for wrong in ("Auto", "", "2", -1, None):
        with pytest.raises(UsageError, match="spares"):
            Settings(spares=wrong)  # type: ignore[arg-type]
