"""What the stages of the workers' path share: the runtime, which never changes, and the states of a pool, a wagon and a
channel, whose fields say which class writes them."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ..breaker import Circuit
from ..contracts.broker import Broker, Subscription
from ..contracts.facts import Listener, StepFailed
from ..contracts.orchestrator import WagonSpec
from ..event import Channel
from ..settings import Settings
from .bulkhead import Bulkhead
from .handling import Handler

PAUSES = (0.05, 2.0)
"""The first pause after a failure and the longest, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRuntime:
    """What the workers of one process need, whichever wagon they work for."""

    train: str
    handlers: Mapping[str, Handler]
    """By the inner channel's name; the ingress's under the empty name."""
    settings: Settings
    broker: Broker
    clock: Callable[[], float]
    """The wall clock, in seconds."""
    tell: Listener
    bulkhead: Bulkhead
    rng: random.Random = field(default_factory=lambda: random.Random())
    revision: str = ""
    """The revision of this process's code; empty: it has none."""
    owner: str = ""
    """This process's name, under which it claims events."""

    def report_failure(self, step: str, because: str) -> None:
        """Tell that a step failed and is tried again. Call it for the first of several failures in a row. Raises
        nothing."""
        self.tell(StepFailed(train=self.train, step=step, because=because))


class PoolState:
    """One pool of workers in numbers, and those of its workers that wait for an event."""

    __slots__ = ("_idle", "closed", "handler_seconds", "is_shared", "size", "target")

    def __init__(self, *, is_shared: bool) -> None:
        self.is_shared = is_shared
        """The pool works for all wagons of the process, not for one."""
        self.target = 0
        """How many workers there should be. Written by WorkerPool."""
        self.size = 0
        """How many there are: more than `target` while some finish their last event. Written by WorkerPool."""
        self.closed = False
        """The pool takes no more events. Written by WorkerPool."""
        self.handler_seconds = 0.0
        """How long a handler takes, averaged over the recent ones; 0 before the first. Written by HandlerRunner."""
        self._idle: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> int:
        """Workers that wait for an event."""
        return len(self._idle)

    @property
    def in_need(self) -> int:
        """How many events to have in each channel's buffer, however slow the handlers are. For a wagon's own workers as
        many as are free: another process may have a free one sooner. A shared pool has to see each wagon's events to
        choose between them."""
        return self.target if self.is_shared else len(self._idle)

    def idle(self) -> asyncio.Future[None]:
        """A worker has no event: the future to await before it asks for one again."""
        waiter = asyncio.get_running_loop().create_future()
        self._idle.append(waiter)
        return waiter

    def wake(self, count: int) -> None:
        """`count` events were fetched: wake as many idle workers."""
        idle = self._idle
        while count > 0 and idle:
            waiter = idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def wake_all(self) -> None:
        """Something changed: wake all idle workers."""
        self.wake(len(self._idle))


class WagonState:
    """One wagon as this process serves it."""

    __slots__ = ("busy", "count", "failed", "handled", "leaving", "paused", "quiet", "seconds", "spec", "squares")

    def __init__(self, spec: WagonSpec, *, paused: bool) -> None:
        self.spec = spec
        """Written by WagonConsumer."""
        self.paused = paused
        """Nothing of it is handed out. Written by WagonConsumer."""
        self.leaving = False
        """Nothing more of it is fetched. Written by WagonConsumer."""
        self.quiet = asyncio.Event()
        """While it is left: no event of it is unsettled. Written by WagonConsumer; set by WorkerPool if the program is
        interrupted, since nothing is waited for then."""
        self.busy = 0
        """Workers that handle one of its events. Written by HandlerRunner."""
        self.handled = 0
        """Handlings that ended well. Written by HandlerRunner."""
        self.failed = 0
        """Handlings that failed. Written by HandlerRunner."""
        self.count = 0
        """Handlings that ended, whatever came of them. Written by HandlerRunner."""
        self.seconds = self.squares = 0.0
        """How long those took in all, and the sum of the squares. Written by HandlerRunner."""


class ChannelState:
    """One channel of a served wagon, and this process's consumer of it."""

    __slots__ = ("channel", "circuit", "handler", "room", "subscription", "wagon")

    def __init__(
        self, wagon: WagonState, channel: Channel, handler: Handler, subscription: Subscription, circuit: Circuit
    ) -> None:
        self.wagon = wagon
        self.channel = channel
        self.handler = handler
        self.subscription = subscription
        self.circuit = circuit
        """Written by Settler.change_circuit."""
        self.room = asyncio.Event()
        """Set when the prefetcher should check whether to fetch, by the class that changed what that depends on;
        cleared by Prefetcher."""
