"""What every actor of one process uses."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..contracts.archive import Archive, OpenArchive
from ..contracts.broker import Broker
from ..contracts.facts import Listener, StepFailed, Switched
from ..contracts.ledger import Ledger
from ..contracts.manifest import Wagon
from ..contracts.orchestrator import Orchestrator
from ..contracts.timetable import Timetable
from ..display.text import said
from ..errors import EventwagonError, UsageError
from ..settings import Settings
from .budgets import ChannelBudget
from .bulkhead import Bulkhead, is_ours
from .context import Publisher
from .counting import Counters
from .handler import Handler
from .lifespan import Opening
from .observed import Metering
from .once import Once
from .publish_settings import PublishSettings
from .pulse import Pulse
from .reach import Reach

SwitchTraces = Callable[[Switched, Wagon], tuple[Switched, Callable[[], None]]]
"""Begins the trace of a switch to this wagon, as it is after the switch. Returns the fact with the trace's id, and what
ends the trace; if that is not called, the switch was not made. Neither raises."""


def no_archives(url: str) -> Archive:
    """For processes that never remove a wagon. Raises UsageError."""
    raise UsageError(f"this process opens no archive: {url}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One process of a train: what its program declares, the drivers it was given, and its identity. It holds values
    and has no methods.

    The registry is not among them: processes that an orchestrator starts have none. `TrainState` holds it.
    """

    train: str
    settings: Settings
    publishing: PublishSettings
    broker: Broker
    clock: Callable[[], float]
    """The wall clock, in seconds."""
    tell: Listener
    """Is called with every fact."""
    bulkhead: Bulkhead
    """Takes the unexpected exceptions of the long tasks."""
    handlers: Mapping[str, Handler] = field(default_factory=dict)
    """By the inner channel's name; the ingress's under the empty name. A program without handlers does not declare the
    train: it leaves that to one that has handlers."""
    undo_handlers: Mapping[str, Handler] = field(default_factory=dict)
    """The same for undoing."""
    name: str = ""
    """This process's name: it checks in, claims events and writes to the journal under it."""
    revision: str = ""
    """The revision of this process's code; empty: it has none."""
    opening: Opening | None = None
    """What the program opens before its workers handle anything; None: nothing."""
    state: Any = None
    """What that yielded: handlers have it as `Context.state`."""
    budgets: Mapping[str, ChannelBudget] = field(default_factory=dict)
    """What the workers may use now of the budgets of their channels, by the inner channel's name; channels without one
    are missing."""
    publisher: Publisher | None = None
    """By which handlers publish; None: they can't."""
    orchestrator: Orchestrator | None = None
    """Starts the workers of each wagon; None: processes attach by themselves and say so in their check-ins."""
    timetable: Timetable | None = None
    """Keeps events for later; None: neither the broker nor the registry can."""
    once: Once | None = None
    """The train's record of handled events; None: it keeps none."""
    metering: Metering | None = None
    """Is told of handlings, and of the calls to the `broker`, which is an observed one then; None: nothing is
    measured."""
    ledger: Ledger | None = None
    """Keeps a record of every wagon; None: nothing does."""
    counters: Counters | None = None
    """What the workers did, for the records; None: the train has no ledger, or this process can't hand any in."""
    archives: OpenArchive = no_archives
    """Opens the archives of drained wagons."""
    switch_traces: SwitchTraces | None = None
    """None: switches are not traced."""
    pulse: Pulse = field(default_factory=Pulse)
    """The signs of life of the train here."""
    reach: Reach = field(default_factory=Reach)
    """Whether the registry answers. Written by TrainState and Membership."""
    rng: random.Random = field(default_factory=lambda: random.Random())


def why_failed(runtime: Runtime, step: str, error: BaseException) -> str:
    """Why a step failed, in words. An exception that no driver should raise is logged with its traceback, too."""
    if isinstance(error, EventwagonError | TimeoutError):
        return str(error) or "no answer in time"
    runtime.bulkhead.report(step, error)
    return said(error)


def report_failure(runtime: Runtime, step: str, because: str) -> None:
    """Tell the listeners that a step failed; the caller tries it again."""
    runtime.tell(StepFailed(train=runtime.train, step=step, because=because))


class Steps:
    """The bulkheads of steps that one actor repeats: an error ends only its step, and is reported once while it
    lasts."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._failing: set[str] = set()

    @contextmanager
    def going_on(self, step: str) -> Iterator[None]:
        """Whatever the step inside raises, the caller goes on, unless it is meant for the caller's task."""
        try:
            yield
        except BaseException as e:
            if is_ours(e):
                raise
            why = why_failed(self._runtime, step, e)
            if step not in self._failing:
                report_failure(self._runtime, step, why)
            self._failing.add(step)
        else:
            self._failing.discard(step)

    def has_failed(self, step: str) -> bool:
        """Whether it failed when it was last taken."""
        return step in self._failing
