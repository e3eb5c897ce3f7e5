"""`status`: shows the present state of a train's wagons."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from ..connection import Connection
from ..contracts.broker import Depth
from ..contracts.facts import WagonRemoved
from ..contracts.lifecycle import State
from ..contracts.manifest import Manifest, Pause, Wagon
from ..contracts.orchestrator import Deployment
from ..contracts.registry import Member
from ..contracts.timetable import timetable_of
from ..display.redaction import shown
from ..display.text import count, escaped
from ..errors import StorageBroken
from ..event import DEAD, Channel, wagon_name
from ..policy.losses import GONE
from ..workers import ORCHESTRATED
from .completion import Anchor
from .console import (
    DEFAULT_URL,
    AsJson,
    Url,
    beside,
    breadth,
    job,
    json_line,
    listing,
    narrowed,
    out,
    span,
    tables,
    words,
)
from .schedules import ScheduleView, schedule_lines, schedules_of
from .target import reached

_EVERY = 0.5
COLOURS = {
    State.PROVISIONING: "cyan",
    State.READY: "cyan",
    State.ACTIVE: "bold green",
    State.DRAINING: "yellow",
    State.DRAINED: "dim",
    State.REMOVING: "dim",
    State.FAILED: "red",
}


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
    declared: dict[str, str]
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
    dead_lost: int
    """Dead letters that disappeared from the broker, those of removed wagons included."""
    members: list[Member]
    wagons: list[WagonView]
    removed: list[WagonView]


@job
async def status(
    target: Anchor,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh twice a second, until Ctrl-C.")] = False,
    all_: Annotated[bool, typer.Option("--all", "-a", help="Show removed wagons too, from the journal.")] = False,
) -> None:
    """Show the wagons of a train: state, fill, backlog, workers, and the reason for each state.

    [bold]taken[/bold]: events published to the ingress, and its exact bound if it has one. [bold]waiting[/bold]:
    claimed by no process. [bold]in flight[/bold]: prefetched, or in a handler. [bold]settled[/bold]: done.
    [bold]inside[/bold]: not settled in the inner channels. [bold]workers[/bold]: the wagon's own; of shared workers,
    those that had one of its events at the last check-in. [bold]schedule[/bold]: its last tick on record, and the
    next, if TARGET names the program.

    A figure that the broker does not know is `?`. A narrow terminal leaves columns out.
    """
    if not watch:
        async with reached(target, url) as c:
            _print(await look(c, url, removed=all_), as_json)
        return
    with suppress(asyncio.CancelledError):  # Ctrl-C, which is how it ends
        async with reached(target, url) as c:
            await _watch(c, url, as_json, removed=all_)


async def _watch(c: Connection, url: str, as_json: bool, *, removed: bool) -> None:
    console = out()
    if as_json or not console.is_terminal:
        while True:
            _print(await look(c, url, removed=removed), as_json)
            await asyncio.sleep(_EVERY)
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            view = await look(c, url, removed=removed)
            live.update(table(view, console, high=console.height), refresh=True)
            await asyncio.sleep(_EVERY)


def _print(view: View, as_json: bool) -> None:
    if as_json:
        json_line(view)
    else:
        console = tables()
        console.print(table(view, console))


async def look(c: Connection, url: str, *, removed: bool = False) -> View:
    """Read the present state of the train; with `removed`, also its removed wagons, from the journal. Raises
    BrokerError and RegistryError."""
    snapshot = await c.refresh()
    manifest = snapshot.manifest
    now = time.time()
    members = list(await c.members())
    depths, unread = await _depths(c, manifest)
    kept = depths[0][DEAD]
    workers: dict[int, int] = {}
    for a in (a for m in members for a in m.attachments):
        workers[a.number] = workers.get(a.number, 0) + a.workers
    for a in (a for m in members for a in m.deployed):  # several observers tell of the same processes
        workers[a.number] = max(workers.get(a.number, 0), a.workers)
    wagons = [_live(manifest, w, depths[w.number], workers.get(w.number, 0), now) for w in manifest.wagons]
    gone: dict[int, WagonView] = {}
    if removed:
        async for entry in c.journal():
            if isinstance(entry.fact, WagonRemoved):  # twice where the registry stepped back
                gone[entry.fact.wagon.number] = _removed(manifest.train, entry.fact)
    live = {w.number for w in manifest.wagons}
    broken = {
        (m.name, name): why for m in members for a in (*m.deployed, *m.attachments) for name, why in a.open.items()
    }
    opened: dict[str, list[str]] = {}
    for (_, name), why in sorted(broken.items()):
        opened.setdefault(name, []).append(why)
    short = sorted({each for m in members for a in (*m.deployed, *m.attachments) for each in a.at_budget.items()})
    dead = [w.dead or 0 for w in wagons] + [_held(kept) or 0]
    read = {n: of for n, of in depths.items() if n not in unread}
    waiting = await c.later() if timetable_of(c.broker, c.registry) is not None else None
    return View(
        train=manifest.train,
        url=escaped(shown(url)),
        at=now,
        version=snapshot.version,
        declared=dict(manifest.declared),
        elastic_by_default="Elastic" not in manifest.declared.get("workers", "")
        and any(w.workers is not None for w in manifest.wagons),
        channels=manifest.channels,
        asked=_asked(manifest),
        watched=_watched(manifest),
        refusing=manifest.refusing,
        at_risk=manifest.at_risk,
        stepped_back=_stepped_back(manifest, now),
        paused=describe_pause(manifest.paused, now),
        removal=_removing(manifest),
        open=opened,
        at_budget={name: sorted(which for other, which in short if other == name) for name, _ in short},
        crashed=_crashed(members, manifest),
        threatened=sorted(
            {d.trouble for of in read.values() for d in of.values() if d.trouble}
            | await _gone(c, manifest, read)
            | {f"{_whose(manifest.train, n)} can't be read: {why}" for n, why in unread.items()}
        ),
        dead=None if unread else sum(dead),
        later=None if waiting is None else waiting.count,
        later_next=None if waiting is None else waiting.next_at,
        schedules=[] if waiting is None else await schedules_of(c, waiting.now),
        dead_lost=max(kept.lost, manifest.letters_lost)
        + manifest.letters_gone
        + sum(w.letters_lost for w in manifest.wagons),
        members=members,
        wagons=wagons,
        removed=[gone[n] for n in sorted(gone.keys() - live)],
    )


async def _depths(c: Connection, manifest: Manifest) -> tuple[dict[int, dict[str, Depth]], dict[int, str]]:
    """The depths of each wagon's channels, by number and name; 0: the train's own dead letters. Where the storage of
    some is broken, their figures are unknown and the second result says why. Raises BrokerError if none can be read."""
    channels = {w.number: [*manifest.working_channels(w), manifest.dead_letters(w)] for w in manifest.wagons}
    channels[0] = [Channel(manifest.train, 0, DEAD)]
    depths = {number: {channel.name: Depth() for channel in of} for number, of in channels.items()}
    try:
        found = await c.depths()
        depths |= {w.number: dict(found.get(w.number, {})) for w in manifest.wagons}
        depths[0][DEAD] = (await c.broker.depth(channels[0]))[0]
        return depths, {}
    except StorageBroken as e:
        broken = e
    unread: dict[int, str] = {}
    for number, of in channels.items():
        try:
            for channel, depth in zip(of, await c.broker.depth(of), strict=True):
                depths[number][channel.name] = depth
        except StorageBroken as e:
            unread[number] = str(e)
    if len(unread) == len(channels):
        raise broken
    return depths, unread


def _whose(train: str, number: int) -> str:
    return wagon_name(train, number) if number else "the dead letters of removed wagons"


async def _gone(c: Connection, manifest: Manifest, depths: Mapping[int, Mapping[str, Depth]]) -> AbstractSet[str]:
    """A sentence for each channel that the broker no longer has although its wagon is in use."""
    doubtful = [
        Channel(manifest.train, w.number, name)
        for w in manifest.in_state(State.ACTIVE, State.DRAINING)
        for name, depth in depths.get(w.number, {}).items()
        if depth == Depth()
    ]
    there = set(await c.broker.channels(manifest.train)) if doubtful else set()
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


def _live(manifest: Manifest, wagon: Wagon, depths: dict[str, Depth] | Any, workers: int, now: float) -> WagonView:
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
    return f"{'cut off' if wagon.active_at is not None else 'discarded'}: {wagon.closed_because}"


def _removed(train: str, fact: WagonRemoved) -> WagonView:
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


def table(view: View, console: Console, *, high: int | None = None) -> RenderableType:
    """Render the view for a person. `high`: leave out wagons in the middle until it fits into so many lines; at least
    two wagons stay."""
    rows = [*view.removed, *view.wagons]
    keep = len(rows) if high is None else min(len(rows), max(2, high))
    while True:
        shown = _table(view, rows, keep, console, None if high is None else max(3, high // 4))
        over = 0 if high is None else len(console.render_lines(shown, pad=False)) - high
        if over <= 0 or keep <= 2:
            return shown
        keep = max(2, keep - max(1, over // 4))


def _table(view: View, rows: list[WagonView], keep: int, console: Console, schedules: int | None) -> RenderableType:
    """With `keep` of the wagons, and so many of the schedules (None: all)."""
    left_out = len(rows) - keep
    if left_out > 0:
        rows = rows[: keep // 2] + rows[len(rows) - (keep - keep // 2) :]
    parts: list[RenderableType] = [_head(view), _wagons(rows, console.width)]
    if left_out > 0:
        parts.append(Text(f"  and {count(left_out, 'wagon')} between these", style="dim"))
    parts += [Text(f"{w.name} lost {count(w.lost, 'event')}", style="bold red") for w in rows if w.lost]
    if view.dead_lost:
        parts.append(Text(f"{view.dead_lost:,} dead letters went from the broker", style="bold red"))
    parts += [Text(why, style="bold red") for why in view.threatened]
    if view.later:
        ahead = "" if view.later_next is None else f", the next in {span(max(0.0, view.later_next - view.at))}"
        parts.append(Text(f"later: {count(view.later, 'event')} waiting{ahead}"))
    parts += schedule_lines(view.schedules, view.at, schedules)
    if view.removal:
        parts.append(words(f"the train is being removed: {view.removal}", "bold red"))
    if view.paused:
        parts.append(words(f"the train was paused {view.paused}", "bold yellow"))
    parts += [words(f"{w.name} was paused {w.paused}", "bold yellow") for w in rows if w.paused and not view.paused]
    if view.at_risk:
        parts.append(words(f"the promise to new events can't be kept: {view.at_risk}", "bold red"))
    if view.refusing:
        parts.append(words(f"publishers are refused: {view.refusing}", "bold red"))
    if view.stepped_back:
        parts.append(Text(f"the registry stepped back {view.stepped_back}; `why` says what was lost", style="yellow"))
    for name, whys in view.open.items():
        where = f" in {len(whys)} processes" if len(whys) > 1 else ""
        text = f"the circuit breaker of {name or 'the ingress'} is open{where}: {whys[0]}"
        parts.append(words(text, "bold red"))
    for name, which in view.at_budget.items():
        parts.append(words(f"events of {name or 'the ingress'} wait for their budget: {'; '.join(which)}", "yellow"))
    parts += [words(text, "bold yellow") for text in view.crashed]
    if view.asked:
        parts.append(words(f"a switch is requested: {view.asked}", "bold"))
    if view.watched:
        parts.append(words(f"watched: {view.watched}", "bold"))
    parts += [words(text, "yellow") for text in _missing(view)]
    parts += [words(f"{m.name}: {m.trouble}", "bold red") for m in view.members if m.trouble]
    if held := sum(m.held for m in view.members):
        text = "workers take no events: their handlers still run in threads after handler_timeout; `why` says which"
        parts.append(Text(f"{held} {text}", style="yellow"))
    if caught := sum(m.caught for m in view.members):
        parts.append(Text(f"caught {count(caught, 'unexpected failure')}; the logs say which", style="yellow"))
    if not any("observe" in m.roles for m in view.members):
        parts.append(
            Text("no observer is alive: no wagon is switched, drained or removed until one is", style="yellow")
        )
    return Group(*parts)


def _missing(view: View) -> list[str]:
    """A sentence for each channel of a wagon that some processes have no handler for."""
    found: dict[tuple[int, str], list[str]] = {}
    for member in view.members:
        for a in (*member.attachments, *member.deployed):
            for channel in a.missing:
                found.setdefault((a.number, channel), []).append(member.name)
    return [
        f"{wagon_name(view.train, n)}: no handler for {channel} in {', '.join(who)}"
        for (n, channel), who in sorted(found.items())
    ]


def _head(view: View) -> Text:
    settings = view.declared
    alive = len(view.members)
    roles = ", ".join(
        f"{sum(role in m.roles for m in view.members)} {verb}"
        for role, verb in (("observe", "observing"), ("work", "working"))
    )
    who = f"{count(alive, 'process', 'processes')} ({roles})" if alive else "no process is alive"
    text = Text(overflow="ellipsis", no_wrap=True)
    workers = f"{ORCHESTRATED!r} by default" if view.elastic_by_default else settings.get("workers", "?")
    declared = (
        f"  limit {settings.get('limit', '?')}, {workers}"
        if settings
        else "  not declared: no program with handlers has run"
    )
    text.append(words(view.train, "bold")).append(words(declared)).append("\n")
    dead = "? dead letters" if view.dead is None else count(view.dead, "dead letter")
    text.append(f"{who}, {dead}", style="" if view.dead == 0 else "red")
    return text


_LEFT_OUT = (">settled", ">inside", ">workers", ">in flight")
"""The columns that are left out if the terminal is too narrow, in this order."""


def _wagons(rows: Sequence[WagonView], width: int) -> RenderableType:
    """A table of the wagons. The reasons are its last column if they all fit there; otherwise they follow below it."""
    coded = any(w.revision for w in rows)
    head = ["wagon", *(["revision"] if coded else []), "state"]
    head += [">taken", ">waiting", ">in flight", ">settled", ">inside", ">workers", ">age"]
    columns, cells = narrowed(head, [_row(w, coded) for w in rows], _LEFT_OUT, width)
    room = width - breadth(columns, cells)
    reasons = [words(w.reason) for w in rows]
    if all(why.cell_len <= room for why in reasons):
        return listing((*columns, "why"), [[*row, why] for row, why in zip(cells, reasons, strict=True)], width)
    below = [beside(Text(w.name, "dim"), w.reason) for w in rows if w.reason]
    return Group(listing((*columns, ""), [[*row, ""] for row in cells], width), *below)


def _row(w: WagonView, coded: bool) -> list[str | Text]:
    return [
        w.name,
        *([w.revision] if coded else []),
        words(w.state, COLOURS[State(w.state)] if w.state in set(State) else "dim"),
        _count(w.published) + (f"/{w.limit:,}" if w.limit else ""),
        *map(_count, (w.waiting, w.in_flight, w.settled, w.inside, w.workers)),
        span(w.age),
    ]


def _count(n: int | None) -> str:
    return "?" if n is None else f"{n:,}"
