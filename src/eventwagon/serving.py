"""One wagon as one process serves it: what is fetched ahead, what came of it, and leaving without losing anything."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Protocol

from .broker import Delivery
from .errors import ChannelGone, EventwagonError, Unavailable, UsageError
from .event import DEAD, Channel, Event, born
from .facts import StepFailed
from .feed import PAUSES, Feed, Hands, Kit
from .orchestrator import WagonSpec
from .workers import why_not_served

_AT_ONCE = 16
"""Calls of one kind to the broker at a time."""


class Lanes(Hands, Protocol):
    """The workers that serve a wagon: its own, or the shared crew."""

    def join(self, serving: Serving) -> None:
        """Work for this wagon too."""
        ...

    def part(self, serving: Serving) -> None:
        """Work for it no longer; whoever is still at it is cut short."""
        ...

    def rescale(self, workers: int | None) -> None:
        """Its spec asks for this many workers of its own."""
        ...


class Serving:
    """One wagon as this process's workers serve it. `kit.serve` makes it; `end` leaves the wagon."""

    def __init__(self, kit: Kit, spec: WagonSpec, lanes: Lanes, *, shared: bool) -> None:
        self.kit = kit
        self.spec = spec
        self.feeds: list[Feed] = []
        self.lanes = lanes
        self.shared = shared
        self.busy = 0
        """Workers that are at one of its events."""
        self.leaving = False
        self.trouble = ""
        """Why it is not served, when it is not."""
        self.finished: list[tuple[Feed, Delivery, list[tuple[str, Event]]]] = []
        self.released: list[tuple[Feed, Delivery, float, bool]] = []
        self.wanted = asyncio.Event()
        self._stack = AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []
        self._fetching: list[asyncio.Task[None]] = []
        """One for each feed."""
        self.on_left: Callable[[], object] = lambda: None
        self.handled = 0
        self.failed = 0
        self._quiet = asyncio.Event()
        self._ending: asyncio.Task[None] | None = None

    @property
    def workers(self) -> int:
        """Its own workers, those included that only finish an event; those that are at it now where they are shared."""
        return self.busy if self.shared else max(self.lanes.target, self.busy)

    async def attach(self) -> None:
        """Attach a consumer to each channel, then begin to fetch. Raises UsageError, ChannelGone, Unavailable."""
        if why := why_not_served(self.kit.revision, self.spec.revision):
            raise UsageError(why)
        missing = [str(c) for c in self.spec.channels if c.name not in self.kit.handlers]
        if missing:
            raise UsageError(f"this program has no handler for {', '.join(missing)}")
        async with AsyncExitStack() as stack:
            for channel in self.spec.channels:
                await self._add(channel, stack)
            self._stack = stack.pop_all()
        self._tasks.append(self.kit.tasks.create_task(self._flush()))
        self._tasks.append(self.kit.tasks.create_task(self._keep_claims()))
        self._fetching = [self.kit.tasks.create_task(feed.fetch()) for feed in self.feeds]
        self.lanes.join(self)
        self.lanes.rescale(self.spec.hands)

    async def _add(self, channel: Channel, stack: AsyncExitStack) -> Feed:
        consumer = self.kit.broker.consume(channel, visibility=self.kit.settings.visibility, owner=self.kit.owner)
        feed = Feed(self, channel, self.kit.handlers[channel.name], await stack.enter_async_context(consumer))
        self.feeds.append(feed)
        return feed

    async def update(self, spec: WagonSpec) -> None:
        """Bring it to a changed spec: cut off, rescaled, with further channels. Idempotent."""
        known = {f.channel for f in self.feeds}
        for channel in spec.channels:
            if channel not in known and channel.name in self.kit.handlers:
                feed = await self._add(channel, self._stack)
                self._fetching.append(self.kit.tasks.create_task(feed.fetch()))
        self.spec = spec
        self.lanes.rescale(spec.hands)

    def rescaled(self) -> None:
        """The number of its workers has changed: fetch accordingly."""
        if not self.lanes.target:
            self.give_back()
        self.nudge()

    def nudge(self) -> None:
        """Its feeds should look whether they are to fetch more."""
        for feed in self.feeds:
            feed.nudge()

    def give_back(self) -> None:
        """Nobody here works on what was fetched: others may have it."""
        for feed in self.feeds:
            while feed.next is not None:
                self.released.append((feed, feed.take(), 0.0, False))
        self.wanted.set()

    def oldest(self) -> tuple[Feed, float] | None:
        """Its channel whose next event belongs to the chain that began first, and when that was; None when nothing waits
        here. A chain that has begun goes before a new one of the same moment, and what was passed over comes last."""
        best: Feed | None = None
        began = 0.0
        for feed in self.feeds:
            if (head := feed.next) is None or (best is not None and best.buffer and not feed.buffer):
                continue
            at = born(head.event)
            if best is None or at <= began or (feed.buffer and not best.buffer):
                best, began = feed, at
        return None if best is None else (best, began)

    def lose(self, why: str) -> None:
        """A channel is gone under it: nothing more can be done here."""
        self.trouble = why
        for feed in self.feeds:
            feed.buffer.clear()
            feed.aside.clear()
            feed.looking = False
        self.check_quiet()

    def stumble(self, step: str, because: str) -> None:
        """Something failed that is tried again: told at the first of a row of failures."""
        self.kit.tell(StepFailed(train=self.kit.train, step=step, because=because))

    async def _flush(self) -> None:
        """Give back, store what was emitted, settle, in batches: while one is under way the next gathers."""
        while True:
            await self.wanted.wait()
            self.wanted.clear()
            while self.finished or self.released:
                finished, self.finished = self.finished, []
                released, self.released = self.released, []
                if released:
                    await self._insist("giving back", partial(self._release, released))
                if finished:
                    await self._settle(finished)
                self.check_quiet()

    async def _settle(self, finished: list[tuple[Feed, Delivery, list[tuple[str, Event]]]]) -> None:
        emitted: dict[str, list[Event]] = {}
        by_feed: dict[Feed, list[Delivery]] = {}
        for feed, delivery, events in finished:
            by_feed.setdefault(feed, []).append(delivery)
            for name, event in events:
                emitted.setdefault(name, []).append(event)
        most = self.kit.settings.publish_batch
        steps = []
        for name, events_to in emitted.items():
            channel = Channel(self.kit.train, self.spec.number, name)
            parts = [events_to[start : start + most] for start in range(0, len(events_to), most)]
            steps.append(self._emit_all(channel, parts))
        await asyncio.gather(*steps)
        await asyncio.gather(*(self._settle_all(feed, deliveries) for feed, deliveries in by_feed.items()))

    async def _emit_all(self, channel: Channel, parts: list[list[Event]]) -> None:
        for part in parts:
            await self._insist(f"emitting to {channel}", partial(self._emit, channel, part))

    async def _settle_all(self, feed: Feed, deliveries: list[Delivery]) -> None:
        await self._insist(f"settling in {feed.channel}", partial(feed.subscription.settle, deliveries))
        for delivery in deliveries:
            feed.unsettled.pop(id(delivery), None)
        feed.nudge()

    async def _emit(self, channel: Channel, events: Sequence[Event]) -> None:
        """Store them. A channel that the manifest does not give to this wagon (yet) may exist all the same, and would be
        swept with what it holds: handlers of a new version wait until it is added."""
        if channel.name != DEAD and channel not in self.spec.channels:
            raise Unavailable(f"{channel} is not yet one of the wagon's channels")
        await self.kit.broker.publish(channel, events)

    async def _release(self, released: list[tuple[Feed, Delivery, float, bool]]) -> None:
        alike: dict[tuple[Feed, float, bool], list[Delivery]] = {}
        for feed, delivery, delay, tried in released:
            alike.setdefault((feed, delay, tried), []).append(delivery)
        calls = list(alike.items())
        for start in range(0, len(calls), _AT_ONCE):  # retries have pauses of their own: not one round trip each
            some = calls[start : start + _AT_ONCE]
            given = (feed.subscription.release(ds, delay=delay, tried=tried) for (feed, delay, tried), ds in some)
            for outcome in await asyncio.gather(*given, return_exceptions=True):
                if isinstance(outcome, BaseException):
                    raise outcome
            for (feed, _, _), deliveries in some:
                for delivery in deliveries:
                    feed.unsettled.pop(id(delivery), None)
                feed.nudge()

    async def _insist(self, step: str, call: Callable[[], Awaitable[object]]) -> None:
        """Until it works, or the wagon is gone: then its events were handled by others, under the same ids."""
        pause = PAUSES[0]
        while not self.trouble:
            try:
                async with asyncio.timeout(self.kit.settings.publish_timeout):
                    await call()
                return
            except ChannelGone:
                self.lose(f"{step}: the channel is gone")
            except (EventwagonError, TimeoutError) as e:
                if pause == PAUSES[0]:
                    self.stumble(step, str(e) or "the broker has not answered in time")
                await asyncio.sleep(pause)
                pause = min(PAUSES[1], pause * 2)

    async def _keep_claims(self) -> None:
        """Keep what is in hand from being given to others, for as long as it is. A task of each wagon's own: a broker that
        hangs on one keeps no other waiting."""
        while True:
            await asyncio.sleep(self.kit.settings.visibility / 3)
            for feed in list(self.feeds):
                if feed.unsettled:
                    with suppress(EventwagonError):  # then it may be delivered twice; the next round tries again
                        await feed.subscription.extend(list(feed.unsettled.values()))

    def check_quiet(self) -> None:
        """While leaving: notice when nothing is in hand any more."""
        if self.leaving and not self.busy and (self.trouble or not any(f.unsettled for f in self.feeds)):
            self._quiet.set()

    async def end(self, grace: float, *, drained: bool = False) -> None:
        """Leave the wagon: take nothing more, let handlers in flight finish for `grace` s, give the rest back. Idempotent;
        cancelling the caller does not cut the leaving short. Where it is `drained` a receive under way can only be in vain, and is
        not waited for."""
        if self._ending is None:
            self.leaving = True
            self._ending = self.kit.tasks.create_task(self._leave(grace))
        if drained:
            for feed, fetching in zip(self.feeds, self._fetching, strict=True):
                if feed.receiving:
                    fetching.cancel()
        await asyncio.shield(self._ending)

    async def _leave(self, grace: float) -> None:
        flush, keeper = self._tasks
        self.nudge()
        await asyncio.gather(*self._fetching, return_exceptions=True)
        self.give_back()
        self.check_quiet()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._quiet.wait()
        self.lanes.part(self)
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):  # for what was cut short to be given back
                await self._quiet.wait()
        flush.cancel()
        keeper.cancel()
        await asyncio.gather(flush, keeper, return_exceptions=True)
        await self._stack.aclose()
        self.on_left()
