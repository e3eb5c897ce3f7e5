"""What every actor of one process uses."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..contracts.broker import Broker
from ..contracts.facts import Listener
from ..contracts.orchestrator import Orchestrator
from ..settings import Settings
from .bulkhead import Bulkhead
from .handling import Handler


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One process of a train: what its program declares, the drivers it was given, and who it is. It holds values, and
    does nothing.

    The registry is not among them: processes that an orchestrator starts have none. `TrainState` holds it.
    """

    train: str
    settings: Settings
    broker: Broker
    clock: Callable[[], float]
    """The wall clock, in seconds."""
    tell: Listener
    """Hears of every fact."""
    bulkhead: Bulkhead
    """Takes the exceptions that the long tasks should not have met."""
    handlers: Mapping[str, Handler] = field(default_factory=dict)
    """By the inner channel's name; the ingress's under the empty name. Without any the program does not declare: that is
    left to one that has handlers."""
    name: str = ""
    """This process's name: it checks in, claims events and writes to the journal under it."""
    revision: str = ""
    """The revision of this process's code; empty: it has none."""
    orchestrator: Orchestrator | None = None
    """Starts the workers of each wagon; None: processes attach by themselves, and say so in their check-ins."""
    rng: random.Random = field(default_factory=lambda: random.Random())
