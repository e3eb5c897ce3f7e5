"""Reuse, step by step: a drained wagon's workers become the next wagon's, and nobody else ends them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventwagon import Elastic, Lag, Settings, Wait, Workers
from eventwagon.contracts.facts import Discarded, WagonDrained, WagonOpened
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, Wagon, check, gone_by
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.errors import Defect
from eventwagon.event import Channel
from eventwagon.policy.edits import Ensure, Remove, RemoveLeftover, found_late
from tests.unit.plans import decide, manifest, one, reading, ready, states, wagon

REUSE = Settings(limit=Lag(100), workers=Workers(each=2), reuse=True)
EMPTY = reading(1, 100, 100, empty=True)


def drained_now(**fields: Any) -> Wagon:
    """A wagon that this look finds drained."""
    return wagon(1, State.DRAINING, sealed_at=991.0, **fields)


def test_the_edit_that_proves_a_wagon_empty_gives_its_workers_to_the_next() -> None:
    m = manifest(drained_now(), wagon(2, State.ACTIVE))
    decided = decide(m, [EMPTY, reading(2, 5)], settings=REUSE)
    assert states(decided) == {1: State.DRAINED, 2: State.ACTIVE, 3: State.PROVISIONING}
    assert decided.manifest.wagons[2].unit == 1
    assert one(decided.facts, WagonOpened).unit == 1
    assert one(decided.facts, WagonDrained).number == 1
    assert Ensure(3) in decided.tasks


def test_without_the_setting_or_warm_workers_or_room_none_is_kept() -> None:
    m = manifest(drained_now(), wagon(2, State.ACTIVE))
    read = [EMPTY, reading(2, 5)]
    assert states(decide(m, read)) == {1: State.DRAINED, 2: State.ACTIVE}
    assert states(decide(m, read, ready(2), settings=REUSE)) == {1: State.DRAINED, 2: State.ACTIVE}
    elsewhere = {**ready(2), 1: Deployment(number=9, ready=True)}
    assert states(decide(m, read, elsewhere, settings=REUSE)) == {1: State.DRAINED, 2: State.ACTIVE}
    capped = Settings(limit=Lag(100), workers=Workers(each=2), reuse=True, wagons=2)
    assert states(decide(m, read, settings=capped)) == {1: State.DRAINED, 2: State.ACTIVE}


def test_one_spare_more_than_asked_for_is_kept_and_no_second() -> None:
    m = manifest(drained_now(), wagon(2, State.ACTIVE), wagon(3, State.READY))
    decided = decide(m, [EMPTY, reading(2, 5)], settings=REUSE)
    assert states(decided) == {1: State.DRAINED, 2: State.ACTIVE, 3: State.READY}
    spares = Settings(limit=Lag(100), workers=Workers(each=2), reuse=True, spares=1)
    decided = decide(m, [EMPTY, reading(2, 5)], settings=spares)
    assert states(decided) == {1: State.DRAINED, 2: State.ACTIVE, 3: State.READY, 4: State.PROVISIONING}


def test_none_is_kept_where_it_would_bind_half_of_the_workers() -> None:
    """Of four workers the active wagon and the spare have two: at the next switch a third wagon would drain."""
    m = manifest(drained_now(), wagon(2, State.ACTIVE), wagon(3, State.READY))
    for most, opened in ((4, False), (8, True)):
        settings = Settings(limit=Wait(2.0), workers=Workers(each=Elastic(1, most)), spares=1)
        decided = decide(m, [EMPTY, reading(2, 5)], settings=settings)
        assert bool([f for f in decided.facts if isinstance(f, WagonOpened)]) is opened


def test_what_was_put_away_is_not_taken_up_again() -> None:
    m = manifest(drained_now(active_at=None), wagon(2, State.ACTIVE))
    assert states(decide(m, [EMPTY, reading(2, 5)], settings=REUSE)) == {1: State.DRAINED, 2: State.ACTIVE}


def test_a_drained_wagon_with_other_code_is_not_taken_up() -> None:
    m = manifest(drained_now(revision="v1"), wagon(2, State.ACTIVE, revision="v2"), revision="v2")
    assert states(decide(m, [EMPTY, reading(2, 5)], settings=REUSE)) == {1: State.DRAINED, 2: State.ACTIVE}


def test_workers_that_are_still_at_the_drained_wagon_are_not_ready_for_the_next() -> None:
    new = wagon(3, State.PROVISIONING, created_at=999.0, reuses=1)
    m = manifest(wagon(1, State.DRAINED), wagon(2, State.ACTIVE), new)
    at_the_old = {**ready(2), 1: Deployment(number=1, ready=True)}
    decided = decide(m, [reading(2, 5)], at_the_old, settings=REUSE)
    assert states(decided)[3] is State.PROVISIONING
    assert Remove(1) not in decided.tasks  # its channels wait until they have left
    assert Remove(1) in decide(m, [reading(2, 5)], at_the_old, settings=REUSE, ages={1: 31.0}).tasks
    moved = {**ready(2), 1: Deployment(number=3, ready=True)}
    decided = decide(m, [reading(2, 5)], moved, settings=REUSE)
    assert states(decided)[3] is State.READY
    assert Remove(1) in decided.tasks


def test_a_unit_that_outlives_its_first_wagon_is_no_leftover() -> None:
    m = manifest(wagon(2, State.ACTIVE), wagon(3, State.READY, reuses=1))
    deployments = {**ready(2), 1: Deployment(number=3, ready=True)}
    assert not [t for t in decide(m, [reading(2, 5)], deployments).tasks if isinstance(t, RemoveLeftover)]
    risen = (Channel("t", 1),)
    tasks = decide(m, [reading(2, 5)], deployments, leftovers=risen).tasks
    assert RemoveLeftover(1, risen) in tasks  # the remover leaves the workers alone: they are a live wagon's


def test_late_events_find_other_workers_when_the_own_have_moved_on() -> None:
    m = manifest(wagon(1, State.DRAINED), wagon(2, State.ACTIVE), wagon(3, State.READY, reuses=1))
    after = found_late(m, 1, 2).manifest
    check(after)
    assert (after.wagons[0].state, after.wagons[0].unit, after.next_number) == (State.DRAINING, 4, 5)
    leftovers = (Channel("t", 1), Channel("t", 1, "mail"))
    deployments = {**ready(2), 1: Deployment(number=3, ready=True)}
    tasks = decide(after, [reading(2, 5)], deployments, leftovers=leftovers).tasks
    assert not [t for t in tasks if isinstance(t, RemoveLeftover)]


def test_two_live_wagons_never_share_workers() -> None:
    m = manifest(wagon(1, State.DRAINING), wagon(2, State.ACTIVE), wagon(3, State.READY, reuses=1))
    with pytest.raises(Defect, match=r"units \[1, 2, 1\]"):
        check(m)


def test_a_spare_that_nobody_needs_is_put_away_after_a_while() -> None:
    m = manifest(wagon(2, State.ACTIVE), wagon(3, State.READY, reuses=1))
    deployments = {**ready(2), 1: Deployment(number=3, ready=True)}
    for warm, calm, kept in ((59.0, 61.0, True), (61.0, 59.0, True), (61.0, 61.0, False)):
        ages = {3: warm}
        decided = decide(m, [reading(2, 5)], deployments, settings=REUSE, ages=ages, unwanted=calm)
        assert states(decided)[3] is (State.READY if kept else State.DRAINING)
        assert decided.tasks.count(Remove(3)) == 0
    assert "60 s and not needed" in one(decided.facts, Discarded).because
    more = manifest(wagon(2, State.ACTIVE), wagon(3, State.READY, reuses=1), wagon(4, State.READY))
    full = decide(more, [reading(2, 60)], {**deployments, **ready(4)}, settings=REUSE, ages={3: 61.0, 4: 61.0})
    assert states(full) == {2: State.ACTIVE, 3: State.READY, 4: State.DRAINING}  # one is enough for the next switch
    wanted = decide(m, [reading(2, 60)], deployments, settings=REUSE, ages={3: 61.0}, unwanted=61.0)
    assert states(wanted)[3] is State.READY


def test_never_more_wagons_than_the_cap_spares_included() -> None:
    settings = Settings(limit=Lag(100), workers=Workers(each=2), spares=2, wagons=3)
    m = manifest(wagon(1, State.DRAINING), wagon(2, State.ACTIVE), wagon(3, State.READY))
    assert len(decide(m, [reading(1, 9), reading(2, 5)], settings=settings).manifest.wagons) == 3


def test_a_wagon_is_waited_for_with_those_before_it_whatever_their_numbers() -> None:
    """Wagon 3 was a spare while 4, of warm workers, took events; now 3 does."""
    four, three = (Wagon(number=n, opened_at=0.0, opened_because="") for n in (4, 3))
    before = Manifest(
        train="t",
        wagons=(
            msgspec.structs.replace(three, state=State.READY),
            msgspec.structs.replace(four, state=State.ACTIVE, turn=3, active_at=1.0),
        ),
        next_number=5,
    )
    is_gone = gone_by(before, 4)
    switched = msgspec.structs.replace(
        before,
        wagons=(
            msgspec.structs.replace(three, state=State.ACTIVE, turn=4, active_at=2.0),
            msgspec.structs.replace(four, state=State.DRAINING, turn=3, active_at=1.0),
        ),
    )
    after = msgspec.structs.replace(switched, wagons=switched.wagons[:1])
    assert [is_gone(m) for m in (before, switched, after)] == [False, False, True]
    assert gone_by(switched, 4)(after)
    assert not gone_by(switched, 3)(switched)
    assert gone_by(after, 4)(after)  # it was gone when it was asked about
    assert not gone_by(after, 5)(after)  # it is not there yet
    older = msgspec.structs.replace(three, number=2, state=State.DRAINING, turn=2)
    assert not gone_by(after, 4)(msgspec.structs.replace(after, wagons=(older, *after.wagons)))
