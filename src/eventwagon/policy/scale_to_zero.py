"""Scale to zero: when an idle train's workers are stopped, and when they are started again. Pure."""

from __future__ import annotations

from ..contracts.facts import FellAsleep, WokenUp
from ..contracts.manifest import Manifest, changed
from .edits import Edit
from .seen import Seen


def scale_to_zero(seen: Seen, manifest: Manifest) -> Edit:
    """Stop the active wagon's workers while there is nothing to do, and start them again when there is. An unknown
    figure does not count as nothing.

    `manifest` is the look's manifest as the earlier phases have left it. The wagon keeps its channels: events are
    stored, and the next look wakes it. A paused wagon stays asleep.
    """
    settings = seen.settings
    active = manifest.active
    reading = seen.readings.get(active.number) if active is not None else None
    if active is None or reading is None:
        return Edit(manifest)
    may, idle = settings.idle_after > 0 and settings.spares == 0, reading.outstanding_in_all == 0
    train, number = manifest.train, active.number
    if active.asleep_at is not None:
        if may and (idle or manifest.pause_of(active) is not None):
            return Edit(manifest)
        count = reading.outstanding_in_all
        why = (
            "the settings say that workers stay" if not may else f"{'unknown' if count is None else count} outstanding"
        )
        return Edit(changed(manifest, number, asleep_at=None), (WokenUp(train=train, number=number, because=why),))
    seconds = seen.ages.idle
    if may and idle and seconds >= settings.idle_after and len(manifest.wagons) == 1 and manifest.request is None:
        fact = FellAsleep(train=train, number=number, seconds=seconds)
        return Edit(changed(manifest, number, asleep_at=seen.now), (fact,))
    return Edit(manifest)
