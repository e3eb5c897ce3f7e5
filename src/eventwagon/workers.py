"""How many workers a train has, and whether they are shared between its wagons."""

from __future__ import annotations

import ast
from typing import Any

import msgspec

from .errors import UsageError
from .values import arguments, in_seconds, real, shown, whole

_MOST = 1_000_000
"""More workers than anyone has."""

_PROCESS_MOST = 64
"""A process with so many handlers at once is busy; a train that has many live wagons must not run hundreds unasked."""


class Elastic(msgspec.Struct, frozen=True):
    """Workers that follow the traffic: `Workers(each=Elastic(least=2, most=64))`.

    Each wagon has as many workers as it takes to handle new events within the promise: arrival rate × worker time per
    event × `headroom`, plus what it takes to work off a backlog. Raises UsageError for a bad value.
    """

    least: int = 2
    """The fewest workers of each live wagon, however little there is to do. If workers start several at once (those of
    a Pod), it is rounded up to a multiple of that."""
    most: int = 64
    """The most workers of all the train's wagons together; so at most `most` ÷ `least` wagons live. In one process they
    are tasks; elsewhere processes, Pods, ECS tasks or function invocations."""
    headroom: float = 1.2
    """Multiple of the workers that the arrival rate needs, at least 1. A fifth more absorbs the usual swings."""
    promise: float | None = None
    """Seconds within which a new event should be handled. None: as the limit says, `Wait(slo)`."""
    drain_within: float | None = None
    """Seconds from the switch within which a wagon's backlog should be worked off. None: its workers stay until it is
    done; more are added only if they start within a tenth of the promise."""

    def __post_init__(self) -> None:
        for name in ("least", "most"):
            msgspec.structs.force_setattr(self, name, whole(f"Elastic: {name}", getattr(self, name), most=_MOST))
        if self.most < 2 * self.least:
            raise UsageError(
                f"Elastic: most={self.most} is less than twice least={self.least}: a wagon and the next one "
                "each have least"
            )
        headroom = real("Elastic: headroom", self.headroom)
        if not 1 <= headroom <= 100:
            raise UsageError(f"Elastic: headroom must be from 1 to 100, not {shown(self.headroom)}")
        msgspec.structs.force_setattr(self, "headroom", headroom)
        for name in ("promise", "drain_within"):
            if (value := getattr(self, name)) is not None:
                number = in_seconds(f"Elastic: {name}", value, brief=name == "promise")
                msgspec.structs.force_setattr(self, name, number)

    def rounded(self, step: int) -> int:
        """The fewest workers of a wagon if they start `step` at a time."""
        return -(-self.least // step) * step

    def without(self, taken: int) -> Elastic:
        """The same with so many workers fewer for all wagons together, as long as two wagons keep `least`."""
        return msgspec.structs.replace(self, most=max(2 * self.least, self.most - taken))

    def __repr__(self) -> str:
        further = "".join(
            f", {name}={_written(value)}"
            for name, value, usual in (
                ("headroom", self.headroom, 1.2),
                ("promise", self.promise, None),
                ("drain_within", self.drain_within, None),
            )
            if value is not None and value != usual
        )
        return f"Elastic({self.least}, {self.most}{further})"


class Workers(msgspec.Struct, frozen=True):
    """The workers of a train. A worker handles one event at a time.

    `Workers(each=4)`: every wagon has its own four. Where one process works for all wagons, they have at most `most`
    there together (None: 64, or twice `each` if that is more): the active wagon has all of its own, and the draining
    ones share the rest, the oldest first, at least one each. `Workers(total=12, floor=1)`: all wagons share
    twelve. New events come first, but every draining wagon keeps `floor` workers while it has work, the oldest first.
    All floors together take at most an eighth of the workers (at least one, but never the only one).
    `Workers(each=Elastic(2, 64))`: every wagon has its own, as many as its traffic needs (see `Elastic`).
    """

    each: int | Elastic | None = None
    total: int | None = None
    floor: int = 1
    most: int | None = None

    def __post_init__(self) -> None:
        if (self.each is None) == (self.total is None):
            raise UsageError("Workers: give either each= (every wagon's own) or total= (shared by all wagons)")
        if isinstance(self.total, Elastic):
            raise UsageError(
                f"Workers: total={self.total!r}: workers that follow the traffic are each wagon's own: give "
                f"each={self.total!r}"
            )
        for name, value, least in (
            ("each", self.each, 1),
            ("total", self.total, 1),
            ("floor", self.floor, 0),
            ("most", self.most, 1),
        ):
            if (value is not None or name == "floor") and not (name == "each" and isinstance(value, Elastic)):
                msgspec.structs.force_setattr(self, name, whole(f"Workers: {name}", value, least=least, most=_MOST))
        if self.total is not None and self.floor > self.total:
            raise UsageError(f"Workers: floor={self.floor} is more than total={self.total}")
        if self.most is not None and not isinstance(self.each, int):
            raise UsageError(
                f"Workers: most={self.most} bounds a fixed number of each wagon's own: Workers(each=8, most=64). "
                "Workers(total=…) is a bound itself; Elastic has its own most"
            )
        if self.most is not None and isinstance(self.each, int) and self.most < self.each:
            raise UsageError(f"Workers: most={self.most} is less than each={self.each}: the active wagon has that many")

    @property
    def elastic(self) -> Elastic | None:
        """How the workers follow the traffic; None if their number is fixed."""
        return self.each if isinstance(self.each, Elastic) else None

    @property
    def own(self) -> int | None:
        """How many workers each wagon begins with; None if all wagons share their workers."""
        return self.each.least if isinstance(self.each, Elastic) else self.each

    @property
    def in_process(self) -> int | None:
        """The most that all wagons have together in a process that works for all of them; None: not bounded here."""
        if not isinstance(self.each, int):
            return None
        return self.most or max(_PROCESS_MOST, 2 * self.each)

    @property
    def floors(self) -> int:
        """How many of the shared workers the floors of all draining wagons together may take."""
        total = self.total or 0
        return max(1, total // 8) if self.floor and total > 1 else 0

    def __repr__(self) -> str:
        if self.each is None:
            return f"Workers(total={self.total}, floor={self.floor})"
        return f"Workers(each={self.each})" if self.most is None else f"Workers(each={self.each}, most={self.most})"


class Unsaid(Workers, frozen=True):
    """The workers of a train that sets none."""


UNSAID = Unsaid(each=8)
FORMER = Workers(total=8, floor=1)
"""What a train had that set none, in earlier releases."""
ORCHESTRATED = Workers(each=Elastic())
"""The default with an orchestrator that asks for machines and a limit with a promise: workers follow the traffic."""


def parse_workers(text: str) -> Workers:
    """Parse workers: `"8"` (8 shared workers), `"total=8, floor=1"`, `"each=4"`, `"each=Elastic(2, 64)"`, or the
    Python call. Raises UsageError."""
    source = text.strip()
    if source.isdigit():
        source = f"total={source}"
    if not source.startswith("Workers("):
        source = f"Workers({source})"
    why = ""
    try:
        match ast.parse(source, mode="eval").body:
            case ast.Call(func=ast.Name(id="Workers"), args=[]) as call:
                return Workers(**arguments(call, _value)[1])
    except UsageError as e:
        raise UsageError(f"workers {shown(text)}: {e}") from None
    except TypeError as e:  # an argument too many, or one that is unknown
        why = f"{e}; "
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        pass
    raise UsageError(
        f"workers {shown(text)}: {why}write a number, 'each=4', 'each=Elastic(2, 64)', or 'total=8, floor=1'"
    )


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="Elastic")) as call:
            positional, named = arguments(call)
            return Elastic(*positional, **named)
    return ast.literal_eval(node)


def _written(n: float) -> str:
    short = f"{n:g}"
    return short if float(short) == n else repr(n)
