"""What the stages of the workers' path share: the states of a pool, a wagon and a channel. Each field says which class
writes it; each asyncio.Event says which classes set and clear it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from ..breaker import Circuit
from ..contracts.broker import Subscription
from ..contracts.orchestrator import WagonSpec
from ..event import Channel
from ..settings import Settings
from .budgets import ChannelBudget
from .counting import ChannelCounter
from .handler import Handler
from .observed import Handlings
from .once import OnceGuard

PAUSES = (0.05, 2.0)
"""The first pause after a failure and the longest, in seconds."""
_AHEAD = 0.05
"""Seconds of work that are fetched ahead, so that workers don't wait for the broker and events don't wait for a
worker."""


class PoolState:
    """The figures of one pool of workers, and those of its workers that wait for an event."""

    __slots__ = ("_idle", "closed", "handler_seconds", "is_shared", "size", "starved", "target")

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
        """How long a handler takes for an event, averaged over the recent ones; 0 before the first. Written by
        HandlerRunner."""
        self.starved = False
        """A prefetcher has begun to sleep with an empty buffer. Set by Prefetcher, cleared by Dispatcher."""
        self._idle: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> int:
        """Workers that wait for an event."""
        return len(self._idle)

    @property
    def soon(self) -> int:
        """How many events its workers handle in the time for which events are fetched ahead; 0 before the first."""
        return int(_AHEAD * self.target / self.handler_seconds) if self.handler_seconds else 0

    @property
    def in_need(self) -> int:
        """How many events each channel's buffer should have, however slow the handlers are. For a wagon's own workers:
        as many as are free, since another process may have a free worker sooner. A shared pool needs some of each
        wagon's events to choose between the wagons."""
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

    __slots__ = (
        "busy",
        "count",
        "failed",
        "handled",
        "leaving",
        "more",
        "on_known",
        "paused",
        "quiet",
        "seconds",
        "spec",
        "squares",
        "uncounted",
    )

    def __init__(self, spec: WagonSpec, *, paused: bool) -> None:
        self.spec = spec
        """Written by WagonConsumer."""
        self.paused = paused
        """None of its events is handed out. Written by WagonConsumer."""
        self.leaving = False
        """None of its events is fetched any more. Written by WagonConsumer."""
        self.quiet = asyncio.Event()
        """Set when leaving no longer needs to wait: by WagonConsumer once no event of the wagon is unsettled, by
        WorkerPool if the program is interrupted. Cleared by WagonConsumer."""
        self.busy = 0
        """Workers that handle one of its events. Written by HandlerRunner."""
        self.more = 0
        """Events that they handle in batches, besides one for each worker. Written by HandlerRunner."""
        self.handled = 0
        """Events whose handling ended well. Written by HandlerRunner."""
        self.failed = 0
        """Events whose handling failed; a batch that failed as a whole counts once. Written by HandlerRunner."""
        self.uncounted = 0
        """How many of these the rule `pause_on` does not count. Written by HandlerRunner."""
        self.count = 0
        """Events whose handling ended, whatever came of it. Written by HandlerRunner."""
        self.seconds = self.squares = 0.0
        """How long those took in all, and the sum of the squares; the events of a batch share its time. Written by
        HandlerRunner."""
        self.on_known: Callable[[], object] = lambda: None
        """Called once enough have ended to tell how long they take. Written by InProcess."""


class ChannelState:
    """One channel of a served wagon, and this process's consumer of it."""

    __slots__ = (
        "budget",
        "channel",
        "circuit",
        "counter",
        "handler",
        "handlings",
        "once",
        "retries",
        "room",
        "subscription",
        "timeout",
        "wagon",
    )

    def __init__(
        self,
        wagon: WagonState,
        channel: Channel,
        handler: Handler,
        subscription: Subscription,
        circuit: Circuit,
        settings: Settings,
        budget: ChannelBudget | None = None,
        handlings: Handlings | None = None,
        once: OnceGuard | None = None,
        counter: ChannelCounter | None = None,
    ) -> None:
        self.budget = budget
        """What this process may use now of the channel's budgets; None: it has none."""
        self.handlings = handlings
        """Handlings for the meter and the counter; None: there is neither. Written by HandlerRunner and Settler."""
        self.once = once
        """Its claims in the record of handled events; None: the train keeps none."""
        self.counter = counter
        """What this process did in the channel; None: the train has no ledger. Written by Settler."""
        self.wagon = wagon
        self.channel = channel
        self.handler = handler
        self.retries = settings.retries_of(handler.options)
        """How its failed events are retried."""
        own = handler.options.timeout
        self.timeout = settings.handler_timeout if own is None else own
        """Seconds that its handler may take for one event."""
        self.subscription = subscription
        self.circuit = circuit
        """Written by Settler.change_circuit."""
        self.room = asyncio.Event()
        """Set when the prefetcher should check whether to fetch, by the class that changed the reason; cleared by
        Prefetcher."""

    @property
    def overran(self) -> str:
        """Why a handling is cut short that took longer than it may."""
        setting = "handler_timeout" if self.handler.options.timeout is None else "timeout"
        return f"not finished after {setting}={self.timeout:g} s"
