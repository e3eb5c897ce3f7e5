"""The invariants about the manifest: one active wagon (I2), redirected to a ready one (I3), all of it explained
(I9)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from eventwagon.contracts.facts import (
    Discarded,
    DrainGivenUp,
    EventsLate,
    ProvisioningFailed,
    ReplayBegun,
    Switched,
    WagonDrained,
    WagonOpened,
    WagonReady,
    WagonRemoved,
    WagonSealed,
    WorkersLost,
)
from eventwagon.contracts.lifecycle import LIVE, TRANSITIONS, State
from eventwagon.contracts.manifest import Manifest, Wagon
from eventwagon.event import DEAD, Channel
from eventwagon.policy.edits import asked_of
from eventwagon.policy.scheduling import may_serve
from eventwagon.workers import Elastic, Workers

from .history import Attached, Crashed, Detached, Ended, Noted, Record, Revised, Started
from .violation import Violation

_STEPS = {(state, to) for (state, _), to in TRANSITIONS.items()}


def _reachable(old: State, new: State | None) -> bool:
    """By one move, or several: one version may hold a plan with more than one step for a wagon."""
    seen, edge = {old}, [old]
    while edge:
        state = edge.pop()
        for here, to in _STEPS:
            if here is state:
                if to is new:
                    return True
                if to is not None and to not in seen:
                    seen.add(to)
                    edge.append(to)
    return False


def _versions(history: Iterable[Record]) -> Iterator[tuple[Manifest, Revised]]:
    before = Manifest(train="")
    for record in history:
        if isinstance(record, Revised):
            yield before, record
            before = record.manifest


def one_active(history: Iterable[Record]) -> Iterator[Violation]:
    """I2: at most one ACTIVE, exactly one once the first is; only moves of the table; numbers are never used twice."""
    known: set[int] = set()
    version = 0
    for before, record in _versions(history):
        manifest, moments = record.manifest, (record.seq,)
        active = [w.number for w in manifest.wagons if w.state is State.ACTIVE]
        if len(active) > 1 or (before.active is not None and not active):
            yield Violation(invariant="I2", says=f"{len(active)} wagons are active: {active}", moments=moments)
        if record.version <= version:
            yield Violation(invariant="I2", says=f"version {record.version} after version {version}", moments=moments)
        version = record.version
        units = [w.unit for w in manifest.in_state(*LIVE)]
        if len(units) != len(set(units)):
            yield Violation(invariant="I8", says=f"live wagons share workers: units {units}", moments=moments)
        standing = {w.number for w in before.wagons}
        for wagon in manifest.wagons:
            old = before.wagon(wagon.number)
            if old is None and wagon.number in known:
                says = f"number {wagon.number} is used twice"
                yield Violation(invariant="I2", says=says, wagon=wagon.number, moments=moments)
            if old is not None and old.state is not wagon.state and not _reachable(old.state, wagon.state):
                says = f"wagon {wagon.number} went from {old.state} to {wagon.state}"
                yield Violation(invariant="I2", says=says, wagon=wagon.number, moments=moments)
        for number in standing - {w.number for w in manifest.wagons}:
            old = before.wagon(number)
            if old is not None and (old.state, None) not in _STEPS:
                says = f"wagon {old.number} left the manifest when it was {old.state}"
                yield Violation(invariant="I2", says=says, wagon=number, moments=moments)
        known |= {w.number for w in manifest.wagons}


def one_name(history: Iterable[Record]) -> Iterator[Violation]:
    """I2, where the registry stepped back: at most one ACTIVE, and no number is used by two wagons, unless somebody
    ended who may have been the only one to know of the first. A wagon uses its number once it is ready: an observer
    that has not seen the lost versions may open a number again, and whoever knows it gives that wagon up."""
    opened: dict[int, int] = {}
    used: dict[int, float] = {}
    """By number: when the wagon was opened that uses it."""
    forgotten = False
    for record in history:
        forgotten = forgotten or isinstance(record, Crashed | Ended)
        if not isinstance(record, Revised):
            continue
        active = [w.number for w in record.manifest.in_state(State.ACTIVE)]
        if len(active) > 1:
            yield Violation(invariant="I2", says=f"wagons {active} are all active", moments=(record.seq,))
        for wagon in record.manifest.in_state(State.READY, State.ACTIVE):
            if used.setdefault(wagon.number, wagon.opened_at) != wagon.opened_at and not forgotten:
                says = f"number {wagon.number} is used twice"
                moments = (opened.get(wagon.number, record.seq), record.seq)
                yield Violation(invariant="I2", says=says, wagon=wagon.number, moments=moments)
            used[wagon.number] = wagon.opened_at
        opened |= {fact.number: record.seq for fact in record.facts if isinstance(fact, WagonOpened)}


def capped(history: Iterable[Record], most: int) -> Iterator[Violation]:
    """I10: no more wagons live than the cap allows; an active one that was found sealed takes no place."""
    for _, record in _versions(history):
        if sum(not w.found_sealed for w in record.manifest.for_new_events) > most:
            live = ", ".join(f"wagon {w.number} {w.state}" for w in record.manifest.wagons)
            says = f"{len(record.manifest.wagons)} wagons live, the cap is {most}: {live}"
            yield Violation(invariant="I10", says=says, moments=(record.seq,))


def shared_out(history: Iterable[Record], elastic: Elastic) -> Iterator[Violation]:
    """Workers that follow the traffic: all live wagons together are never to have more than `most`, in whatever version
    of the manifest, and none gets fewer than `least` unless so many live that `most` is too few for that. A wagon that
    was drained, and drains again because of late events, counts from the next division on."""
    workers, least, back = Workers(each=elastic), elastic.least, set[int]()
    for before, record in _versions(history):
        live = record.manifest.in_state(*LIVE)
        asked = {w.number: asked_of(workers, w) or 0 for w in live}
        if any(asked[w.number] != asked_of(workers, w) for w in before.in_state(*LIVE) if w.number in asked):
            back.clear()
        back |= {w.number for w in before.in_state(State.DRAINED) if w.number in asked}
        if sum(n for number, n in asked.items() if number not in back) > elastic.most:
            says = f"the wagons are to have {asked} workers, most={elastic.most}"
            yield Violation(invariant="budget", says=says, moments=(record.seq,))
        for wagon in live if len(live) * least <= elastic.most else ():
            old = before.wagon(wagon.number)
            was = least if old is None else asked_of(workers, old) or 0
            if asked[wagon.number] < min(was, least):
                says = f"wagon {wagon.number} is to have {asked[wagon.number]} workers after {was}, least={least}"
                yield Violation(invariant="budget", says=says, wagon=wagon.number, moments=(record.seq,))


def ready_before_active(history: Iterable[Record]) -> Iterator[Violation]:
    """I3: ACTIVE only from READY; READY only when one process had consumers at all its channels, at some moment since
    the wagon was made or its workers were lost. The first wagon is the exception: it takes events before workers come.
    """
    before = Manifest(train="")
    attached: dict[str, dict[Channel, int]] = {}
    served: set[int] = set()
    """Wagons at whose channels one process stood at one moment."""
    first = True

    def stands(wagon: Wagon) -> bool:
        """Some process is attached to all its channels that are declared."""
        needed = [c for c in before.working_channels(wagon) if not c.name or c.name in before.channels]
        return any(all(c in at for c in needed) for at in attached.values())

    for record in history:
        match record:
            case Attached():
                at = attached.setdefault(record.by, {})
                at[record.channel] = at.get(record.channel, 0) + 1
                wagon = before.wagon(record.channel.wagon)
                if wagon is not None and stands(wagon):
                    served.add(wagon.number)
            case Detached():
                at = attached.get(record.by, {})
                if at.get(record.channel, 0) > 1:
                    at[record.channel] -= 1
                else:
                    at.pop(record.channel, None)
            case Crashed():
                attached.pop(record.by, None)
            case Revised():
                for wagon in record.manifest.wagons:
                    yield from _became(before, wagon, record, served, first)
                lost = {f.number for f in record.facts if isinstance(f, WorkersLost)}
                served -= {n for n in lost if (w := before.wagon(n)) is not None and not stands(w)}
                if record.manifest.active is not None:
                    first = False
                declared_before, before = before.channels, record.manifest
                if before.channels != declared_before:
                    served |= {w.number for w in before.wagons if stands(w)}


def _became(before: Manifest, wagon: Wagon, record: Revised, served: set[int], first: bool) -> Iterator[Violation]:
    old = before.wagon(wagon.number)
    was = old.state if old is not None else None
    if wagon.state is was:
        return
    if wagon.state is State.READY or (wagon.state is State.ACTIVE and was is not State.READY and not first):
        if wagon.number not in served:
            yield Violation(
                invariant="I3",
                says=f"wagon {wagon.number} became {wagon.state}, and no process had had consumers at all its channels",
                wagon=wagon.number,
                moments=(record.seq,),
            )
        ready = any(isinstance(f, WagonReady) and f.number == wagon.number for f in record.facts)
        if wagon.state is State.ACTIVE and not ready:
            yield Violation(
                invariant="I3",
                says=f"ingestion was redirected to wagon {wagon.number}, which was {was}",
                wagon=wagon.number,
                moments=(record.seq,),
            )


def right_code(history: Iterable[Record]) -> Iterator[Violation]:
    """I3 for code: ingestion is redirected to the code that is wanted, and a process of other code serves no wagon."""
    runs: dict[str, str] = {}
    before = Manifest(train="")
    for record in history:
        match record:
            case Started():
                runs[record.by] = record.revision
            case Attached() if record.channel.name != DEAD:  # whoever takes dead letters serves nothing
                wagon = before.wagon(record.channel.wagon)
                code = runs.get(record.by, "")
                if wagon is not None and not may_serve(code, wagon.revision):
                    says = f"{record.by} has revision {code or 'none'} and serves {wagon.number} of {wagon.revision}"
                    yield Violation(invariant="I3", says=says, wagon=wagon.number, moments=(record.seq,))
            case Revised():
                active = record.manifest.active
                is_new = active is not None and (before.active is None or before.active.number != active.number)
                if is_new and active is not None and active.revision != record.manifest.revision:
                    says = (
                        f"wagon {active.number} of {active.revision} is active, {record.manifest.revision} was wanted"
                    )
                    yield Violation(invariant="I3", says=says, wagon=active.number, moments=(record.seq,))
                before = record.manifest


def explained(history: Iterable[Record]) -> Iterator[Violation]:
    """I9: each transition stands in the journal, in the same step, with the figures that it was made on; the end of a
    wagon stands there once."""
    removed: set[int] = set()
    before = Manifest(train="")
    for record in history:
        if not isinstance(record, Revised | Noted):
            continue
        for number in (f.wagon.number for f in record.facts if isinstance(f, WagonRemoved)):
            if number in removed:
                says = f"the record of wagon {number} stands in the journal twice"
                yield Violation(invariant="I9", says=says, wagon=number, moments=(record.seq,))
            removed.add(number)
        if isinstance(record, Noted):
            continue
        for wagon in record.manifest.wagons:
            for what in _unexplained(before.wagon(wagon.number), wagon, record):
                yield Violation(
                    invariant="I9",
                    says=f"wagon {wagon.number} {what}, and the journal does not say why",
                    wagon=wagon.number,
                    moments=(record.seq,),
                )
        for wagon in before.wagons:
            if record.manifest.wagon(wagon.number) is None and wagon.number not in removed:
                says = f"wagon {wagon.number} left the manifest without its record in the journal"
                yield Violation(invariant="I9", says=says, wagon=wagon.number, moments=(record.seq,))
        before = record.manifest


def _unexplained(old: Wagon | None, new: Wagon, record: Revised) -> Iterator[str]:
    """What happened to the wagon in this version without a fact that explains it."""
    facts, n = record.facts, new.number
    was = old.state if old is not None else None
    switches = [f for f in facts if isinstance(f, Switched) and f.because]
    if old is None and not any(isinstance(f, WagonOpened) and f.number == n and f.because for f in facts):
        yield "was opened"
    was_sealed = old is not None and old.sealed_at is not None
    is_told = any(isinstance(f, WagonSealed) and f.number == n for f in facts)
    if new.sealed_at is not None and not was_sealed and not is_told:
        yield "was sealed"
    if was is new.state:
        return
    match new.state:
        case State.READY:
            told = any(isinstance(f, WagonReady) and f.number == n for f in facts)
        case State.PROVISIONING:
            told = old is None or any(isinstance(f, WorkersLost) and f.number == n and f.because for f in facts)
        case State.ACTIVE:
            told = any(f.new == n for f in switches)
        case State.DRAINING:
            told = any(f.old == n for f in switches) or any(
                (isinstance(f, Discarded) and f.number == n and f.because)
                or (isinstance(f, ReplayBegun) and f.wagon == n)
                or (isinstance(f, EventsLate) and f.number == n)
                for f in facts
            )
        case State.DRAINED:
            told = any(
                isinstance(f, WagonDrained) and f.number == n and None not in (f.published, f.settled) for f in facts
            )
        case State.REMOVING:
            told = True  # its record is written when it leaves the manifest
        case State.FAILED:
            told = any(
                (isinstance(f, ProvisioningFailed) and f.number == n and f.pause is None)
                or (isinstance(f, DrainGivenUp) and f.number == n)
                for f in facts
            )
    if not told:
        yield f"became {new.state}"
