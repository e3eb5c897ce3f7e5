"""Pause wagons whose handlings fail, by the rule `pause_on`. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..contracts.facts import DeliveryPaused
from ..contracts.lifecycle import State
from ..contracts.manifest import RULE, Manifest, Pause, Wagon
from ..display.text import count
from ..pause_on import PauseOn
from .edits import Edit
from .latest_outcomes import Outcomes
from .pausing import paused


def judged(rule: PauseOn | None, manifest: Manifest) -> Collection[int]:
    """The numbers of the wagons that the rule may pause."""
    return () if rule is None else [w.number for w in manifest.wagons if _is_judged(manifest, w)]


def pause_failing(rule: PauseOn | None, manifest: Manifest, outcomes: Mapping[int, Outcomes], now: float) -> Edit:
    """Pause each wagon of which too many of the latest handlings failed. Never one that somebody has resumed; none
    while the whole train is paused."""
    edit = Edit(manifest)
    for number, found in sorted(outcomes.items()):
        wagon = manifest.wagon(number)
        if rule is None or wagon is None or not _is_judged(manifest, wagon) or not rule.holds(*found):
            continue
        why = (
            f"{found.failed:,} of its latest {count(sum(found), 'handling')} failed, and pause_on allows less than "
            f"{rule.failures:.3g} of {rule.of:,}"
        )
        step = paused(edit.manifest, number, Pause(why=why, at=now, by=RULE))
        fact = DeliveryPaused(
            train=manifest.train,
            number=number,
            because=why,
            by=RULE,
            by_rule=True,
            revision=wagon.revision,
            handled=found.handled,
            failed=found.failed,
        )
        edit = Edit(step.manifest, (*edit.facts, fact))
    return edit


def _is_judged(manifest: Manifest, wagon: Wagon) -> bool:
    """It works, is not paused, and nobody has ended a pause by the rule."""
    working = wagon.state in (State.ACTIVE, State.DRAINING)
    return working and manifest.pause_of(wagon) is None and wagon.resumed_at is None
