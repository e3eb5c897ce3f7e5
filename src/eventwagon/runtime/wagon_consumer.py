"""One wagon as one process serves it: its channels' feeds, their claims, and leaving without losing anything."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Protocol

from ..breaker import Circuit
from ..contracts.facts import StepFailed
from ..contracts.orchestrator import WagonSpec
from ..errors import EventwagonError, UsageError
from ..event import Channel
from ..policy.scheduling import why_not_served
from .bulkhead import is_ours
from .kit import Kit
from .prefetch import Feed, Hands
from .settling import Settling
from .tasks import kept_up

_logger = logging.getLogger("eventwagon")
_TO_GIVE_BACK = (1.0, 5.0)
"""Seconds, from least to most, for what was cut short to be given back on leaving."""


class Lanes(Hands, Protocol):
    """The workers that serve a wagon: its own, or the shared crew."""

    def join(self, serving: Serving) -> None:
        """Work for this wagon too."""
        ...

    def part(self, serving: Serving) -> None:
        """Work for it no longer; what is still under way there is cut short."""
        ...

    def forgo(self, serving: Serving) -> None:
        """Nothing of this wagon is handed out for now, though it had been chosen."""
        ...

    def give_up(self, serving: Serving) -> None:
        """Handlers that were cut short there and go on all the same are run no further."""
        ...

    def rescale(self, workers: int | None) -> None:
        """Its spec asks for this many workers of its own."""
        ...


class Serving:
    """One wagon as this process's workers serve it. Made by `Crew.serve`; `end` leaves the wagon."""

    def __init__(
        self, kit: Kit, spec: WagonSpec, lanes: Lanes, *, shared: bool, others: Callable[[], bool] = lambda: True
    ) -> None:
        self.kit = kit
        self.spec = spec
        self.feeds: list[Feed] = []
        self.lanes = lanes
        self.shared = shared
        self.busy = 0
        """Workers that are at one of its events."""
        self.leaving = False
        self.paused = spec.paused or spec.number in kit.resting.numbers
        """Nothing of it is handed out."""
        self.trouble = ""
        """Why it is not served, when it is not."""
        self.handled = 0
        self.failed = 0
        self.on_left: Callable[[], object] = lambda: None
        self.on_trouble: Callable[[], object] = lambda: None
        """Called when it can't be served any more, for it to be attached anew."""
        self._others = others
        self._settling = Settling(kit, spec.number, lambda: self.spec.channels, self.lose, self.check_quiet)
        self._stack = AsyncExitStack()
        self._keeper: asyncio.Task[None] | None = None
        self._fetching: list[asyncio.Task[None]] = []
        """One for each feed."""
        self._quiet = asyncio.Event()
        """While leaving: nothing is in hand."""
        self._ending: asyncio.Task[None] | None = None
        self._told_missing: tuple[str, ...] = ()

    @property
    def workers(self) -> int:
        """Its own workers, those included that only finish an event; those that are at it now where they are shared."""
        return self.busy if self.shared else max(self.lanes.target, self.busy)

    @property
    def others(self) -> bool:
        """Other processes may have a free worker for its events."""
        return self._others()

    @property
    def channels(self) -> tuple[str, ...]:
        """The inner channels at which it has consumers."""
        return tuple(feed.channel.name for feed in self.feeds if feed.channel.name)

    async def attach(self) -> None:
        """Attach a consumer to each channel that there is a handler for, then begin to fetch. Raises UsageError,
        ChannelGone, Unavailable."""
        if why := why_not_served(self.kit.revision, self.spec.revision):
            raise UsageError(why)
        if "" not in self.kit.handlers:
            raise UsageError(f"this program has no handler for {self.spec.channels[0]}")
        async with AsyncExitStack() as stack:
            for channel in self.spec.channels:
                if channel.name in self.kit.handlers:
                    await self._add(channel, stack)
            self._stack = stack.pop_all()
        self._tell_missing()
        tasks, bulkhead = self.kit.tasks, self.kit.bulkhead
        self._keeper = tasks.create_task(kept_up(self._keep_claims, "keeping claims", bulkhead))
        self._fetching = [tasks.create_task(kept_up(feed.fetch, "fetching", bulkhead)) for feed in self.feeds]
        self.lanes.join(self)
        self.lanes.rescale(self.spec.hands)

    async def _add(self, channel: Channel, stack: AsyncExitStack) -> Feed:
        consumer = self.kit.broker.consume(channel, visibility=self.kit.settings.visibility, owner=self.kit.owner)
        handler = self.kit.handlers[channel.name]
        feed = Feed(self, channel, handler, await stack.enter_async_context(consumer), self._settling)
        self.feeds.append(feed)
        return feed

    @property
    def missing(self) -> tuple[str, ...]:
        """The inner channels of the wagon that this program has no handler for: the others are served."""
        return tuple(c.name for c in self.spec.channels if c.name not in self.kit.handlers)

    def _tell_missing(self) -> None:
        missing = self.missing
        if missing and missing != self._told_missing:
            _logger.warning(
                "%s: this program has no handler for channel %s of wagon_%d; it serves the others",
                self.kit.train,
                ", ".join(missing),
                self.spec.number,
            )
        self._told_missing = missing

    async def update(self, spec: WagonSpec) -> None:
        """Bring it to a changed spec: cut off, rescaled, with further channels. Idempotent."""
        self.spec = spec  # handlers emit to further channels before this process is attached to them, or leaves instead
        known = {f.channel for f in self.feeds}
        for channel in spec.channels:
            if channel not in known and channel.name in self.kit.handlers:
                feed = await self._add(channel, self._stack)
                fetching = kept_up(feed.fetch, "fetching", self.kit.bulkhead)
                self._fetching.append(self.kit.tasks.create_task(fetching))
        for feed in self.feeds:
            feed.change_circuit(self.kit.circuits.of(feed.channel.name, guarded=spec.guarded))
        self._tell_missing()
        self.lanes.rescale(spec.hands)
        self.heed_pause()
        self.nudge()

    def heed_pause(self) -> None:
        """The spec, or the process, may say otherwise by now whether the wagon is paused. Handlers in flight finish."""
        paused = self.spec.paused or self.spec.number in self.kit.resting.numbers
        if paused == self.paused:
            return
        self.paused = paused
        self.lanes.forgo(self)
        if paused:
            self.give_back()
        else:
            self.lanes.wake(self.lanes.target)
        self.nudge()

    def circuit_changed(self, circuit: Circuit) -> None:
        """The circuit of some of its channels opened or closed, a probe is due, or one failed."""
        for feed in self.feeds:
            if feed.circuit is circuit:
                feed.circuit_changed()

    @property
    def open(self) -> dict[str, str]:
        """The channels whose circuit breaker is open, and why."""
        return {feed.channel.name: feed.circuit.because for feed in self.feeds if feed.circuit.opened_at is not None}

    def rescaled(self) -> None:
        """The number of its workers has changed: fetch accordingly."""
        if not self.lanes.target:
            self.give_back()
        self.nudge()

    def nudge(self) -> None:
        """Its feeds should look whether they are to fetch more."""
        for feed in self.feeds:
            feed.nudge()

    def wake_up(self, *, own: bool) -> None:
        """A worker is free. Feeds that rest fetch again; those of a wagon with workers of its `own` fetch when one is
        free."""
        for feed in self.feeds:
            feed.rouse()
            if own:
                feed.nudge()

    def oldest(self) -> tuple[Feed, float] | None:
        """Its channel whose next event belongs to the chain that began first, and when that was; None when nothing
        waits here. A chain that has begun goes before a new one of the same moment, and what was passed over comes
        last."""
        best: Feed | None = None
        began = 0.0
        for feed in self.feeds:
            at = feed.began
            if at is None or (best is not None and best.fresh and not feed.fresh):
                continue
            if best is None or at <= began or (feed.fresh and not best.fresh):
                best, began = feed, at
        return None if best is None else (best, began)

    def stumble(self, step: str, because: str) -> None:
        """Something failed that is tried again: told at the first of a row of failures."""
        self.kit.tell(StepFailed(train=self.kit.train, step=step, because=because))

    # --- what came of its events --------------------------------------------------------------

    def give_back(self) -> None:
        """Nobody here works on what was fetched: others may have it."""
        for feed in self.feeds:
            feed.give_all_back()

    def lose(self, why: str) -> None:
        """A channel is gone under it: nothing more can be done here. What is in hand is left to run out."""
        self.trouble, self.leaving = why, True
        for feed in self.feeds:
            feed.drop()
        self.nudge()
        self._settling.end(why)
        self.check_quiet()
        self.on_trouble()

    async def _keep_claims(self) -> None:
        """Keep what is in hand from being given to others, for as long as it is. A task of each wagon's own: a broker
        that hangs on one keeps no other waiting."""
        every = self.kit.settings.visibility / 3
        while not self.trouble:
            await asyncio.sleep(every)
            feeds = [feed for feed in self.feeds if feed.unsettled]
            await asyncio.gather(*(self._keep_claims_of(feed, every) for feed in feeds))

    async def _keep_claims_of(self, feed: Feed, within: float) -> None:
        try:
            async with asyncio.timeout(within):
                await feed.subscription.extend(list(feed.unsettled.values()))
        except (EventwagonError, TimeoutError):
            pass  # then it may be delivered twice; the next round tries again
        except BaseException as e:  # the bulkhead of this channel's claims
            if is_ours(e):
                raise
            self.kit.bulkhead.report(f"keeping claims in {feed.channel}", e)

    # --- leaving ------------------------------------------------------------------------------

    def check_quiet(self) -> None:
        """While leaving: notice when nothing is in hand any more."""
        if self.leaving and not self.busy and (self.trouble or not any(f.unsettled for f in self.feeds)):
            self._quiet.set()

    async def end(self, grace: float, *, drained: bool = False) -> None:
        """Leave the wagon: take nothing more, let handlers in flight finish for `grace` s, give the rest back.
        Idempotent; cancelling the caller does not cut the leaving short. Where it is `drained` a receive under way can
        only be in vain, and is not waited for, nor is anything once a handler was interrupted."""
        if self._ending is None:
            self.leaving = True
            # a task of its own: it ends gracefully whatever ended the others
            self._ending = asyncio.create_task(self._leave(grace))
        if drained:
            for feed, fetching in zip(self.feeds, self._fetching, strict=True):
                if feed.receiving:
                    fetching.cancel()
        await asyncio.shield(self._ending)

    async def _leave(self, grace: float) -> None:
        """Fetch no more and give back what waits; let what is at work finish; cut short what does not, and give that
        back, and what was handled and still waits to be settled; then leave the channels. What a receive brings that
        was under way is among it."""
        least, most = _TO_GIVE_BACK
        to_give_back = max(least, min(most, grace))
        try:
            self.nudge()
            self.give_back()
            receiving = asyncio.create_task(self._receive_no_more(most + max(most, grace)))
            await self._until_quiet(grace)
            self.lanes.part(self)
            await self._until_quiet(to_give_back)
            self.lanes.give_up(self)
            self._settling.give_back()
            await receiving
            await self._until_quiet(to_give_back)
        except BaseException as e:
            if is_ours(e):
                raise
            self.kit.bulkhead.report(f"leaving wagon_{self.spec.number}", e)
        self._settling.end("the wagon is left")
        if self._keeper is not None:
            self._keeper.cancel()
        try:
            await self._stack.aclose()
        except BaseException as e:
            if is_ours(e):
                raise
            self.kit.bulkhead.report(f"leaving the channels of wagon_{self.spec.number}", e)
        self.on_left()

    async def _receive_no_more(self, seconds: float) -> None:
        """Wait for receives that are under way, so that what they bring can be given back."""
        if self._fetching:
            await asyncio.wait(self._fetching, timeout=seconds)
        for fetching in self._fetching:
            fetching.cancel()  # only a broker that has not answered yet
        self.give_back()

    def interrupted(self) -> None:
        """Wait for nothing any more: what is in hand comes again when its process has ended."""
        self._quiet.set()

    async def _until_quiet(self, seconds: float) -> None:
        if self.kit.bulkhead.interrupted:
            return
        self._quiet.clear()  # it may have been quiet before the last receive brought something
        self.check_quiet()
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._quiet.wait()
