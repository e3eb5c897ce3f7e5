"""Single changes to a manifest, each a pure function of what is known: founding a train, a full wagon, the result of a
task.

`plan` combines them for observers; publishers and the switcher use them one by one.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from ..contracts.facts import (
    WHILE_PAUSED,
    ArchiveIncomplete,
    ChannelsAdded,
    ChannelThreatened,
    ChannelUnserved,
    DeadLettersLost,
    Decision,
    Declared,
    DefectFound,
    DeliveryPaused,
    DeliveryResumed,
    Discarded,
    DrainUnproven,
    EventsLate,
    EventsLost,
    NumbersSkipped,
    OpenRefused,
    ProvisioningFailed,
    RegistrySteppedBack,
    RemovalAsked,
    RemovalGivenUp,
    SealWaits,
    StepFailed,
    Switched,
    SwitchGivenUp,
    SwitchRefused,
    SwitchRequested,
    SwitchWithdrawn,
    WagonArchived,
    WagonOpened,
    WagonRemoved,
    WagonSealed,
    WatchDropped,
)
from ..contracts.lifecycle import LIVE, Move, State
from ..contracts.manifest import Manifest, Pause, Request, TrainRemoval, Wagon, changed, moved, opened, switched
from ..contracts.orchestrator import Deployment, WagonSpec
from ..contracts.reading import Reading
from ..contracts.registry import Snapshot
from ..contracts.replay import Replay
from ..event import DEAD, Channel, wagon_name
from ..limits import capacity, parse_limit
from ..settings import Settings
from ..workers import Workers
from .losses import GONE
from .scheduling import WagonLoad
from .slices import wagon_gone

PAUSE_MOST = 30.0
"""The longest pause between two attempts at provisioning a wagon, in seconds."""
OPEN_PAUSE_MOST = 300.0
"""The longest pause after a wagon that never became ready, in seconds."""


class Ensure(msgspec.Struct, frozen=True):
    """Create the wagon's channels and ask for its workers; if it has them already, check that they still exist."""

    number: int


class AddChannels(msgspec.Struct, frozen=True):
    """Create channels that were declared after the wagon was opened; `anew`: its own channels that have vanished."""

    number: int
    channels: tuple[str, ...]
    anew: bool = False


class Seal(msgspec.Struct, frozen=True):
    """Seal the wagon's ingress."""

    number: int


class Lift(msgspec.Struct, frozen=True):
    """Remove the bound from the wagon's ingress."""

    number: int
    because: str


class Remove(msgspec.Struct, frozen=True):
    """Move the wagon's dead letters out, write its record, stop its workers, delete its channels."""

    number: int


class RemoveLeftover(msgspec.Struct, frozen=True):
    """Remove what belongs to no wagon in the manifest: the unit of workers with that number, and these channels."""

    number: int
    channels: tuple[Channel, ...] = ()


Refusal = (
    SwitchRefused
    | OpenRefused
    | SealWaits
    | DrainUnproven
    | StepFailed
    | ChannelUnserved
    | ChannelThreatened
    | DefectFound
    | EventsLost
)
"""A change that was not made, and the reason."""

Task = Ensure | AddChannels | Seal | Lift | Remove | RemoveLeftover


def words(task: Task, train: str) -> str:
    """The task in words for people: the same words each time it is due."""
    name = wagon_name(train, task.number)
    match task:
        case Ensure():
            return f"provision {name}"
        case AddChannels(channels=channels):
            return f"make {', '.join(channels)} in {name}"
        case Seal():
            return f"seal {name}"
        case Lift():
            return f"lift the bound of {name}"
        case Remove():
            return removal_step(train, task.number)
        case RemoveLeftover():
            return f"remove the rest of {name}"


def removal_step(train: str, number: int) -> str:
    """A wagon's removal in words, as `words` has it."""
    return f"remove {wagon_name(train, number)}"


class Edit(msgspec.Struct, frozen=True):
    """One change: the next manifest (the same object if nothing changes), the facts that explain it, and the tasks to
    carry out once it is stored."""

    manifest: Manifest
    facts: tuple[Decision, ...] = ()
    tasks: tuple[Task, ...] = ()


def attempt_pause(attempts: int) -> float:
    """Seconds before the next attempt at provisioning, after that many failed ones."""
    return min(PAUSE_MOST, 0.5 * 2.0 ** min(attempts - 1, 60)) if attempts else 0.0


def open_pause(failed: int) -> float:
    """Seconds before the next wagon is opened, after that many in a row that never became ready."""
    return min(OPEN_PAUSE_MOST, 5.0 * 2.0 ** min(failed - 1, 60)) if failed else 0.0


def at_cap(settings: Settings, manifest: Manifest) -> bool:
    """Whether no further wagon can be opened: the cap of live wagons is reached, and none of them is about to be the
    next."""
    return len(manifest.for_new_events) >= settings.wagons and not manifest.spares


def asked_of(workers: Workers, wagon: Wagon) -> int | None:
    """How many workers of its own the wagon should have; None if all wagons share their workers."""
    return workers.own if workers.elastic is None or wagon.workers is None else wagon.workers


def spec_of(manifest: Manifest, wagon: Wagon, *, workers: int | None, enough: int | None = None) -> WagonSpec:
    """What a wagon should have according to the manifest. `workers`: how many of its own (0: none for now); None:
    shared workers serve it. `enough`: see WagonSpec."""
    return WagonSpec(
        train=manifest.train,
        number=wagon.number,
        unit=wagon.unit,
        revision=wagon.revision,
        channels=tuple(manifest.working_channels(wagon)),
        dead_letters=manifest.dead_letters(wagon),
        workers=None if workers is None else max(1, workers),
        idle=workers == 0,
        enough=enough,
        cut_off_at=wagon.closed_at,
        replay=wagon.replay,
        undoes=wagon.undoes,
        undo_channel=wagon.undo_channel,
        paused=manifest.pause_of(wagon) is not None,
        guarded=(manifest.watch is None or manifest.watch.number != wagon.number)
        and wagon.revision in ("", manifest.revision),
        archived=bool(wagon.archive),
        once_since=manifest.once_since,
    )


def load_of(
    wagon: Wagon, reading: Reading | None, deployment: Deployment | None, now: float, *, paused: bool = False
) -> WagonLoad:
    """The wagon as input for `allocate`."""
    states: dict[State, Literal["active", "draining"]] = {State.ACTIVE: "active", State.DRAINING: "draining"}
    age = reading.oldest_age if reading else None
    if wagon.replay:  # nothing is promised to its events, however new they are at the broker
        age = math.inf
    return WagonLoad(
        wagon.number,
        states.get(wagon.state, "spare"),
        reading.outstanding_in_all if reading else None,
        deployment.workers if deployment else 0,
        next_at=None if age is None else now - age,
        last_at=-math.inf if wagon.replay else now if wagon.closed_at is None else wagon.closed_at,
        paused=paused,
    )


def open_next(
    settings: Settings, manifest: Manifest, now: float, because: str, *, bounds: bool, unit: int | None = None
) -> tuple[Manifest, WagonOpened]:
    """The manifest with the next wagon added, with an exact bound if the limit has one and the broker can (`bounds`).
    It is served by `unit`, or by a unit of its own."""
    bound = capacity(settings.limit) if bounds else None
    number = manifest.next_number
    archive = settings.archive or ""
    return opened(manifest, now=now, because=because, capacity=bound, unit=unit, archive=archive), WagonOpened(
        train=manifest.train, number=number, because=because, revision=manifest.revision, unit=unit
    )


def switch_to(manifest: Manifest, wagon: Wagon, *, now: float, pressure: float, because: str) -> Edit:
    """The switch to `wagon`. A requested watch may be dropped: the code to go back to may be gone since the request, if
    it had a watched wagon that has drained."""
    active, asked = manifest.active, manifest.request
    after = switched(manifest, to=wagon.number, now=now, because=because)
    facts: list[Decision] = [
        Switched(
            train=manifest.train,
            old=None if active is None else active.number,
            new=wagon.number,
            pressure=pressure,
            because=because,
            revision=wagon.revision,
        )
    ]
    watches = after.watch is not None and after.watch.number == wagon.number
    if asked is not None and asked.watch is not None and not watches:
        facts.append(WatchDropped(train=manifest.train, number=wagon.number, revision=wagon.revision))
    return Edit(after, tuple(facts))


# --- founding -----------------------------------------------------------------------------


def bootstrap(
    settings: Settings,
    manifest: Manifest,
    channels: tuple[str, ...] | None,
    now: float,
    *,
    bounds: bool,
    revision: str = "",
    recorded: bool = False,
) -> Edit:
    """Open the first wagon of a train that has none, or finish for a founder that died half-way.

    `channels` is None if the founder only publishes: it declares nothing, its settings don't count, and the first wagon
    has no bound. `revision` is the code of a founder that declares; `recorded`: it has a ledger. The first wagon takes
    events as soon as its channels do: there is nothing to redirect from, and events are stored until workers attach.
    """
    facts: list[Decision] = []
    if not manifest.declared and channels is not None:
        manifest = msgspec.structs.replace(manifest, declared=settings.declared(), channels=channels)
        manifest = archive_declared(manifest, settings.archive or "")
        manifest = once_declared(manifest, settings, now)
        manifest = msgspec.structs.replace(manifest, recorded=recorded)
        facts.append(Declared(train=manifest.train, settings=dict(manifest.declared), channels=channels))
        if not manifest.wagons:
            manifest = msgspec.structs.replace(manifest, revision=revision)
    if not (manifest.spares or manifest.active):
        why = "the train's first wagon"
        manifest, fact = open_next(settings, manifest, now, why, bounds=bounds and channels is not None)
        facts.append(fact)
    first = manifest.active or manifest.spares[0]
    if first.created_at is not None and manifest.active is None:
        why = "the first wagon takes events as soon as its channels do"
        if first.state is State.PROVISIONING:  # READY: its workers were seen before its channels
            manifest = moved(manifest, first.number, Move.MADE_READY, ready_at=now)
        switch = switch_to(manifest, first, now=now, pressure=0.0, because=why)
        manifest = switch.manifest
        facts += switch.facts
    tasks = (Ensure(first.number),) if first.created_at is None else ()
    return Edit(manifest, tuple(facts), tasks)


_UNSET = ("attempts", "5", "None"), ("once", None, "None")
"""No differences: a program that sets no attempts, at a train founded by an older program, whose default was five; and
one that sets no `once`, which older programs did not know."""


_LATER = {"pause_on": "None"}
"""Settings that older programs do not declare, and what they do."""


def differing(manifest: Manifest, settings: Settings, channels: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """The settings in which a program differs from the train's declaration: the train's value and the program's."""
    theirs = {**_LATER, **manifest.declared, "channels": ", ".join(manifest.channels)}
    ours = {**settings.declared(), "channels": ", ".join(channels)}
    if "archive" in theirs:
        ours.setdefault("archive", repr(None))
    return {
        name: (theirs.get(name, ""), value)
        for name, value in ours.items()
        if not _alike(theirs.get(name, ""), value) and (name, theirs.get(name), value) not in _UNSET
    }


def _alike(theirs: str, ours: str) -> bool:
    """Whether both texts mean the same value: `2` is `2.0`, and `Volume(10000.0)`, as older programs wrote it, is
    `Volume(10000)`."""
    if theirs == ours:
        return True
    for read in (ast.literal_eval, parse_limit):
        try:
            return bool(read(theirs) == read(ours))
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return False


def differences(differing: Mapping[str, tuple[str, str]]) -> str:
    """The differences in words."""
    return "; ".join(
        f"{name}={theirs or 'none'} there, {ours or 'none'} here" for name, (theirs, ours) in differing.items()
    )


# --- a full wagon, seen by a publisher ----------------------------------------------------


class Full(msgspec.Struct, frozen=True):
    """Publishers are refused: the train is at its cap."""

    because: str


def when_full(
    settings: Settings, manifest: Manifest, held: float, now: float, *, observed: bool = True
) -> Edit | Full | None:
    """What a publisher does once the broker has reported the active wagon full; `held` is how long it has been waiting.
    `observed`: False if no observer is alive.

    An edit (switch, or go on past the limit), Full (refuse the event), or None (wait for the next wagon).
    """
    active = manifest.active
    if active is None:
        return None
    figures = f"{active.capacity:,} of {active.capacity:,} events taken" if active.capacity else "its channel is full"
    ready, on_hold = manifest.ready, manifest.paused is not None and manifest.request is None
    if ready and not on_hold:
        return switch_to(manifest, ready[0], now=now, pressure=1.0, because=figures)
    capped = at_cap(settings, manifest)
    if capped and settings.at_cap == "refuse":
        return Full(f"the cap of {settings.wagons} live wagons is reached, and the active one is full ({figures})")
    if on_hold:
        return Edit(manifest, tasks=(Lift(active.number, WHILE_PAUSED),))
    if capped:
        return Edit(manifest, tasks=(Lift(active.number, f"the cap of {settings.wagons} live wagons is reached"),))
    if held >= settings.hold:
        why = f"publishers were held for {held:.1f} s and the next wagon is not ready"
        if not observed:
            why += ": no observer is alive, which makes it; start one: eventwagon observe MODULE:TRAIN"
        return Edit(manifest, tasks=(Lift(active.number, why),))
    return None


# --- a registry that stepped back ---------------------------------------------------------


def stepped_back(known: Snapshot, found: Snapshot, now: float) -> Edit:
    """The registry holds `found`, which is older than `known`: go on with it as the manifest of a new epoch."""
    manifest = kept(known.manifest, found.manifest).manifest
    epoch = max(known.manifest.epoch, manifest.epoch) + 1
    manifest = msgspec.structs.replace(
        manifest, epoch=epoch, stepped_back_at=now, stepped_back_to=found.version, lost_wagons=()
    )
    facts: list[Decision] = [went_back(known.manifest, manifest, known.version)]
    unmade = unmade_given_up(manifest, now)
    manifest = unmade.manifest
    facts += unmade.facts
    train, before, after = manifest.train, found.manifest.paused, manifest.paused
    why = "as it was before the registry stepped back"
    if after is not None and after != before:
        facts.append(DeliveryPaused(train=train, number=None, because=why, by=after.by, publishing=after.publishing))
    elif after is None and before is not None:
        facts.append(DeliveryResumed(train=train, number=None, because=why))
    return Edit(manifest, tuple(facts))


def unmade_given_up(manifest: Manifest, now: float) -> Edit:
    """Give up wagons that have no channels yet in the older manifest: their channels may have been created, used and
    deleted since, and no name is used twice. A process that was suspended meanwhile may delete them at any time."""
    because = "its channels may have been made, used and deleted before the registry stepped back"
    facts: list[Decision] = []
    for wagon in manifest.in_state(State.PROVISIONING):
        if wagon.created_at is None:
            step = not_wanted(manifest, wagon, now, because)
            manifest = step.manifest
            facts += step.facts
    return Edit(manifest, tuple(facts))


def by_hand_kept(known: Manifest, manifest: Manifest) -> Manifest:
    """Keep the pauses and the train's removal that `known` has, except for pauses requested since. Idempotent."""
    since = as_of(known)
    own = {w.number: w for w in known.wagons}
    wagons = tuple(_pauses_kept(own[w.number], w, since) if w.number in own else w for w in manifest.wagons)
    paused = _last(known.paused, manifest.paused, since)
    return msgspec.structs.replace(manifest, wagons=wagons, paused=paused, removal=manifest.removal or known.removal)


def _pauses_kept(known: Wagon, found: Wagon, since: float) -> Wagon:
    since = max(since, known.resumed_at or since)
    ended = [at for at in (known.resumed_at, found.resumed_at) if at is not None]
    return msgspec.structs.replace(
        found,
        paused=_last(known.paused, found.paused, since),
        paused_seconds=max(known.paused_seconds, found.paused_seconds),
        resumed_at=max(ended, default=None),
    )


def removals_kept(known: Manifest, manifest: Manifest) -> Manifest:
    """Wagons already removed in `known` stay removed, and removals begun there go on, whatever the registry holds: some
    channels of such a wagon are gone, and a process that was suspended meanwhile may delete the others at any time.
    Idempotent."""
    going = {w.number: w for w in known.in_state(State.REMOVING, State.FAILED)}
    wagons = tuple(
        going.get(w.number, w)
        for w in manifest.wagons
        if w.number >= known.next_number or known.wagon(w.number) is not None
    )
    return msgspec.structs.replace(manifest, wagons=wagons)


def replays_kept(known: Manifest, manifest: Manifest) -> Manifest:
    """The replays of both, each as far as it is known to be. What was over stays over. One that was requested since,
    under a number that was used already, gets another. Idempotent. `manifest` has the higher numbers (numbers_kept)."""
    over = max(known.replays_over, manifest.replays_over)
    found, old = ({r.at: r for r in m.replays if r.at > over} for m in (manifest, known))
    number, kept = manifest.next_number, list[Replay]()
    for at in sorted({*found, *old}):
        replay = _further(old[at], found.get(at)) if at in old else found[at]
        if at not in old and replay.number < known.next_number:
            replay = msgspec.structs.replace(replay, number=number, wagon=0, feeder="", torn=False)
            number += 1
        kept.append(replay)
    return msgspec.structs.replace(manifest, replays=tuple(kept), replays_over=over, next_number=number)


def _further(known: Replay, there: Replay | None) -> Replay:
    """The one of these two that has got further, and cancelled if either is."""
    if there is None:
        return known
    further = known if _progress(known) > _progress(there) else there
    torn = known.wagon == there.wagon and (known.torn or there.torn)
    return msgspec.structs.replace(
        further,
        cancelled=there.cancelled or known.cancelled,
        torn=torn or further.torn,
        dead=max(known.dead, there.dead),
    )


def _progress(replay: Replay) -> tuple[int, int, int]:
    return 0 if replay.undo is None else replay.undo.step, replay.start, replay.fed


def as_of(manifest: Manifest) -> float:
    """The latest time in the manifest: it was written at that time or later."""
    times = [t for w in manifest.wagons for t in (w.opened_at, w.active_at, w.closed_at, w.sealed_at, w.drained_at)]
    return max((t for t in times if t is not None), default=0.0)


def _last(known: Pause | None, found: Pause | None, since: float) -> Pause | None:
    """The pause found in the registry if it was requested after `known` was written, else the known one. A pause too
    many does no harm: `status` shows it, and `resume` ends it."""
    return found if found is not None and found.at > max(since, known.at if known is not None else 0.0) else known


def went_back(known: Manifest, now: Manifest, version: int) -> RegistrySteppedBack:
    """The fact that the registry stepped back, for each process that knew a newer manifest; `version` is that of
    `known`."""
    there = {w.number for w in now.wagons}
    missing = tuple(w.number for w in known.wagons if w.number not in there)
    return RegistrySteppedBack(train=known.train, known=version, found=now.stepped_back_to, wagons=missing)


def kept(known: Manifest, manifest: Manifest) -> Edit:
    """What a process saves of the manifest that it knew (`known`) for that of a new epoch: numbers, turns, pauses, and
    removals already begun. Idempotent."""
    saved = removals_kept(known, by_hand_kept(known, replays_kept(known, numbers_kept(known, manifest))))
    return Edit(manifest if saved == manifest else saved)


def numbers_kept(known: Manifest, manifest: Manifest) -> Manifest:
    """Continue the numbers of wagons and turns from those of `known`, so that none is used twice; and keep by what
    handled events are known. Idempotent."""
    return msgspec.structs.replace(
        manifest,
        next_number=max(known.next_number, manifest.next_number),
        turns=max(known.turns, manifest.turns),
        once_since=max(known.once_since, manifest.once_since),
    )


def forgotten_told(manifest: Manifest, lost: Mapping[int, int], letters: Mapping[int, int]) -> Edit:
    """Report how many events and dead letters were lost with wagons that the manifest no longer knows, by number: once
    per wagon, whichever process finds it first."""
    new = sorted((lost.keys() | letters.keys()) - set(manifest.lost_wagons))
    if not new:
        return Edit(manifest)
    train, why = manifest.train, f"its channels have {GONE}; it is not in the manifest either"
    facts: list[Decision] = []
    for n in new:
        if n in lost:
            facts.append(EventsLost(train=train, number=n, count=lost[n], total=lost[n], because=why))
        if n in letters:
            facts.append(DeadLettersLost(train=train, number=n, count=letters[n], total=letters[n], because=why))
    manifest = msgspec.structs.replace(
        manifest,
        lost_wagons=(*manifest.lost_wagons, *new),
        letters_gone=manifest.letters_gone + sum(letters.get(n, 0) for n in new),
    )
    return Edit(manifest, tuple(facts))


def letters_lost(manifest: Manifest, lost: Mapping[int, int], why: Mapping[int, str]) -> Edit:
    """Report how many dead letters vanished from the broker, by wagon (0: those of removed wagons): each loss once, by
    the first observer that sees it."""
    facts: list[Decision] = []
    for number, total in sorted(lost.items()):
        wagon = manifest.wagon(number)
        if number and wagon is None:
            continue
        told = manifest.letters_lost if wagon is None else wagon.letters_lost
        if total <= told:
            continue
        if wagon is None:
            manifest = msgspec.structs.replace(manifest, letters_lost=total)
        else:
            manifest = changed(manifest, number, letters_lost=total)
        fact = DeadLettersLost(
            train=manifest.train, number=number, count=total - told, total=total, because=why[number]
        )
        facts.append(fact)
    return Edit(manifest, tuple(facts))


def numbered_past(manifest: Manifest, channels: Sequence[Channel]) -> Edit:
    """Move the next wagon's number past every wagon whose channels were found: a manifest restored from an older copy
    does not know the wagons opened since. Each wagon has a dead-letter channel, created among the first and deleted
    last; channels of a number without one are assumed to be foreign, and left alone. Idempotent."""
    following = manifest.next_number
    numbers = sorted({c.wagon for c in channels if c.name == DEAD and c.wagon >= following})
    if not numbers:
        return Edit(manifest)
    skipped = NumbersSkipped(train=manifest.train, next=numbers[-1] + 1, numbers=tuple(numbers))
    return Edit(msgspec.structs.replace(manifest, next_number=skipped.next), (skipped,))


# --- requested by people ------------------------------------------------------------------


def switch_asked(manifest: Manifest, request: Request) -> Edit:
    """Store the request until the switch is made or given up. A request for other code, or with another watch, replaces
    an earlier one. Idempotent."""
    standing = manifest.request
    if (
        standing is not None
        and request.revision in (None, standing.revision)
        and request.watch in (None, standing.watch)
    ):
        return Edit(manifest)
    fact = SwitchRequested(
        train=manifest.train, because=request.why, revision=request.revision, watch=request.watch, by=request.by
    )
    revision = manifest.revision if request.revision is None else request.revision
    return Edit(msgspec.structs.replace(manifest, request=request, revision=revision), (fact,))


def switch_withdrawn(manifest: Manifest, because: str, by: str) -> Edit:
    """Drop the request: the active wagon goes on, and new wagons run its code. Idempotent. The request stays if the
    active wagon takes no more events: the train needs that switch."""
    asked, active = manifest.request, manifest.active
    if asked is None or active is None or active.found_sealed:
        return Edit(manifest)
    revision = manifest.revision if asked.revision is None else active.revision
    fact = SwitchWithdrawn(train=manifest.train, number=active.number, because=because, revision=active.revision, by=by)
    return Edit(msgspec.structs.replace(manifest, request=None, revision=revision), (fact,))


def active_sealed(manifest: Manifest, number: int, request: Request) -> Edit:
    """The broker refuses writes to the active wagon, since it was cut off after the copy that the registry was restored
    from: request the next wagon. Idempotent."""
    wagon = manifest.active
    if wagon is None or wagon.number != number:
        return Edit(manifest)
    if not wagon.found_sealed:
        manifest = changed(manifest, number, found_sealed=True)
    return switch_asked(manifest, request)


def removal_asked(manifest: Manifest, removal: TrainRemoval) -> Edit:
    """Begin to remove the train: its processes are asked to stop. Idempotent: the first request counts."""
    if manifest.removal is not None:
        return Edit(manifest)
    fact = RemovalAsked(train=manifest.train, because=removal.why, by=removal.by)
    return Edit(msgspec.structs.replace(manifest, removal=removal, stops=manifest.stops + 1), (fact,))


def removal_given_up(manifest: Manifest, now: float, because: str) -> Edit:
    """The train goes on after all. It needs a new wagon, since the active one may be sealed by now. Idempotent."""
    if manifest.removal is None:
        return Edit(manifest)
    fact = RemovalGivenUp(train=manifest.train, because=because)
    asked = manifest.request or Request("a removal was given up", now)
    return Edit(msgspec.structs.replace(manifest, removal=None, request=asked), (fact,))


# --- results of tasks ---------------------------------------------------------------------


def created(manifest: Manifest, number: int, now: float) -> Manifest:
    """The wagon's channels accept writes. Idempotent."""
    wagon = manifest.wagon(number)
    if wagon is None or wagon.created_at is not None:
        return manifest
    return changed(manifest, number, created_at=now)


def channels_added(manifest: Manifest, number: int, channels: tuple[str, ...]) -> Edit:
    """The wagon now has these inner channels too. Idempotent; a wagon past draining is left alone."""
    wagon = manifest.wagon(number)
    new = tuple(c for c in channels if wagon is not None and c not in wagon.channels)
    if wagon is None or not new or wagon.state not in LIVE:
        return Edit(manifest)
    fact = ChannelsAdded(train=manifest.train, number=number, channels=new)
    return Edit(changed(manifest, number, channels=(*wagon.channels, *new)), (fact,))


def attempt_failed(settings: Settings, manifest: Manifest, number: int, now: float, because: str) -> Edit:
    """An attempt at provisioning failed: try again after twice the pause, or give up after the last attempt. With that,
    a request for other code is given up too, or the train would never switch again."""
    wagon = manifest.wagon(number)
    if wagon is None or wagon.state is not State.PROVISIONING:
        return Edit(manifest)
    attempt = wagon.attempts + 1
    train = manifest.train
    active = manifest.active
    if attempt < settings.provision_attempts or active is None:
        manifest = changed(manifest, number, attempts=attempt, trouble=because)
        pause = attempt_pause(attempt)
        fact = ProvisioningFailed(train=train, number=number, attempt=attempt, because=because, pause=pause)
        return Edit(manifest, (fact,))
    manifest = moved(manifest, number, Move.GIVEN_UP, attempts=attempt, trouble=because, closed_at=now)
    fact = ProvisioningFailed(train=train, number=number, attempt=attempt, because=because, pause=None)
    if wagon.replay or wagon.revision != manifest.revision:
        return Edit(manifest, (fact,))
    asked, back = manifest.request, active.revision
    if asked is not None and asked.revision is not None and asked.revision != back:
        why = f"{wagon_name(train, number)} was the last attempt at getting a wagon with it ready: {because}"
        given_up = SwitchGivenUp(train=train, revision=asked.revision, back=back, because=why)
        return Edit(msgspec.structs.replace(manifest, request=None, revision=back), (fact, given_up))
    manifest = msgspec.structs.replace(manifest, failed_opens=manifest.failed_opens + 1)
    return Edit(manifest, (fact,))


def not_wanted(manifest: Manifest, wagon: Wagon, now: float, because: str) -> Edit:
    """Discard a wagon that was never active. A READY one drains first, since a publisher may already know it."""
    if wagon.state is State.READY:
        put_away = Discarded(train=manifest.train, number=wagon.number, because=because)
        manifest = moved(manifest, wagon.number, Move.DISCARDED, closed_at=now, closed_because=because)
        return Edit(manifest, (put_away,))
    failed = ProvisioningFailed(train=manifest.train, number=wagon.number, attempt=0, because=because, pause=None)
    return Edit(moved(manifest, wagon.number, Move.GIVEN_UP, trouble=because, closed_at=now), (failed,))


def sealed(manifest: Manifest, number: int, now: float) -> Edit:
    """The wagon's ingress is sealed: the broker refuses any further publish to it. Idempotent."""
    wagon = manifest.wagon(number)
    if wagon is None or wagon.state is not State.DRAINING or wagon.sealed_at is not None:
        return Edit(manifest)
    fact = WagonSealed(train=manifest.train, number=number, seconds=max(0.0, now - (wagon.closed_at or now)))
    return Edit(changed(manifest, number, sealed_at=now), (fact,))


def found_late(manifest: Manifest, number: int, count: int, lost: tuple[str, ...] = ()) -> Edit:
    """Events reached a drained wagon after it was proven empty: it drains again. Idempotent. If its workers now serve
    another wagon, it gets new ones, in a unit with a number that no wagon will have. `lost`: channels that it had
    before."""
    wagon = manifest.wagon(number)
    if wagon is None or wagon.state is not State.DRAINED:
        return Edit(manifest)
    if any(w.unit == wagon.unit for w in manifest.in_state(*LIVE)):
        manifest = changed(manifest, number, reuses=manifest.next_number)
        manifest = msgspec.structs.replace(manifest, next_number=manifest.next_number + 1)
    if lost:
        manifest = changed(manifest, number, channels=(*wagon.channels, *lost))
    fact = EventsLate(train=manifest.train, number=number, count=count)
    return Edit(moved(manifest, number, Move.FOUND_LATE, drained_at=None), (fact,))


def removal_begun(manifest: Manifest, wagon: Wagon, by: str) -> Edit:
    """From here on the drained wagon can only be removed, and only by this process: an observer that was suspended
    meanwhile can't find late events in it and drain it again. Nothing changes unless the wagon is as it was in the last
    pass."""
    if wagon.state is not State.DRAINED or manifest.wagon(wagon.number) != wagon:
        return Edit(manifest)
    return Edit(moved(manifest, wagon.number, Move.REMOVAL_BEGUN, remover=by))


def removal_taken_over(manifest: Manifest, wagon: Wagon, by: str) -> Edit:
    """This process takes over the removal of the wagon. Nothing changes if another process has done so since the last
    look."""
    now = manifest.wagon(wagon.number)
    if now is None or now.state not in (State.REMOVING, State.FAILED) or now.remover != wagon.remover:
        return Edit(manifest)
    return Edit(changed(manifest, wagon.number, remover=by))


def archived(
    manifest: Manifest, number: int, facts: Sequence[WagonArchived | ArchiveIncomplete], count: int, digest: str
) -> Edit:
    """The wagon's events are in its archive: its channels may go. Idempotent."""
    wagon = manifest.wagon(number)
    if wagon is None or wagon.archived is not None:
        return Edit(manifest)
    if any(isinstance(fact, WagonArchived) for fact in facts):
        manifest = msgspec.structs.replace(manifest, archived_in=wagon.archive)
    return Edit(changed(manifest, number, archived=count, archive_digest=digest), tuple(facts))


def archive_declared(manifest: Manifest, archive: str) -> Manifest:
    """The train was declared for the first time, with this archive: the wagon that a publisher had opened before gets
    it too."""
    wagons = tuple(
        msgspec.structs.replace(w, archive=archive) if w.state in (State.PROVISIONING, State.READY, State.ACTIVE) else w
        for w in manifest.wagons
    )
    return msgspec.structs.replace(manifest, wagons=wagons)


def once_declared(manifest: Manifest, settings: Settings, now: float) -> Manifest:
    """The train is declared with these settings: what is recorded of it is known by when `once=` was first among them.
    Idempotent."""
    if settings.once is None or manifest.once_since:
        return manifest
    return msgspec.structs.replace(manifest, once_since=now)


def letters_moved(manifest: Manifest, number: int, by: str, count: int | None) -> Edit:
    """The wagon's dead letters were moved out. Idempotent; nothing changes if another process is now removing it."""
    wagon = manifest.wagon(number)
    if wagon is None or wagon.remover != by or wagon.letters_kept == count:
        return Edit(manifest)
    return Edit(changed(manifest, number, letters_kept=count))


def removed(manifest: Manifest, number: int, by: str, told: Sequence[Decision] = ()) -> Edit:
    """The wagon is gone, and its final figures are in the journal. Idempotent; nothing changes if another process is
    now removing it. `told`: what is to be told with it."""
    wagon = manifest.wagon(number)
    if wagon is None or wagon.state not in (State.REMOVING, State.FAILED) or wagon.remover != by:
        return Edit(manifest)
    record = WagonRemoved(train=manifest.train, wagon=wagon, dead=wagon.letters_kept)
    manifest = msgspec.structs.replace(
        manifest,
        letters_gone=manifest.letters_gone + wagon.letters_lost,
        replays=tuple(wagon_gone(r, wagon) if r.number == wagon.replay else r for r in manifest.replays),
    )
    return Edit(moved(manifest, number, Move.REMOVED), (record, *told))
