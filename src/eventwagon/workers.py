"""How many workers, and where they work. Pure."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec

from .errors import UsageError
from .values import whole


class Workers(msgspec.Struct, frozen=True):
    """The workers of a train. A worker handles one event at a time.

    `Workers(each=4)`: every wagon has its own four. `Workers(total=12, floor=1)`: a crew of twelve, shared between
    the wagons: newcomers first, but every draining wagon keeps `floor` workers while it has work, the oldest first;
    all floors together take at most an eighth of the crew (at least one worker, but not the only one).
    """

    each: int | None = None
    total: int | None = None
    floor: int = 1

    def __post_init__(self) -> None:
        if (self.each is None) == (self.total is None):
            raise UsageError("Workers: give either each= (every wagon's own) or total= (a shared crew)")
        for name, value, least in (("each", self.each, 1), ("total", self.total, 1), ("floor", self.floor, 0)):
            if value is not None or name == "floor":
                msgspec.structs.force_setattr(self, name, whole(f"Workers: {name}", value, least=least))
        if self.total is not None and self.floor > self.total:
            raise UsageError(f"Workers: floor={self.floor} is more than total={self.total}")

    @property
    def floors(self) -> int:
        """How many of a shared crew the floors of all draining wagons may take together."""
        total = self.total or 0
        return max(1, total // 8) if self.floor and total > 1 else 0

    def __repr__(self) -> str:
        return f"Workers(each={self.each})" if self.each else f"Workers(total={self.total}, floor={self.floor})"


def parse_workers(text: str) -> Workers:
    """The workers that `text` writes: `"8"` (a shared crew of 8), `"total=8, floor=1"`, `"each=4"` or the Python
    call."""
    source = text.strip()
    if source.isdigit():
        source = f"total={source}"
    if not source.startswith("Workers("):
        source = f"Workers({source})"
    try:
        match ast.parse(source, mode="eval").body:
            case ast.Call(func=ast.Name(id="Workers"), args=[], keywords=keywords):
                return Workers(**{k.arg: ast.literal_eval(k.value) for k in keywords if k.arg})
    except (SyntaxError, TypeError, ValueError) as e:
        if isinstance(e, UsageError):
            raise
    raise UsageError(f"workers {text!r}: write a number, 'each=4', or 'total=8, floor=1'")


def share(total: int, index: int, count: int, turn: int = 0) -> int:
    """What the `index`-th of `count` processes takes of `total` workers. All shares add up to `total`.

    `turn` (a wagon's number) rotates who takes what does not divide, so that one process is not always the one.
    """
    return total // count + (1 if (index + turn) % count < total % count else 0)


def may_serve(code: str, revision: str) -> bool:
    """Whether a process whose code is of revision `code` (empty: it does not say) may serve a wagon of this revision.
    One that has none may be served by any; one that has, only by the very code."""
    return not revision or code == revision


def why_not_served(code: str, revision: str) -> str:
    """Why `may_serve` says no, in words; empty where it says yes."""
    if may_serve(code, revision):
        return ""
    return f"this program has {f'revision {code}' if code else 'no revision'}, and the wagon is for revision {revision}"


class Post(NamedTuple):
    """A wagon as a shared crew sees it when one of its workers is free. Times in seconds on the wall clock."""

    number: int
    draining: bool
    next_at: float | None
    """When the chain of the next event that waits began; None when nothing waits."""
    last_at: float
    """When the wagon's last event can have been published: the cut-off, or now."""
    busy: int
    """Workers of this crew that are at it."""
    rest: float = 0.0
    """Seconds that the chain of its next event still takes."""


class Journey:
    """How long a chain of events takes, from each channel on: a running average over those that were on time.

    `channels` in the order of the choreography, the ingress (an empty name) first; a chain is taken to pass all that
    come after. Pure.
    """

    def __init__(self, channels: Sequence[str]) -> None:
        self._hops = dict.fromkeys(channels, 0.0)
        self._works = dict.fromkeys(channels, 0.0)

    def learn(self, channel: str, hop: float, work: float) -> None:
        """An event of this channel was taken up `hop` seconds after it was emitted and took its worker `work`
        seconds."""
        for known, value in ((self._hops, hop), (self._works, work)):
            known[channel] += (value - known[channel]) * (0.05 if known[channel] else 1.0)

    def rests(self) -> dict[str, float]:
        """By channel: seconds from taking up an event there to the end of its chain."""
        rest, later = {}, 0.0
        for channel in reversed(self._works):
            rest[channel] = later + self._works[channel]
            later = rest[channel] + self._hops[channel]
        return rest


def choose(
    posts: Sequence[Post], *, floors: int, floor: int, slo: float | None, service: float, now: float
) -> int | None:
    """The number of the wagon where a free worker of a shared crew works next; None when nothing waits.

    First the floors of the draining wagons, the oldest first, with `floors` workers at the most for all of them. Then,
    with a promise to newcomers (`slo`), the oldest wagon whose next event's chain can still be on time, then the newest
    that holds any that can (`service`: how long a whole chain takes). Without one, the newest wagon with work. Last the
    late backlog, oldest first.
    """
    waiting = [p for p in posts if p.next_at is not None]
    if not waiting:
        return None
    if len(waiting) == 1:
        return waiting[0].number
    left = floors
    for p in posts:  # the oldest first
        if not p.draining or left <= 0:
            break
        kept = min(floor, left)
        if p.next_at is not None and p.busy < kept:
            return p.number
        left -= kept if p.next_at is not None else min(kept, p.busy)
    if slo is None:
        newest = waiting[-1]
        return newest.number if not newest.draining else waiting[0].number
    latest = now - slo + service  # published before: can't be on time any more
    for p in waiting:
        if p.next_at is not None and p.next_at >= now - slo + p.rest:
            return p.number
    for p in reversed(waiting):
        if p.last_at >= latest:
            return p.number
    return waiting[0].number


class Load(NamedTuple):
    """A live wagon, as one sees it who says how many workers each wagon's own process gets. Times as in `Post`."""

    number: int
    state: Literal["spare", "active", "draining"]
    """`spare`: it takes nothing yet."""
    outstanding: int | None
    """Events not settled, over all its channels; None: unknown, which counts as many."""
    held: int
    """Workers that it has now, those that still finish an event included."""
    next_at: float | None = None
    last_at: float = 0.0
    paused: bool = False
    """Nothing of it may be handed out: it needs nobody."""


def allocate(workers: Workers, loads: Sequence[Load], *, slo: float | None = None, now: float = 0.0) -> dict[int, int]:
    """How many workers each wagon's own process should have, by number. `loads`: the oldest first, as they were cut
    off.

    `Workers(each=…)`: each wagon its own. A shared crew is divided as its workers would divide themselves (`choose`):
    the floors of the draining wagons, then newcomers, who keep a quarter of the crew more than they need now, then the
    oldest. What nobody needs stays with the newcomers; the next spare has one, so that a switch finds it awake. A crew
    is never exceeded: a wagon gets more only as others have really let go (`held`), newcomers first.
    """
    if workers.each is not None:
        return dict.fromkeys([load.number for load in loads], workers.each)
    total = workers.total or 0
    given = _wanted(workers, loads, slo, now)
    free = max(0, total - sum(load.held for load in loads))
    for load in sorted(loads, key=lambda load: (load.state != "active", load.state == "spare", load.number)):
        more = min(free, max(0, given[load.number] - load.held))
        free -= more
        given[load.number] = min(given[load.number], load.held + more)
    return given


def _wanted(workers: Workers, loads: Sequence[Load], slo: float | None, now: float) -> dict[int, int]:
    """The division aimed at, as if every worker were free."""
    total = workers.total or 0
    given = {load.number: 0 for load in loads}
    spare = next((load.number for load in loads if load.state == "spare"), None)
    active = next((load.number for load in loads if load.state == "active"), None)
    left = total
    if spare is not None and total >= 4:
        given[spare] = 1
        left -= 1
    posts = {
        load.number: Post(load.number, load.state == "draining", _next_at(load, now), _last_at(load, now), 0)
        for load in loads
        if load.state != "spare" and _room(load, total)
    }
    room = {load.number: _room(load, total) for load in loads}
    while left > 0:
        number = choose(list(posts.values()), floors=workers.floors, floor=workers.floor, slo=slo, service=0.0, now=now)
        if number is None:
            break
        given[number] += 1
        left -= 1
        if given[number] < room[number]:
            posts[number] = posts[number]._replace(busy=given[number])
        else:
            posts[number] = posts[number]._replace(busy=given[number], next_at=None)
    rest = active if active is not None else spare if spare is not None else max(given, default=None)
    if rest is not None:
        given[rest] += left
    return given


def _room(load: Load, total: int) -> int:
    """How many workers the wagon can use."""
    if load.paused:
        return 0
    wanted = total if load.outstanding is None else load.outstanding
    return min(total, wanted + max(1, total // 4)) if load.state == "active" else min(total, wanted)


def _next_at(load: Load, now: float) -> float:
    """When the wagon's next event was published: now, for one that is yet to come."""
    return _last_at(load, now) if load.next_at is None else load.next_at


def _last_at(load: Load, now: float) -> float:
    return load.last_at if load.state == "draining" else now
