"""Pause wagons whose handlings fail, by the rule `pause_on`. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from ..contracts.facts import DeliveryPaused
from ..contracts.manifest import RULE, Manifest, Pause
from ..display.text import count
from ..pause_on import PauseOn
from .edits import Edit
from .latest_outcomes import Outcomes, is_judged
from .pausing import paused


def pause_failing(rule: PauseOn | None, manifest: Manifest, outcomes: Mapping[int, Outcomes], now: float) -> Edit:
    """Pause each wagon of which too many of the latest handlings failed. Never one that somebody has resumed; none
    while the whole train is paused."""
    edit = Edit(manifest)
    for number, found in sorted(outcomes.items()):
        wagon = manifest.wagon(number)
        if rule is None or wagon is None or not is_judged(manifest, wagon) or not rule.holds(*found):
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
