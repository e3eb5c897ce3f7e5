"""The state of a train as data: what `status` prints and the dashboard shows. It is read in one place, so that both say
the same."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from ..contracts.broker import Depth
from ..contracts.facts import Entry, StepFailed, WagonRemoved
from ..contracts.lifecycle import State
from ..contracts.manifest import Manifest, Pause, Wagon
from ..contracts.orchestrator import Deployment
from ..contracts.registry import Member, Snapshot
from ..contracts.timetable import Waiting, timetable_of
from ..display.redaction import shown
from ..display.text import count, escaped, span
from ..errors import StorageBroken
from ..event import DEAD, Channel, wagon_name
from ..policy.edits import removal_step
from ..policy.losses import GONE
from .following import Value, values_of
from .replays import replay_in_words
from .schedules import ScheduleView, schedules_of
from .source import Source

_RECENT = 500
"""Entries of the journal that are read for what goes on now."""


class WagonView(msgspec.Struct, frozen=True, kw_only=True):
    """One wagon in figures. `waiting`, `in_flight` and `settled` count the events of its ingress; `inside` counts those
    in its inner channels that are not settled. A figure that the broker does not know is None. `age` is in seconds,
    other times in seconds since the epoch."""

    number: int
    name: str
    state: str
    published: int | None
    limit: int | None
    waiting: int | None
    in_flight: int | None
    settled: int | None
    inside: int | None
    dead: int | None
    lost: int
    """Events that disappeared from the broker without being settled."""
    workers: int
    revision: str
    asleep: bool
    paused: str
    """Since when, by whom and why none of its events is handed out; empty if it is not paused."""
    age: float
    reason: str
    opened_at: float
    sealed_at: float | None
    drained_at: float | None


class View(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a train, as `status --json` prints it."""

    train: str
    url: str
    at: float
    version: int
    """The version of the manifest, which increases with each change."""
    declared: dict[str, Value]
    """The settings on which all its programs agree, as `values_of` gives them."""
    elastic_by_default: bool
    """True if the train does not set its workers, and an orchestrator makes those of each wagon elastic."""
    channels: tuple[str, ...]
    asked: str
    watched: str
    refusing: str
    at_risk: str
    """Why new events will wait longer than promised although the workers are elastic; empty if they won't."""
    stepped_back: str
    """When the registry was found to hold an older manifest than before; empty if it never was."""
    paused: str
    """Since when, by whom and why the whole train is paused; empty if it is not."""
    removal: str
    """Why the train is being removed, and who requested it; empty if it is not."""
    open: dict[str, list[str]]
    """Channels whose circuit breaker is open, with the reason from each process where it is."""
    at_budget: dict[str, list[str]]
    """Channels whose events wait for a budget, and for which; the ingress's name is empty."""
    crashed: list[str]
    """A sentence for each wagon whose worker processes ended by themselves: how many did, and why the last one did."""
    threatened: list[str]
    """What on the broker's server loses events, or may do so."""
    dead: int | None
    later: int | None = None
    """Events that wait for their time; None if neither the broker nor the registry can keep any."""
    later_next: float | None = None
    """When the next of them is due."""
    schedules: list[ScheduleView] = []
    """Those that the program declares, and those on record."""
    replays: list[str] = []
    """A sentence for each replay or undo that is not over: the first one runs, unless it has stopped; the others
    wait."""
    unremoved: list[str] = []
    """A sentence for each wagon that is drained and could not be removed: its archive is away, say."""
    stopped: list[str] = []
    """Those of `replays` that go no further until a person decides."""
    dead_lost: int
    """Dead letters that disappeared from the broker, those of removed wagons included."""
    members: list[Member]
    wagons: list[WagonView]
    removed: list[WagonView]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What one reading of a train found."""

    at: float
    """In seconds since the epoch."""
    snapshot: Snapshot
    members: list[Member]
    depths: Mapping[int, Mapping[str, Depth]]
    """Of each channel, by the wagon's number and the channel's name; number 0: the train's own dead letters."""
    unread: Mapping[int, str]
    """Why the depths of some of them can't be read."""
    gone: AbstractSet[str]
    """A sentence for each channel that the broker no longer has although its wagon is in use."""
    unremoved: Mapping[int, Entry]
    """The last report, by the wagon's number, of a removal that failed."""
    later: Waiting | None
    """None: nothing keeps events for later."""
    schedules: list[ScheduleView]


async def read(source: Source) -> Found:
    """Read the present state of the train. Raises BrokerError and RegistryError."""
    snapshot = await source.refresh()
    manifest = snapshot.manifest
    at = time.time()
    members = list(await source.members())
    depths, unread = await _depths(source, manifest)
    gone = await _gone(source, manifest, {n: of for n, of in depths.items() if n not in unread})
    later = await source.later() if timetable_of(source.broker, source.registry) is not None else None
    return Found(
        at=at,
        snapshot=snapshot,
        members=members,
        depths=depths,
        unread=unread,
        gone=gone,
        unremoved=await _unremoved(source, manifest),
        later=later,
        schedules=[] if later is None else await schedules_of(source, later.now),
    )


async def look(source: Source, url: str, *, removed: bool = False) -> View:
    """Read the present state of the train; with `removed`, also its removed wagons, from the journal. Raises
    BrokerError and RegistryError."""
    view = view_of(await read(source), url)
    if not removed:
        return view
    gone: dict[int, WagonView] = {}
    async for entry in source.journal():
        if isinstance(entry.fact, WagonRemoved):  # twice where the registry stepped back
            gone[entry.fact.wagon.number] = removed_wagon(view.train, entry.fact)
    live = {w.number for w in view.wagons}
    return msgspec.structs.replace(view, removed=[gone[n] for n in sorted(gone.keys() - live)])


def view_of(found: Found, url: str) -> View:
    """The state of the train by what was found. Pure."""
    manifest, members, depths, now = found.snapshot.manifest, found.members, found.depths, found.at
    kept = depths[0][DEAD]
    workers: dict[int, int] = {}
    for a in (a for m in members for a in m.attachments):
        workers[a.number] = workers.get(a.number, 0) + a.workers
    for a in (a for m in members for a in m.deployed):  # several observers tell of the same processes
        workers[a.number] = max(workers.get(a.number, 0), a.workers)
    wagons = [_live(manifest, w, depths[w.number], workers.get(w.number, 0), now) for w in manifest.wagons]
    broken = {
        (m.name, name): why for m in members for a in (*m.deployed, *m.attachments) for name, why in a.open.items()
    }
    opened: dict[str, list[str]] = {}
    for (_, name), why in sorted(broken.items()):
        opened.setdefault(name, []).append(why)
    short = sorted({each for m in members for a in (*m.deployed, *m.attachments) for each in a.at_budget.items()})
    dead = [w.dead or 0 for w in wagons] + [_held(kept) or 0]
    known = [of for n, of in depths.items() if n not in found.unread]
    return View(
        train=manifest.train,
        url=escaped(shown(url)),
        at=now,
        version=found.snapshot.version,
        declared=values_of(manifest.declared),
        elastic_by_default="Elastic" not in manifest.declared.get("workers", "")
        and any(w.workers is not None for w in manifest.wagons),
        channels=manifest.channels,
        asked=_asked(manifest),
        watched=_watched(manifest),
        replays=[replay_in_words(r, manifest) for r in manifest.replays],
        unremoved=[
            f"{wagon_name(manifest.train, n)} waits to be removed: {_because(entry)} "
            f"(reported {span(max(0.0, now - entry.at))} ago)"
            for n, entry in sorted(found.unremoved.items())
        ],
        stopped=[
            replay_in_words(r, manifest)
            for r in manifest.replays
            if manifest.state_of(r) == "stopped" and not r.cancelled
        ],
        refusing=manifest.refusing,
        at_risk=manifest.at_risk,
        stepped_back=_stepped_back(manifest, now),
        paused=describe_pause(manifest.paused, now),
        removal=_removing(manifest),
        open=opened,
        at_budget={name: sorted(which for other, which in short if other == name) for name, _ in short},
        crashed=_crashed(members, manifest),
        threatened=sorted(
            {d.trouble for of in known for d in of.values() if d.trouble}
            | found.gone
            | {f"{_whose(manifest.train, n)} can't be read: {why}" for n, why in found.unread.items()}
        ),
        dead=None if found.unread else sum(dead),
        later=None if found.later is None else found.later.count,
        later_next=None if found.later is None else found.later.next_at,
        schedules=found.schedules,
        dead_lost=max(kept.lost, manifest.letters_lost)
        + manifest.letters_gone
        + sum(w.letters_lost for w in manifest.wagons),
        members=members,
        wagons=wagons,
        removed=[],
    )


async def _depths(source: Source, manifest: Manifest) -> tuple[dict[int, dict[str, Depth]], dict[int, str]]:
    """The depths of each wagon's channels, by number and name; 0: the train's own dead letters. Where the storage of
    some is broken, their figures are unknown and the second result says why. Raises BrokerError if none can be read."""
    channels = {w.number: [*manifest.working_channels(w), manifest.dead_letters(w)] for w in manifest.wagons}
    channels[0] = [Channel(manifest.train, 0, DEAD)]
    depths = {number: {channel.name: Depth() for channel in of} for number, of in channels.items()}
    try:
        found = await source.depths()
        depths |= {w.number: dict(found.get(w.number, {})) for w in manifest.wagons}
        depths[0][DEAD] = (await source.broker.depth(channels[0]))[0]
        return depths, {}
    except StorageBroken as e:
        broken = e
    unread: dict[int, str] = {}
    for number, of in channels.items():
        try:
            for channel, depth in zip(of, await source.broker.depth(of), strict=True):
                depths[number][channel.name] = depth
        except StorageBroken as e:
            unread[number] = str(e)
    if len(unread) == len(channels):
        raise broken
    return depths, unread


async def _unremoved(source: Source, manifest: Manifest) -> dict[int, Entry]:
    """The last report of each wagon's removal that failed, from the newest entries of the journal, which are read only
    while a removal is under way."""
    steps = {
        removal_step(manifest.train, w.number): w.number
        for w in manifest.in_state(State.DRAINED, State.REMOVING, State.FAILED)
    }
    if not steps:
        return {}
    return {
        steps[entry.fact.step]: entry
        async for entry in source.journal(last=_RECENT)
        if isinstance(entry.fact, StepFailed) and entry.fact.step in steps
    }


def _because(entry: Entry) -> str:
    return entry.fact.because if isinstance(entry.fact, StepFailed) else ""


def _whose(train: str, number: int) -> str:
    return wagon_name(train, number) if number else "the dead letters of removed wagons"


async def _gone(source: Source, manifest: Manifest, depths: Mapping[int, Mapping[str, Depth]]) -> AbstractSet[str]:
    """A sentence for each channel that the broker no longer has although its wagon is in use."""
    doubtful = [
        Channel(manifest.train, w.number, name)
        for w in manifest.in_state(State.ACTIVE, State.DRAINING)
        for name, depth in depths.get(w.number, {}).items()
        if depth == Depth()
    ]
    there = set(await source.broker.channels(manifest.train)) if doubtful else set()
    return {f"{channel} has {GONE}" for channel in doubtful if channel not in there}


def _crashed(members: Sequence[Member], manifest: Manifest) -> list[str]:
    """A sentence for each wagon whose processes crashed. Observers may count the same processes, or each its own: the
    highest count is taken."""
    most: dict[int, Deployment] = {}
    for d in (d for m in members for d in m.deployed if d.crashes):
        if manifest.wagon(d.number) is not None:
            most[d.number] = max(most.get(d.number, d), d, key=lambda d: d.crashes or 0)
    return [
        f"{wagon_name(manifest.train, n)}: {count(d.crashes or 0, 'process', 'processes')} of its workers ended by "
        f"{'themselves, the last' if d.crashes != 1 else 'itself'}: {d.crashed_because}"
        for n, d in sorted(most.items())
    ]


def _asked(manifest: Manifest) -> str:
    asked = manifest.request
    if asked is None:
        return ""
    more = [f"to revision {asked.revision or 'none'}"] if asked.revision is not None else []
    more += [f"by {asked.by}"] if asked.by else []
    return f"{asked.why} ({', '.join(more)})" if more else asked.why


def _stepped_back(manifest: Manifest, now: float) -> str:
    at, times = manifest.stepped_back_at, manifest.epoch
    if at is None:
        return ""
    found = f"version {manifest.stepped_back_to}" if manifest.stepped_back_to else "no manifest"
    often = f", the last of {times} times" if times > 1 else ""
    return f"to {found}, {span(max(0.0, now - at))} ago{often}"


def describe_pause(pause: Pause | None, now: float) -> str:
    """Since when, by whom and why it is paused, for a person; empty if it is not."""
    if pause is None:
        return ""
    who = f" by {pause.by}" if pause.by else ""
    refused = "; publishers are refused" if pause.publishing else ""
    return f"{span(max(0.0, now - pause.at))} ago{who}: {pause.why}{refused}"


def _removing(manifest: Manifest) -> str:
    removal = manifest.removal
    return "" if removal is None else f"{removal.why} (by {removal.by})" if removal.by else removal.why


def _watched(manifest: Manifest) -> str:
    watch = manifest.watch
    if watch is None:
        return ""
    name, back = wagon_name(manifest.train, watch.number), watch.back or "none"
    return f"{name}, and back to revision {back} if more than {watch.share:.3g} of it fails"


def _held(depth: Depth) -> int | None:
    """Events in a channel that are not settled; None if unknown."""
    return None if depth.published is None or depth.settled is None else depth.published - depth.settled


def _live(manifest: Manifest, wagon: Wagon, depths: Mapping[str, Depth], workers: int, now: float) -> WagonView:
    ingress = depths.get("", Depth())
    inner = [_held(d) for name, d in depths.items() if name not in ("", DEAD)]
    known = [i for i in inner if i is not None]
    return WagonView(
        number=wagon.number,
        name=wagon_name(manifest.train, wagon.number),
        state=wagon.state,
        published=ingress.published,
        limit=wagon.capacity,
        waiting=ingress.waiting,
        in_flight=ingress.in_flight,
        settled=ingress.settled,
        inside=sum(known) if len(known) == len(inner) else None,
        dead=_held(depths.get(DEAD, Depth())),
        lost=max(wagon.lost, sum(d.lost for d in depths.values())),
        workers=workers,
        revision=wagon.revision,
        asleep=wagon.asleep_at is not None,
        paused=describe_pause(manifest.pause_of(wagon), now),
        age=max(0.0, now - (wagon.active_at or wagon.opened_at)),
        reason=reason(manifest, wagon, now),
        opened_at=wagon.opened_at,
        sealed_at=wagon.sealed_at,
        drained_at=wagon.drained_at,
    )


def reason(manifest: Manifest, wagon: Wagon, now: float) -> str:
    """Why the wagon is in its state, for a person."""
    if manifest.paused is not None:
        return "paused with the train"
    if wagon.paused is not None:
        return f"paused {describe_pause(wagon.paused, now)}"
    if wagon.asleep_at is not None:
        return "asleep: nothing to do"
    match wagon.state:
        case State.PROVISIONING:  # its last attempt failed, or it is the first one
            return wagon.trouble or f"opened: {wagon.opened_because}"
        case State.READY:
            return f"opened: {wagon.opened_because}"
        case State.ACTIVE:
            return "found sealed: new events wait for the next wagon" if wagon.found_sealed else "takes the new events"
        case _:
            return _ended(wagon)


def _ended(wagon: Wagon) -> str:
    if wagon.state is State.FAILED:
        return wagon.trouble
    if wagon.replay:
        return wagon.closed_because
    return f"{'cut off' if wagon.active_at is not None else 'discarded'}: {wagon.closed_because}"


def removed_wagon(train: str, fact: WagonRemoved) -> WagonView:
    """A removed wagon by its final record."""
    w = fact.wagon
    return WagonView(
        number=w.number,
        name=wagon_name(train, w.number),
        state="removed" if w.state is not State.FAILED else "failed",
        published=w.published,
        limit=w.capacity,
        waiting=0,
        in_flight=0,
        settled=w.settled,
        inside=0,
        dead=fact.dead,
        lost=w.lost,
        workers=0,
        revision=w.revision,
        asleep=False,
        paused="",
        age=max(0.0, (w.drained_at or w.closed_at or w.opened_at) - (w.active_at or w.opened_at)),
        reason=_ended(w),
        opened_at=w.opened_at,
        sealed_at=w.sealed_at,
        drained_at=w.drained_at,
    )
