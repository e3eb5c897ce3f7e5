"""A pause by hand, step by step: what stands in the manifest, what limits do meanwhile, who heeds it."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from eventwagon import Age, Lag, Settings, Volume, Wait, Workers
from eventwagon.contracts.facts import (
    WHILE_PAUSED,
    DeliveryPaused,
    DeliveryResumed,
    Switched,
    SwitchRefused,
    WagonDrained,
    WagonOpened,
    WokenUp,
    log,
)
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import Manifest, Pause, Request, TrainRemoval, decode, encode
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.contracts.reading import History, Sample, busy_rate
from eventwagon.contracts.registry import Member, Snapshot
from eventwagon.limits import Limit
from eventwagon.policy.edits import Edit, Full, Lift, Seal, bootstrap, load_of, spec_of, stepped_back, when_full
from eventwagon.policy.pausing import heedless, paused, resting, resumed
from eventwagon.policy.plan import Plan
from eventwagon.policy.scale_to_zero import scale_to_zero
from eventwagon.policy.scheduling import allocate
from tests.unit.plans import NOW, SETTINGS, decide, look, manifest, one, reading, states, wagon

PAUSE = Pause(why="the mail server moves", at=NOW - 60.0, by="ada@laptop")


def behind(**fields: Any) -> list[Any]:
    """The active wagon has taken as much as it may, and nothing of it is handled."""
    return [reading(1, 100, 0, oldest_age=500.0, newest_age=0.0, settle_rate=1.0, **fields)]


# --- in the manifest ----------------------------------------------------------------------


def test_who_paused_it_first_stands_and_the_rest_is_idempotent() -> None:
    m = manifest(wagon(1, State.ACTIVE))
    step = paused(m, None, PAUSE)
    assert step.manifest.paused == PAUSE
    assert one(step.facts, DeliveryPaused).by == "ada@laptop"
    again = paused(step.manifest, None, msgspec.structs.replace(PAUSE, by="bob", at=NOW))
    assert again.manifest is step.manifest
    assert again.facts == ()


def test_publishing_can_be_paused_later_and_is_not_let_go_by_a_second_pause() -> None:
    m = paused(manifest(wagon(1, State.ACTIVE)), None, PAUSE).manifest
    both = paused(m, None, Pause(why="more", at=NOW, by="bob", publishing=True))
    assert both.manifest.paused == Pause(why="more", at=NOW - 60.0, by="bob", publishing=True)
    assert one(both.facts, DeliveryPaused).publishing
    assert paused(both.manifest, None, PAUSE).manifest is both.manifest


def test_a_train_s_pause_and_a_wagon_s_own_do_not_end_each_other() -> None:
    m = manifest(wagon(1, State.DRAINING), wagon(2, State.ACTIVE))
    m = paused(paused(m, None, PAUSE).manifest, 1, PAUSE).manifest
    assert resting(m) == {1, 2}
    step = resumed(m, None, NOW, "it has moved", "bob")
    assert resting(step.manifest) == {1}
    assert one(step.facts, DeliveryResumed).seconds == 60.0
    assert resting(resumed(step.manifest, 1, NOW, "", "").manifest) == set()
    assert resting(resumed(m, 1, NOW, "", "").manifest) == {1, 2}


def test_what_is_gone_or_not_paused_changes_nothing() -> None:
    m = manifest(wagon(1, State.ACTIVE))
    assert paused(m, 7, PAUSE).manifest is resumed(m, 7, NOW, "", "").manifest is m
    assert resumed(m, None, NOW, "", "").manifest is resumed(m, 1, NOW, "", "").manifest is m


@pytest.mark.parametrize("number", [None, 1])
def test_older_code_reads_what_is_not_paused_and_drops_no_pause(number: int | None) -> None:
    """It would drop the pause with its next write: it is to refuse the document while there is one."""
    m = manifest(wagon(1, State.ACTIVE))
    assert b'"format":3' in encode(m)
    held = paused(m, number, PAUSE).manifest
    assert b'"format":4' in encode(held)
    assert decode(encode(held)) == held
    assert b'"format":4' in encode(msgspec.structs.replace(m, removal=TrainRemoval(why="old", at=NOW)))


def test_specs_say_it() -> None:
    m = paused(manifest(wagon(1, State.DRAINING), wagon(2, State.ACTIVE)), 1, PAUSE).manifest
    assert [spec_of(m, w, workers=2).paused for w in m.wagons] == [True, False]


# --- what limits do -----------------------------------------------------------------------


@pytest.mark.parametrize("limit", [Volume(100), Lag(100), Wait(2.0), Age(50.0), Volume(100) | Wait(2.0)])
def test_no_limit_opens_or_switches_while_the_train_is_paused(limit: Limit) -> None:
    settings = Settings(limit=limit, workers=Workers(each=2))
    m = manifest(wagon(1, State.ACTIVE), paused=PAUSE)
    decided = decide(m, behind(), settings=settings)
    assert decided.manifest is m
    assert one(decided.refusals, SwitchRefused).because == WHILE_PAUSED
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.READY), paused=PAUSE)
    assert decide(m, behind(), settings=settings).manifest is m


def test_once_resumed_the_limit_finds_it_full_and_new_events_get_a_wagon_of_their_own() -> None:
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.READY), paused=PAUSE)
    m = resumed(m, None, NOW, "", "").manifest
    assert one(decide(m, behind()).facts, Switched).new == 2


def test_spares_are_kept_and_a_switch_by_hand_is_made() -> None:
    m = manifest(wagon(1, State.ACTIVE), paused=PAUSE)
    settings = msgspec.structs.replace(SETTINGS, spares=1)
    assert one(decide(m, behind(), settings=settings).facts, WagonOpened).number == 2
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.READY), paused=PAUSE, request=Request("by hand", NOW))
    decided = decide(m, behind())
    assert one(decided.facts, Switched).new == 2
    assert resting(decided.manifest) == {1, 2}


def test_a_wagon_that_alone_is_paused_is_left_for_the_next_as_ever() -> None:
    m = paused(manifest(wagon(1, State.ACTIVE), wagon(2, State.READY)), 1, PAUSE).manifest
    decided = decide(m, behind(), settings=Settings(limit=Lag(100), workers=Workers(each=2)))
    assert one(decided.facts, Switched).new == 2
    assert resting(decided.manifest) == {1}


def test_that_it_is_not_switched_is_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    decided = decide(manifest(wagon(1, State.ACTIVE), paused=PAUSE), behind())
    refused = one(decided.refusals, SwitchRefused)
    assert not refused.passing  # which would be told again once it lasts
    with caplog.at_level(logging.INFO, "eventwagon"):
        log(refused)
    assert [r.levelname for r in caplog.records] == ["INFO"]


def test_at_the_cap_publishers_are_refused_as_the_settings_say() -> None:
    settings = Settings(limit=Volume(100), workers=Workers(each=2), wagons=1, at_cap="refuse")
    decided = decide(manifest(wagon(1, State.ACTIVE), paused=PAUSE), behind(), settings=settings)
    assert "cap of 1" in decided.manifest.refusing


def test_an_exact_bound_is_lifted_while_the_train_is_paused() -> None:
    m = manifest(wagon(1, State.ACTIVE, capacity=100), wagon(2, State.READY), paused=PAUSE)
    lifted = when_full(SETTINGS, m, 0.0, NOW)
    assert isinstance(lifted, Edit)
    assert lifted.tasks == (Lift(1, WHILE_PAUSED),)
    capped = Settings(limit=Volume(100), workers=Workers(each=2), wagons=1, at_cap="refuse")
    assert isinstance(when_full(capped, manifest(wagon(1, State.ACTIVE, capacity=100), paused=PAUSE), 9.0, NOW), Full)


# --- draining, sleeping, workers ----------------------------------------------------------


def test_a_paused_wagon_is_sealed_and_drains_once_it_is_empty_and_not_before() -> None:
    m = manifest(wagon(1, State.DRAINING), wagon(2, State.ACTIVE), paused=PAUSE)
    assert Seal(1) in decide(m, [reading(1, 10), reading(2, 0)]).tasks
    m = manifest(wagon(1, State.DRAINING, sealed_at=995.0), wagon(2, State.ACTIVE), paused=PAUSE)
    decided = decide(m, [reading(1, 10), reading(2, 0)], ages={1: 1e6})
    assert states(decided)[1] is State.DRAINING
    assert decided.refusals == ()
    assert one(decide(m, [reading(1, 10, 10, empty=True), reading(2, 0)]).facts, WagonDrained).number == 1


def test_what_comes_wakes_no_wagon_that_is_paused_until_it_is_resumed() -> None:
    m = manifest(wagon(1, State.ACTIVE, asleep_at=900.0), paused=PAUSE)
    step = scale_to_zero(look(m, [reading(1, 5)]), m)
    assert step.manifest is m
    m = resumed(m, None, NOW, "", "").manifest
    assert one(scale_to_zero(look(m, [reading(1, 5)]), m).facts, WokenUp).number == 1


def test_a_paused_wagon_holds_no_worker_of_a_shared_crew() -> None:
    m = manifest(wagon(1, State.DRAINING), wagon(2, State.DRAINING), wagon(3, State.ACTIVE))
    m = paused(m, 1, PAUSE).manifest
    loads = [load_of(w, reading(w.number, 100), None, NOW, paused=m.pause_of(w) is not None) for w in m.wagons]
    given = allocate(Workers(total=8, floor=1), loads)
    assert given[1] == 0
    assert sum(given.values()) == 8
    assert given[2] >= 1


def test_the_time_of_a_pause_says_nothing_of_how_fast_workers_are() -> None:
    """Else the wait that is reckoned would be endless once they work again, and wagon after wagon full at once."""
    history = History()
    for second in range(10):  # as the observer samples: nothing of a paused wagon counts as backlog
        history.add_all({1: Sample(NOW + second, 100, 0, 0)}, NOW + second)
    for second in range(10, 13):
        history.add_all({1: Sample(NOW + second, 100, 10 * (second - 9), 60)}, NOW + second)
    assert busy_rate(history.of(1)) == pytest.approx(10.0)


def test_nobody_founds_or_changes_what_is_being_removed() -> None:
    m = manifest(wagon(1, State.ACTIVE), removal=TrainRemoval(why="old", at=NOW))
    decided = decide(m, [reading(1, 100)])
    assert decided == Plan(m)


def test_the_first_wagon_of_a_paused_train_is_founded() -> None:
    step = bootstrap(SETTINGS, Manifest(train="t", paused=PAUSE), (), NOW, bounds=True)
    assert resting(step.manifest) == {1}


# --- who heeds it -------------------------------------------------------------------------


def member(name: str, *attachments: Deployment, deployed: tuple[Deployment, ...] = ()) -> Member:
    return Member(name=name, roles=("work",), attachments=attachments, deployed=deployed)


def at(number: int, *, paused: bool | None = None, workers: int = 2) -> Deployment:
    return Deployment(number=number, ready=True, workers=workers, paused=paused)


def test_processes_are_heedless_until_they_say_that_they_pause() -> None:
    m = paused(manifest(wagon(1, State.DRAINING), wagon(2, State.ACTIVE)), 1, PAUSE).manifest
    found = heedless(m, [member("a", at(1, paused=True), at(2)), member("b", at(1, paused=False), at(2))])
    assert [(h.number, h.who, h.can) for h in found] == [(1, "b", True)]


@pytest.mark.parametrize(
    ("says", "own", "heeds"),
    [(True, None, []), (False, None, [True]), (None, None, [False]), (None, True, []), (None, False, [True])],
)
def test_workers_of_an_orchestrator(says: bool | None, own: bool | None, heeds: list[bool]) -> None:
    """Those that check in speak for themselves; of the others the orchestrator says it, or nobody can."""
    m = paused(manifest(wagon(1, State.ACTIVE)), None, PAUSE).manifest
    members = [member("o", deployed=(at(1, paused=says),))]
    if own is not None:
        members.append(member("pod", at(1, paused=own)))
    assert [h.can for h in heedless(m, members)] == heeds


def test_a_registry_that_steps_back_loses_no_pause_that_was_known() -> None:
    """Nor does one come back that is over by now, and a removal goes on."""
    m = manifest(wagon(1, State.DRAINING), wagon(2, State.ACTIVE))
    held = paused(paused(m, None, PAUSE).manifest, 1, PAUSE).manifest
    taken = stepped_back(Snapshot(held, 9), Snapshot(m, 5), NOW).manifest
    assert (taken.paused, taken.wagons[0].paused, taken.wagons[1].paused) == (PAUSE, PAUSE, None)
    assert resting(stepped_back(Snapshot(m, 9), Snapshot(held, 5), NOW).manifest) == set()
    removal = TrainRemoval(why="old", at=NOW)
    going = msgspec.structs.replace(m, removal=removal)
    assert stepped_back(Snapshot(going, 9), Snapshot(m, 5), NOW).manifest.removal == removal


def test_a_paused_train_whose_channel_has_vanished_is_switched_all_the_same() -> None:
    m = manifest(wagon(1, State.ACTIVE), wagon(2, State.READY), paused=PAUSE)
    assert one(decide(m, [reading(1, 10, missing=("",))]).facts, Switched).new == 2
