"""The invariants of a pause, by hand or by rule: nothing of what is paused is handed out, no limit is heeded, and a
person has the last word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from eventwagon.contracts.facts import DeliveryPaused, Switched, WagonOpened, WentBack
from eventwagon.contracts.manifest import RULE, Manifest
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


def rule_kept(case: Evidence) -> Iterator[Violation]:
    """A wagon that is paused by the rule had as many handlings as were counted. It stays paused until somebody resumes
    it, and then the rule never pauses it again."""
    begun: Counter[int] = Counter()
    """By wagon: handlings."""
    before: Manifest | None = None
    for record in case.history:
        match record:
            case Begun():
                begun[record.channel.wagon] += 1
            case Revised():
                for fact in record.facts:
                    if isinstance(fact, DeliveryPaused) and fact.by_rule:
                        yield from _judged(fact, begun, record)
                if before is not None:
                    yield from _by_people(before, record)
                before = record.manifest


def _judged(fact: DeliveryPaused, begun: Counter[int], record: Revised) -> Iterator[Violation]:
    number, counted = fact.number or 0, fact.handled + fact.failed
    if counted > begun[number]:
        says = f"wagon {number} was paused by {counted} handlings, of which {begun[number]} had begun"
        yield Violation(invariant="rule", says=says, wagon=number, moments=(record.seq,))


def _by_people(before: Manifest, record: Revised) -> Iterator[Violation]:
    for was in before.wagons:
        now = record.manifest.wagon(was.number)
        if now is None:
            continue
        says = ""
        if was.paused is not None and was.paused.by == RULE and now.paused is None and now.resumed_at is None:
            says = f"wagon {was.number} goes on, and nobody has resumed it"
        elif was.paused is None and now.paused is not None and now.paused.by == RULE and was.resumed_at is not None:
            says = f"wagon {was.number} was paused by the rule after somebody had resumed it"
        if says:
            yield Violation(invariant="rule", says=says, wagon=was.number, moments=(record.seq,))
