"""Plan, step by step: how wagons are put away, sealed, proven empty and removed."""

from __future__ import annotations

import msgspec
import pytest

from eventwagon import Reading, Settings, Volume, Workers
from eventwagon.contracts.facts import (
    ChannelThreatened,
    Discarded,
    DrainGivenUp,
    DrainUnproven,
    EventsLost,
    NumbersSkipped,
    ProvisioningFailed,
    SealWaits,
    WagonDrained,
    WagonOpened,
    WagonRemoved,
)
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Pause, Request
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.contracts.registry import Member, Snapshot
from eventwagon.event import DEAD, Channel
from eventwagon.policy.edits import (
    AddChannels,
    Edit,
    Remove,
    RemoveLeftover,
    Seal,
    active_sealed,
    found_late,
    kept,
    letters_moved,
    removal_begun,
    removal_taken_over,
    removed,
    sealed,
    stepped_back,
)
from tests.unit.plans import NOW, SETTINGS, decide, manifest, one, reading, ready, states, wagon


def test_surplus_spares_are_put_away_by_the_safe_way() -> None:
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.READY), wagon(3, State.READY), wagon(4, State.READY))
    decided = decide(m, [reading(1, 0)], settings=msgspec.structs.replace(SETTINGS, spares=1))
    assert states(decided) == {1: State.ACTIVE, 2: State.READY, 3: State.DRAINING, 4: State.DRAINING}
    assert {f.number for f in decided.facts if isinstance(f, Discarded)} == {3, 4}


def test_draining_seal_then_proof_then_removal() -> None:
    draining = manifest(wagon(1, State.DRAINING), wagon(2, State.ACTIVE))
    unsealed = decide(draining, [reading(1, 5, 5, empty=True)])
    assert Seal(1) in unsealed.tasks
    assert states(unsealed)[1] is State.DRAINING  # empty before the seal proves nothing (I5)
    m = sealed(draining, 1, NOW).manifest
    assert states(decide(m, [reading(1, 5, 4)]))[1] is State.DRAINING
    drained = decide(m, [reading(1, 5, 5, empty=True)])
    assert states(drained)[1] is State.DRAINED
    fact = one(drained.facts, WagonDrained)
    assert (fact.published, fact.settled, fact.seconds) == (5, 5, 10.0)


def test_i5_unknown_is_never_empty() -> None:
    m = manifest(wagon(1, State.DRAINING, sealed_at=991.0), wagon(2, State.ACTIVE))
    unknown = Reading(number=1, at=NOW, age=1.0)
    decided = decide(m, [unknown])
    assert states(decided)[1] is State.DRAINING
    assert one(decided.refusals, DrainUnproven).number == 1
    assert states(decide(m, []))[1] is State.DRAINING


def test_removed_only_after_its_workers_left_or_grace() -> None:
    m = manifest(wagon(1, State.DRAINED), wagon(2, State.ACTIVE))
    at_it = [Member(name="a", roles=("work",), attachments=(Deployment(number=1, ready=True, workers=1),))]
    assert Remove(1) not in decide(m, members=at_it).tasks
    assert Remove(1) in decide(m, members=[]).tasks
    assert Remove(1) in decide(m, members=at_it, ages={1: SETTINGS.grace + 1}).tasks


def test_a_removal_that_has_begun_is_gone_on_with() -> None:
    m = manifest(wagon(1, State.REMOVING), wagon(2, State.ACTIVE))
    assert Remove(1) in decide(m).tasks
    assert found_late(m, 1, 3).manifest is m


def test_a_registry_that_steps_back_begins_no_wagon_anew() -> None:
    """One that was removed is none any more, one that is being removed goes on being removed, whoever finds the older
    manifest first; one that has no channels yet, as far as that one says, gets none."""
    known = manifest(wagon(1, State.REMOVING), wagon(2, State.DRAINING), wagon(3, State.ACTIVE))
    older = manifest(wagon(1, State.ACTIVE), wagon(2, State.PROVISIONING))
    taken = stepped_back(Snapshot(known, 9), Snapshot(older, 3), NOW)
    assert states(taken) == {1: State.REMOVING, 2: State.FAILED}
    assert one(taken.facts, ProvisioningFailed).number == 2
    for state in (State.PROVISIONING, State.ACTIVE, State.DRAINING, State.REMOVING):
        late = kept(known, manifest(wagon(1, state), wagon(2, State.DRAINING))).manifest
        assert late.wagons[0] == known.wagons[0]
        assert late.wagons[1].state is State.DRAINING
    assert kept(known, manifest(wagon(4, State.ACTIVE))).manifest.wagons == (wagon(4, State.ACTIVE),)
    assert kept(manifest(wagon(3, State.ACTIVE)), older).manifest.wagons == ()
    failed = manifest(wagon(1, State.FAILED), wagon(2, State.ACTIVE))
    assert kept(failed, older).manifest.wagons == (failed.wagons[0], older.wagons[1])


def test_a_removal_begins_on_the_wagon_as_it_was_looked_at_and_on_no_other() -> None:
    """It drained again, and was proven empty again, since that look."""
    seen = wagon(1, State.DRAINED)
    m = manifest(wagon(1, State.DRAINED, drained_at=999.0), wagon(2, State.ACTIVE))
    assert removal_begun(m, seen, "a").manifest is m
    begun = removal_begun(manifest(seen, wagon(2, State.ACTIVE)), seen, "a").manifest
    assert (begun.wagons[0].state, begun.wagons[0].remover) == (State.REMOVING, "a")


@pytest.mark.parametrize("state", [State.REMOVING, State.FAILED])
def test_one_process_removes_a_wagon_and_its_record_is_written_once(state: State) -> None:
    seen = wagon(1, state, remover="gone")
    m = manifest(seen, wagon(2, State.ACTIVE))
    taken = removal_taken_over(m, seen, "a").manifest
    assert removal_taken_over(taken, seen, "b").manifest is taken  # it was slower
    assert letters_moved(taken, 1, "gone", 3).manifest is taken
    assert removed(taken, 1, "gone").manifest is taken
    counted = letters_moved(taken, 1, "a", 3).manifest
    assert letters_moved(counted, 1, "a", 3).manifest is counted
    done = removed(counted, 1, "a")
    record = one(done.facts, WagonRemoved)
    assert (record.wagon.number, record.dead, states(done)) == (1, 3, {2: State.ACTIVE})
    assert removed(done.manifest, 1, "a") == Edit(done.manifest)


def test_without_a_fence_sealed_only_when_no_publisher_may_still_send_and_kept_for_a_while() -> None:
    m = manifest(wagon(1, State.DRAINING), wagon(2, State.ACTIVE))
    stale = [Member(name="p", roles=("publish",), publishing_to=1)]
    waits = decide(m, [reading(1, 5, 5)], fences=False, members=stale)
    assert Seal(1) not in waits.tasks
    assert one(waits.refusals, SealWaits).number == 1
    fresh = [Member(name="p", roles=("publish",), publishing_to=2)]
    assert Seal(1) in decide(m, [reading(1, 5, 5)], fences=False, members=fresh).tasks
    drained = manifest(wagon(1, State.DRAINED), wagon(2, State.ACTIVE))
    assert Remove(1) not in decide(drained, fences=False, ages={1: SETTINGS.keep_drained - 1}).tasks
    assert Remove(1) in decide(drained, fences=False, ages={1: SETTINGS.keep_drained}).tasks


def test_without_a_fence_the_turn_counts_and_not_the_number() -> None:
    """Wagon 4 was ready before wagon 3, so it was active before: who may publish to 3 may not publish to 4 any more."""
    m = manifest(wagon(3, State.ACTIVE, turn=2), wagon(4, State.DRAINING, turn=1))
    at_the_active = [Member(name="p", roles=("publish",), publishing_to=2)]
    assert Seal(4) in decide(m, [reading(4, 5, 5)], fences=False, members=at_the_active).tasks
    m = manifest(wagon(3, State.DRAINING, turn=2), wagon(4, State.DRAINING, turn=1), wagon(5, State.ACTIVE, turn=3))
    at_four = [Member(name="p", roles=("publish",), publishing_to=1)]
    tasks = decide(m, [reading(3, 5, 5), reading(4, 5, 5)], fences=False, members=at_four).tasks
    assert Seal(3) not in tasks
    assert Seal(4) not in tasks


def test_without_a_fence_a_spare_that_never_was_active_is_sealed_at_once() -> None:
    """Nobody can have published to it, though those who publish say an earlier wagon."""
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.DRAINING, active_at=None, turn=0))
    publisher = [Member(name="p", roles=("publish",), publishing_to=1)]
    assert Seal(2) in decide(m, [reading(1, 5)], fences=False, members=publisher).tasks


def test_without_a_fence_a_wagon_is_not_sealed_by_members_that_were_read_before_its_switch() -> None:
    """Who came back from being cut off in between is not among them, and may have read the manifest as it was."""
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.READY))
    full = decide(m, [reading(1, 100)], ready(2), fences=False, members=[])
    assert states(full)[1] is State.DRAINING
    assert Seal(1) not in full.tasks
    assert Seal(1) in decide(full.manifest, [reading(1, 100)], ready(2), fences=False, members=[]).tasks
    assert Seal(1) in decide(m, [reading(1, 100)], ready(2), fences=True, members=[]).tasks


def test_i7_leftovers_are_swept_but_nothing_that_is_or_may_come() -> None:
    m = manifest(wagon(3, State.ACTIVE))
    channels = tuple(Channel("t", n) for n in (0, 2, 3))
    found = {**ready(3), 1: Deployment(number=1, ready=True), 4: Deployment(number=4, ready=True)}
    decided = decide(m, [reading(3, 0)], found, leftovers=channels)
    assert [t for t in decided.tasks if isinstance(t, RemoveLeftover)] == [
        RemoveLeftover(1),
        RemoveLeftover(2, (Channel("t", 2),)),
    ]
    assert decided.manifest.next_number == 4


def test_i7_numbers_go_past_every_wagon_that_is_found() -> None:
    """A manifest from an older copy does not know of them. They can only be swept once the higher number is stored: had
    another observer just opened one of them, storing it would fail."""
    m = manifest(wagon(3, State.ACTIVE))
    nine = (Channel("t", 9, DEAD), Channel("t", 9))
    decided = decide(m, [reading(3, 200)], ready(3), leftovers=(Channel("t", 3), *nine))
    assert decided.manifest.wagons[-1].number == 10
    assert decided.manifest.next_number == 11
    assert [t for t in decided.tasks if isinstance(t, RemoveLeftover)] == [RemoveLeftover(9, nine)]
    assert [(f.next, f.numbers) for f in decided.facts if isinstance(f, NumbersSkipped)] == [(10, (9,))]


def test_channels_of_somebody_else_are_left_alone() -> None:
    """A topic `t_v2024` of another program: a wagon would have a channel for its dead letters."""
    m = manifest(wagon(3, State.ACTIVE))
    decided = decide(m, [reading(3, 1)], ready(3), leftovers=(Channel("t", 3), Channel("t", 2024)))
    assert decided.manifest.next_number <= 5
    assert not [t for t in decided.tasks if isinstance(t, RemoveLeftover)]


def test_an_active_wagon_whose_channel_has_vanished_is_left_for_the_next() -> None:
    """At once: no cooldown, and no cap keeps the next one from being opened."""
    settings = Settings(limit=Volume(100), workers=Workers(each=2), wagons=1, at_cap="refuse", cooldown=600.0)
    gone = Reading(number=3, at=NOW, age=100.0, outstanding_in_all=0, missing=("",), vanished={"": 7}, lost=7)
    opened = decide(manifest(wagon(3, State.ACTIVE)), [gone], ready(3), settings=settings)
    assert [w.number for w in opened.manifest.wagons] == [3, 4]
    assert not opened.manifest.refusing
    assert [(f.number, f.count) for f in opened.facts if isinstance(f, EventsLost)] == [(3, 7)]
    m = manifest(wagon(3, State.ACTIVE, active_at=NOW), wagon(4, State.READY))
    switched = decide(m, [gone], ready(3, 4), settings=settings).manifest
    assert switched.active is not None
    assert switched.active.number == 4
    assert "vanished" in switched.wagons[0].closed_because
    drained = manifest(wagon(3, State.DRAINING, sealed_at=991.0), wagon(4, State.ACTIVE))
    nothing = msgspec.structs.replace(gone, empty=True)
    after = decide(drained, [nothing, reading(4, 0)], ready(3, 4), settings=settings).manifest
    assert after.wagons[0].state is State.DRAINED


def test_an_active_wagon_that_lacks_an_irreplaceable_channel_is_left_for_the_next() -> None:
    """A draining one goes on with what it can do, until the channel has stayed away: then it is given up, unless it is
    empty."""
    settings = Settings(limit=Volume(100), workers=Workers(each=2), cooldown=600.0)
    lacking = msgspec.structs.replace(reading(3, 2), irreplaceable={"mail": "a string"})
    m = manifest(wagon(3, State.ACTIVE, active_at=NOW), wagon(4, State.READY))
    switched = decide(m, [lacking], ready(3, 4), settings=settings).manifest
    assert switched.active is not None
    assert switched.active.number == 4
    assert "a channel of it has vanished" in switched.wagons[0].closed_because
    tried = decide(m, [lacking], ready(3, 4), settings=settings)
    assert one(tried.refusals, ChannelThreatened).because.endswith("it can't be created again: a string")
    assert not [t for t in tried.tasks if isinstance(t, AddChannels)]
    after = decide(switched, [lacking, reading(4, 0)], ready(3, 4), settings=settings).manifest
    assert [w.state for w in after.wagons] == [State.DRAINING, State.ACTIVE]
    cut_off = manifest(wagon(3, State.DRAINING, sealed_at=991.0), wagon(4, State.ACTIVE))
    for_good = msgspec.structs.replace(lacking, vanished={"mail": None})
    given_up = decide(cut_off, [for_good, reading(4, 0)], ready(3, 4), settings=settings)
    assert [w.state for w in given_up.manifest.wagons] == [State.FAILED, State.ACTIVE]
    assert one(given_up.facts, DrainGivenUp).because.startswith("its channel mail has vanished from the broker")
    empty = msgspec.structs.replace(for_good, empty=True)
    drained = decide(cut_off, [empty, reading(4, 0)], ready(3, 4), settings=settings).manifest
    assert drained.wagons[0].state is State.DRAINED


@pytest.mark.parametrize("name", ["", "mail"])
def test_an_active_wagon_with_an_exhausted_channel_is_left_for_the_next(name: str) -> None:
    """At once: no cooldown, no pause and no cap keeps it. It drains, unless what is handled has to emit to that
    channel."""
    settings = Settings(limit=Volume(100), workers=Workers(each=2), wagons=1, at_cap="refuse", cooldown=600.0)
    exhausted = msgspec.structs.replace(reading(3, 2), exhausted=(name,))
    opened = decide(manifest(wagon(3, State.ACTIVE)), [exhausted], ready(3), settings=settings)
    assert [w.number for w in opened.manifest.wagons] == [3, 4]
    why = "the active wagon can't go on: a channel of it can take no more events"
    assert one(opened.facts, WagonOpened).because == why
    m = manifest(wagon(3, State.ACTIVE, active_at=NOW), wagon(4, State.READY))
    m = msgspec.structs.replace(m, paused=Pause(why="a test", at=NOW))
    switched = decide(m, [exhausted], ready(3, 4), settings=settings).manifest
    assert switched.active is not None
    assert switched.active.number == 4
    assert switched.wagons[0].closed_because == "a channel of it can take no more events"
    cut_off = manifest(wagon(3, State.DRAINING, sealed_at=991.0), wagon(4, State.ACTIVE))
    ended = decide(cut_off, [exhausted, reading(4, 0)], ready(3, 4), settings=settings)
    assert ended.manifest.wagons[0].state is (State.FAILED if name else State.DRAINING)
    given_up = [f.because for f in ended.facts if isinstance(f, DrainGivenUp)]
    assert given_up == (["its channel mail can take no more events"] if name else [])
    empty = msgspec.structs.replace(exhausted, empty=True)
    drained = decide(cut_off, [empty, reading(4, 0)], ready(3, 4), settings=settings).manifest
    assert drained.wagons[0].state is State.DRAINED


@pytest.mark.parametrize("name", ["", "mail"])
def test_an_active_wagon_that_can_deliver_nothing_is_left_for_the_next(name: str) -> None:
    """Once it is sealed, and has been so for a while, what it holds is published anew."""
    settings = Settings(limit=Volume(100), workers=Workers(each=2), wagons=1, at_cap="refuse", cooldown=600.0)
    stuck = msgspec.structs.replace(reading(3, 2), outstanding_in_all=None, undeliverable={name: False})
    m = manifest(wagon(3, State.ACTIVE, active_at=NOW), wagon(4, State.READY))
    switched = decide(m, [stuck], ready(3, 4), settings=settings).manifest
    assert switched.active is not None
    assert switched.active.number == 4
    why = "a channel of it can deliver no more events: the broker has lost what records its claims, or their topic"
    assert switched.wagons[0].closed_because == why
    cut_off = manifest(wagon(3, State.DRAINING, sealed_at=991.0), wagon(4, State.ACTIVE))
    for_now = decide(cut_off, [stuck, reading(4, 0)], ready(3, 4), settings=settings)
    assert for_now.manifest.wagons[0].state is State.DRAINING
    for_good = msgspec.structs.replace(stuck, undeliverable={name: True})
    ended = decide(cut_off, [for_good, reading(4, 0)], ready(3, 4), settings=settings)
    assert ended.manifest.wagons[0].state is State.FAILED
    assert one(ended.facts, DrainGivenUp).because == why


def test_an_active_wagon_that_is_sealed_takes_no_place() -> None:
    """What waits to be removed at the cap may hold what only the next one can take over."""
    settings = Settings(limit=Volume(100), workers=Workers(each=2), wagons=2, at_cap="refuse")
    sealed = manifest(wagon(3, State.ACTIVE), wagon(4, State.FAILED))
    request = Request("wagon 3 is sealed", NOW)
    asked = active_sealed(sealed, 3, request).manifest
    assert active_sealed(asked, 3, request).manifest is asked
    assert active_sealed(sealed, 4, request).manifest is sealed
    opened = decide(asked, [reading(3, 0)], ready(3), settings=settings).manifest
    assert [w.number for w in opened.wagons] == [3, 4, 5]
    assert not opened.refusing
    failed = msgspec.structs.replace(opened, wagons=(*opened.wagons[:2], wagon(5, State.FAILED)))
    assert len(decide(failed, [reading(3, 0)], ready(3), settings=settings).manifest.wagons) == 3  # one beyond, no more
