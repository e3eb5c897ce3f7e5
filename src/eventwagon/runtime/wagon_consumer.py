"""One wagon, as one process serves it: attaches to its channels, keeps the claims, and leaves without losing events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from functools import partial

from ..breaker import Circuit
from ..contracts.orchestrator import WagonSpec, Work
from ..errors import ChannelGone, EventwagonError, UsageError
from ..event import Channel, wagon_name
from ..policy.budgets import Waiting
from ..policy.scheduling import why_not_served
from .budgets import LEASE_LOST, ChannelBudget, Part, Watcher
from .bulkhead import is_ours
from .circuits import Circuits
from .observed import Handlings
from .once import OnceGuard
from .once_prefetch import OncePrefetcher
from .prefetch import Prefetcher, WagonPrefetch
from .runtime import Runtime
from .settling import Settler
from .tasks import kept_up
from .worker_pool import WorkerPool
from .worker_states import ChannelState, WagonState

_logger = logging.getLogger("eventwagon")
_TO_GIVE_BACK = (1.0, 5.0)
"""The least and the most seconds, on leaving, in which the events of handlers that were cut short are given back."""


class WagonConsumer:
    """Consumes one wagon's channels for the workers of a pool. `LocalWorkers.serve` makes it; `end` leaves the wagon.

    It owns the wagon's state, a prefetcher and a settler for each channel, and the tasks that fetch and that keep the
    claims. `has_peers`: whether other processes work for the train, too.
    """

    def __init__(
        self,
        runtime: Runtime,
        tasks: asyncio.TaskGroup,
        circuits: Circuits,
        pool: WorkerPool,
        spec: WagonSpec,
        *,
        paused: bool,
        has_peers: Callable[[], bool],
    ) -> None:
        self.state = WagonState(spec, paused=paused or spec.paused)
        self.trouble = ""
        """Why it can't be served any more; empty if it can."""
        self.on_left: Callable[[], object] = lambda: None
        """Called when the wagon has been left."""
        self.on_trouble: Callable[[], object] = lambda: None
        """Called when the wagon can't be served any more, so that it is attached again."""
        self._runtime = runtime
        self._tasks = tasks
        self._circuits = circuits
        self._pool = pool
        self._paused_here = paused
        """`pause` was called with True, whatever the spec says."""
        self._has_peers = has_peers
        self._channels = WagonPrefetch(self.state)
        self._stack = AsyncExitStack()
        self._keeping: asyncio.Task[None] | None = None
        self._fetching: list[asyncio.Task[None]] = []
        """One for each channel, in the order of `_channels`."""
        self._ending: asyncio.Task[None] | None = None
        self._told_missing: tuple[str, ...] = ()
        self._gone: set[Channel] = set()
        """The ingress, if it was gone when this was to attach to it."""

    # --- what it does ----------------------------------------------------------------------------

    @property
    def workers(self) -> int:
        """How many workers it has of its own, including those that finish their last event; with a shared pool, how
        many handle its events now."""
        pool, busy = self._pool.state, self.state.busy
        return busy if pool.is_shared else max(pool.target, busy)

    @property
    def channels(self) -> tuple[str, ...]:
        """The inner channels that it consumes."""
        return tuple(each.source.channel.name for each in self._channels if each.source.channel.name)

    @property
    def missing(self) -> tuple[str, ...]:
        """The inner channels of the wagon that this program has no handler for. The others are served."""
        return tuple(c.name for c in self.state.spec.channels if c.name not in self._runtime.handlers)

    @property
    def open(self) -> dict[str, str]:
        """The channels whose circuit breaker is open, and why."""
        sources = [each.source for each in self._channels]
        return {s.channel.name: s.circuit.because for s in sources if s.circuit.opened_at is not None}

    @property
    def at_budget(self) -> dict[str, str]:
        """The channels whose events wait for a budget, and for which."""
        found = {s.channel.name: s.budget.short for s in (each.source for each in self._channels) if s.budget}
        return {name: short for name, short in found.items() if short}

    @property
    def handled(self) -> int:
        """Handlings that ended well."""
        return self.state.handled

    @property
    def failed(self) -> int:
        """Handlings that failed."""
        return self.state.failed

    @property
    def uncounted(self) -> int:
        """How many of these the rule `pause_on` does not count."""
        return self.state.uncounted

    @property
    def skipped(self) -> int:
        """Events that were settled because they had been handled before."""
        return sum(each.source.once.skipped for each in self._channels if each.source.once is not None)

    @property
    def work(self) -> Work:
        """How long handlings took."""
        return Work(count=self.state.count, seconds=self.state.seconds, squares=self.state.squares)

    @property
    def in_hand(self) -> int:
        """Events that its handlers have in hand."""
        return self.state.busy + self.state.more

    @property
    def paused(self) -> bool:
        """The wagon is paused: none of its events is handed out."""
        return self.state.paused

    # --- attaching -------------------------------------------------------------------------------

    async def attach(self) -> None:
        """Attach a consumer to each channel that has a handler, then begin to fetch. Call it once. Raises UsageError,
        ChannelGone, Unavailable."""
        spec, handlers = self.state.spec, self._runtime.handlers
        if why := why_not_served(self._runtime.revision, spec.revision):
            raise UsageError(why)
        if spec.undoes and spec.undo_channel not in self._runtime.undo_handlers:
            raise UsageError(f"this program has no undo handler for {spec.undo_channel or spec.train}")
        if "" not in handlers:
            raise UsageError(f"this program has no handler for {spec.channels[0]}")
        async with AsyncExitStack() as stack:
            consumed = [await self._consume(c, stack) for c in spec.channels if c.name in handlers]
            self._stack = stack.pop_all()
        self._tell_missing()
        self._keeping = self._keep_up(self._keep_claims, "keeping claims")
        for prefetcher in filter(None, consumed):
            self._fetching.append(self._keep_up(prefetcher.fetch, "fetching"))
        self._pool.join(self._channels)
        self._pool.rescale(spec.workers_now)

    async def _consume(self, channel: Channel, stack: AsyncExitStack) -> Prefetcher | None:
        """Attach to one channel. Returns None if it is the ingress of a wagon that is cut off, and is gone: the inner
        channels are drained without it."""
        runtime = self._runtime
        consumer = runtime.broker.consume(channel, visibility=runtime.settings.visibility, owner=runtime.name)
        try:
            subscription = await stack.enter_async_context(consumer)
        except ChannelGone:
            if channel.name or self.state.spec.cut_off_at is None:
                raise
            self._gone.add(channel)
            return None
        spec, settings = self.state.spec, runtime.settings
        handler = runtime.undo_handlers[spec.undo_channel] if spec.undoes else runtime.handlers[channel.name]
        retries = settings.retries_of(handler.options)
        circuit = self._circuits.of(_circuit(channel, spec), retries, guarded=spec.guarded)
        shared = None if spec.undoes else runtime.budgets.get(channel.name)
        budget = None if shared is None else ChannelBudget(shared.parts)
        once = (
            None
            if runtime.once is None
            else OnceGuard(
                runtime.once,
                channel,
                lease=settings.visibility,
                bulkhead=runtime.bulkhead,
                since=lambda: self.state.spec.once_since,
            )
        )
        counter = None if runtime.counters is None else runtime.counters.of(channel)
        handlings = None
        if runtime.metering is not None or counter is not None:
            handlings = Handlings(runtime.metering, runtime.clock, counter)
        source = ChannelState(
            self.state, channel, handler, subscription, circuit, settings, budget, handlings, once, counter
        )
        settler = Settler(
            runtime, self._tasks, source, self._circuits, on_gone=self.abandon, on_settled=self._notice_quiet
        )
        kind = Prefetcher if once is None else OncePrefetcher
        prefetcher = kind(runtime, settler, self._pool.state, has_peers=self._has_peers, on_gone=self.abandon)
        self._channels.prefetchers.append(prefetcher)
        if budget is not None:
            watcher = Watcher(
                self._pool.state,
                waits=lambda: prefetcher.is_waiting,
                on_room=prefetcher.budget_room,
                on_change=prefetcher.budget_changed,
                on_lost=lambda: self._pool.cut_channel(source, LEASE_LOST),
                wagon=self._waiting,
                ready=partial(self._ready, prefetcher, budget),
            )
            stack.enter_context(budget.watched(watcher))
        return prefetcher

    def _ready(self, prefetcher: Prefetcher, budget: ChannelBudget, part: Part) -> int:
        idle = self._pool.state.target - self.state.busy
        return 0 if self._pool.state.is_shared or budget.blocked_beside(part) else prefetcher.ready(idle)

    def _waiting(self) -> Waiting:
        spec = self.state.spec
        return Waiting(spec.cut_off_at is None, bool(spec.replay), spec.cut_off_at or 0.0)

    def _keep_up(self, work: Callable[[], Awaitable[object]], what: str) -> asyncio.Task[None]:
        return self._tasks.create_task(kept_up(work, what, self._runtime.bulkhead))

    def _tell_missing(self) -> None:
        missing = self.missing
        if missing and missing != self._told_missing:
            _logger.warning(
                "%s: this program has no handler for channel %s of wagon %d; it serves the others",
                self._runtime.train,
                ", ".join(missing),
                self.state.spec.number,
            )
        self._told_missing = missing

    # --- changes ---------------------------------------------------------------------------------

    async def update(self, spec: WagonSpec) -> None:
        """Adapt it to a changed spec: cut off, rescaled, paused, with further channels. Idempotent; never ends a
        handler in flight."""
        self.state.spec = spec  # handlers emit to further channels before this process attaches to them, or leaves
        self._heed_pause()  # before any call of the broker, which may fail
        known = {*self._gone, *(each.source.channel for each in self._channels)}
        for channel in spec.channels:
            if channel not in known and channel.name in self._runtime.handlers:
                prefetcher = await self._consume(channel, self._stack)
                if prefetcher is not None:
                    self._fetching.append(self._keep_up(prefetcher.fetch, "fetching"))
        for each in self._channels:
            name = _circuit(each.source.channel, spec)
            circuit = self._circuits.of(name, each.source.retries, guarded=spec.guarded)
            if circuit is not each.source.circuit:
                each.settler.change_circuit(circuit)
                self._pool.state.wake_all()
        self._tell_missing()
        self._pool.rescale(spec.workers_now)
        self._channels.look()

    def pause(self, paused: bool) -> None:
        """Say whether the wagon is paused; it is also paused if its spec says so. While it is paused none of its events
        is handed out: what was fetched is given back, handlers in flight finish. Idempotent."""
        self._paused_here = paused
        self._heed_pause()

    def _heed_pause(self) -> None:
        paused = self.state.spec.paused or self._paused_here
        if paused == self.state.paused:
            return
        self.state.paused = paused
        self._pool.drop_choice(self.state)
        if paused:
            self._channels.give_back()
        else:
            self._pool.state.wake_all()
        self._channels.look()

    def circuit_changed(self, circuit: Circuit) -> None:
        """A circuit of this process opened or closed, a probe is due, or one failed. Has no effect if no channel uses
        it."""
        for each in self._channels:
            if each.source.circuit is circuit:
                each.circuit_changed()

    def abandon(self, why: str) -> None:
        """A channel is gone: stop serving the wagon, and let the claims expire. Idempotent."""
        self.trouble, self.state.leaving = why, True
        for each in self._channels:
            each.drop()
        self._channels.look()
        for each in self._channels:
            each.settler.end(why)
        self._notice_quiet()
        self.on_trouble()

    # --- claims ----------------------------------------------------------------------------------

    async def _keep_claims(self) -> None:
        """Extend the claims of unsettled events, so that no other process gets them. Each wagon has its own task: if
        the broker hangs on one, no other has to wait."""
        every = self._runtime.settings.visibility / 3
        while not self.trouble:
            await asyncio.sleep(every)
            held = [each for each in self._channels if each.settler.unsettled]
            calls = [self._extend(each.settler) for each in held]
            calls += [self._keep_once(each) for each in held if isinstance(each, OncePrefetcher)]
            await asyncio.gather(*(self._keep(call, every) for call in calls))

    async def _keep(self, call: Coroutine[object, object, None], within: float) -> None:
        try:
            async with asyncio.timeout(within):
                await call
        except (EventwagonError, TimeoutError):
            pass  # then it may be delivered twice; the next round tries again
        except BaseException as e:  # the bulkhead of this channel's claims
            if is_ours(e):
                raise
            self._runtime.bulkhead.report(f"keeping claims in wagon {self.state.spec.number}", e)

    async def _extend(self, settler: Settler) -> None:
        await settler.source.subscription.extend(list(settler.unsettled.values()))

    async def _keep_once(self, each: OncePrefetcher) -> None:
        if (once := each.source.once) is not None and (lost := await once.keep([*each.settler.unsettled.values()])):
            each.lost(lost)

    # --- leaving ---------------------------------------------------------------------------------

    async def end(self, grace: float, *, drained: bool = False) -> None:
        """Leave the wagon: take nothing more, let handlers in flight finish for `grace` s, give the rest back.

        Idempotent; cancelling the caller does not interrupt the leaving. In a `drained` wagon a receive under way will
        bring nothing, and is not waited for. After a handler was interrupted nothing is waited for.
        """
        if self._ending is None:
            self.state.leaving = True
            # a task of its own: it ends gracefully whatever ended the others
            self._ending = asyncio.create_task(self._leave(grace))
        if drained:
            for each, fetching in zip(self._channels, self._fetching, strict=True):
                if each.receiving:
                    fetching.cancel()
        await asyncio.shield(self._ending)

    async def _leave(self, grace: float) -> None:
        """Leave, in this order:

        1. Fetch no more, and give back what was fetched, also by receives that are still under way.
        2. Let handlers finish for `grace` s.
        3. Cut short those that did not, and wait for their events to be given back.
        4. Stop running those that go on all the same; give back what still waits to be settled.
        5. Leave the channels.
        """
        wagon, bulkhead = self.state, self._runtime.bulkhead
        least, most = _TO_GIVE_BACK
        to_give_back = max(least, min(most, grace))
        try:
            self._channels.look()
            self._channels.give_back()
            receiving = asyncio.create_task(self._receive_no_more(most + max(most, grace)))
            await self._until_quiet(grace)
            self._pool.part(wagon, f"not finished within grace={self._runtime.settings.grace:g} s of leaving")
            await self._until_quiet(to_give_back)
            self._pool.give_up(wagon)
            await asyncio.gather(*(each.settler.record_unsettled(least) for each in self._channels))
            for each in self._channels:
                each.settler.give_back_unstored()
            await receiving
            await self._until_quiet(to_give_back)
        except BaseException as e:
            if is_ours(e):
                raise
            bulkhead.report(f"leaving {wagon_name(wagon.spec.train, wagon.spec.number)}", e)
        for each in self._channels:
            each.settler.end("the process leaves the wagon")
        if self._keeping is not None:
            self._keeping.cancel()
        try:
            await self._stack.aclose()
        except BaseException as e:
            if is_ours(e):
                raise
            bulkhead.report(f"leaving the channels of {wagon_name(wagon.spec.train, wagon.spec.number)}", e)
        self.on_left()

    async def _receive_no_more(self, seconds: float) -> None:
        """Wait for receives under way, and give back what they bring."""
        if self._fetching:
            await asyncio.wait(self._fetching, timeout=seconds)
        for fetching in self._fetching:
            fetching.cancel()  # only a broker that has not answered yet
        self._channels.give_back()

    async def _until_quiet(self, seconds: float) -> None:
        if self._runtime.bulkhead.interrupted:
            return
        self.state.quiet.clear()  # it may have been quiet before the last receive returned something
        self._notice_quiet()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.state.quiet.wait()

    def _notice_quiet(self) -> None:
        """While leaving: set `quiet` once no event of the wagon is unsettled."""
        wagon = self.state
        if wagon.leaving and not wagon.busy and (self.trouble or not any(c.settler.unsettled for c in self._channels)):
            wagon.quiet.set()


def _circuit(channel: Channel, spec: WagonSpec) -> str:
    """The name of the channel's circuit: undo handlers do other things than handlers, and have their own."""
    return f"undo {spec.undo_channel or spec.train}" if spec.undoes else channel.name
