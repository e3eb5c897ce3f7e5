"""The crew: the workers of one process. Each takes one event at a time, from the wagon that the rules say."""

from __future__ import annotations

import asyncio
import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Self

from .broker import Broker, Delivery
from .event import born
from .facts import Listener
from .orchestrator import WagonSpec
from .serving import Feed, Kit, Serving
from .settings import Settings
from .worker import Context, Dead, Failed, Handled, Handler, Threads, handle
from .workers import Journey, Post, choose

_STEADY = 0.001
"""Seconds for which a choice of wagon and channel holds: what choosing costs is spread over fast events."""
_TURN = 0.002
"""Seconds after which a worker whose handlers never wait lets others run."""


class Crew:
    """The workers of one process for one train. Enter it before use; leaving ends every worker, gracefully.

    `shared` is the number of workers that all wagons share, or None where each wagon has its own. `slo`: the promise to
    newcomers in seconds that a shared crew works by. `revision`: which code this process is, where it says so.
    """

    def __init__(
        self,
        train: str,
        handlers: Mapping[str, Handler],
        settings: Settings,
        broker: Broker,
        *,
        slo: float | None,
        shared: int | None,
        revision: str = "",
        clock: Callable[[], float],
        tell: Listener,
        rng: random.Random | None = None,
    ) -> None:
        self._make_kit: Callable[[asyncio.TaskGroup], Kit] = lambda tasks: Kit(
            train, handlers, settings, broker, clock, tell, rng or random.Random(), Threads(), tasks, revision
        )
        self._slo = slo
        self._shared = shared
        self._lanes: Lanes | None = None
        self._serving: dict[int, Serving] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._kit = self._make_kit(await stack.enter_async_context(asyncio.TaskGroup()))
            stack.callback(self._kit.threads.end)
            if self._shared is not None:
                self._lanes = Lanes(self._kit, self._slo, shared=True)
                self._lanes.resize(self._shared)
                stack.callback(self._lanes.resize, 0)
            stack.push_async_callback(self._end_all)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def resize(self, shared: int, floors: int) -> None:
        """Set the number of shared workers in this process, and how many of them the floors of draining wagons may take.
        One that is at an event finishes it first."""
        if self._lanes is not None:
            self._lanes.floors = floors
            if shared != self._lanes.target:
                self._lanes.resize(shared)

    async def serve(self, spec: WagonSpec) -> Serving:
        """Attach to all channels of the wagon; its events are worked off from then on, until the Serving is ended.

        Raises ChannelGone, Unavailable, and UsageError where a handler is missing for one of its channels.
        """
        lanes = self._lanes or Lanes(self._kit, None, shared=False)
        serving = Serving(self._kit, spec, lanes, shared=self._lanes is not None)
        await serving.attach()
        self._serving[spec.number] = serving
        serving.on_left = lambda: self._serving.pop(spec.number, None)
        return serving

    async def _end_all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for serving in list(self._serving.values()):
                tasks.create_task(serving.end(self._kit.settings.grace))


class Lanes:
    """Workers that serve the same wagons: one wagon's own, or the shared crew."""

    def __init__(self, kit: Kit, slo: float | None, *, shared: bool) -> None:
        self.target = 0
        self.service = 0.0
        self.floors = 0
        """How many of these workers the floors of draining wagons may take together."""
        self._kit = kit
        self._slo = slo
        self._shared = shared
        self._emittable = frozenset(name for name in kit.handlers if name)
        self._journey = Journey(["", *(name for name in kit.handlers if name)])
        self._servings: list[Serving] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._at: dict[asyncio.Task[None], tuple[Serving, float]] = {}
        """Who is at an event: of which wagon, and until when it may take."""
        self._cut: dict[asyncio.Task[None], str] = {}
        """Who was cut short, and why."""
        self._timer: asyncio.TimerHandle | None = None
        self._choice: Feed | None = None
        self._choice_until = -math.inf
        self._credit = 1.0
        """Events that the floors may take now. They get their workers' share of all events, whatever the moment shows: of
        handlers that never wait none is at work when the next is chosen."""

    def resize(self, target: int) -> None:
        """Bring the number of workers to `target`: up at once, down after the events in hand."""
        self.target = target
        while len(self._workers) < target:
            self._workers.add(self._kit.tasks.create_task(self._work()))
        self.wake(len(self._idle))
        for serving in self._servings:
            serving.rescaled()

    def rescale(self, workers: int | None) -> None:
        """A spec has changed: who is oldest may have, and a wagon's own workers; a shared crew is sized by its owner."""
        self._servings.sort(key=_age)
        if not self._shared and workers is not None and workers != self.target:
            self.resize(workers)

    def join(self, serving: Serving) -> None:
        """Work for this wagon too."""
        self._servings.append(serving)
        self._servings.sort(key=_age)

    def part(self, serving: Serving) -> None:
        """Work for it no longer; whoever is still at it is cut short."""
        self._servings = [s for s in self._servings if s is not serving]
        if self._choice is not None and self._choice.serving is serving:
            self._choice = None
        for task, (at, _) in self._at.items():
            if at is serving:
                self._cut_short(task, f"not finished within grace={self._kit.settings.grace:g} s of leaving")
        if not self._shared:
            self.resize(0)

    def wake(self, count: int) -> None:
        """`count` events came in: as many idle workers look for one."""
        while count > 0 and self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        me = asyncio.current_task()
        assert me is not None  # noqa: S101 - for the type checker: this runs as a task
        yielded = loop.time()
        try:
            while len(self._workers) <= self.target:
                now = loop.time()
                if now - yielded > _TURN:
                    await asyncio.sleep(0)
                    yielded = loop.time()
                    continue  # meanwhile it may have been told to end
                feed = self._next(now)
                if feed is None:
                    waiter = loop.create_future()
                    self._idle.append(waiter)
                    await waiter
                    yielded = loop.time()
                    continue
                await self._handle(me, feed, feed.take(), now)
        finally:
            self._workers.discard(me)

    def _next(self, now: float) -> Feed | None:
        """The channel to take the next event from."""
        if self.target:
            self._credit = min(max(1.0, self.floors), self._credit + self.floors / self.target)
        choice = self._choice
        if choice is not None and now < self._choice_until and choice.buffer:
            return choice
        self._choice_until = now + _STEADY
        self._choice = choice = self._choose()
        return choice

    def _choose(self) -> Feed | None:
        if len(self._servings) == 1:
            head = self._servings[0].oldest()
            return head and head[0]
        wall = self._kit.clock()
        rests = self._journey.rests()
        posts: list[Post] = []
        feeds: dict[int, Feed] = {}
        for s in self._servings:
            head = s.oldest()
            if head is not None or s.busy:
                number, cut, began, rest = s.spec.number, s.spec.cut_off_at, None, 0.0
                if head is not None:
                    feeds[number], began = head
                    rest = rests[head[0].channel.name]
                posts.append(Post(number, cut is not None, began, wall if cut is None else cut, s.busy, rest))
        if len(feeds) <= 1:
            return next(iter(feeds.values()), None)
        chosen = choose(posts, floors=0, floor=0, slo=self._slo, service=rests[""], now=wall)
        if self.floors and self._credit >= 1.0:
            floor = self._kit.settings.workers.floor
            kept = choose(posts, floors=self.floors, floor=floor, slo=self._slo, service=rests[""], now=wall)
            if kept != chosen:
                self._credit -= 1.0
                self._choice_until = -math.inf  # for one event, not for all workers that are free in this moment
                chosen = kept
        return None if chosen is None else feeds[chosen]

    async def _handle(self, me: asyncio.Task[None], feed: Feed, delivery: Delivery, now: float) -> None:
        serving, settings = feed.serving, self._kit.settings
        if delivery.attempt > settings.attempts:
            serving.failed += 1
            feed.die(delivery, f"{settings.attempts} attempts ended with their worker")
            return
        context = Context(
            delivery.event,
            delivery.attempt,
            self._kit.train,
            serving.spec.number,
            feed.handler.channel,
            self._emittable,
            settings.max_event_bytes,
            self._kit.clock,
        )
        serving.busy += 1
        wall = 0.0 if self._slo is None else self._kit.clock()
        until = now + settings.handler_timeout
        self._at[me] = serving, until
        if self._timer is None:
            self._arm(until)
        try:
            outcome = await handle(feed.handler, delivery, context, self._kit.threads)
        except asyncio.CancelledError:
            because = self._cut.get(me)
            if because is None:
                raise
            me.uncancel()
            outcome = Failed(because)
        finally:
            serving.busy -= 1
            del self._at[me]
            self._cut.pop(me, None)
        took = asyncio.get_running_loop().time() - now
        self.service += (took - self.service) * 0.05 if self.service else took
        if self._slo is not None and wall - born(delivery.event) <= self._slo:
            self._journey.learn(feed.channel.name, max(0.0, wall - delivery.event.time), took)
        if isinstance(outcome, Handled):
            serving.handled += 1
        else:
            serving.failed += 1
        match outcome:
            case Handled(emitted=emitted):
                feed.done(delivery, emitted)
            case Dead(because=because):
                feed.die(delivery, because)
            case Failed(because=because) if delivery.attempt >= settings.attempts:
                feed.die(delivery, because)
            case Failed(because=because):
                feed.retry(delivery, because)

    def _arm(self, until: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(until, self._on_time)

    def _on_time(self) -> None:
        """One timer for all workers: handlers have the same timeout, so the first to start is the first to be late."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        timeout = self._kit.settings.handler_timeout
        for task, (_, until) in self._at.items():
            if until <= now:
                self._cut_short(task, f"not finished after handler_timeout={timeout:g} s")
        later = [until for task, (_, until) in self._at.items() if task not in self._cut]
        if later:
            self._arm(min(later))

    def _cut_short(self, task: asyncio.Task[None], because: str) -> None:
        if task not in self._cut:
            self._cut[task] = because
            task.cancel()


def _age(serving: Serving) -> tuple[bool, float, int]:
    """The oldest first. Wagons are not always cut off in the order of their numbers."""
    cut_off_at = serving.spec.cut_off_at
    return cut_off_at is None, cut_off_at or 0.0, serving.spec.number
