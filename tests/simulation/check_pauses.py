"""The invariant of a pause by hand: nothing of what is paused is handed out, and no limit is heeded."""

from __future__ import annotations

from collections.abc import Iterator

from eventwagon.contracts.facts import Switched, WagonOpened, WentBack
from eventwagon.contracts.manifest import Manifest
from eventwagon.policy.pausing import resting

from .history import Begun, ManifestSeen, Revised, SteppedBack
from .violation import Evidence, Violation

_HEED = 1.0
"""Seconds after a process could have known."""


def pauses_hold(case: Evidence) -> Iterator[Violation]:
    """No process hands out an event of a wagon that is paused as far as it was told; and none later than a second after
    it could have known, where nothing keeps the news from it."""
    paused: dict[int, frozenset[int]] = {}
    """By version."""
    told: dict[str, ManifestSeen] = {}
    """The newest manifest that each process was given."""
    since: dict[int, Revised | SteppedBack] = {}
    """By wagon: since when it has been paused."""
    before: Manifest | None = None
    for record in case.history:
        match record:
            case SteppedBack():
                paused[record.version] = now = resting(record.manifest)
                since = {number: since.get(number, record) for number in now}
                before = record.manifest
            case Revised():
                paused[record.version] = now = resting(record.manifest)
                since = {number: since.get(number, record) for number in now}
                yield from _limits_rest(before, record)
                before = record.manifest
            case ManifestSeen():
                told[record.by] = record
            case Begun():
                number = record.channel.wagon
                seen = told.get(record.by)
                if seen is not None and number in paused.get(seen.version, ()):
                    says = f"{record.by} was told that wagon {number} is paused, and handed out {record.key} of it"
                    moments = (seen.seq, record.seq)
                    yield Violation(invariant="paused", says=says, key=record.key, wagon=number, moments=moments)
                elif (
                    case.heard_within is not None
                    and (pause := since.get(number)) is not None
                    and record.at > pause.at + case.heard_within + _HEED
                ):
                    says = (
                        f"wagon {number} was paused, and {record.at - pause.at:.3f} s later {record.key} was handed out"
                    )
                    moments = (pause.seq, record.seq)
                    yield Violation(invariant="paused", says=says, key=record.key, wagon=number, moments=moments)


def _limits_rest(before: Manifest | None, revised: Revised) -> Iterator[Violation]:
    """While the train is paused wagons are opened for spares, and switched to by hand alone. Going back from new code
    that fails is what was asked for by hand, with the switch to it."""
    if before is None or before.paused is None or before.request is not None or before.active is None:
        return
    if any(isinstance(fact, WentBack) for fact in revised.facts):
        return
    for fact in revised.facts:
        if isinstance(fact, Switched) or (isinstance(fact, WagonOpened) and "the active wagon fills" in fact.because):
            says = f"a limit was heeded while the train was paused: {fact.because}"
            yield Violation(invariant="paused", says=says, wagon=before.active.number, moments=(revised.seq,))
