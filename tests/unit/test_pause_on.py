"""The rule that pauses a wagon whose handlings fail: what it takes, what counts, and that a person's word is final."""

from __future__ import annotations

import logging
from typing import Any

import msgspec
import pytest

from eventwagon import PauseOn, Settings, Train
from eventwagon.contracts.facts import DeliveryPaused, log, sentence
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import RULE, Manifest, Pause
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.contracts.registry import Member, Snapshot
from eventwagon.errors import UsageError
from eventwagon.policy.edits import differing, stepped_back
from eventwagon.policy.latest_outcomes import LatestOutcomes, Outcomes
from eventwagon.policy.pause_on import judged, pause_failing
from eventwagon.policy.pausing import paused, resting, resumed
from eventwagon.policy.plan import plan
from eventwagon.views.train import reason
from tests.unit.plans import NOW, SETTINGS, look, manifest, one, wagon

RULE_ = PauseOn(failures=0.2, of=50)
BAD = {1: Outcomes(40, 10)}


# --- how it is declared -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"failures": 0}, "failures"),
        ({"failures": -0.1}, "failures"),
        ({"failures": 20}, "is a share"),
        ({"failures": float("nan")}, "failures"),
        ({"failures": float("inf")}, "failures"),
        ({"failures": True}, "failures"),
        ({"failures": "20%"}, "failures"),
        ({"of": 0}, "of"),
        ({"of": 10_001}, "at most 10,000"),
        ({"of": 2**64}, "of"),
        ({"of": 1.5}, "of"),
        ({"of": True}, "of"),
        ({"of": None}, "of"),
    ],
)
def test_bad_values_are_refused_where_they_are_written(given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        PauseOn(**given)


@pytest.mark.parametrize("value", [0.2, "PauseOn()", PauseOn, True, {"failures": 0.2}])
def test_only_a_rule_is_a_rule(value: Any) -> None:
    with pytest.raises(UsageError, match="PauseOn"):
        Train("t", pause_on=value)


def test_it_is_part_of_what_all_programs_declare() -> None:
    """A program of before the rule came declares nothing about it, which is the same as None."""
    with_rule, without = Settings(pause_on=RULE_), Settings()
    declared = Manifest(train="t", declared=without.declared())
    assert differing(declared, without, ()) == {}
    assert differing(declared, with_rule, ()) == {"pause_on": ("None", "PauseOn(failures=0.2, of=50)")}
    older = Manifest(train="t", declared={k: v for k, v in without.declared().items() if k != "pause_on"})
    assert differing(older, without, ()) == {}
    assert list(differing(older, with_rule, ())) == ["pause_on"]


# --- what it decides ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "pauses"),
    [
        (Outcomes(40, 10), True),
        (Outcomes(41, 10), False),  # less than a fifth
        (Outcomes(0, 49), False),  # too few
        (Outcomes(0, 50), True),
        (Outcomes(400, 100), True),
    ],
)
def test_it_takes_enough_handlings_and_the_share_of_failures(found: Outcomes, *, pauses: bool) -> None:
    step = pause_failing(RULE_, manifest(wagon(1, State.ACTIVE)), {1: found}, NOW)
    assert resting(step.manifest) == ({1} if pauses else set())


def test_who_why_and_since_when_are_on_record() -> None:
    step = pause_failing(RULE_, manifest(wagon(1, State.DRAINING, revision="v2"), wagon(2, State.ACTIVE)), BAD, NOW)
    pause = step.manifest.wagons[0].paused
    assert pause == Pause(why=pause.why if pause else "", at=NOW, by=RULE)
    fact = one(step.facts, DeliveryPaused)
    assert (fact.number, fact.by, fact.by_rule, fact.revision, fact.handled, fact.failed) == (
        1,
        RULE,
        True,
        "v2",
        40,
        10,
    )
    assert sentence(fact) == (
        "t_v1 (revision v2) was paused by rule: 10 of its latest 50 handlings failed, and pause_on allows less than "
        "0.2 of 50; no event is handed out until somebody resumes it"
    )


def test_status_says_it() -> None:
    m = pause_failing(RULE_, manifest(wagon(1, State.ACTIVE)), BAD, NOW).manifest
    assert reason(m, m.wagons[0], NOW + 120.0).startswith(
        "paused 2 min ago by rule: 10 of its latest 50 handlings failed"
    )


def test_it_is_a_warning_and_a_pause_by_hand_is_not(caplog: pytest.LogCaptureFixture) -> None:
    by_hand = DeliveryPaused(train="t", number=1, because="by hand", by=RULE)
    (by_rule,) = pause_failing(RULE_, manifest(wagon(1, State.ACTIVE)), BAD, NOW).facts
    with caplog.at_level(logging.INFO, "eventwagon"):
        log(by_hand)
        log(by_rule)
    assert [r.levelname for r in caplog.records] == ["INFO", "WARNING"]


@pytest.mark.parametrize("state", [s for s in State if s not in (State.ACTIVE, State.DRAINING)])
def test_only_a_wagon_that_works_is_paused(state: State) -> None:
    m = manifest(wagon(1, state), wagon(2, State.ACTIVE))
    assert pause_failing(RULE_, m, BAD, NOW).manifest is m


def test_no_wagon_is_paused_without_a_rule_or_while_the_train_is_paused_or_twice() -> None:
    m = manifest(wagon(1, State.ACTIVE))
    assert pause_failing(None, m, BAD, NOW).manifest is m
    train = msgspec.structs.replace(m, paused=Pause(why="w", at=NOW))
    assert pause_failing(RULE_, train, BAD, NOW).manifest is train
    once = pause_failing(RULE_, m, BAD, NOW).manifest
    assert pause_failing(RULE_, once, BAD, NOW).manifest is once
    assert pause_failing(RULE_, m, {7: BAD[1]}, NOW).manifest is m


def test_a_wagon_that_somebody_resumed_is_not_paused_by_the_rule_again() -> None:
    m = pause_failing(RULE_, manifest(wagon(1, State.ACTIVE)), BAD, NOW).manifest
    m = resumed(m, 1, NOW + 90.0, "it is only the test account", "ada").manifest
    assert (m.wagons[0].resumed_at, m.wagons[0].paused_seconds) == (NOW + 90.0, 90.0)
    assert pause_failing(RULE_, m, {1: Outcomes(0, 1000)}, NOW + 100.0).manifest is m
    m = paused(m, 1, Pause(why="by hand after all", at=NOW + 200.0, by="ada")).manifest  # a person may
    m = resumed(m, 1, NOW + 210.0, "", "").manifest
    assert m.wagons[0].paused_seconds == 100.0


def test_the_end_of_a_pause_by_hand_switches_no_rule_off() -> None:
    m = paused(manifest(wagon(1, State.ACTIVE)), 1, Pause(why="maintenance", at=NOW, by="ada")).manifest
    m = resumed(m, 1, NOW + 1.0, "done", "ada").manifest
    assert resting(pause_failing(RULE_, m, BAD, NOW + 2.0).manifest) == {1}


def test_the_end_of_the_train_s_pause_decides_nothing_about_a_wagon() -> None:
    m = manifest(wagon(1, State.ACTIVE), paused=Pause(why="w", at=NOW))
    m = resumed(m, None, NOW + 1.0, "", "").manifest
    assert m.wagons[0].resumed_at is None
    assert resting(pause_failing(RULE_, m, BAD, NOW + 2.0).manifest) == {1}


def test_a_registry_that_steps_back_does_not_forget_that_somebody_resumed() -> None:
    before = pause_failing(RULE_, manifest(wagon(1, State.ACTIVE)), BAD, NOW - 50.0).manifest
    after = resumed(before, 1, NOW, "", "ada").manifest
    for there in (manifest(wagon(1, State.ACTIVE)), before):
        taken = stepped_back(Snapshot(after, 9), Snapshot(there, 5), NOW + 1.0).manifest
        assert (taken.wagons[0].resumed_at, taken.wagons[0].paused_seconds) == (NOW, 50.0)
        assert taken.wagons[0].paused is None
        assert pause_failing(RULE_, taken, BAD, NOW).manifest is taken


def test_a_look_pauses() -> None:
    seen = look(manifest(wagon(1, State.ACTIVE)), settings=msgspec.structs.replace(SETTINGS, pause_on=RULE_))
    assert resting(plan(seen).manifest) == set()
    decided = plan(msgspec.structs.replace(seen, outcomes=BAD))
    assert resting(decided.manifest) == {1}
    assert decided.defects == ()


# --- which handlings count ----------------------------------------------------------------


class Watch:
    """One observer's memory, and the train that it looks at."""

    def __init__(self, of: int = 50, span: float = 0.0) -> None:
        self.memory = LatestOutcomes()
        self.now, self.span = 0.0, span
        self.rule = PauseOn(failures=0.2, of=of)
        self.manifest = manifest(wagon(1, State.DRAINING), wagon(2, State.ACTIVE))

    def look(self, *totals: tuple[str, int, int, int], uncounted: int = 0) -> dict[int, Outcomes]:
        """`totals`: a process, the wagon, handled, failed. One look a second."""
        members = [
            Member(name=name, attachments=(of(number, handled, failed, uncounted),))
            for name, number, handled, failed in totals
        ]
        return self.look_at({}, members)

    def look_at(self, deployments: dict[int, Deployment], members: list[Member]) -> dict[int, Outcomes]:
        self.now += 1.0
        numbers = judged(self.rule, self.manifest)
        found = self.memory.look(numbers, deployments, members, enough=self.rule.of, now=self.now, span=self.span)
        return dict(found)


def of(number: int, handled: int, failed: int, uncounted: int = 0) -> Deployment:
    return Deployment(number=number, ready=True, handled=handled, failed=failed, uncounted=uncounted)


def test_what_was_counted_before_the_first_look_is_left_out() -> None:
    watch = Watch()
    assert watch.look(("a", 1, 100, 100)) == {}
    assert watch.look(("a", 1, 103, 102)) == {1: (3, 2)}
    assert watch.look(("a", 1, 103, 102)) == {1: (3, 2)}


def test_processes_add_up_and_one_that_comes_or_goes_changes_nothing() -> None:
    watch = Watch()
    watch.look(("a", 1, 0, 0), ("b", 1, 0, 0), ("b", 2, 0, 0))
    assert watch.look(("a", 1, 5, 1), ("b", 1, 7, 0)) == {1: (12, 1)}
    assert watch.look(("b", 1, 8, 0), ("c", 1, 1000, 900)) == {1: (13, 1)}
    assert watch.look(("a", 1, 500, 500), ("b", 1, 8, 0), ("c", 1, 1001, 900)) == {1: (14, 1)}


def test_a_process_that_counts_anew_is_no_failure_and_no_success() -> None:
    watch = Watch()
    watch.look(("a", 1, 100, 10))
    assert watch.look(("a", 1, 120, 3)) == {}
    assert watch.look(("a", 1, 121, 3)) == {1: (1, 0)}


def test_only_the_latest_count_as_many_as_are_needed() -> None:
    watch = Watch(of=50)
    watch.look(("a", 1, 0, 0))
    assert watch.look(("a", 1, 1000, 0)) == {1: (1000, 0)}
    assert watch.look(("a", 1, 1000, 30)) == {1: (1000, 30)}
    assert watch.look(("a", 1, 1000, 50)) == {1: (0, 50)}  # a long good past does not hide it
    assert watch.look(("a", 1, 1060, 50)) == {1: (60, 0)}  # nor does a bad one that is over count


def test_a_process_that_reports_more_often_does_not_decide_alone() -> None:
    """Ten processes handle as much each, one of them badly: it reports each second, the others each third one."""
    watch = Watch(of=50, span=5.0)
    told = dict.fromkeys(range(10), 0)
    for second in range(1, 40):
        told = {n: second * 100 if n == 0 or (second + n) % 3 == 0 else known for n, known in told.items()}
        found = watch.look(*((f"p{n}", 1, 0 if n == 0 else done, done if n == 0 else 0) for n, done in told.items()))
        if second <= 5:
            assert found == {}, "not all have reported"
        else:
            assert not watch.rule.holds(*found[1])


def test_what_is_not_counted_does_not_count() -> None:
    watch = Watch()
    watch.look(("a", 1, 0, 0))
    assert watch.look(("a", 1, 3, 60), uncounted=60) == {1: (3, 0)}


def test_nothing_counts_of_the_time_before_or_during_a_pause() -> None:
    watch = Watch()
    watch.look(("a", 1, 0, 0))
    assert watch.look(("a", 1, 0, 40)) == {1: (0, 40)}
    going = watch.manifest
    watch.manifest = msgspec.structs.replace(going, paused=Pause(why="w", at=NOW))
    assert watch.look(("a", 1, 0, 45)) == {}
    watch.manifest = going
    assert watch.look(("a", 1, 0, 45)) == {}
    assert watch.look(("a", 1, 0, 46)) == {1: (0, 1)}


def test_of_an_orchestrator_the_totals_count_where_no_process_checks_in() -> None:
    watch = Watch()
    both = {5: of(1, 0, 0), 2: of(2, 0, 0)}
    watch.look_at(both, [Member(name="a", attachments=(of(2, 0, 0),))])
    found = watch.look_at(
        {5: of(1, 4, 2), 2: of(2, 100, 100)},
        [Member(name="a", attachments=(of(2, 1, 0),))],
    )
    assert found == {1: (4, 2), 2: (1, 0)}


def test_without_a_rule_nothing_is_kept() -> None:
    watch = Watch()
    watch.look(("a", 1, 0, 0))
    watch.look(("a", 1, 0, 40))
    assert judged(None, watch.manifest) == ()
    assert watch.memory.look((), {}, [], enough=0, now=5.0, span=0.0) == {}
    assert watch.look(("a", 1, 0, 80)) == {}
