"""How many workers a train has, and whether they are shared between its wagons."""

from __future__ import annotations

import ast

import msgspec

from .errors import UsageError
from .values import whole


class Workers(msgspec.Struct, frozen=True):
    """The workers of a train. A worker handles one event at a time.

    `Workers(each=4)`: every wagon has its own four. `Workers(total=12, floor=1)`: all wagons share
    twelve. New events come first, but every draining wagon keeps `floor` workers while it has work, the oldest first.
    All floors together take at most an eighth of the workers (at least one, but never the only one).
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
