"""Which wagon a free worker works for next, and how workers are divided between wagons and processes. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from ..contracts.lifecycle import State
from ..contracts.manifest import Manifest, Wagon
from ..workers import Workers


def share(total: int, index: int, count: int, turn: int = 0) -> int:
    """How many of `total` workers the `index`-th of `count` processes runs. The shares add up to `total`.

    `turn` (a wagon's number) rotates the remainder, so that it does not always go to the same process.
    """
    return total // count + (1 if (index + turn) % count < total % count else 0)


def served_first(wagon: Wagon) -> tuple[int, int]:
    """The key by which wagons get workers of their own where there are too few: the active one, then those that drain,
    the oldest first, then those that wait to be active, then those for replays."""
    order = {State.ACTIVE: 0, State.DRAINING: 1}
    return 3 if wagon.replay else order.get(wagon.state, 2), wagon.number


def within(most: int | None, wanted: Mapping[int, int]) -> dict[int, int]:
    """How many workers each wagon gets in a process that should have at most `most` for all of them; None: any number.
    `wanted`: what each should have, by number, in the order in which they are served. The first gets all of its own,
    and each of the others at least one, even if that is more than `most` together."""
    left = sum(wanted.values()) if most is None else most - sum(n > 0 for n in wanted.values())
    given = {}
    for place, (number, n) in enumerate(wanted.items()):
        given[number] = n if place == 0 else min(n, 1 + max(0, left)) if n else 0
        left -= max(0, given[number] - 1)
    return given


def may_serve(code: str, revision: str) -> bool:
    """Whether a process that runs revision `code` (empty: none) may serve a wagon of this revision. Any process may
    serve a wagon without a revision; a wagon with one needs exactly that code."""
    return not revision or code == revision


def why_not_served(code: str, revision: str) -> str:
    """Why `may_serve` is False, in words; empty if it is True."""
    if may_serve(code, revision):
        return ""
    return f"this program has {f'revision {code}' if code else 'no revision'}, and the wagon is for revision {revision}"


# --- the next event of a free worker ----------------------------------------------------------


class Candidate(NamedTuple):
    """A wagon that a free worker of a shared pool may work for. Times in seconds on the wall clock."""

    number: int
    draining: bool
    next_at: float | None
    """When the chain of its next waiting event began; None if nothing waits."""
    last_at: float
    """The latest time at which its last event can have been published: when it was cut off, or now."""
    busy: int
    """Workers of this pool that are handling its events."""
    remaining: float = 0.0
    """Seconds that the chain of its next event will still take."""


class ChainTimes:
    """How long a chain of events takes from each channel on: running averages over the events that were on time.

    `channels` are in the order of the choreography, the ingress (an empty name) first. A chain is assumed to pass
    through all channels after its own.
    """

    def __init__(self, channels: Sequence[str]) -> None:
        self._waits = dict.fromkeys(channels, 0.0)
        self._works = dict.fromkeys(channels, 0.0)

    def learn(self, channel: str, wait: float, work: float) -> None:
        """Take in one event of this channel: it waited `wait` seconds for its handler, which took `work` seconds. Not
        idempotent."""
        for known, value in ((self._waits, wait), (self._works, work)):
            known[channel] += (value - known[channel]) * (0.05 if known[channel] else 1.0)

    def remaining(self) -> dict[str, float]:
        """By channel: seconds from the start of its handler to the end of the chain."""
        remaining, later = {}, 0.0
        for channel in reversed(self._works):
            remaining[channel] = later + self._works[channel]
            later = remaining[channel] + self._waits[channel]
        return remaining


def choose(
    candidates: Sequence[Candidate], *, floors: int, floor: int, slo: float | None, service: float, now: float
) -> int | None:
    """The number of the wagon that a free worker of a shared pool works for next; None if nothing waits.

    `candidates` are ordered oldest first. The floors of draining wagons come first, oldest first, with at most `floors`
    workers in total. Then, with a promise for new events (`slo`): the oldest wagon whose next event's chain can still
    be on time, then the newest wagon that may hold such an event (`service`: how long a whole chain takes). Without a
    promise: the newest wagon with work. The late backlog comes last, oldest first.
    """
    waiting = [c for c in candidates if c.next_at is not None]
    if not waiting:
        return None
    if len(waiting) == 1:
        return waiting[0].number
    left = floors
    for c in candidates:
        if not c.draining or left <= 0:
            break
        kept = min(floor, left)
        if c.next_at is not None and c.busy < kept:
            return c.number
        left -= kept if c.next_at is not None else min(kept, c.busy)
    if slo is None:
        newest = waiting[-1]
        return newest.number if not newest.draining else waiting[0].number
    latest = now - slo + service  # events published earlier can't be on time any more
    for c in waiting:
        if c.next_at is not None and c.next_at >= now - slo + c.remaining:
            return c.number
    for c in reversed(waiting):
        if c.last_at >= latest:
            return c.number
    return waiting[0].number


# --- workers of wagons with their own processes ------------------------------------------------


class WagonLoad(NamedTuple):
    """The work of a live wagon, as input for dividing shared workers between wagons with their own processes. Times as
    in `Candidate`."""

    number: int
    state: Literal["spare", "active", "draining"]
    """`spare`: it receives nothing yet."""
    outstanding: int | None
    """Events not settled, over all its channels; None: unknown, which counts as many."""
    held: int
    """Workers that it has now, including those finishing their last event."""
    next_at: float | None = None
    last_at: float = 0.0
    paused: bool = False
    """None of its events may be handed out, so it needs no worker."""


def allocate(
    workers: Workers, loads: Sequence[WagonLoad], *, slo: float | None = None, now: float = 0.0
) -> dict[int, int]:
    """How many workers each wagon's own process should have, by wagon number. `loads` are ordered oldest first, as they
    were cut off.

    `Workers(each=…)` gives each wagon its own workers. Shared workers are divided by the rule that they follow within
    one process (`choose`): the floors of the draining wagons, then new events, which get a quarter of all workers on
    top of what they need now, then the oldest backlog. Unneeded workers stay with the new events; the next spare has
    one worker, so that a switch finds it awake. The total is never exceeded: a wagon gets more workers only once others
    have released theirs (`held`), new events first.
    """
    if (own := workers.own) is not None:
        return dict.fromkeys([load.number for load in loads], own)
    total = workers.total or 0
    given = _wanted(workers, loads, slo, now)
    free = max(0, total - sum(load.held for load in loads))
    for load in sorted(loads, key=lambda load: (load.state != "active", load.state == "spare", load.number)):
        more = min(free, max(0, given[load.number] - load.held))
        free -= more
        given[load.number] = min(given[load.number], load.held + more)
    return given


def _wanted(workers: Workers, loads: Sequence[WagonLoad], slo: float | None, now: float) -> dict[int, int]:
    """The division to aim at, as if every worker were free."""
    total = workers.total or 0
    given = {load.number: 0 for load in loads}
    spare = next((load.number for load in loads if load.state == "spare"), None)
    active = next((load.number for load in loads if load.state == "active"), None)
    left = total
    if spare is not None and total >= 4:
        given[spare] = 1
        left -= 1
    candidates = {
        load.number: Candidate(load.number, load.state == "draining", _next_at(load, now), _last_at(load, now), 0)
        for load in loads
        if load.state != "spare" and _room(load, total)
    }
    room = {load.number: _room(load, total) for load in loads}
    while left > 0:
        number = choose(
            list(candidates.values()), floors=workers.floors, floor=workers.floor, slo=slo, service=0.0, now=now
        )
        if number is None:
            break
        given[number] += 1
        left -= 1
        if given[number] < room[number]:
            candidates[number] = candidates[number]._replace(busy=given[number])
        else:
            candidates[number] = candidates[number]._replace(busy=given[number], next_at=None)
    rest = active if active is not None else spare if spare is not None else max(given, default=None)
    if rest is not None:
        given[rest] += left
    return given


def _room(load: WagonLoad, total: int) -> int:
    """How many workers the wagon can use."""
    if load.paused:
        return 0
    wanted = total if load.outstanding is None else load.outstanding
    return min(total, wanted + max(1, total // 4)) if load.state == "active" else min(total, wanted)


def _next_at(load: WagonLoad, now: float) -> float:
    """When the wagon's next event was published. For an unknown one, the latest possible time."""
    return _last_at(load, now) if load.next_at is None else load.next_at


def _last_at(load: WagonLoad, now: float) -> float:
    return load.last_at if load.state == "draining" else now


# --- how many wagons are kept ahead --------------------------------------------------------------


def expected_switches(manifest: Manifest, pressure: float, now: float, most: int) -> int:
    """How many switches to expect until a wagon opened now is ready: at least one, at most `most`.

    At its present pace the active wagon lives for age ÷ `pressure` seconds. The next ones are expected to live as long,
    or as long as those that drain now did, if that is shorter. The time to get ready is measured on the wagons that
    exist.
    """
    # one that has lost its workers was ready before, for as long as it may have been
    cold = [w for w in manifest.wagons if w.ready_at is not None and w.reuses is None and w.number > 1 and not w.losses]
    takes = max((w.ready_at - w.opened_at for w in cold if w.ready_at is not None), default=0.0)
    lives = [
        w.closed_at - w.active_at
        for w in manifest.wagons
        if w.closed_at is not None and w.active_at is not None and now - w.closed_at <= takes
    ]
    active = manifest.active
    if active is not None and active.active_at is not None and pressure > 0:
        lives.append((now - active.active_at) / pressure)
    life = min((life for life in lives if life > 0), default=None)
    return max(1, min(most, math.ceil(takes / life))) if life is not None else 1
