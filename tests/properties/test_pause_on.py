"""The rule `pause_on`, whatever processes report: the latest handlings count, and a person has the last word."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from eventwagon import PauseOn
from eventwagon.contracts.facts import DeliveryPaused, DeliveryResumed
from eventwagon.contracts.lifecycle import State
from eventwagon.contracts.manifest import RULE, Pause
from eventwagon.contracts.orchestrator import Deployment
from eventwagon.contracts.registry import Member
from eventwagon.policy.latest_outcomes import LatestOutcomes, Outcomes
from eventwagon.policy.plan import plan
from tests.unit.plans import NOW, SETTINGS, look, manifest, wagon

_RULES = st.builds(PauseOn, st.floats(0.001, 1.0), st.integers(1, 100))
_MORE = st.tuples(st.integers(0, 30), st.integers(0, 30))
"""What a process handles between two looks: well, and badly."""
_HANDLINGS = st.builds(Outcomes, st.integers(0, 10**6), st.integers(0, 10**6))


@given(
    rule=_RULES,
    turns=st.lists(st.dictionaries(st.sampled_from("abc"), _MORE | st.none()), max_size=20),
)
def test_the_latest_handlings_are_what_was_new_in_the_latest_looks(
    rule: PauseOn, turns: list[dict[str, tuple[int, int] | None]]
) -> None:
    """`turns`: by process, what it has handled since the last look; None: it ends, and its name comes back anew."""
    memory = LatestOutcomes()
    totals: dict[str, tuple[int, int]] = {}
    new: list[int] = []
    bad: list[int] = []
    for turn in turns:
        good_now = bad_now = 0
        for name, more in turn.items():
            if more is None:
                totals.pop(name, None)
            elif name not in totals:
                totals[name] = more
            else:
                totals[name] = totals[name][0] + more[0], totals[name][1] + more[1]
                good_now, bad_now = good_now + more[0], bad_now + more[1]
        members = [
            Member(name=name, attachments=(Deployment(number=1, ready=True, handled=good, failed=failed),))
            for name, (good, failed) in totals.items()
        ]
        found = memory.look([1], {}, members, enough=rule.of, now=float(len(new)), span=0.0).get(1, Outcomes(0, 0))
        new.append(good_now + bad_now)
        bad.append(bad_now)
        assert sum(found) <= sum(new)
        assert found.failed <= sum(bad)
        assert sum(found) >= min(rule.of, sum(new))
        enough = next((n for n in range(len(new) + 1) if sum(new[len(new) - n :]) >= rule.of), len(new))
        assert found.failed <= sum(bad[len(bad) - enough :]), "none is older than what is needed"


@given(
    rates=st.lists(st.tuples(st.integers(0, 200), st.booleans()), min_size=1, max_size=12),
    first=st.lists(st.floats(0.0, 1.0), min_size=12, max_size=12),
)
def test_however_often_each_process_reports_the_share_is_about_that_of_all(
    rates: list[tuple[int, bool]], first: list[float]
) -> None:
    """`rates`: by process, handlings a second, and whether all fail. Those that fail report each half second, the
    others each 5/3 s, from any moment on."""
    memory, span = LatestOutcomes(), 2.5
    everything = sum(rate for rate, _ in rates)
    bad = sum(rate for rate, fails in rates if fails)
    said = [Deployment(number=1, ready=True) for _ in rates]
    due = [start * (0.5 if fails else 5 / 3) for start, (_, fails) in zip(first, rates, strict=False)]
    for tenth in range(200):
        now = tenth / 10
        for n, (rate, fails) in enumerate(rates):
            if now >= due[n]:
                due[n] += 0.5 if fails else 5 / 3
                done = int(rate * now)
                said[n] = Deployment(number=1, ready=True, handled=0 if fails else done, failed=done if fails else 0)
        members = [Member(name=f"p{n}", attachments=(each,)) for n, each in enumerate(said)]
        found = memory.look([1], {}, members, enough=50, now=now, span=span).get(1)
        if found is not None and everything >= 50:
            assert found.failed / sum(found) <= 1.8 * bad / everything + 0.02


@st.composite
def _looks(draw: Any) -> Any:
    states = draw(st.lists(st.sampled_from([s for s in State if s is not State.ACTIVE]), max_size=4))
    states.insert(draw(st.integers(0, len(states))), State.ACTIVE)
    pause = st.none() | st.just(Pause(why="w", at=NOW - 5.0, by="ada"))
    wagons = [
        wagon(n + 1, state, paused=draw(pause), resumed_at=draw(st.none() | st.just(NOW - 1.0)))
        for n, state in enumerate(states)
    ]
    m = manifest(*wagons, paused=draw(pause), turns=len(wagons))
    seen = look(m, settings=msgspec.structs.replace(SETTINGS, pause_on=draw(st.none() | _RULES)))
    return msgspec.structs.replace(seen, outcomes=draw(st.dictionaries(st.integers(1, 6), _HANDLINGS)))


@given(seen=_looks())
def test_a_plan_pauses_by_the_rule_alone_and_resumes_nothing(seen: Any) -> None:
    decided, rule = plan(seen), seen.settings.pause_on
    assert decided.defects == ()
    assert not any(isinstance(fact, DeliveryResumed) for fact in decided.facts)
    told = {fact.number for fact in decided.facts if isinstance(fact, DeliveryPaused)}
    for before in seen.manifest.wagons:
        after = decided.manifest.wagon(before.number)
        if after is None:
            continue
        assert after.resumed_at == before.resumed_at
        if before.paused is not None:
            assert after.paused == before.paused
        elif after.paused is None:
            assert before.number not in told
        else:
            found = seen.outcomes[before.number]
            assert rule is not None
            assert sum(found) >= rule.of
            assert found.failed / sum(found) >= rule.failures - 1e-6
            assert seen.manifest.paused is None
            assert before.resumed_at is None
            assert before.state in (State.ACTIVE, State.DRAINING)
            assert (after.paused.by, after.paused.at) == (RULE, NOW)
            assert before.number in told
    again = plan(msgspec.structs.replace(seen, manifest=decided.manifest))
    assert not any(isinstance(fact, DeliveryPaused) for fact in again.facts), "each once"
