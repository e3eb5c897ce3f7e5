"""Plan, step by step: opening, switching, the cap, founding."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventwagon import Age, Lag, Pressure, Reading, Settings, Workers
from eventwagon.contracts.facts import (
    EventsLost,
    OpenRefused,
    ProvisioningFailed,
    StepFailed,
    Switched,
    SwitchRefused,
    WagonOpened,
    WagonReady,
    WorkersLost,
    sentence,
)
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, Request, check
from eventwagon.contracts.orchestrator import Deployment, together
from eventwagon.contracts.registry import Member
from eventwagon.policy.edits import (
    AddChannels,
    Edit,
    Ensure,
    Full,
    Lift,
    Remove,
    attempt_failed,
    bootstrap,
    channels_added,
    created,
    removed,
    sealed,
    when_full,
)
from eventwagon.policy.seen import checked_in, since_losses
from tests.unit.plans import NOW, SETTINGS, decide, manifest, one, reading, states, wagon


def test_nothing_happens_to_a_wagon_with_room() -> None:
    m = manifest(wagon(1, State.ACTIVE))
    decided = decide(m, [reading(1, 10)])
    assert decided.manifest is m
    assert decided.facts == decided.refusals == ()


def test_next_wagon_is_opened_at_the_prepare_mark_with_an_exact_bound() -> None:
    decided = decide(manifest(wagon(1, State.ACTIVE)), [reading(1, 50)])
    assert states(decided) == {1: State.ACTIVE, 2: State.PROVISIONING}
    assert decided.manifest.wagons[1].capacity == 100
    assert "50 of 100" in one(decided.facts, WagonOpened).because
    assert Ensure(2) in decided.tasks


def test_no_bound_where_the_broker_holds_none() -> None:
    decided = decide(manifest(wagon(1, State.ACTIVE)), [reading(1, 50)], bounds=False)
    assert decided.manifest.wagons[1].capacity is None


def test_i3_not_redirected_to_a_wagon_that_is_not_ready() -> None:
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.PROVISIONING, created_at=999.0))
    decided = decide(m, [reading(1, 100)], {2: Deployment(number=2, ready=False)})
    assert states(decided) == {1: State.ACTIVE, 2: State.PROVISIONING}
    refusal = one(decided.refusals, SwitchRefused)
    assert "t_v2 is not ready" in refusal.because
    assert "100 of 100" in refusal.figures
    assert refusal.pressure == 1.0


def test_i3_ready_only_with_channels_and_attached_workers() -> None:
    no_channels = decide(manifest(wagon(1, State.ACTIVE), wagon(2, State.PROVISIONING)), [reading(1, 60)])
    assert states(no_channels)[2] is State.PROVISIONING
    with_channels = decide(
        manifest(wagon(1, State.ACTIVE), wagon(2, State.PROVISIONING, created_at=999.0)), [reading(1, 60)]
    )
    assert states(with_channels)[2] is State.READY
    first = one(with_channels.facts, WagonReady)
    assert (first.seconds, sentence(first)) == (100.0, "t_v2 ready, 100.00 s after it was opened")
    lost = wagon(2, State.PROVISIONING, created_at=999.0, losses=1)
    again = one(decide(manifest(wagon(1, State.ACTIVE), lost), [reading(1, 60)]).facts, WagonReady)
    assert again.seconds < 100.0
    assert sentence(again) == "t_v2 ready again: workers are attached to it"  # it was opened long before


def test_i3_ready_only_when_attached_to_the_channels_that_it_has_by_now() -> None:
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.PROVISIONING, created_at=999.0, channels=("a", "b")))
    m = msgspec.structs.replace(m, channels=("a", "b"))

    def state(channels: tuple[str, ...] | None) -> State:
        return states(decide(m, [reading(1, 60)], {2: Deployment(number=2, ready=True, channels=channels)}))[2]

    assert state(("a",)) is State.PROVISIONING
    assert state(("b", "a")) is State.READY
    assert state(None) is State.READY  # older code does not say
    spare = manifest(wagon(1, State.ACTIVE), wagon(2, State.READY, channels=("a", "b")))
    spare = msgspec.structs.replace(spare, channels=("a", "b"))
    lost = one(decide(spare, [reading(1, 60)], {2: Deployment(number=2, ready=True, channels=())}).facts, WorkersLost)
    assert lost.because == "its workers are not attached to a, b yet"


def test_check_ins_together_say_what_one_process_is_attached_to() -> None:
    m = manifest(wagon(1, State.ACTIVE, channels=("a", "b"), losses=1))

    def joined(*attachments: Deployment) -> Deployment:
        return checked_in([Member(name=str(n), attachments=(a,)) for n, a in enumerate(attachments)], m)[1]

    less, more = (
        Deployment(number=1, ready=True, channels=("a",)),
        Deployment(number=1, ready=True, workers=2, channels=("a", "b"), losses=1),
    )
    assert joined(less, more).channels == ("a", "b")
    assert joined(more, Deployment(number=1, ready=True)).channels is None
    assert joined(less, Deployment(number=1, ready=False, channels=("a", "b"))).channels == ("a",)
    earlier = joined(Deployment(number=1, ready=True, channels=("a", "b"), losses=0))
    assert (earlier.ready, earlier.trouble) == (False, "they were attached before it lost its workers")
    beside = joined(Deployment(number=1, ready=True, channels=("a", "b"), losses=0), more)
    assert (beside.ready, beside.losses, beside.workers) == (True, 1, 2)  # an older word takes nothing from a newer one
    # an orchestrator may call them ready: that they lack a channel is known all the same
    assert joined(Deployment(number=1, ready=True, channels=("a",), losses=0)).channels == ("a",)


def test_an_orchestrator_is_ready_by_its_newest_check_ins() -> None:
    """As observers see it who read the check-ins themselves: a process that stands still holds up nobody."""
    old = Deployment(number=1, ready=True, channels=("a",), losses=0)
    new = Deployment(number=1, ready=True, channels=("a", "b"), losses=1)
    both, stale = together([old, new]), together([old, msgspec.structs.replace(new, ready=False)])
    m = manifest(wagon(1, State.ACTIVE, channels=("a", "b"), losses=1))
    assert (since_losses(both, m.wagons[0]).ready, both.channels) == (True, ("a", "b"))
    assert not stale.ready
    assert not since_losses(together([old]), m.wagons[0]).ready


def test_i2_one_edit_switches_both_and_explains_itself() -> None:
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.READY))
    decided = decide(m, [reading(1, 100)])
    assert states(decided) == {1: State.DRAINING, 2: State.ACTIVE}
    fact = one(decided.facts, Switched)
    assert (fact.old, fact.new, fact.pressure) == (1, 2, 1.0)
    assert decided.manifest.wagons[0].closed_because == fact.because == "100 of 100 events taken"
    assert decided.manifest.wagons[0].closed_at == NOW


def test_a_spare_is_opened_at_once_and_again_after_a_switch() -> None:
    settings = msgspec.structs.replace(SETTINGS, spares=1)
    assert states(decide(manifest(wagon(1, State.ACTIVE)), [reading(1, 0)], settings=settings))[2] is State.PROVISIONING
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.READY))
    switched = decide(m, [reading(1, 100)], settings=settings)
    assert states(switched) == {1: State.DRAINING, 2: State.ACTIVE, 3: State.PROVISIONING}


def test_a_ready_wagon_that_lost_its_workers_is_not_switched_to() -> None:
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.READY))
    decided = decide(m, [reading(1, 100)], {})
    assert states(decided) == {1: State.ACTIVE, 2: State.PROVISIONING}
    assert one(decided.facts, WorkersLost).number == 2
    assert "not ready" in one(decided.refusals, SwitchRefused).because


def test_a_ready_wagon_that_lost_its_workers_has_the_whole_time_again() -> None:
    """Its age is that of its time as READY."""
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.READY))
    decided = decide(m, [reading(1, 1)], {}, ages={2: 1000.0})
    assert [type(fact) for fact in decided.facts] == [WorkersLost]
    assert decided.manifest.wagons[1].attempts == 0
    assert Ensure(2) in decided.tasks


def test_cooldown_refuses_and_says_so() -> None:
    settings = Settings(limit=Lag(1), workers=Workers(each=1), cooldown=5.0)
    m = manifest(wagon(1, State.ACTIVE, active_at=NOW - 1), wagon(2, State.READY))
    refused = decide(m, [reading(1, 50, age=1.0)], settings=settings)
    assert states(refused)[1] is State.ACTIVE
    assert "cooldown of 5 s" in one(refused.refusals, SwitchRefused).because
    assert states(decide(m, [reading(1, 50, age=5.0)], settings=settings))[1] is State.DRAINING
    another_clock = decide(m, [reading(1, 50, age=1.0)], settings=settings, now=NOW + 3600)
    assert states(another_clock)[1] is State.ACTIVE, "the age counts, not the wall clock"


def test_exact_bound_and_hand_do_not_wait_for_the_cooldown() -> None:
    settings = msgspec.structs.replace(SETTINGS, cooldown=5.0)
    full = manifest(wagon(1, State.ACTIVE, active_at=NOW - 1, capacity=100), wagon(2, State.READY))
    assert states(decide(full, [reading(1, 100)], settings=settings))[1] is State.DRAINING
    asked = manifest(wagon(1, State.ACTIVE, active_at=NOW - 1), wagon(2, State.READY), request=Request("deploy", 999.0))
    decided = decide(asked, [reading(1, 3)], settings=settings)
    assert states(decided)[1] is State.DRAINING
    assert decided.manifest.request is None
    assert "asked for: deploy" in one(decided.facts, Switched).because


def test_a_request_opens_the_next_wagon_first() -> None:
    decided = decide(manifest(wagon(1, State.ACTIVE), request=Request("deploy", 999.0)), [reading(1, 0)])
    assert states(decided) == {1: State.ACTIVE, 2: State.PROVISIONING}
    assert one(decided.facts, WagonOpened).because == "a switch was requested (deploy)"
    refused = one(decided.refusals, SwitchRefused)
    assert (refused.because, refused.passing) == ("t_v2 is not ready yet", True)  # as it is after this look
    again = decide(decided.manifest, [reading(1, 0)])
    assert one(again.refusals, SwitchRefused).because == refused.because  # told once


def test_at_the_cap_fill_goes_on_and_says_so() -> None:
    settings = msgspec.structs.replace(SETTINGS, wagons=2)
    m = manifest(wagon(1, State.DRAINING, sealed_at=991.0), wagon(2, State.ACTIVE))
    decided = decide(m, [reading(1, 100, 10), reading(2, 150)], settings=settings)
    assert decided.manifest is m
    assert "cap of 2" in one(decided.refusals, SwitchRefused).because
    assert "cap of 2" in one(decided.refusals, OpenRefused).because


def test_at_the_cap_no_further_spare_is_opened_beside_one_that_is_ready() -> None:
    settings = msgspec.structs.replace(SETTINGS, wagons=3, spares=2)
    m = manifest(wagon(1, State.DRAINING, sealed_at=991.0), wagon(2, State.ACTIVE), wagon(3, State.READY))
    decided = decide(m, [reading(1, 100, 10), reading(2, 20)], {3: Deployment(number=3, ready=True)}, settings=settings)
    assert decided.manifest is m
    assert "cap of 3" in one(decided.refusals, OpenRefused).because


def test_at_the_cap_refuse_tells_publishers_and_takes_it_back() -> None:
    settings = msgspec.structs.replace(SETTINGS, wagons=2, at_cap="refuse")
    m = manifest(wagon(1, State.DRAINING, sealed_at=991.0), wagon(2, State.ACTIVE))
    refused = decide(m, [reading(1, 100, 10), reading(2, 150)], settings=settings)
    assert "cap of 2" in refused.manifest.refusing
    relieved = decide(
        msgspec.structs.replace(m, wagons=(m.wagons[1],), refusing="full"), [reading(2, 20)], settings=settings
    )
    assert relieved.manifest.refusing == ""


def test_provisioning_is_retried_with_backoff_then_given_up_and_the_next_waits() -> None:
    settings = msgspec.structs.replace(SETTINGS, provision_attempts=3, provision_timeout=10.0)
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.PROVISIONING))
    unready, pauses = {2: Deployment(number=2, ready=False, trouble="no image")}, list[float | None]()
    while states_of(m).get(2) is State.PROVISIONING:
        pause = (pauses[-1] if pauses else 0.0) or 0.0
        assert decide(m, [reading(1, 100)], unready, settings=settings, ages={2: pause + 10.0}).manifest is m
        decided = decide(m, [reading(1, 100)], unready, settings=settings, ages={2: pause + 10.1})
        failure = one(decided.facts, ProvisioningFailed)
        assert "no image" in failure.because
        assert states(decided)[1] is State.ACTIVE  # ingestion unharmed
        m = decided.manifest
        pauses.append(failure.pause)
    assert pauses == [0.5, 1.0, None]
    assert states_of(m)[2] is State.FAILED
    after = decide(m, [reading(1, 100)], {}, settings=settings, failed_opens=4.9)
    assert Remove(2) in after.tasks
    assert "never got ready" in one(after.refusals, OpenRefused).because
    assert one(after.refusals, SwitchRefused).because == "the next wagon is not opened yet"
    assert states(decide(m, [reading(1, 100)], {}, settings=settings, failed_opens=5.0))[3] is State.PROVISIONING


def test_no_process_s_wall_clock_makes_another_fail_its_wagons() -> None:
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.PROVISIONING, opened_at=NOW - 10_000))
    ahead = decide(m, [reading(1, 60)], {}, now=NOW + 10_000, ages={2: 1.0})
    assert ahead.manifest is m


def states_of(m: Manifest) -> dict[int, State]:
    return {w.number: w.state for w in m.wagons}


def test_pauses_end_at_their_longest_however_often_it_failed() -> None:
    """A week of an image that can't be pulled, and then it can."""
    m = manifest(wagon(1, State.ACTIVE), failed_opens=5_000)
    assert decide(m, [reading(1, 60)], failed_opens=299.0).manifest is m
    assert states(decide(m, [reading(1, 60)], failed_opens=300.0))[2] is State.PROVISIONING
    settings = msgspec.structs.replace(SETTINGS, provision_attempts=10_000)
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.PROVISIONING, attempts=5_000))
    assert Ensure(2) in decide(m, [reading(1, 60)], {}, settings=settings, ages={2: 30.0}).tasks
    assert one(attempt_failed(settings, m, 2, NOW, "no image").facts, ProvisioningFailed).pause == 30.0


def test_the_first_wagon_is_never_given_up() -> None:
    m = manifest(wagon(1, State.PROVISIONING))
    for _ in range(10):
        m = attempt_failed(SETTINGS, m, 1, NOW, "disk full").manifest
    assert states_of(m) == {1: State.PROVISIONING}


def test_no_new_attempt_before_the_pause_is_over() -> None:
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.PROVISIONING, attempts=2))
    assert Ensure(2) not in decide(m, [reading(1, 60)], {}, ages={2: 0.9}).tasks
    assert Ensure(2) in decide(m, [reading(1, 60)], {}, ages={2: 1.0}).tasks


def test_channels_declared_later_are_added_to_live_wagons() -> None:
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.PROVISIONING), channels=("mail",))
    decided = decide(m, [reading(1, 0)])
    assert [t for t in decided.tasks if isinstance(t, AddChannels)] == [AddChannels(1, ("mail",))]
    added = channels_added(m, 1, ("mail",))
    assert added.manifest.wagons[0].channels == ("mail",)
    assert channels_added(added.manifest, 1, ("mail",)).manifest is added.manifest


class Broken:
    def measure(self, reading: Reading) -> Pressure:
        raise ZeroDivisionError("of my own")


class NotANumber:
    def measure(self, reading: Reading) -> Pressure:
        return Pressure(float("nan"), "?")


@pytest.mark.parametrize("limit", [Broken(), NotANumber()])
def test_a_users_broken_limit_stops_nothing(limit: Any) -> None:
    decided = decide(
        manifest(wagon(1, State.ACTIVE)), [reading(1, 5)], settings=Settings(limit=limit, workers=Workers(each=1))
    )
    assert states(decided) == {1: State.ACTIVE}
    assert one(decided.refusals, StepFailed).because


def test_an_idle_train_does_not_switch_by_age() -> None:
    settings = Settings(limit=Age(10), workers=Workers(each=1))
    assert states(decide(manifest(wagon(1, State.ACTIVE)), [reading(1, 0)], settings=settings)) == {1: State.ACTIVE}


# --- a publisher that is told that the wagon is full ---------------------------------------


def test_when_full_switches_to_a_ready_wagon() -> None:
    m = manifest(wagon(1, State.ACTIVE, capacity=100), wagon(2, State.READY))
    decided = when_full(SETTINGS, m, 0.0, NOW)
    assert isinstance(decided, Edit)
    assert states(decided) == {1: State.DRAINING, 2: State.ACTIVE}
    assert "100 of 100" in one(decided.facts, Switched).because


def test_when_full_holds_then_goes_on_past_the_limit() -> None:
    m = manifest(wagon(1, State.ACTIVE, capacity=100), wagon(2, State.PROVISIONING))
    assert when_full(SETTINGS, m, SETTINGS.hold - 0.1, NOW) is None
    lifted = when_full(SETTINGS, m, SETTINGS.hold, NOW)
    assert isinstance(lifted, Edit)
    assert isinstance(lifted.tasks[0], Lift)


def test_when_full_at_the_cap() -> None:
    m = manifest(wagon(1, State.DRAINING), wagon(2, State.ACTIVE, capacity=100))
    settings = msgspec.structs.replace(SETTINGS, wagons=2)
    filled = when_full(settings, m, 0.0, NOW)
    assert isinstance(filled, Edit)
    assert isinstance(filled.tasks[0], Lift)
    refused = when_full(msgspec.structs.replace(settings, at_cap="refuse"), m, 0.0, NOW)
    assert isinstance(refused, Full)
    assert "cap of 2" in refused.because


# --- founding, and what comes of tasks -----------------------------------------------------


def test_founding_step_by_step_heals_a_dead_founder() -> None:
    first = bootstrap(SETTINGS, Manifest(train="t"), ("mail",), NOW, bounds=True)
    assert states(first) == {1: State.PROVISIONING}
    assert first.manifest.declared == SETTINGS.declared()
    assert first.tasks == (Ensure(1),)
    again = bootstrap(SETTINGS, first.manifest, ("mail",), NOW, bounds=True)
    assert again.manifest is first.manifest  # the founder died here: the next goes on
    assert again.tasks == (Ensure(1),)
    made = created(first.manifest, 1, NOW)
    last = bootstrap(SETTINGS, made, ("mail",), NOW, bounds=True)
    check(last.manifest)
    assert states(last) == {1: State.ACTIVE}
    assert last.tasks == ()


def test_a_founder_that_only_publishes_declares_nothing() -> None:
    first = bootstrap(SETTINGS, Manifest(train="t"), None, NOW, bounds=True)
    assert first.manifest.declared == {}
    assert first.manifest.wagons[0].capacity is None


def test_results_are_idempotent_and_ignore_what_has_gone() -> None:
    m = manifest(wagon(1, State.DRAINING), wagon(2, State.ACTIVE))
    once = sealed(m, 1, NOW).manifest
    assert sealed(once, 1, NOW + 1).manifest is once
    assert sealed(m, 2, NOW).manifest is m  # an active wagon is never marked sealed
    assert sealed(m, 9, NOW).manifest is m
    assert created(m, 9, NOW) is m
    assert removed(m, 1, "").manifest is m  # draining: not to be removed
    assert removed(m, 9, "").manifest is m


def test_events_that_went_without_being_settled_are_told_once() -> None:
    before = manifest(wagon(1, State.DRAINING, sealed_at=991.0), wagon(2, State.ACTIVE))
    decided = decide(before, [reading(1, 5, 5, lost=3), reading(2, 9)])
    (fact,) = (f for f in decided.facts if isinstance(f, EventsLost))
    assert (fact.number, fact.count, fact.total) == (1, 3, 3)
    after = decided.manifest
    assert [w.lost for w in after.wagons] == [3, 0]
    again = decide(after, [reading(1, 5, 5, lost=4), reading(2, 9)])
    assert [(f.count, f.total) for f in again.facts if isinstance(f, EventsLost)] == [(1, 4)]
    assert not [f for f in decide(again.manifest, [reading(1, 5, 5, lost=4)]).facts if isinstance(f, EventsLost)]
