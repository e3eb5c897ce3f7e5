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
from .feed import Feed, Kit, Served
from .orchestrator import WagonSpec
from .serving import Serving
from .settings import Settings
from .worker import Context, Dead, Failed, Handled, Handler, Threads, handle
from .workers import Journey, Post, choose

_STEADY = 0.001
"""Seconds for which a choice of wagon and channel holds: what choosing costs is spread over fast events."""
_ASIDE_MOST = 1000
"""Late events that are passed over and kept in hand."""
_TURN = 0.002
"""Seconds after which a worker whose handlers never wait lets others run."""


class Crew:
    """The workers of one process for one train. Enter it before use; leaving ends every worker, gracefully.

    `shared` is the number of workers that all wagons share, or None where each wagon has its own. `slo`: the promise to
    newcomers in seconds that a shared crew works by. `revision`: which code this process is, where it says so;
    `owner`: its name, under which it claims.
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
        owner: str = "",
        clock: Callable[[], float],
        tell: Listener,
        rng: random.Random | None = None,
    ) -> None:
        self._make_kit: Callable[[asyncio.TaskGroup], Kit] = lambda tasks: Kit(
            train, handlers, settings, broker, clock, tell, rng or random.Random(), Threads(), tasks, revision, owner
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
        self._at: dict[asyncio.Task[None], tuple[Served, float]] = {}
        """Who is at an event: of which wagon, and until when it may take."""
        self._cut: dict[asyncio.Task[None], str] = {}
        """Who was cut short, and why."""
        self._timer: asyncio.TimerHandle | None = None
        self._choice: Feed | None = None
        self._choice_until = -math.inf
        self._late = False
        """The choice is of what is late, or goes to the floors: what was passed over comes first."""
        self._credit = 1.0
        """Events that the floors may take now. They get their workers' share of all events, whatever the moment shows: of
        handlers that never wait none is at work when the next is chosen."""

    @property
    def in_need(self) -> int:
        """A wagon's own workers fetch when one is free: another process may have a free one sooner. A shared crew chooses
        between wagons by what is at hand of each."""
        return self.target if self._shared else len(self._idle)

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

    def _nudge(self) -> None:
        for serving in self._servings:
            serving.nudge()

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
                    if not self._shared:
                        self._nudge()
                    await waiter
                    yielded = loop.time()
                    continue
                await self._handle(me, feed, feed.take(late=self._late), now)
        finally:
            self._workers.discard(me)

    def _next(self, now: float) -> Feed | None:
        """The channel to take the next event from."""
        if self.target:
            self._credit = min(max(1.0, self.floors), self._credit + self.floors / self.target)
        choice = self._choice
        if choice is not None and now < self._choice_until and (choice.buffer or (self._late and choice.aside)):
            return choice
        self._choice_until = now + _STEADY
        self._choice = choice = self._choose()
        return choice

    def _choose(self) -> Feed | None:
        """Where a free worker works next; None when nothing waits, or while a look past late events is under way."""
        self._late = False
        if len(self._servings) == 1 and self._slo is None:
            head = self._servings[0].oldest()
            return head and head[0]
        wall, slo, rests = self._kit.clock(), self._slo, self._journey.rests()
        posts, feeds = self._posts(wall, rests)
        if slo is not None:
            if self._pass_over(posts, feeds, slo, wall, rests[""]):
                posts, feeds = self._posts(wall, rests)
            # what is still behind late events is out of reach
            posts = {n: p._replace(last_at=p.next_at or 0.0) if _late(p, wall - slo) else p for n, p in posts.items()}
        number = choose(list(posts.values()), floors=0, floor=0, slo=slo, service=rests[""], now=wall)
        if number is None:
            return None
        kept = self._kept(posts, wall, rests[""])
        if kept is not None and kept != number:
            self._credit -= 1.0
            self._choice_until = -math.inf  # for one event, not for all workers that are free in this moment
            self._late = True
            return feeds[kept]
        if slo is not None and _late(posts[number], wall - slo):
            if any(feed.looking for feed in feeds.values()):
                return None
            self._late = True
        return feeds[number]

    def _pass_over(
        self, posts: Mapping[int, Post], feeds: Mapping[int, Feed], slo: float, wall: float, service: float
    ) -> bool:
        """Older wagons whose next event is late may hold some that are not: they come before those of newer wagons. Whether
        anything was put aside for that."""
        passed = False
        for number, feed in feeds.items():
            post = posts[number]
            if not _late(post, wall - slo):
                break
            if feed.buffer and post.last_at >= wall - slo + service:
                aside = sum(len(f.aside) for s in self._servings for f in s.feeds)
                feed.pass_over(slo - post.rest, self._aside_most() - aside)
                passed = True
        return passed

    def _aside_most(self) -> int:
        """How many late events to have in hand: others may be free to work on them before these workers are."""
        return int(min(_ASIDE_MOST, self._kit.settings.visibility * self.target / max(self.service, 1e-6)))

    def _posts(self, wall: float, rests: Mapping[str, float]) -> tuple[dict[int, Post], dict[int, Feed]]:
        """The wagons that are at work or have some, as `choose` sees them, and the channel of each one's next event."""
        posts: dict[int, Post] = {}
        feeds: dict[int, Feed] = {}
        for s in self._servings:
            head = s.oldest()
            if head is not None or s.busy:
                number, cut, began, rest = s.spec.number, s.spec.cut_off_at, None, 0.0
                last = wall if cut is None else cut
                if head is not None:
                    feeds[number], began = head
                    rest = rests[head[0].channel.name]
                    last = began if head[0].spent else last
                posts[number] = Post(number, cut is not None, began, last, s.busy, rest)
        return posts, feeds

    def _kept(self, posts: Mapping[int, Post], wall: float, service: float) -> int | None:
        """Where the floors of draining wagons would have a worker now; None when they have had their share of the events."""
        if not self.floors or self._credit < 1.0:
            return None
        floor = self._kit.settings.workers.floor
        return choose(list(posts.values()), floors=self.floors, floor=floor, slo=self._slo, service=service, now=wall)

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


def _late(post: Post, before: float) -> bool:
    """The wagon's next event can't be on time any more; `before`: the promise ago."""
    return post.next_at is not None and post.next_at < before + post.rest
