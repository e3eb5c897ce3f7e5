"""How many workers, and where they work. Pure."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from .errors import UsageError


class Workers(msgspec.Struct, frozen=True):
    """The workers of a train. A worker handles one event at a time.

    `Workers(each=4)`: every wagon has its own four. `Workers(total=12, floor=1)`: a crew of twelve, shared between
    the wagons: newcomers first, but every draining wagon keeps `floor` workers while it has work, the oldest first;
    all floors together take at most an eighth of the crew (at least one worker).
    """

    each: int | None = None
    total: int | None = None
    floor: int = 1

    def __post_init__(self) -> None:
        if (self.each is None) == (self.total is None):
            raise UsageError("Workers: give either each= (every wagon's own) or total= (a shared crew)")
        for name, value, least in (("each", self.each, 1), ("total", self.total, 1), ("floor", self.floor, 0)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
                raise UsageError(f"Workers: {name} must be a whole number of at least {least}, not {value!r}")
        if self.total is not None and self.floor > self.total:
            raise UsageError(f"Workers: floor={self.floor} is more than total={self.total}")

    def __repr__(self) -> str:
        return f"Workers(each={self.each})" if self.each else f"Workers(total={self.total}, floor={self.floor})"


def parse_workers(text: str) -> Workers:
    """The workers that `text` writes: `"8"` (a shared crew of 8), `"total=8, floor=1"`, `"each=4"` or the Python call."""
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


class Post(NamedTuple):
    """A wagon as a shared crew sees it when one of its workers is free. Times in seconds on the wall clock."""

    number: int
    draining: bool
    next_at: float | None
    """When the next event that waits was published; None when nothing waits."""
    last_at: float
    """When the wagon's last event can have been published: the cut-off, or now."""
    busy: int
    """Workers of this crew that are at it."""


def choose(
    posts: Sequence[Post], *, crew: int, floor: int, slo: float | None, service: float, now: float
) -> int | None:
    """The number of the wagon where a free worker of a shared crew works next; None when nothing waits.

    First the floors of the draining wagons, the oldest first. Then, with a promise to newcomers (`slo`), the oldest
    wagon whose next event can still be handled on time (`service`: how long that takes), then the newest that holds
    any that can. Without one, the newest wagon with work. Last the late backlog, oldest first.
    """
    waiting = [p for p in posts if p.next_at is not None]
    if not waiting:
        return None
    if len(waiting) == 1:
        return waiting[0].number
    left = max(1, crew // 8) if floor else 0
    for p in waiting:  # in the order of their numbers: the oldest first
        if not p.draining or left <= 0:
            break
        kept = min(floor, left)
        if p.busy < kept:
            return p.number
        left -= kept
    if slo is None:
        newest = waiting[-1]
        return newest.number if not newest.draining else waiting[0].number
    latest = now - slo + service  # published before: can't be on time any more
    for p in waiting:
        if p.next_at is not None and p.next_at >= latest:
            return p.number
    for p in reversed(waiting):
        if p.last_at >= latest:
            return p.number
    return waiting[0].number
