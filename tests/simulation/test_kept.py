"""Scenarios that once broke an invariant: they do not any more, and a mutant that takes the mending out is caught in them."""

from __future__ import annotations

import pytest

from eventwagon.testing.simulation import Scenario, check, simulate
from eventwagon.testing.simulation.mutants import FENCED, RARE, Mutant
from tests.simulation import kept


def broken(scenario: Scenario) -> set[str]:
    return {violation.invariant for violation in check(simulate(scenario))}


@pytest.mark.parametrize(
    ("scenario", "mutant", "invariant"),
    [
        pytest.param(
            kept.GREW_BEFORE_IT_WAS_READY, RARE["attached to all that was known"], "I3", id="grew before it was ready"
        ),
        pytest.param(
            kept.GREW_WHILE_ITS_WORKERS_STOOD_STILL,
            RARE["attached to all that was known"],
            "I3",
            id="grew, workers stopped",
        ),
        pytest.param(
            kept.ANSWERED_BEFORE_IT_WAS_LOST, RARE["ready again on an old word"], "I3", id="answered before it was lost"
        ),
        pytest.param(
            kept.REMOVED_WHILE_IT_DRAINED_AGAIN,
            FENCED["removal begun with a way back"],
            "I5",
            id="removed, drained again",
        ),
    ],
)
def test_what_once_broke_holds_and_only_by_its_mending(scenario: Scenario, mutant: Mutant, invariant: str) -> None:
    assert broken(scenario) == set()
    with mutant():
        assert invariant in broken(scenario)


def test_every_rare_mutant_is_caught_here() -> None:
    assert set(RARE) == {"attached to all that was known", "ready again on an old word"}
