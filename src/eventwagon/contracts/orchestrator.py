"""The seam to the orchestrator, which starts the workers of wagons. Contracts only; implementations are in
`orchestrators/`, the in-process one in `runtime/in_process`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

from ..event import Channel
from ..values import check_revision
from .process import Pod

PLACE = "{revision}"
"""The placeholder for the wagon's revision in the name of a program, a command or an image."""


class WagonSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a wagon should have: its channels (they exist and accept writes) and its number of workers.

    `workers` is None if workers shared between the wagons serve it; 0: scaled to zero, no workers are kept running.
    """

    train: str
    number: int
    unit: int
    """The name of its infrastructure: the number of the first wagon that these workers served. It is the wagon's own
    number, unless it takes over the warm workers of a drained wagon."""
    revision: str = ""
    """The code that should serve it (an image's tag, a function's version, a path); empty: the orchestrator's own."""
    channels: tuple[Channel, ...]
    dead_letters: Channel
    workers: int | None
    idle: bool = False
    """Its workers are ready but take no events for now, because others are needed elsewhere. Workers that don't know
    `idle` take events."""
    cut_off_at: float | None = None
    """When it was cut off from ingestion (seconds since the epoch); None if it was not."""
    enough: int | None = None
    """It is ready with this many of its workers, even if it should have more; None: with all."""
    paused: bool = False
    """Its workers stay attached and take no events until the pause ends. Workers that don't know pauses go on."""

    replay: int = 0
    """It is for this replay: its events come behind those of all other wagons. 0: it is for new events."""
    undoes: int = 0
    """Its events were handled in this wagon, and its workers undo them. 0: they handle them."""
    undo_channel: str = ""
    """The channel in which those events were handled; empty: the ingress."""
    guarded: bool = True
    """Its channels have circuit breakers. False while its code is on trial and once the train runs other code: failures
    there count as the code's, and only that code may handle these events, so they must come to an end."""
    archived: bool = False
    """Its workers keep what came of each event, since the train has an archive. Workers that don't know this field keep
    nothing, and the archive lacks what they handle."""
    once_since: float = 0.0
    """The manifest's `once_since`. Workers that don't know this field may handle once more what others have handled."""

    def __post_init__(self) -> None:
        check_revision(self.revision)  # it is filled into programs, paths and images

    @property
    def workers_now(self) -> int | None:
        """How many of its own workers should take events now."""
        return 0 if self.idle else self.workers

    def is_behind(self, serving: int) -> bool:
        """Whether it is out of date for a unit that serves wagon `serving`, since a unit only moves on. Orchestrators
        change nothing then: an observer that stood still has not seen the unit move."""
        return self.number < serving


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Handlings that have ended, well or not, and how long they took: totals that only grow while a process lives."""

    count: int = 0
    seconds: float = 0.0
    squares: float = 0.0
    """The sum of the squares of the seconds: shows how much they vary."""


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """Workers as they really run, and the wagon that they serve now: a unit as its orchestrator finds it, or one
    process in its check-in. The fields on channels, handlings and breakers hold what is known."""

    number: int
    """The wagon that they serve."""
    ready: bool
    """They are attached to all channels of their spec except the `missing`; `channels` says which."""
    workers: int = 0
    """How many; of shared workers, those that serve this wagon now."""
    revision: str = ""
    """The code that runs, as the spec named it; empty: not known."""
    trouble: str = ""
    """Why it is not ready."""
    handled: int = 0
    """Handlings that ended well at this wagon."""
    failed: int = 0
    """Handlings there that failed."""
    uncounted: int = 0
    """How many of these the rule `pause_on` does not count, as far as reported: events whose data no handler could
    decode, attempts after an event's first, and dead letters that were sent again."""
    skipped: int = 0
    """Events there that were settled because they had been handled before (`once`)."""
    work: Work | None = None
    """How long handlings there took; None: not reported."""
    in_hand: int = 0
    """Events that handlers there were handling at the time of the report."""
    attached: int | None = None
    """How many of the workers are attached, if others are still starting; None: all."""
    channels: tuple[str, ...] | None = None
    """The inner channels to which they are attached; the wagon may have got more meanwhile. None: not known."""
    losses: int | None = None
    """The wagon's `losses` that a process knew when it checked in: its figures are about the wagon since the last loss.
    For several processes, the highest. None: unknown (older code, or an orchestrator without check-ins)."""
    missing: tuple[str, ...] = ()
    """Inner channels of the wagon for which none of them has a handler; the others are served."""
    open: dict[str, str] = {}
    """Channels whose circuit breaker is open, and why."""
    at_budget: dict[str, str] = {}
    """Channels whose events wait for a budget, and for which."""
    paused: bool | None = None
    """They take no events because their wagon is paused. None: not known, or they don't know pauses."""
    crashes: int | None = None
    """How often a process of them ended by itself, as far as this orchestrator knows; others followed. None: it does
    not count that."""
    crashed_because: str = ""
    """Why the last of them did."""


def together(found: Sequence[Deployment]) -> Deployment:
    """Combines the check-ins of one or more processes about one wagon's workers. Ready if one process is, and attached
    to all channels to which any ready one is. An orchestrator whose workers check in also uses this to report channels,
    handlings and breakers: an observer may have read the check-ins earlier."""
    losses = max((d.losses for d in found if d.losses is not None), default=None)
    ready = [d for d in found if d.ready and d.losses in (None, losses)]  # an older report says nothing about now
    asked = ready or found
    attached = [d.channels for d in asked if d.channels is not None]
    return Deployment(
        number=found[0].number,
        ready=bool(ready),
        workers=sum(d.workers for d in found),
        trouble="" if ready else next((d.trouble for d in found if d.trouble), ""),
        handled=sum(d.handled for d in found),
        failed=sum(d.failed for d in found),
        uncounted=sum(d.uncounted for d in found),
        skipped=sum(d.skipped for d in found),
        work=_summed([d.work for d in found if d.work is not None]),
        in_hand=sum(d.in_hand for d in found),
        channels=tuple(sorted({c for each in attached for c in each})) if len(attached) == len(asked) else None,
        losses=losses,
        missing=tuple(c for c in asked[0].missing if all(c in d.missing for d in asked)),
        open={name: why for d in found for name, why in d.open.items()},
        at_budget={name: which for d in found for name, which in d.at_budget.items()},
        paused=all(d.paused for d in asked),
    )


def _summed(works: Sequence[Work]) -> Work | None:
    if not works:
        return None
    return Work(
        count=sum(w.count for w in works), seconds=sum(w.seconds for w in works), squares=sum(w.squares for w in works)
    )


class Orchestrator(Protocol):
    """Level-triggered: state what should run, and look at what does. A train's name and the spec's `unit` identify a
    unit of workers. An asynchronous context manager, entered once by its owner.

    Its methods may be called concurrently, from the event loop that entered it.
    """

    async def __aenter__(self) -> Orchestrator: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def ensure(self, spec: WagonSpec) -> None:
        """Start the unit's workers, or bring them to `spec`: their number, and the wagon that they serve. Idempotent;
        returns before they are ready. Rescaling never ends a handler in flight. With `workers=0` they end once handlers
        in flight have finished. A unit only moves on: a spec with a lower wagon number than an earlier one is out of
        date and changes nothing."""
        ...

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """The deployments that are really running, by unit, including leftovers."""
        ...

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        """End the unit's workers. Handlers in flight may take `grace` s to finish and are never ended earlier; returns
        when all workers have ended. An absent unit is no error; idempotent."""
        ...


@runtime_checkable
class InSteps(Protocol):
    """An orchestrator that asks for machines as workers are needed, so that several start and stop at once: those of a
    Pod or of an ECS task."""

    @property
    def step(self) -> int:
        """How many workers start and stop at once."""
        ...


@runtime_checkable
class Delivering(Protocol):
    """An orchestrator of workers that get their events from a platform, which delivers them by itself: no budget of
    ours can hold them back."""

    @property
    def platform(self) -> str:
        """What delivers the events, for messages."""
        ...


@runtime_checkable
class Witness(Protocol):
    """An orchestrator that sees the processes of its workers end. Not all do."""

    def why_ended(self, pod: Pod) -> str:
        """The proof that the process in this Pod has ended, in words. Empty if there is none: it may still run on a
        machine that can't be reached. Calls no server, since observers call it at each look."""
        ...
