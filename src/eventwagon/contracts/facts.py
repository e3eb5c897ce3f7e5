"""What happened: a closed list of typed facts. Logs, journal, metrics and pictures listen to them; the actors that
report facts do not know who listens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, get_args

import msgspec

from ..display.json_lines import FIELDS
from ..display.text import as_line
from ..display.text import count as counted
from ..event import wagon_name
from ..seldom import Seldom, counted_in
from .documents import as_read
from .ledger import WagonRecord
from .manifest import Wagon


class _Fact(msgspec.Struct, frozen=True, kw_only=True, tag=True, tag_field="fact"):
    train: str


class Declared(_Fact, frozen=True):
    """The train was declared, or declared again with other settings. `by`: who declared it."""

    settings: dict[str, str]
    channels: tuple[str, ...]
    by: str = ""


class WagonOpened(_Fact, frozen=True):
    """A wagon was added to the manifest; it is provisioned next. `unit`: the drained wagon whose warm workers it takes
    over; None: it gets its own."""

    number: int
    because: str
    revision: str = ""
    unit: int | None = None


class ProvisioningFailed(_Fact, frozen=True):
    """An attempt to provision a wagon failed; the next one follows after `pause` seconds, or none if that is None."""

    number: int
    attempt: int
    because: str
    pause: float | None


class WagonReady(_Fact, frozen=True):
    """The wagon has its channels, and workers are attached to them: it may become active."""

    number: int
    seconds: float
    """Seconds since it was opened; if it is ready `again`, since its observer saw that it had lost its workers."""
    again: bool = False
    """It was ready before, and lost its workers."""


NOBODY_ATTACHED = "no workers are attached to it any more"


class WorkersLost(_Fact, frozen=True):
    """A READY wagon lost its workers: it is provisioned again. No events were redirected to it."""

    number: int
    because: str


class WorkersCrashed(_Fact, frozen=True):
    """Processes of a wagon's workers have ended by themselves; the orchestrator starts others. `because` is about the
    last of them."""

    number: int
    count: int
    because: str


class Switched(_Fact, frozen=True):
    """Ingestion was redirected to another wagon. `old` is None for the first wagon."""

    old: int | None
    new: int
    pressure: float
    because: str
    revision: str = ""
    """The code of the new wagon."""
    trace: str = ""
    """The id of the switch's trace, in hexadecimal; empty: it was not traced."""


WHILE_PAUSED = "the train is paused: no limit is heeded until it is resumed"


class SwitchRefused(_Fact, frozen=True):
    """The active wagon is full, or somebody requested a switch, but the switch was not made."""

    number: int
    pressure: float
    figures: str
    because: str
    passing: bool = False
    """This is an ordinary part of a switch, unless it lasts."""
    lasted: float = 0.0
    """Seconds for which this has lasted, if it is reported again because it lasts."""


class OpenRefused(_Fact, frozen=True):
    """The next wagon is needed, but was not opened."""

    because: str


class WagonScaled(_Fact, frozen=True):
    """A wagon should have more or fewer workers, since the traffic has changed."""

    number: int
    was: int
    workers: int
    because: str


class PromiseAtRisk(_Fact, frozen=True):
    """New events will wait longer than promised, and no permitted scaling can change that now."""

    number: int
    because: str
    """The reason, and what would be needed."""


class BoundLifted(_Fact, frozen=True):
    """The bound of the active wagon was lifted: it is filled past its exact limit."""

    number: int
    because: str


class Discarded(_Fact, frozen=True):
    """A spare that is no longer needed is sealed, drained and removed."""

    number: int
    because: str


class ChannelsAdded(_Fact, frozen=True):
    """A live wagon got channels that a newer program declares."""

    number: int
    channels: tuple[str, ...]


class WagonSealed(_Fact, frozen=True):
    """The wagon accepts no more events: it only drains its backlog."""

    number: int
    seconds: float
    """Seconds since it was cut off."""


class WagonDrained(_Fact, frozen=True):
    """The sealed wagon was proven empty: the settled totals, read first, equal the published totals, read after."""

    number: int
    published: int | None
    settled: int | None
    seconds: float
    """Seconds since it was cut off."""


class WagonRemoved(_Fact, frozen=True):
    """A wagon's final record, written when it leaves the manifest."""

    wagon: Wagon
    dead: int | None
    """How many dead letters were moved to the train's own channel; None: unknown, since the wagon's channel for them
    was gone and the train's own took them."""


class WagonUnreconciled(_Fact, frozen=True):
    """A wagon was removed though the figures in its record do not reconcile."""

    number: int
    difference: int | None
    """Published, and neither settled nor lost nor left, over all channels; None: not known."""
    because: str


class WagonUnrecorded(_Fact, frozen=True):
    """A wagon was removed though the ledger could not take its record for ten minutes. The record is kept here."""

    number: int
    record: WagonRecord
    because: str


class WagonArchived(_Fact, frozen=True):
    """The events of a drained wagon are in its archive, read back and counted: its channels are deleted next."""

    number: int
    count: int
    """Rows: one for each event of each channel, and outcome."""
    files: int
    size: int
    """Bytes of all files."""
    where: str
    digest: str = ""
    """That of the ids of all rows, see docs/archive.md."""


class ArchiveIncomplete(_Fact, frozen=True):
    """The archive lacks events of a wagon that are no longer at the broker: nobody can archive them any more."""

    number: int
    missing: int | None
    """How many at least; None: not known."""
    because: str


class DrainUnproven(_Fact, frozen=True):
    """A sealed wagon can't be proven empty, because a figure is unknown."""

    number: int
    because: str


class SealWaits(_Fact, frozen=True):
    """The broker can't refuse writes, so a cut-off wagon counts as sealed only when no stale publisher is left."""

    number: int
    because: str


class EventsLate(_Fact, frozen=True):
    """The last check before the removal found events in a drained wagon: it drains again."""

    number: int
    count: int


class DrainGivenUp(_Fact, frozen=True):
    """A draining wagon has lost an inner channel for good, or one can take no more events: its events are published
    anew, and it is removed."""

    number: int
    because: str


class EventsLost(_Fact, frozen=True):
    """Events of a wagon disappeared from the broker without being settled: nobody will handle them."""

    number: int
    count: int | None
    """At most this many; None: unknown."""
    total: int
    """All lost events of the wagon, including those reported earlier."""
    because: str = ""


class DeadLettersLost(_Fact, frozen=True):
    """Dead letters disappeared from the broker: nobody can look at them any more."""

    number: int
    """The wagon that they belong to; 0: they were moved out of removed wagons."""
    count: int
    total: int
    """All of that wagon's, including those reported earlier."""
    because: str = ""


class DeadLettersRetried(_Fact, frozen=True):
    """Somebody has dead letters published again, with the same ids. `count`: how many are to be."""

    count: int
    which: str
    """The filter that chose them."""
    because: str = ""
    by: str = ""


class DeadLettersDropped(_Fact, frozen=True):
    """Somebody has dead letters deleted. `count`: how many are to be."""

    count: int
    which: str
    """The filter that chose them."""
    because: str = ""
    by: str = ""


class ReplayRequested(_Fact, frozen=True):
    """Somebody wants past events to be handled once more."""

    number: int
    """Of the replay."""
    count: int
    which: str
    because: str
    by: str = ""
    revision: str | None = None
    undoes: int = 0
    """The wagon that is undone; 0: it is a replay."""


class ReplayBegun(_Fact, frozen=True):
    """A wagon of a replay is ready: it takes the replay's events, and drains."""

    number: int
    wagon: int
    undoes: int = 0
    """The wagon that is undone; 0: it is a replay."""


class ReplayTorn(_Fact, frozen=True):
    """The process that fed a replay's wagon was lost: the wagon is sealed, and once the archive says what it got,
    another takes the rest."""

    number: int
    wagon: int
    because: str
    undoes: int = 0
    """The wagon that is undone; 0: it is a replay."""


class ReplayCancelled(_Fact, frozen=True):
    """Nothing more of a replay is published; what was, is handled."""

    number: int
    because: str
    by: str = ""
    undoes: int = 0
    """The wagon that is undone; 0: it is a replay."""


class ReplayEnded(_Fact, frozen=True):
    """A replay is over: its wagons are removed. `fed` events of `count` were published; `dead` of their events died, of
    an undo also those that were undone when it was resumed."""

    number: int
    fed: int
    count: int
    dead: int
    because: str = ""
    """Why it ended early; empty: it did not."""
    undoes: int = 0
    """The wagon that was undone; 0: it was a replay."""


class ChannelUndone(_Fact, frozen=True):
    """Undo `number` is done with this channel of `wagon`, or with one level of it: `count` events are undone, and the
    undo goes on with what comes before them."""

    number: int
    wagon: int
    """The undone one."""
    channel: str
    """The ingress is called like the train."""
    level: int | None
    count: int
    left: int = 0
    """Events that are not known to be undone: somebody has said that they stay as they are."""


class UndoStopped(_Fact, frozen=True):
    """Not all events of a slice are known to be undone: the undo waits until somebody resumes or cancels it."""

    number: int
    channel: str
    because: str


class UndoResumed(_Fact, frozen=True):
    """Somebody lets an undo go on that had stopped: `again` events are undone once more, or for the first time; `left`
    are left as they are."""

    number: int
    again: int
    left: int = 0
    because: str = ""
    by: str = ""


class ChannelThreatened(_Fact, frozen=True):
    """The broker's server loses events of this channel, or may do so: by a setting, or because something was
    removed."""

    number: int
    channel: str
    because: str


class EventsRescued(_Fact, frozen=True):
    """Events in a channel about to be deleted were published again, with the same ids; those that the broker refused
    for good are among the train's dead letters."""

    number: int
    count: int
    dead: int = 0


class StepFailed(_Fact, frozen=True):
    """A step of an observer failed; the observer retries it at its next pass."""

    step: str
    because: str


class OrphanRemoved(_Fact, frozen=True):
    """A leftover that belongs to no wagon in the manifest was found and removed."""

    what: str


class EventDied(_Fact, frozen=True):
    """An event went to the dead letters of its wagon."""

    number: int
    channel: str
    id: str
    attempts: int
    """How often it was handled."""
    because: str
    uncounted: int = 0
    """How many of those did not count as attempts, as far as the process knows: the channel did not work."""


class EventRetried(_Fact, frozen=True):
    """A handler failed on an event; the event is retried after `pause` seconds."""

    number: int
    channel: str
    id: str
    attempt: int
    pause: float
    because: str


class EventSnoozed(_Fact, frozen=True):
    """A handler postponed an event by `pause` seconds; this is not an attempt."""

    number: int
    channel: str
    id: str
    pause: float
    because: str


class EventsSkipped(_Fact, frozen=True):
    """Events that had been handled before came again, within the time that `once` remembers them, and were settled
    without being handled. Reported for what one receive brought."""

    number: int
    channel: str
    id: str
    """The id of the first of them."""
    count: int


class BridgeHeldUp(_Fact, frozen=True):
    """A bridge can't read, publish or commit, and tries again with growing pauses. `source` is where it reads."""

    source: str
    because: str


class BridgeWentOn(_Fact, frozen=True):
    """A bridge that was held up carries records again."""

    source: str
    seconds: float


class BreakerOpened(_Fact, frozen=True):
    """Too many handlings of a channel failed in one process: it hands out only one probe at a time from that
    channel."""

    channel: str
    because: str
    """The reason, with figures and the last failure."""


class BreakerClosed(_Fact, frozen=True):
    """A handling succeeded: the process hands out all events of the channel again."""

    channel: str
    seconds: float
    """Seconds for which it was open."""
    failed_probes: int


class SwitchRequested(_Fact, frozen=True):
    """Somebody requested a switch. `revision`: to other code; None: to the same. `watch`: go back above this share of
    failures. `by`: who asked."""

    because: str
    revision: str | None = None
    watch: float | None = None
    by: str = ""


class SwitchGivenUp(_Fact, frozen=True):
    """Somebody requested a switch to other code, but no wagon with it became ready: the train keeps the old code."""

    revision: str
    back: str
    because: str


class SwitchWithdrawn(_Fact, frozen=True):
    """Somebody withdrew a requested switch. `number`: the active wagon, which goes on. `by`: who withdrew it."""

    number: int
    because: str
    revision: str = ""
    by: str = ""


class WentBack(_Fact, frozen=True):
    """Too many handlings of a watched wagon failed: an observer requested a switch back to the old code."""

    number: int
    revision: str
    back: str
    handled: int
    failed: int
    share: float
    """The share that was allowed."""


class WatchDropped(_Fact, frozen=True):
    """A switch was made with a request to watch the new wagon, but there is no other code to go back to any more: the
    wagon that ran it is drained."""

    number: int
    revision: str


class WatchEnded(_Fact, frozen=True):
    """A watched wagon is drained, and too few of its handlings failed to go back: the train keeps its code."""

    number: int


class FellAsleep(_Fact, frozen=True):
    """The train was idle for `seconds`: the active wagon's workers were stopped."""

    number: int
    seconds: float


class WokenUp(_Fact, frozen=True):
    """A sleeping wagon's workers are started: the train may have work again, or its settings changed."""

    number: int
    because: str


class StopRequested(_Fact, frozen=True):
    """Somebody asked all processes of the train to stop. `by`: who asked."""

    because: str
    by: str = ""


class DeliveryPaused(_Fact, frozen=True):
    """No event of the wagon is handed out until somebody resumes it; `number` is None for the whole train.

    `by_rule`: an observer paused it by `pause_on`. Only then are the other figures known."""

    number: int | None
    because: str
    by: str = ""
    publishing: bool = False
    """Publishers are refused too."""
    by_rule: bool = False
    revision: str = ""
    """The code that the wagon runs."""
    handled: int = 0
    """How many of its latest handlings ended well."""
    failed: int = 0
    """How many of them failed."""


class DeliveryResumed(_Fact, frozen=True):
    """Events are handed out again."""

    number: int | None
    because: str
    by: str = ""
    seconds: float = 0.0
    """Seconds for which it was paused."""


class RemovalAsked(_Fact, frozen=True):
    """Somebody requested the train's removal: its processes are asked to stop, and publishing is refused."""

    because: str
    by: str = ""


class RemovalGivenUp(_Fact, frozen=True):
    """The removal was given up: events arrived meanwhile, or processes did not stop."""

    because: str


class HandlerOverran(_Fact, frozen=True):
    """A handler still runs after the end of its attempt: in a thread, which occupies a worker until it ends, or
    (`given_up`) as a coroutine that swallowed its cancellation, which is not run any further."""

    number: int
    channel: str
    handler: str
    because: str
    given_up: bool = False


class ChannelsDropped(_Fact, frozen=True):
    """Channels were dropped: they are empty, the train no longer declares them, and no process has a handler for
    them."""

    number: int
    channels: tuple[str, ...]


class ChannelUnserved(_Fact, frozen=True):
    """No process has a handler for a channel of a wagon: its events stay, and the wagon can't drain."""

    number: int
    channel: str
    count: int | None
    """Events in it that are not settled; None: unknown."""
    because: str


class DefectFound(_Fact, frozen=True):
    """An internal rule of eventwagon is broken: a bug. The step in which it was found is left undone; the rest goes
    on."""

    step: str
    because: str


class UnknownFact(_Fact, frozen=True):
    """A journal entry that this version can't read: a newer version wrote it, or somebody edited it."""

    kind: str
    raw: str
    """The entry as it is stored."""


class ClaimsReturned(_Fact, frozen=True):
    """A process has provably ended (`because` is the proof): its claimed events were given back at once."""

    owner: str
    count: int
    """How many events."""
    because: str


class RegistrySteppedBack(_Fact, frozen=True):
    """The registry holds an older manifest than this process knew: it was restored from an older copy. The older one is
    taken over, under a higher version."""

    known: int
    """The manifest's version that this process knew."""
    found: int
    """The version with which the registry came back; 0: it had no manifest at all."""
    wagons: tuple[int, ...] = ()
    """Wagons that this process knew and that the older manifest does not have."""


class NumbersSkipped(_Fact, frozen=True):
    """Channels of wagons with numbers not used yet were found: the train skips these numbers, so that no name is used
    twice."""

    next: int
    """The number of the next wagon."""
    numbers: tuple[int, ...]


Decision = (
    Declared
    | WagonOpened
    | ProvisioningFailed
    | WagonReady
    | WorkersLost
    | WorkersCrashed
    | Switched
    | WagonScaled
    | PromiseAtRisk
    | SwitchRefused
    | OpenRefused
    | BoundLifted
    | Discarded
    | ChannelsAdded
    | WagonSealed
    | WagonDrained
    | WagonRemoved
    | WagonUnreconciled
    | WagonUnrecorded
    | WagonArchived
    | ArchiveIncomplete
    | DrainUnproven
    | SealWaits
    | EventsLate
    | DrainGivenUp
    | EventsLost
    | DeadLettersLost
    | DeadLettersRetried
    | DeadLettersDropped
    | ReplayRequested
    | ReplayBegun
    | ReplayTorn
    | ReplayCancelled
    | ReplayEnded
    | ChannelUndone
    | UndoStopped
    | UndoResumed
    | ChannelThreatened
    | EventsRescued
    | StepFailed
    | OrphanRemoved
    | SwitchRequested
    | SwitchGivenUp
    | SwitchWithdrawn
    | WentBack
    | WatchDropped
    | WatchEnded
    | FellAsleep
    | WokenUp
    | StopRequested
    | ChannelsDropped
    | ChannelUnserved
    | DefectFound
    | UnknownFact
    | BridgeHeldUp
    | BridgeWentOn
    | BreakerOpened
    | BreakerClosed
    | ClaimsReturned
    | HandlerOverran
    | RegistrySteppedBack
    | NumbersSkipped
    | DeliveryPaused
    | DeliveryResumed
    | RemovalAsked
    | RemovalGivenUp
)
"""What the journal keeps."""


class SwitchSeen(_Fact, frozen=True):
    """Another process has redirected ingestion; this one has just seen it. `skipped`: switches in between, not seen one
    by one."""

    old: int | None
    new: int
    because: str
    revision: str = ""
    skipped: int = 0


Fact = Decision | EventDied | EventRetried | EventSnoozed | EventsSkipped | SwitchSeen
"""Everything that a listener receives."""

Listener = Callable[[Fact], None]
"""Called with each fact, on the event loop; must not block or raise."""


class Entry(msgspec.Struct, frozen=True):
    """One entry of the journal: the time (seconds since the epoch), the process, the fact."""

    at: float
    by: str
    fact: Decision


_entry_decoder = msgspec.json.Decoder(Entry)
_encoder = msgspec.json.Encoder()


class _Rough(msgspec.Struct):
    at: float = 0.0
    by: str = ""
    fact: dict[str, Any] = {}


_rough_decoder = msgspec.json.Decoder(_Rough)
_RAW_MOST = 10_000


def sound_entry(entry: Entry) -> Entry:
    """The entry as every process will read it. Raises Defect if none could."""
    return as_read(entry, _entry_decoder)


def encode_entry(entry: Entry) -> bytes:
    """The entry as JSON, as registries store it."""
    return _encoder.encode(entry)


def decode_entry(data: bytes) -> Entry:
    """The entry that `encode_entry` wrote. One that this version can't read becomes an UnknownFact; never raises."""
    try:
        return _entry_decoder.decode(data)
    except (ValueError, RecursionError):
        rough = _roughly(data)
        kind, train = rough.fact.get("fact", ""), rough.fact.get("train", "")
        raw = data[:_RAW_MOST].decode(errors="backslashreplace")
        return Entry(rough.at, rough.by, UnknownFact(train=str(train), kind=str(kind), raw=raw))


def _roughly(data: bytes) -> _Rough:
    try:
        return _rough_decoder.decode(data)
    except (ValueError, RecursionError):
        return _Rough()


def _code(revision: str) -> str:
    return f" (revision {revision})" if revision else ""


def _job(number: int, undoes: int, name: Callable[[int], str]) -> str:
    return f"undo {number} of {name(undoes)}" if undoes else f"replay {number}"


def _who(by: str) -> str:
    return f" by {by}" if by else ""


def _revision(revision: str | None) -> str:
    return f"revision {revision}" if revision else "no revision"


def sentence(fact: Fact) -> str:
    """The fact as one line of text with its figures, as logs and `eventwagon why` print it. No payload, error or name
    can add a line to it."""
    return as_line(_sentence(fact))


def _sentence(fact: Fact) -> str:
    def name(number: int | None) -> str:
        return "no wagon" if number is None else wagon_name(fact.train, number)

    def paused(number: int | None) -> str:
        return "the train" if number is None else name(number)

    match fact:
        case Declared(settings=settings, channels=channels, by=by):
            said = ", ".join(f"{name}={value}" for name, value in settings.items())
            return f"train declared{_who(by)}: {said}; channels: {', '.join(channels) or 'none but the ingress'}"
        case WagonOpened(number=n, because=why, revision=revision, unit=unit):
            warm = f", with the warm workers of {name(unit)}" if unit is not None else ""
            return f"{name(n)}{_code(revision)} opened{warm}: {why}"
        case ProvisioningFailed(number=n, attempt=0, because=why):
            return f"{name(n)} given up: {why}"
        case ProvisioningFailed(number=n, attempt=attempt, because=why, pause=None):
            return f"{name(n)} given up after attempt {attempt}: {why}"
        case ProvisioningFailed(number=n, attempt=attempt, because=why, pause=pause):
            return f"{name(n)} not ready at attempt {attempt}: {why}; tried again in {pause:.1f} s"
        case WagonReady(number=n, again=True):  # how long it takes is known to the look only
            return f"{name(n)} ready again: workers are attached to it"
        case WagonReady(number=n, seconds=s):
            return f"{name(n)} ready, {s:.2f} s after it was opened"
        case WorkersLost(number=n, because=why):
            return f"{name(n)} lost its workers before it was active: {why}"
        case WorkersCrashed(number=n, count=1, because=why):
            return f"a process of the workers of {name(n)} ended by itself, and another is started: {why}"
        case WorkersCrashed(number=n, count=count, because=why):
            return f"{count} processes of the workers of {name(n)} ended by themselves, the last one: {why}"
        case Switched(old=None, new=new, because=why, revision=revision):
            return f"{name(new)}{_code(revision)} active: {why}"
        case Switched(old=old, new=new, pressure=p, because=why, revision=revision):
            return f"switched from {name(old)} to {name(new)}{_code(revision)} at pressure {p:.2f}: {why}"
        case SwitchRefused(number=n, pressure=p, figures=figures, because=why):
            return f"no switch from {name(n)} at pressure {p:.2f} ({figures}): {why}"
        case OpenRefused(because=why):
            return f"no wagon opened: {why}"
        case BoundLifted(number=n, because=why):
            return f"{name(n)} goes on past its limit: {why}"
        case Discarded(number=n, because=why):
            return f"{name(n)} discarded: {why}"
        case ChannelsAdded(number=n, channels=channels):
            return f"{name(n)} got channels: {', '.join(channels)}"
        case WagonSealed(number=n, seconds=s):
            return f"{name(n)} sealed, {s:.2f} s after it was cut off"
        case WagonDrained(number=n, published=published, settled=settled, seconds=s):
            totals = "totals unknown" if None in (published, settled) else f"published {published}, settled {settled}"
            return f"{name(n)} drained, {s:.2f} s after it was cut off: {totals}"
        case WagonRemoved(wagon=w, dead=dead):
            if w.published is not None:
                took = f"took {counted(w.published, 'event')}, {counted(dead, 'dead letter')} kept"
            elif w.active_at is None:
                took = "it was never in use"
            else:
                took = f"how many events it took is not known, {counted(dead, 'dead letter')} kept"
            if w.lost:
                took += f", {counted(w.lost, 'event')} lost"
            return f"{name(w.number)}{_code(w.revision)} removed: {took}"
        case WagonUnreconciled(number=n, difference=difference, because=why):
            off = "" if difference is None else f" ({difference:+d} events)"
            return f"the record of {name(n)} does not reconcile{off}: {why}; the wagon was removed all the same"
        case WagonUnrecorded(number=n, because=why):
            return (
                f"{name(n)} was removed without a record in the ledger: {why}; the record is in the journal, and "
                f"`eventwagon audit {fact.train} --recover` puts it in its place"
            )
        case WagonArchived(number=n, count=0, where=where):
            return f"{name(n)} archived at {where}: it had no events"
        case WagonArchived(number=n, count=count, files=files, size=size, where=where):
            return f"{name(n)} archived at {where}: {counted(count, 'row')} in {counted(files, 'file')}, {size:,} bytes"
        case ArchiveIncomplete(number=n, missing=missing, because=why):
            return f"the archive of {name(n)} lacks {counted(missing, 'event')}: {why}"
        case DrainUnproven(number=n, because=why):
            return f"{name(n)} can't be proven empty: {why}"
        case SealWaits(number=n, because=why):
            return f"{name(n)} can't be sealed yet: {why}"
        case EventsLate(number=n, count=count):
            return f"{name(n)} drains again: {counted(count, 'event')} came late"
        case DrainGivenUp(number=n, because=why):
            return f"{name(n)} can't be drained, so what it holds is published anew: {why}"
        case NumbersSkipped(next=following, numbers=numbers):
            return f"the next wagon is {name(following)}: channels of {', '.join(map(name, numbers))} were found"
        case EventsLost(number=n, count=count, total=total, because=why):
            more = f" ({total:,} in all)" if total > (count or 0) else ""
            return f"{name(n)} lost {counted(count, 'event')}{more}, which disappeared without being settled: {why}"
        case DeadLettersLost(number=n, count=count, total=total, because=why):
            more = f" ({total:,} in all)" if total > count else ""
            whose = name(n) if n else "removed wagons"
            return f"{counted(count, 'dead letter')} of {whose} disappeared from the broker{more}: {why}"
        case DeadLettersRetried(count=count, which=which, because=why, by=by):
            return f"{counted(count, 'dead letter')} ({which}) to be published again{_who(by)}: {why}"
        case DeadLettersDropped(count=count, which=which, because=why, by=by):
            return f"{counted(count, 'dead letter')} ({which}) to be deleted{_who(by)}: {why}"
        case ReplayRequested(number=n, count=count, which=which, because=why, by=by, revision=revision, undoes=of):
            code = "" if revision is None else f" with {_revision(revision)}"
            if of:
                what = f"undo {n} requested, for {counted(count, 'event')} of {name(of)} ({which})"
            else:
                what = f"replay {n} requested, for {counted(count, 'event')} ({which})"
            return f"{what}{code}{_who(by)}: {why}"
        case ReplayBegun(number=n, wagon=wagon, undoes=of):
            return f"{name(wagon)} takes the events of {_job(n, of, name)}"
        case ReplayTorn(number=n, wagon=wagon, because=why, undoes=of):
            return f"{name(wagon)} of {_job(n, of, name)} takes no more events, the next one takes the rest: {why}"
        case ReplayCancelled(number=n, because=why, by=by, undoes=of):
            return f"{_job(n, of, name)} cancelled{_who(by)}: {why}"
        case ReplayEnded(number=n, fed=fed, count=count, dead=dead, because=why, undoes=of):
            what = _job(n, of, name)
            early = f", ended early: {why}" if why else ""
            done = f"{fed:,} of {counted(count, 'event')} published, {counted(dead, 'dead letter')}"
            if of and dead:
                done += ", including any of events that were undone later"
            return f"{what} over: {done}{early}"
        case ChannelUndone(number=n, wagon=wagon, channel=channel, level=level, count=count, left=left):
            where = channel if level is None else f"{channel}, level {level},"
            return f"undo {n}: {counted(count, 'event')} of {where} of {name(wagon)} undone" + (
                f", {left:,} left" if left else ""
            )
        case UndoStopped(number=n, channel=channel, because=why):
            return f"undo {n} stopped at {channel}: {why}; it waits until somebody resumes or cancels it"
        case UndoResumed(number=n, again=again, left=left, because=why, by=by):
            how = f"without {counted(left, 'event')}" if left else f"with {counted(again, 'event')} once more"
            return f"undo {n} resumed {how}{_who(by)}: {why}"
        case ChannelThreatened(number=n, channel=channel, because=why):
            return f"{channel or 'ingress'} of {name(n)}: {why}"
        case EventsRescued(number=n, count=count, dead=dead):
            refused = f"; {dead} more were refused for good, and are dead letters" if dead else ""
            return f"published {counted(count, 'late event')} of {name(n)} again{refused}"
        case StepFailed(step=step, because=why):
            return f"{step} failed: {why}; it is tried again"
        case OrphanRemoved(what=what):
            return f"removed {what}, which belongs to no wagon"
        case EventDied(number=n, channel=channel, id=event, attempts=attempts, because=why, uncounted=uncounted):
            more = f", of which {uncounted} did not count because the channel did not work" if uncounted else ""
            return (
                f"{channel or 'ingress'} of {name(n)}: event {event} is dead after "
                f"{counted(attempts, 'attempt')}{more}: {why}"
            )
        case EventRetried(number=n, channel=channel, id=event, attempt=attempt, pause=pause, because=why):
            return (
                f"{channel or 'ingress'} of {name(n)}: attempt {attempt} at event {event} failed: {why}; "
                f"tried again in {pause:.1f} s"
            )
        case EventSnoozed(number=n, channel=channel, id=event, pause=pause, because=why):
            return f"{channel or 'ingress'} of {name(n)}: event {event} comes again in {pause:.1f} s: {why}"
        case EventsSkipped(number=n, channel=channel, id=event, count=many):
            what = f"event {event}" if many == 1 else f"{many} events, the first of them {event},"
            return f"{channel or 'ingress'} of {name(n)}: {what} came again and had been handled: skipped"
        case BridgeHeldUp(source=source, because=why):
            return f"the bridge from {source} is held up: {why}; it tries again"
        case BridgeWentOn(source=source, seconds=seconds):
            return f"the bridge from {source} goes on after {seconds:.3g} s"
        case BreakerOpened(channel=channel, because=why):
            return (
                f"the circuit breaker of {channel or 'the ingress'} opened: {why}; one event at a time is tried from "
                "now on, and no attempt is counted"
            )
        case BreakerClosed(channel=channel, seconds=s, failed_probes=probes):
            return (
                f"the circuit breaker of {channel or 'the ingress'} closed after {s:.1f} s and "
                f"{counted(probes, 'failed probe')}: a handling succeeded"
            )
        case SwitchRequested(because=why, revision=None, by=by):
            return f"a switch was requested{_who(by)}: {why}"
        case SwitchRequested(because=why, revision=revision, watch=None, by=by):
            return f"a switch to {_revision(revision)} was requested{_who(by)}: {why}"
        case SwitchRequested(because=why, revision=revision, watch=watch, by=by):
            return (
                f"a switch to {_revision(revision)} was requested{_who(by)}, and a switch back if more than "
                f"{watch:.3g} of its handlings fail: {why}"
            )
        case SwitchGivenUp(revision=revision, back=back, because=why):
            return f"the switch to {_revision(revision)} was given up, {_revision(back)} goes on: {why}"
        case SwitchWithdrawn(number=n, because=why, revision=revision, by=by):
            code = f" ({_revision(revision)})" if revision else ""
            return f"the requested switch was withdrawn{_who(by)}, {name(n)}{code} goes on: {why}"
        case WentBack(number=n, revision=revision, back=back, handled=handled, failed=failed, share=share):
            return (
                f"going back from {_revision(revision)} to {_revision(back)}: in {name(n)} {failed} of "
                f"{handled + failed} handlings failed, more than the {share:.3g} allowed"
            )
        case WatchDropped(number=n, revision=revision):
            return (
                f"{name(n)}{_code(revision)} is not watched as requested: the train has no other code any more to go "
                "back to"
            )
        case WatchEnded(number=n):
            return f"{name(n)} is drained and no longer watched: too few of its handlings failed to go back"
        case WagonScaled(number=n, was=was, workers=workers, because=why):
            return f"{name(n)} scaled from {was} to {workers} workers: {why}"
        case PromiseAtRisk(number=n, because=why):
            return f"the promise to new events can't be kept at {name(n)}: {why}"
        case FellAsleep(number=n, seconds=s):
            return f"{name(n)} sleeps: nothing to do for {s:.0f} s, so its workers were ended"
        case WokenUp(number=n, because=why):
            return f"{name(n)} is woken: {why}"
        case StopRequested(because=why, by=by):
            return f"the train's processes were asked to end{_who(by)}: {why}"
        case DeliveryPaused(number=n, because=why, by_rule=True, revision=revision):
            code = _code(revision)
            return f"{paused(n)}{code} was paused by rule: {why}; no event is handed out until somebody resumes it"
        case DeliveryPaused(number=n, because=why, by=by, publishing=publishing):
            more = ", and publishers are refused" if publishing else ""
            return f"{paused(n)} was paused{_who(by)}: {why}; no event is handed out{more}"
        case DeliveryResumed(number=n, because=why, by=by, seconds=s):
            return f"{paused(n)} was resumed{_who(by)} after {s:.0f} s: {why}"
        case RemovalAsked(because=why, by=by):
            return f"the train is being removed{_who(by)}: {why}"
        case RemovalGivenUp(because=why):
            return f"the train is not removed: {why}"
        case SwitchSeen(old=old, new=new, because=why, revision=revision, skipped=skipped):
            over = f", over {skipped} in between" if skipped else ""
            return f"switched from {name(old)} to {name(new)}{_code(revision)}{over}" + (f": {why}" if why else "")
        case HandlerOverran(number=n, handler=handler, because=why, given_up=True):
            return f"handler {handler} of {name(n)} swallowed its cancellation ({why}): it is not run any further"
        case HandlerOverran(number=n, handler=handler, because=why):
            return (
                f"handler {handler} of {name(n)} still runs in its thread ({why}): "
                "its worker takes no events until it has ended"
            )
        case ChannelsDropped(number=n, channels=channels):
            return f"{name(n)} lost channels that are empty and that no process serves any more: {', '.join(channels)}"
        case ChannelUnserved(number=n, channel=channel, count=count, because=why):
            return (
                f"{name(n)} keeps {counted(count, 'event')} in {channel}: {why}; "
                "it can't drain until a program with a handler works"
            )
        case DefectFound(step=step, because=why):
            return (
                f"a defect in eventwagon, please report it: {step}: {why}; the rest goes on, the log has the traceback"
            )
        case UnknownFact(kind=kind, raw=raw):
            return f"{kind or 'an entry'} can't be read by this version: {raw}"
        case RegistrySteppedBack(known=known, found=found, wagons=wagons):
            lost = f"; it does not know {', '.join(map(name, wagons))}" if wagons else ""
            held = f"is back at version {found}" if found else "has no manifest any more"
            return (
                f"the registry {held}, {known} was known: it was restored from an older copy, or lost data. "
                f"The train takes over its present state{lost}"
            )
        case ClaimsReturned(owner=owner, count=count, because=why):
            return f"{counted(count, 'event')} that {owner} had claimed went back at once: {why}"


_logger = logging.getLogger("eventwagon")
_stepped_back = Seldom(10)
_ALARMING = (
    PromiseAtRisk,
    ProvisioningFailed,
    SwitchGivenUp,
    WatchDropped,
    WentBack,
    WorkersLost,
    WorkersCrashed,
    SwitchRefused,
    OpenRefused,
    BoundLifted,
    DrainUnproven,
    ArchiveIncomplete,
    EventsLate,
    DrainGivenUp,
    EventsLost,
    DeadLettersLost,
    ChannelThreatened,
    EventsRescued,
    StepFailed,
    UndoStopped,
    OrphanRemoved,
    EventDied,
    ChannelUnserved,
    BridgeHeldUp,
    BreakerOpened,
    ClaimsReturned,
    HandlerOverran,
    RegistrySteppedBack,
    NumbersSkipped,
)


def is_alarming(fact: Fact) -> bool:
    """Whether an operator should look at it."""
    return _level(fact) >= logging.WARNING


def log(fact: Fact) -> None:
    """A listener that writes each fact as one line to the logger `eventwagon`: a warning if an operator should look.
    Deaths (EventDied) it leaves out: the worker logs them, with the traceback.

    Of a registry that steps back again and again, since its server evicts keys, ten lines a minute are written."""
    if isinstance(fact, EventDied):
        return
    left_out = _stepped_back.left_out(fact.train) if isinstance(fact, RegistrySteppedBack) else 0
    if left_out is not None:
        text = counted_in(sentence(fact), left_out)
        _logger.log(_level(fact), "%s: %s", fact.train, text, extra={FIELDS: _fields(fact)})


def _fields(fact: Fact) -> dict[str, Any]:
    """The fact's fields in structured logs."""
    fields: dict[str, Any] = {"train": fact.train, "fact": type(fact).__name__}
    number: object
    match fact:
        case Switched() | SwitchSeen():
            number = fact.new
        case WagonRemoved():
            number = fact.wagon.number
        case _:
            number = getattr(fact, "number", None)
    if isinstance(number, int):
        fields["wagon"] = wagon_name(fact.train, number)
    if isinstance(fact, EventDied | EventRetried | EventSnoozed | EventsSkipped):
        fields |= {"channel": fact.channel or fact.train, "event": fact.id}
    return fields


def _level(fact: Fact) -> int:
    match fact:
        case DefectFound() | WagonUnreconciled() | WagonUnrecorded():
            return logging.ERROR
        case SwitchRefused(passing=True, lasted=0.0) | ProvisioningFailed(attempt=0):
            return logging.INFO  # a switch in progress, or a spare that is not needed
        case SwitchRefused(because=because) if because == WHILE_PAUSED:
            return logging.INFO
        case WorkersLost(because=because) if because == NOBODY_ATTACHED:
            return logging.INFO  # a spare after a restart: its workers come back, or their absence is reported
        case EventRetried() | EventSnoozed() | EventsSkipped():
            return logging.DEBUG
        case DeliveryPaused(by_rule=True):
            return logging.WARNING
    return logging.WARNING if isinstance(fact, _ALARMING) else logging.INFO


DECISIONS: tuple[type, ...] = get_args(Decision)
