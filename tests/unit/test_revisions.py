"""Deploying by wagon and scaling to zero, situation by situation."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from eventwagon import Lag, Settings, Workers
from eventwagon.contracts.facts import (
    Discarded,
    FellAsleep,
    ProvisioningFailed,
    Switched,
    SwitchGivenUp,
    SwitchRefused,
    SwitchRequested,
    SwitchWithdrawn,
    WagonOpened,
    WatchDropped,
    WatchEnded,
    WentBack,
    WokenUp,
    sentence,
)
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, Request, Watch, switched
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.policy.edits import Edit, attempt_failed, bootstrap, spec_of, switch_asked, switch_withdrawn, when_full
from eventwagon.policy.plan import Plan
from eventwagon.policy.scheduling import may_serve
from tests.unit.plans import NOW, SETTINGS, decide, manifest, one, reading, ready, states, wagon

TO_V2 = Request("new release", 990.0, "v2", 0.02)


def asked(*wagons: Any, **fields: Any) -> Manifest:
    return manifest(*wagons, **{"request": TO_V2, "revision": "v2", **fields})


# --- to other code ------------------------------------------------------------------------


def test_a_request_for_other_code_changes_what_new_wagons_run() -> None:
    m = manifest(wagon(1, State.ACTIVE, revision="v1"), revision="v1")
    step = switch_asked(m, TO_V2)
    assert (step.manifest.revision, step.manifest.request) == ("v2", TO_V2)
    assert one(step.facts, SwitchRequested).revision == "v2"
    assert switch_asked(step.manifest, TO_V2).manifest is step.manifest
    assert switch_asked(step.manifest, Request("as ever", 991.0)).manifest is step.manifest
    assert switch_asked(step.manifest, Request("no, v3", 991.0, "v3")).manifest.revision == "v3"


def test_a_request_that_is_withdrawn_leaves_the_code_and_its_wagons_are_put_away() -> None:
    m = asked(wagon(1, State.ACTIVE, revision="v1"), wagon(2, State.PROVISIONING, revision="v2"))
    step = switch_withdrawn(m, "not today", "ada")
    assert (step.manifest.request, step.manifest.revision) == (None, "v1")
    assert sentence(one(step.facts, SwitchWithdrawn)) == (
        "the requested switch was withdrawn by ada, t_v1 (revision v1) goes on: not today"
    )
    assert switch_withdrawn(step.manifest, "not today", "ada").manifest is step.manifest
    decided = decide(step.manifest, [reading(1, 5)])
    assert states(decided) == {1: State.ACTIVE, 2: State.FAILED}


def test_a_switch_that_the_train_can_not_do_without_is_not_withdrawn() -> None:
    m = asked(wagon(1, State.ACTIVE, revision="v1", found_sealed=True))
    assert switch_withdrawn(m, "not today", "").manifest is m


def test_spares_with_the_old_code_are_put_away_and_never_switched_to() -> None:
    m = asked(
        wagon(1, State.ACTIVE, revision="v1"),
        wagon(2, State.READY, revision="v1"),
        wagon(3, State.PROVISIONING, revision="v1"),
    )
    decided = decide(m, [reading(1, 5)])
    assert states(decided) == {1: State.ACTIVE, 2: State.DRAINING, 3: State.FAILED, 4: State.PROVISIONING}
    assert decided.manifest.wagons[3].revision == one(decided.facts, WagonOpened).revision == "v2"
    assert "it has revision v1, v2 is wanted now" in one(decided.facts, Discarded).because
    assert one(decided.facts, ProvisioningFailed).pause is None
    assert one(decided.refusals, SwitchRefused).because == "t_v4 is not ready yet"
    assert decided.manifest.failed_opens == 0


def test_a_publisher_at_a_full_wagon_does_not_switch_to_old_code_either() -> None:
    m = asked(wagon(1, State.ACTIVE, revision="v1", capacity=10), wagon(2, State.READY, revision="v1"))
    assert when_full(SETTINGS, m, 0.0, NOW) is None


def test_the_switch_is_made_to_a_ready_wagon_with_the_code_and_is_watched() -> None:
    m = asked(wagon(1, State.ACTIVE, revision="v1"), wagon(2, State.READY, revision="v2"))
    decided = decide(m, [reading(1, 5)])
    assert states(decided) == {1: State.DRAINING, 2: State.ACTIVE}
    assert one(decided.facts, Switched).revision == "v2"
    assert decided.manifest.watch == Watch(2, "v1", 0.02)
    assert decided.manifest.request is None
    later = switched(
        manifest(
            *decided.manifest.wagons, wagon(3, State.READY, revision="v2"), revision="v2", watch=Watch(2, "v1", 0.02)
        ),
        to=3,
        now=NOW,
        because="full",
    )
    assert later.watch == Watch(2, "v1", 0.02)  # an ordinary switch leaves the verdict to come


def test_workers_that_run_other_code_make_no_wagon_ready() -> None:
    m = asked(wagon(1, State.ACTIVE, revision="v1"), wagon(2, State.PROVISIONING, revision="v2", created_at=990.0))
    runs_old = {**ready(1), 2: Deployment(number=2, ready=True, revision="v1")}
    assert states(decide(m, [reading(1, 5)], runs_old))[2] is State.PROVISIONING
    runs_new = {**ready(1), 2: Deployment(number=2, ready=True, revision="v2")}
    assert states(decide(m, [reading(1, 5)], runs_new)) == {1: State.DRAINING, 2: State.ACTIVE}


def test_code_that_never_gets_ready_is_given_up_and_the_old_goes_on() -> None:
    m = asked(wagon(1, State.ACTIVE, revision="v1"), wagon(2, State.PROVISIONING, revision="v2", attempts=3))
    step = attempt_failed(SETTINGS, m, 2, NOW, "no such image")
    assert (step.manifest.request, step.manifest.revision, step.manifest.failed_opens) == (None, "v1", 0)
    fact = one(step.facts, SwitchGivenUp)
    assert (fact.revision, fact.back) == ("v2", "v1")
    assert "no such image" in sentence(fact)
    again = asked(wagon(1, State.ACTIVE, revision="v2"), wagon(2, State.PROVISIONING, revision="v2", attempts=3))
    step = attempt_failed(SETTINGS, again, 2, NOW, "no room")
    assert (step.manifest.request, step.manifest.failed_opens) == (TO_V2, 1)  # the code is known to run: try on


def test_a_watch_never_goes_back_to_the_code_that_it_watches() -> None:
    wagons = (wagon(1, State.ACTIVE, revision="v2"), wagon(2, State.READY, revision="v2"))
    assert switched(asked(*wagons), to=2, now=NOW, because="test").watch is None
    assert asked(*wagons).revision_before("v2") is None
    watched = asked(*wagons, watch=Watch(1, "v1", 0.5))
    assert switched(watched, to=2, now=NOW, because="test").watch == Watch(2, "v1", 0.02)
    over = asked(*wagons, watch=Watch(1, "v1", 0.5), request=Request("no verdict", 990.0, "v2"))
    assert switched(over, to=2, now=NOW, because="test").watch is None


def test_a_watch_that_lost_its_way_back_before_the_switch_is_reported() -> None:
    """The watched wagon has drained since somebody requested to watch its code anew."""
    drained = wagon(1, State.DRAINED, revision="v2")
    active, spare = wagon(2, State.ACTIVE, revision="v2", capacity=10), wagon(3, State.READY, revision="v2")
    m = asked(drained, active, spare, watch=Watch(1, "v1", 0.5))
    by_observer = decide(m, [reading(2, 5)], ready(2, 3))
    assert states(by_observer)[3] is State.ACTIVE
    assert by_observer.manifest.watch is None
    by_publisher = when_full(SETTINGS, msgspec.structs.replace(m, watch=None), 0.0, NOW)
    assert isinstance(by_publisher, Edit)
    for facts in (by_observer.facts, by_publisher.facts):
        fact = one(facts, WatchDropped)
        assert (fact.number, fact.revision) == (3, "v2")
        assert "t_v3 (revision v2) is not watched" in sentence(fact)
    kept = decide(asked(wagon(1, State.ACTIVE, revision="v1"), wagon(2, State.READY, revision="v2")), [reading(1, 5)])
    assert not any(isinstance(fact, WatchDropped) for fact in kept.facts)


def test_a_request_to_watch_more_closely_replaces_the_one_before() -> None:
    m = manifest(wagon(1, State.ACTIVE, revision="v1"), request=Request("release", 990.0, "v2"), revision="v2")
    step = switch_asked(m, TO_V2)
    assert step.manifest.request == TO_V2
    assert one(step.facts, SwitchRequested).watch == 0.02
    assert switch_asked(step.manifest, Request("as ever", 991.0, "v2")).manifest is step.manifest


# --- under watch --------------------------------------------------------------------------


def watched(handled: int, failed: int, **fields: Any) -> Plan:
    m = manifest(
        wagon(1, State.DRAINING, revision="v1", sealed_at=991.0),
        wagon(2, State.ACTIVE, revision="v2"),
        **{"revision": "v2", "watch": Watch(2, "v1", 0.02), **fields},
    )
    counts = {2: Deployment(number=2, ready=True, handled=handled, failed=failed)}
    return decide(m, [reading(1, 50, 40), reading(2, 50)], {**ready(1), **counts})


@pytest.mark.parametrize(("handled", "failed"), [(0, 1), (0, 19), (98, 2), (1000, 20)])
def test_few_handlings_or_few_failures_are_no_verdict(handled: int, failed: int) -> None:
    assert watched(handled, failed).manifest.request is None


@pytest.mark.parametrize(("handled", "failed"), [(0, 20), (97, 3), (1000, 30)])
def test_too_many_failures_ask_for_the_code_before(handled: int, failed: int) -> None:
    decided = watched(handled, failed)
    fact = one(decided.facts, WentBack)
    assert (fact.handled, fact.failed, fact.back) == (handled, failed, "v1")
    assert decided.manifest.watch is None
    request = decided.manifest.request
    assert request is not None
    assert (request.revision, request.watch, decided.manifest.revision) == ("v1", None, "v1")
    assert states(decided)[3] is State.PROVISIONING
    assert decided.manifest.wagons[2].revision == "v1"


def test_what_a_person_asked_for_meanwhile_stands() -> None:
    decided = watched(0, 30, request=Request("v3 mends it", 995.0, "v3"), revision="v3")
    assert decided.manifest.revision == "v3"
    assert decided.manifest.watch is None
    plain = watched(0, 30, request=Request("as ever", 995.0))
    assert plain.manifest.revision == "v1"


def test_a_watch_ends_with_its_wagon() -> None:
    m = manifest(wagon(1, State.DRAINED), wagon(2, State.ACTIVE), watch=Watch(1, "v1", 0.02))
    decided = decide(m, [reading(2, 5)])
    assert decided.manifest.watch is None
    assert one(decided.facts, WatchEnded).number == 1


# --- who may serve ------------------------------------------------------------------------


def test_a_process_serves_its_own_revision_and_wagons_without_one() -> None:
    assert may_serve("v1", "v1")
    assert may_serve("v1", "")
    assert may_serve("", "")
    assert not may_serve("v1", "v2")
    assert not may_serve("", "v2")


def test_the_founder_says_what_the_first_wagon_runs() -> None:
    step = bootstrap(SETTINGS, Manifest(train="t"), (), NOW, bounds=False, revision="v1")
    assert (step.manifest.revision, step.manifest.wagons[0].revision) == ("v1", "v1")
    step = bootstrap(SETTINGS, Manifest(train="t"), None, NOW, bounds=False, revision="v1")
    assert step.manifest.revision == ""  # one that only publishes says nothing of who works


# --- scale to zero ------------------------------------------------------------------------

IDLE_OUT = Settings(limit=Lag(100), workers=Workers(each=2), idle_after=300.0)


def rested(
    m: Manifest, outstanding: int | None, idle_for: float, settings: Settings = IDLE_OUT, **options: Any
) -> Plan:
    seen = reading(1, 10, 10, outstanding_in_all=outstanding)
    return decide(m, [seen], settings=settings, bounds=False, idle=idle_for, orchestrated=True, **options)


def test_an_idle_train_sleeps_and_keeps_its_active_wagon() -> None:
    m = manifest(wagon(1, State.ACTIVE))
    assert rested(m, 0, 299.0).manifest is m
    decided = rested(m, 0, 300.0)
    assert decided.manifest.wagons[0].asleep_at == NOW
    assert decided.manifest.wagons[0].state is State.ACTIVE
    assert one(decided.facts, FellAsleep).seconds == 300.0
    assert rested(decided.manifest, 0, 999.0).manifest is decided.manifest


@pytest.mark.parametrize("outstanding", [1, None])
def test_what_is_to_be_done_or_may_be_keeps_it_awake_and_wakes_it(outstanding: int | None) -> None:
    m = manifest(wagon(1, State.ACTIVE))
    assert rested(m, outstanding, 999.0).manifest is m
    decided = rested(manifest(wagon(1, State.ACTIVE, asleep_at=900.0)), outstanding, 0.0)
    assert decided.manifest.wagons[0].asleep_at is None
    assert one(decided.facts, WokenUp).number == 1


def test_with_spares_or_other_wagons_or_a_request_or_idle_after_0_nobody_sleeps() -> None:
    m = manifest(wagon(1, State.ACTIVE))
    for settings in (Settings(limit=Lag(100), spares=1), Settings(limit=Lag(100), idle_after=0.0)):
        assert rested(m, 0, 999.0, settings).manifest.wagons[0].asleep_at is None
        asleep = manifest(wagon(1, State.ACTIVE, asleep_at=900.0))
        assert "settings" in one(rested(asleep, 0, 999.0, settings).facts, WokenUp).because
    busy = manifest(wagon(1, State.ACTIVE), wagon(2, State.DRAINING))
    assert rested(busy, 0, 999.0).manifest.wagons[0].asleep_at is None
    assert (
        rested(manifest(wagon(1, State.ACTIVE), request=Request("x", 1.0)), 0, 999.0).manifest.wagons[0].asleep_at
        is None
    )
    assert decide(m, [reading(1, 10, 10)], settings=IDLE_OUT, idle=999.0).manifest is m  # no orchestrator


def test_a_wagon_that_is_cut_off_asleep_gets_its_workers_back() -> None:
    m = manifest(wagon(1, State.ACTIVE, asleep_at=900.0), wagon(2, State.READY))
    after = switched(m, to=2, now=NOW, because="by hand")
    assert after.wagons[0].asleep_at is None


def test_nobody_for_now_is_not_nothing_at_all() -> None:
    m = manifest(wagon(1, State.ACTIVE))
    spec = spec_of(m, m.wagons[0], workers=0)
    assert (spec.workers, spec.idle, spec.workers_now) == (1, True, 0)
    assert spec_of(m, m.wagons[0], workers=3).workers_now == 3
    assert spec_of(m, m.wagons[0], workers=None).workers_now is None
