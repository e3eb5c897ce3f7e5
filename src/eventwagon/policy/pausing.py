"""Pauses: how the manifest stores them, and which workers do not follow them yet. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from ..contracts.facts import DeliveryPaused, DeliveryResumed
from ..contracts.lifecycle import LIVE
from ..contracts.manifest import RULE, Manifest, Pause, changed
from ..contracts.registry import Member
from .edits import Edit


def paused(manifest: Manifest, number: int | None, pause: Pause) -> Edit:
    """Pause the train, or only the wagon `number`. Idempotent: the first pause counts, except that a later one may also
    refuse publishing. Nothing changes if the wagon is gone."""
    if number is not None and manifest.wagon(number) is None:
        return Edit(manifest)
    standing = manifest.own_pause(number)
    if standing is not None:
        if standing.publishing or not pause.publishing:
            return Edit(manifest)
        pause = msgspec.structs.replace(pause, at=standing.at)
    fact = DeliveryPaused(
        train=manifest.train, number=number, because=pause.why, by=pause.by, publishing=pause.publishing
    )
    return Edit(_with(manifest, number, pause), (fact,))


def resumed(manifest: Manifest, number: int | None, now: float, because: str, by: str) -> Edit:
    """End the train's pause, or the wagon's own; neither ends the other. The rule `pause_on` does not pause a wagon
    again after somebody has ended such a pause. Idempotent."""
    standing = manifest.own_pause(number)
    if standing is None:
        return Edit(manifest)
    seconds = max(0.0, now - standing.at)
    fact = DeliveryResumed(train=manifest.train, number=number, because=because, by=by, seconds=seconds)
    left = _with(manifest, number, None)
    if number is not None and (wagon := left.wagon(number)) is not None:
        at = now if standing.by == RULE else wagon.resumed_at
        left = changed(left, number, resumed_at=at, paused_seconds=wagon.paused_seconds + seconds)
    return Edit(left, (fact,))


def _with(manifest: Manifest, number: int | None, pause: Pause | None) -> Manifest:
    if number is None:
        return msgspec.structs.replace(manifest, paused=pause)
    return changed(manifest, number, paused=pause)


def resting(manifest: Manifest) -> frozenset[int]:
    """The numbers of the paused wagons: none of their events is handed out."""
    return frozenset(w.number for w in manifest.wagons if manifest.pause_of(w) is not None)


class Heedless(NamedTuple):
    """Workers of a paused wagon that have not confirmed the pause."""

    number: int
    who: str
    """The process, or the workers that an orchestrator has started."""
    can: bool
    """True: it should follow the pause soon, unless its version does not know pauses. False: it goes on."""


def heedless(manifest: Manifest, members: Sequence[Member]) -> Iterator[Heedless]:
    """The workers that still serve paused wagons, according to the check-ins."""
    for wagon in manifest.in_state(*LIVE):
        if manifest.pause_of(wagon) is None:
            continue
        own = [(m.name, a) for m in members for a in m.attachments if a.number == wagon.number and a.ready]
        for name, a in own:
            if not a.paused:
                yield Heedless(wagon.number, name, can=True)
        deployed = [a for m in members for a in m.deployed if a.number == wagon.number and a.workers]
        if deployed and not own and not all(a.paused for a in deployed):
            who = f"the orchestrator's {max(a.workers for a in deployed)} workers"
            yield Heedless(wagon.number, who, can=any(a.paused is False for a in deployed))
