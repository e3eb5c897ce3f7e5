"""The seam to what gives a wagon its workers. Contracts only; implementations are in `orchestrators/`, the one in the
program itself in `runtime/in_process`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import msgspec

from ..event import Channel
from ..values import check_revision
from .process import Pod

PLACE = "{revision}"
"""Where in the name of a program, a command or an image the wagon's revision is filled in."""


class WagonSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What a wagon should have: its channels (they exist and take writes) and how many workers.

    `workers` is None where a crew shared between the wagons serves it; 0: scaled to zero, nothing is to be kept
    running.
    """

    train: str
    number: int
    unit: int
    """What its infrastructure is named after: the first wagon that these workers served. The wagon's own number, unless
    it takes over the warm workers of one that is drained."""
    revision: str = ""
    """Which code should serve it (an image's tag, a function's version, a path); empty: the orchestrator's own."""
    channels: tuple[Channel, ...]
    dead_letters: Channel
    workers: int | None
    idle: bool = False
    """They are to be ready and take nothing for now: the crew is needed elsewhere. Workers that can't be told so
    work."""
    cut_off_at: float | None = None
    """When it was cut off from ingestion (seconds since the epoch); None while it was not."""
    enough: int | None = None
    """With so many of them it is ready, if it should have more; None: with all."""
    paused: bool = False
    """They are to stay attached and take nothing, until that is over. Workers that can't be told so work."""

    guarded: bool = True
    """Its channels have circuit breakers: no, while its code is watched and once the train has gone over to other code.
    Failures there are taken for the code's, and events that only that code may handle must come to an end."""

    def __post_init__(self) -> None:
        check_revision(self.revision)  # it is filled into programs, paths and images

    @property
    def hands(self) -> int | None:
        """How many of its own workers are to take events now."""
        return 0 if self.idle else self.workers


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """Handlings that have ended, well or not, and how long they took: totals that only grow while a process lives."""

    count: int = 0
    seconds: float = 0.0
    squares: float = 0.0
    """The sum of the squares of the seconds: says how evenly they took."""


class Deployment(msgspec.Struct, frozen=True, kw_only=True):
    """Workers as they really run, and the wagon that they serve now: a unit, as its orchestrator finds it, or what one
    process says of itself in its check-in. What is said here of channels, handlings and breakers is as far as known."""

    number: int
    """The wagon that they serve."""
    ready: bool
    """They are attached to all of its channels that they were told of but the `missing`; `channels` says which."""
    workers: int = 0
    """How many; of a shared crew, those that are at this wagon now."""
    revision: str = ""
    """The code that runs, as the spec named it; empty: not said."""
    trouble: str = ""
    """Why it is not ready."""
    handled: int = 0
    """Handlings that ended well at this wagon."""
    failed: int = 0
    """Handlings there that failed."""
    work: Work | None = None
    """How long handlings there took; None: not said."""
    attached: int | None = None
    """How many of the workers are attached, where others are still on their way; None: all."""
    channels: tuple[str, ...] | None = None
    """The inner channels that they are attached to: a wagon may have got more meanwhile. None: not known."""
    losses: int | None = None
    """The wagon's losses that a process knew of as it checked in: what it says is of the wagon since the last of them.
    None: not said (older code, or an orchestrator)."""
    missing: tuple[str, ...] = ()
    """Inner channels of the wagon that none of them has a handler for: the others are served."""
    open: dict[str, str] = {}
    """Channels whose circuit breaker is open, and why."""
    paused: bool | None = None
    """They take nothing since their wagon is paused. None: not known, or they can't be told to."""


class Orchestrator(Protocol):
    """Level-triggered: say what should be, look at what is. A unit of workers is a train's name and the spec's `unit`.
    An asynchronous context manager, entered once by its owner.

    Its methods may be called concurrently, from the event loop that entered it.
    """

    async def __aenter__(self) -> Orchestrator: ...

    async def __aexit__(self, *exc: object) -> None: ...

    async def ensure(self, spec: WagonSpec) -> None:
        """Start the unit's workers, or bring them to what `spec` says: their number, the wagon that they serve.
        Idempotent; returns before they are ready. A handler in flight is never ended by rescaling. With `workers=0`
        they end, handlers in flight finished. A unit only moves on: a spec with a lower number than it was given is out
        of date."""
        ...

    async def deployments(self, train: str) -> Mapping[int, Deployment]:
        """What really runs, by unit, leftovers included."""
        ...

    async def remove(self, train: str, unit: int, *, grace: float) -> None:
        """End the unit's workers. Handlers in flight may finish for `grace` s and are never ended before; returns when
        all have ended. Absent is success; idempotent."""
        ...


@runtime_checkable
class InSteps(Protocol):
    """An orchestrator whose workers come and go several at once: those of a Pod, or of a task of ECS."""

    @property
    def step(self) -> int:
        """How many."""
        ...


@runtime_checkable
class Witness(Protocol):
    """An orchestrator that sees the processes of its workers end. Not all do."""

    def why_ended(self, pod: Pod) -> str:
        """The proof that the process which was there has ended, in words; empty where there is none: it may run still,
        on a machine that nobody reaches. Asks nobody, since observers call it at each look."""
        ...
