"""Scenarios that once broke an invariant: they do not any more, and a mutant that takes the mending out is caught in them."""

from __future__ import annotations

import msgspec
import pytest

from eventwagon.testing.simulation import Scenario, check, simulate
from eventwagon.testing.simulation.mutants import FENCED, RARE
from tests.simulation import kept

KEPT = {name: value for name, value in vars(kept).items() if isinstance(value, Scenario)}


def broken(scenario: Scenario) -> set[str]:
    return {violation.invariant for violation in check(simulate(scenario))}


@pytest.mark.parametrize("scenario", KEPT.values(), ids=KEPT)
def test_what_once_broke_holds(scenario: Scenario) -> None:
    assert broken(scenario) == set()


@pytest.mark.parametrize(
    ("name", "mutant", "invariant"),
    [
        ("GREW_WHILE_NEWS_WERE_LATE", "attached to all that was known", "I3"),
        ("ANSWERED_BEFORE_IT_WAS_LOST", "ready again on an old word", "I3"),
        ("REMOVED_WHILE_IT_DRAINED_AGAIN", "removal begun with a way back", "I5"),
    ],
)
def test_it_holds_by_its_mending_alone(name: str, mutant: str, invariant: str) -> None:
    """In the scenario, or with calls that take a little longer or shorter: what moves them moves it."""
    scenario = KEPT[name]
    with {**FENCED, **RARE}[mutant]():
        assert any(invariant in broken(msgspec.structs.replace(scenario, seed=s)) for s in (scenario.seed, *range(60)))


def test_every_rare_mutant_is_caught_here() -> None:
    assert set(RARE) == {"attached to all that was known", "ready again on an old word"}
