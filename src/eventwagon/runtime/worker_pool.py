"""The crew: the workers of one process. Each takes one event at a time, from the wagon that the rules say."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from contextvars import copy_context
from typing import Literal, Self

from ..breaker import DEATHS, Circuit
from ..cloudevents import is_batch
from ..contracts.broker import Broker, Delivery
from ..contracts.facts import HandlerOverran, Listener
from ..contracts.orchestrator import WagonSpec
from ..display.text import plain
from ..errors import EventwagonError
from ..event import born
from ..policy.scheduling import Candidate, ChainTimes, choose
from ..settings import Settings
from .admission import Gate
from .bulkhead import Bulkhead, Seldom, is_ours, kind_of, log_safely, passes, shown
from .circuits import Circuits
from .forks import forks, leave
from .handling import (
    HANDLED,
    Context,
    Dead,
    Failed,
    Handled,
    Handler,
    Outcome,
    Run,
    Snoozed,
    Threads,
    begin,
    handlers_own,
)
from .kit import PAUSES, Held, Kit, Resting
from .prefetch import Feed
from .wagon_consumer import Serving

_logger = logging.getLogger("eventwagon.worker")

_STEADY = 0.001
"""Seconds for which a choice of wagon and channel holds: what choosing costs is spread over fast events."""
_ASIDE_MOST = 1000
"""Late events that are passed over and kept in hand."""
_TURN = 0.002
"""Seconds after which a worker whose handlers never wait lets others run."""
_OUTCOMES = (Handled, Dead, Failed, Snoozed)
_TO_MARK = 5.0
"""The longest that all wait for a suspect's claim to be marked, in seconds."""
_BEFORE_ANOTHER_THREAD = 1.0
"""Seconds after which an event comes again for which the system had no thread left."""
_BEFORE_ALONE = 1.0
"""Seconds after which a suspect comes again whose claim could not be marked."""


class Crew:
    """The workers of one process for one train. Enter it before use; leaving ends every worker, gracefully.

    `shared` is the number of workers that all wagons share, or None where each wagon has its own. `slo`: the promise to
    newcomers in seconds that a shared crew works by. `revision`: which code this process is, where it says so;
    `owner`: its name, under which it claims. `circuits`: what is known of the channels already, where several crews
    follow one another.
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
        circuits: Circuits | None = None,
        bulkhead: Bulkhead | None = None,
    ) -> None:
        rng = rng or random.Random()
        circuits = circuits or Circuits(train, settings, tell, rng)
        circuits.on_change = self._circuit_changed
        self._resting = Resting()
        self._make_kit: Callable[[asyncio.TaskGroup], Kit] = lambda tasks: Kit(
            train,
            handlers,
            settings,
            broker,
            clock,
            tell,
            rng,
            Threads(),
            tasks,
            Gate(),
            Held(),
            bulkhead or Bulkhead(train),
            circuits,
            self._resting,
            revision,
            owner,
        )
        self.others = True
        """Other processes work for the train too: no event is kept waiting here that one of them could take."""
        self._slo = slo
        self._shared = shared
        self._lanes: Lanes | None = None
        self._serving: dict[int, Serving] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            self._kit = self._make_kit(await stack.enter_async_context(asyncio.TaskGroup()))
            stack.callback(self._kit.threads.end)
            stack.callback(self._kit.circuits.end)
            if self._shared is not None:
                self._lanes = Lanes(self._kit, self._slo, shared=True)
                self._lanes.resize(self._shared)
                stack.callback(self._lanes.close)
            stack.push_async_callback(self._end_all)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    def resize(self, shared: int, floors: int) -> None:
        """Set the number of shared workers in this process, and how many of them the floors of draining wagons may
        take. One that is at an event finishes it first."""
        if self._lanes is not None:
            self._lanes.floors = floors
            if shared != self._lanes.target:
                self._lanes.resize(shared)

    def pause(self, numbers: frozenset[int]) -> None:
        """From now on nothing of these wagons is handed out, and of all others it is: what was fetched is given back,
        handlers in flight finish. Idempotent."""
        if numbers != self._resting.numbers:
            self._resting.numbers = numbers
            for serving in self._serving.values():
                serving.heed_pause()

    async def serve(self, spec: WagonSpec) -> Serving:
        """Attach to the channels of the wagon that there are handlers for; their events are worked off from then on,
        until the Serving is ended.

        Raises ChannelGone, Unavailable, and UsageError where the wagon is for other code.
        """
        lanes = self._lanes or Lanes(self._kit, None, shared=False)
        serving = Serving(self._kit, spec, lanes, shared=self._lanes is not None, others=lambda: self.others)
        await serving.attach()
        self._serving[spec.number] = serving
        serving.heed_pause()  # it may have come meanwhile
        serving.on_left = lambda: self._serving.pop(spec.number, None)
        return serving

    @property
    def held(self) -> int:
        """Workers that take nothing, since a handler goes on in its thread after its attempt was ended."""
        return self._kit.held.count

    def _circuit_changed(self, circuit: Circuit) -> None:
        for serving in self._serving.values():
            serving.circuit_changed(circuit)

    async def _end_all(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            for serving in list(self._serving.values()):
                tasks.create_task(serving.end(self._kit.settings.grace))


class _Hand(Run):
    """One worker, and what it has in hand."""

    __slots__ = ("attempt", "busy", "circuit", "delivery", "feed", "until")

    def __init__(self) -> None:
        super().__init__()
        self.feed: Feed | None = None
        """The channel of the event in hand; None while there is none."""
        self.delivery: Delivery | None = None
        self.circuit: Circuit | None = None
        """That of the channel when the handling began: what came of it is for that one."""
        self.attempt = 1
        """How often it was tried with this, as far as is known here."""
        self.until = math.inf
        """When its handler is cut short; once it was, when it is given up."""
        self.busy = False
        """Its handler is under way."""

    @property
    def is_stray(self) -> bool:
        """Somebody else has cancelled this worker, not we, nor its handler."""
        return self.strayed and not self.because

    def drop(self) -> None:
        """Something failed that should not: what is in hand is left to run out."""
        if self.feed is not None and self.delivery is not None:
            self.feed.serving.busy -= self.busy
            self.feed.untried(self.delivery)
            self.feed.forget([self.delivery])
        self.feed = self.delivery = None
        self.busy = False


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
        self._times = ChainTimes(["", *(name for name in kit.handlers if name)])
        self._servings: list[Serving] = []
        self._workers: set[asyncio.Task[None]] = set()
        self._idle: deque[asyncio.Future[None]] = deque()
        self._hands: dict[asyncio.Task[None], _Hand] = {}
        """What each worker has in hand."""
        self._context = copy_context()
        """In which each event is handled anew."""
        self._held: set[asyncio.Task[None]] = set()
        """Whose event is over, and whose handler still runs in its thread."""
        self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._choice: Feed | None = None
        self._choice_until = -math.inf
        self._late = False
        """The choice is of what is late, or goes to the floors: what was passed over comes first."""
        self._credit = 1.0
        """Events that the floors may take now. They get their workers' share of all events, whatever the moment shows:
        of handlers that never wait none is at work when the next is chosen."""
        settings = kit.settings
        self._blocks_from = min(settings.handler_timeout, settings.member_ttl, settings.visibility / 2)
        """Seconds for which a handler may hold the event loop unnoticed: then check-ins and claims begin to lapse."""
        self._failures = Seldom()
        self._time = asyncio.get_running_loop().time

    @property
    def in_need(self) -> int:
        """A wagon's own workers fetch when one is free: another process may have a free one sooner. A shared crew
        chooses between wagons by what is at hand of each."""
        return self.target if self._shared else len(self._idle)

    @property
    def free(self) -> int:
        """Workers that wait for an event."""
        return len(self._idle)

    @property
    def size(self) -> int:
        """Workers that there are: `target`, but for those that finish an event first."""
        return len(self._workers)

    def resize(self, target: int) -> None:
        """Bring the number of workers to `target`: up at once, down after the events in hand."""
        self.target = target
        self._fill()
        self.wake(len(self._idle))
        for serving in self._servings:
            serving.rescaled()

    def _fill(self) -> None:
        while len(self._workers) < self.target and not self._closed and not self._kit.bulkhead.interrupted:
            self._workers.add(self._kit.tasks.create_task(self._work(), context=self._context.copy()))

    def _interrupt(self) -> None:
        """Somebody interrupts the program: its workers' tasks are ended with this one, and can settle nothing more."""
        self._kit.bulkhead.interrupted = True
        for serving in self._servings:
            serving.interrupted()

    def close(self) -> None:
        """Work no more. Handlers that still run in their threads are not waited for."""
        self._closed = True
        self.resize(0)
        for task in self._held:
            task.cancel()

    def rescale(self, workers: int | None) -> None:
        """A spec has changed: who is oldest may have, and a wagon's own workers; a shared crew is sized by its
        owner."""
        self._servings.sort(key=_age)
        if not self._shared and workers is not None and workers != self.target:
            self.resize(workers)

    def join(self, serving: Serving) -> None:
        """Work for this wagon too."""
        self._servings.append(serving)
        self._servings.sort(key=_age)

    def part(self, serving: Serving) -> None:
        """Work for it no longer; what is still under way there is cut short."""
        self._servings = [s for s in self._servings if s is not serving]
        if self._choice is not None and self._choice.serving is serving:
            self._choice = None
        for task, hand in self._hands.items():
            if hand.feed is not None and hand.feed.serving is serving:
                self._cut_short(task, hand, f"not finished within grace={self._kit.settings.grace:g} s of leaving")
        if not self._shared:
            self.close()

    def forgo(self, serving: Serving) -> None:
        """Nothing of this wagon is handed out for now, though it had been chosen."""
        if self._choice is not None and self._choice.serving is serving:
            self._choice = None

    def give_up(self, serving: Serving) -> None:
        """Handlers that were cut short there and go on all the same are run no further."""
        for task, hand in self._hands.items():
            if hand.feed is not None and hand.feed.serving is serving and hand.because:
                self._give_up(task, hand)

    def wake(self, count: int) -> None:
        """`count` events came in: as many idle workers look for one."""
        while count > 0 and self._idle:
            waiter = self._idle.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def _nudge(self) -> None:
        """A worker is free: feeds that have nothing at hand look whether they are to fetch."""
        for serving in self._servings:
            serving.wake_up(own=not self._shared)

    async def _work(self) -> None:
        me = asyncio.current_task()
        assert me is not None  # noqa: S101 - for the type checker: this runs as a task
        hand = self._hands[me] = _Hand()
        self._kit.gate.hands.add(hand)
        try:
            stained = False
            while not stained and len(self._workers) <= self.target:
                try:
                    stained = await self._turns(me, hand)
                except BaseException as e:
                    if passes(e):
                        self._interrupt()
                    if is_ours(e):
                        raise
                    self._kit.bulkhead.report("a worker", e)  # the pool keeps its size
                    hand.drop()
                    self._kit.gate.left()
                    await asyncio.sleep(PAUSES[0])
        finally:
            hand.drop()
            self._kit.gate.hands.discard(hand)
            self._kit.gate.left()
            del self._hands[me]
            self._workers.discard(me)
            if not self._closed and len(self._workers) < self.target:
                asyncio.get_running_loop().call_soon(self._fill)

    async def _turns(self, me: asyncio.Task[None], hand: _Hand) -> bool:
        """Take one event after the other, for as long as there are no more workers than there should be. True when a
        handler has changed context variables: another worker takes this one's place, so that no event sees
        another's."""
        loop, gate, threads = asyncio.get_running_loop(), self._kit.gate, self._kit.threads
        clean = list(self._context.items())
        count = len(clean)
        yielded = loop.time()
        while len(self._workers) <= self.target:
            now = loop.time()
            if now - yielded > _TURN:
                await asyncio.sleep(0)
                yielded = loop.time()
                continue  # meanwhile it may have been told to end
            if gate.closed:
                await gate.opened()
                continue
            feed = self._next(now)
            if feed is None:
                waiter = loop.create_future()
                self._idle.append(waiter)
                self._nudge()
                await waiter
                yielded = loop.time()
                continue
            delivery = feed.take(late=self._late)
            if delivery is None:  # it was given back while all were busy
                await feed.call_up()
                continue
            hand.feed, hand.delivery = feed, delivery
            if delivery.suspect:
                await self._handle_alone(me, hand, feed, delivery)
            elif (context := self._begins(hand, feed, delivery, now)) is not False:
                outcome = begin(feed.handler, delivery.event, context, hand, threads)
                if outcome is HANDLED or isinstance(outcome, _OUTCOMES):
                    self._ends(hand, feed, delivery, now, outcome, at_once=True)
                else:
                    self._ends(hand, feed, delivery, now, await outcome, at_once=False)
                if hand.because or me.cancelling():
                    await self._after_cut(me, hand, feed)
            if len(known := copy_context()) != count or (count and any(known.get(v) is not old for v, old in clean)):
                return True
        return False

    def _next(self, now: float) -> Feed | None:
        """The channel to take the next event from."""
        if self.target:
            self._credit = min(max(1.0, self.floors), self._credit + self.floors / self.target)
        choice = self._choice
        if (
            choice is not None
            and now < self._choice_until
            and (choice.fresh or (self._late and choice.aside))
            and not choice.circuit.held
        ):
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
        wall, slo, remaining = self._kit.clock(), self._slo, self._times.remaining()
        candidates, feeds = self._candidates(wall, remaining)
        if slo is not None:
            if self._pass_over(candidates, feeds, slo, wall, remaining[""]):
                candidates, feeds = self._candidates(wall, remaining)
            # what is still behind late events is out of reach
            candidates = {
                n: p._replace(last_at=p.next_at or 0.0) if _late(p, wall - slo) else p for n, p in candidates.items()
            }
        number = choose(list(candidates.values()), floors=0, floor=0, slo=slo, service=remaining[""], now=wall)
        if number is None:
            return None
        kept = self._kept(candidates, wall, remaining[""])
        if kept is not None and kept != number:
            self._credit -= 1.0
            self._choice_until = -math.inf  # for one event, not for all workers that are free in this moment
            self._late = True
            return feeds[kept]
        if slo is not None and _late(candidates[number], wall - slo):
            if any(feed.looking for feed in feeds.values()):
                return None
            self._late = True
        return feeds[number]

    def _pass_over(
        self, candidates: Mapping[int, Candidate], feeds: Mapping[int, Feed], slo: float, wall: float, service: float
    ) -> bool:
        """Older wagons whose next event is late may hold some that are not: they come before those of newer wagons.
        Whether anything was put aside for that."""
        passed = False
        for number, feed in feeds.items():
            post = candidates[number]
            if not _late(post, wall - slo):
                break
            if feed.buffer and post.last_at >= wall - slo + service:
                aside = sum(len(f.aside) for s in self._servings for f in s.feeds)
                feed.pass_over(slo - post.remaining, self._aside_most() - aside)
                passed = True
        return passed

    def _aside_most(self) -> int:
        """How many late events to have in hand: others may be free to work on them before these workers are."""
        return int(min(_ASIDE_MOST, self._kit.settings.visibility * self.target / max(self.service, 1e-6)))

    def _candidates(self, wall: float, remaining: Mapping[str, float]) -> tuple[dict[int, Candidate], dict[int, Feed]]:
        """The wagons that are at work or have some, as `choose` sees them, and the channel of each one's next event."""
        candidates: dict[int, Candidate] = {}
        feeds: dict[int, Feed] = {}
        for s in self._servings:
            head = s.oldest()
            if head is not None or s.busy:
                number, cut, began, rest = s.spec.number, s.spec.cut_off_at, None, 0.0
                last = wall if cut is None else cut
                if head is not None:
                    feeds[number], began = head
                    rest = remaining[head[0].channel.name]
                    last = began if head[0].spent else last
                candidates[number] = Candidate(number, cut is not None, began, last, s.busy, rest)
        return candidates, feeds

    def _kept(self, candidates: Mapping[int, Candidate], wall: float, service: float) -> int | None:
        """Where the floors of draining wagons would have a worker now; None when they have had their share of the
        events."""
        if not self.floors or self._credit < 1.0:
            return None
        floor = self._kit.settings.workers.floor
        return choose(
            list(candidates.values()), floors=self.floors, floor=floor, slo=self._slo, service=service, now=wall
        )

    async def _handle_alone(self, me: asyncio.Task[None], hand: _Hand, feed: Feed, delivery: Delivery) -> None:
        """An event whose last process may have died of it: nothing else is handled here meanwhile, so that it takes no
        other along, and its next death is its own. Where others would have to be waited for it comes again later."""
        hand.until = math.inf
        try:
            async with self._kit.gate.alone() as alone:
                if feed.serving.paused:
                    feed.give_back(delivery)
                elif not alone or feed.serving.leaving:
                    feed.give_back(delivery, _BEFORE_ALONE * (1.0 + 4.0 * self._kit.rng.random()))
                elif await self._marked(hand, feed, delivery):
                    await self._handle_at_once(hand, feed, delivery)
                    await feed.over(delivery)
        except asyncio.CancelledError:
            if not hand.because:
                raise
            feed.give_back(delivery)  # cut short while it waited
        hand.feed = hand.delivery = None
        if hand.because or me.cancelling():
            await self._after_cut(me, hand, feed)

    async def _marked(self, hand: _Hand, feed: Feed, delivery: Delivery) -> bool:
        """Have the suspect's claim say that it is alone. False: it is not to be handled now."""
        if self._kit.held.count:
            return True  # beside a handler that goes on in its thread it is not alone: whose death it would be is not known
        try:
            async with asyncio.timeout(min(_TO_MARK, self._kit.settings.publish_timeout)):
                stands = await feed.subscription.alone(delivery)
        except BaseException as e:
            if is_ours(e):
                raise
            if isinstance(e, EventwagonError | TimeoutError):
                feed.serving.stumble(f"marking a claim in {feed.channel}", str(e) or "no answer in time")
            else:
                self._kit.bulkhead.report(f"marking a claim in {feed.channel}", e)
            feed.give_back(delivery, _BEFORE_ALONE)
            self._kit.gate.refuse()
            return False
        if not stands:
            feed.untried(delivery)
            feed.forget([delivery])
        elif feed.serving.paused:
            feed.give_back(delivery)
            return False
        return stands

    async def _handle_at_once(self, hand: _Hand, feed: Feed, delivery: Delivery) -> None:
        now = asyncio.get_running_loop().time()
        if (context := self._begins(hand, feed, delivery, now)) is not False:
            outcome = begin(feed.handler, delivery.event, context, hand, self._kit.threads)
            at_once = isinstance(outcome, _OUTCOMES)
            if not isinstance(outcome, _OUTCOMES):
                outcome = await outcome
            self._ends(hand, feed, delivery, now, outcome, at_once=at_once)

    def _begins(self, hand: _Hand, feed: Feed, delivery: Delivery, now: float) -> Context | Literal[False] | None:
        """A worker takes an event in hand: the context that its handler wants, or False where there is nothing to
        handle."""
        serving, settings, circuit = feed.serving, self._kit.settings, feed.circuit
        attempt = delivery.attempt
        if delivery.suspect and attempt > (settings.attempts or DEATHS):
            serving.failed += 1
            self._kit.circuits.passed(circuit, delivery.event.id, gone=True)
            feed.die(delivery, "its process ended while nothing else was handled there", attempt - 1)
            hand.feed = hand.delivery = None
            return False
        if circuit.failing:
            attempt += circuit.uncounted(delivery.event.id)
        hand.attempt, hand.circuit = attempt, circuit
        serving.busy += 1
        hand.busy, hand.until = True, now + settings.handler_timeout
        if self._timer is None:
            self._arm(hand.until)
        if not (feed.handler.wants_context or is_batch(delivery.event)):
            return None
        return Context(
            delivery.event,
            attempt,
            self._kit.train,
            serving.spec.number,
            feed.handler.channel,
            self._kit.handlers,
            settings.max_event_bytes,
            self._kit.clock,
        )

    def _ends(
        self, hand: _Hand, feed: Feed, delivery: Delivery, now: float, outcome: Outcome, *, at_once: bool
    ) -> None:
        """The handling is over: what came of it goes where it belongs."""
        if hand.forks != forks():  # in the copy of the process that it made
            leave(outcome.error if isinstance(outcome, Failed) else None)
        serving = feed.serving
        serving.busy -= 1
        hand.busy = False
        if self._kit.gate.closed:
            self._kit.gate.left()
        ended = self._time()
        took = ended - now
        self.service += (took - self.service) * 0.05 if self.service else took
        if at_once and took > self._blocks_from:
            self._warn_of_blocking(feed.handler, took)
        if self._slo is not None:
            wall = self._kit.clock() - took
            if wall - born(delivery.event) <= self._slo:
                self._times.learn(feed.channel.name, max(0.0, wall - delivery.event.time), took)
        if hand.because:
            outcome = Failed(hand.because)
        circuit = hand.circuit or feed.circuit
        if outcome is HANDLED or isinstance(outcome, Handled):
            serving.handled += 1
            if circuit.opened_at is None:
                if circuit.failing:
                    circuit.succeeded(delivery.event.id, now, ended)
                else:  # the same, without a call for each event
                    if now > circuit.worked:
                        circuit.worked = now
                    circuit.recent.append(ended)
            else:
                self._kit.circuits.succeeded(circuit, delivery.event.id, now, ended)
            feed.done(delivery, outcome.emitted)
            if outcome.emitted:
                feed.tell_deaths(outcome.emitted)
        else:
            self._ends_badly(hand, feed, delivery, outcome, circuit)
        hand.feed = hand.delivery = None

    def _ends_badly(
        self, hand: _Hand, feed: Feed, delivery: Delivery, outcome: Dead | Failed | Snoozed, circuit: Circuit
    ) -> None:
        serving, circuits, event_id = feed.serving, self._kit.circuits, delivery.event.id
        is_cut = isinstance(outcome, Failed) and issubclass(type(outcome.error), asyncio.CancelledError)
        if ((hand.because and serving.leaving) or (hand.is_stray and is_cut)) and self._kit.settings.attempts != 1:
            circuits.passed(circuit, event_id, gone=False)
            feed.give_back(delivery)  # cut short by our leaving, or by who cancelled its worker: no failure of its
            return
        if hand.not_started is not None:
            self._kit.bulkhead.report("starting a handler", hand.not_started)
            hand.not_started = None
            circuits.passed(circuit, event_id, gone=False)
            feed.give_back(delivery, _BEFORE_ANOTHER_THREAD)
            return
        match outcome:
            case Snoozed(after=after, because=because):
                circuits.passed(circuit, event_id, gone=False)
                feed.snooze(delivery, after, because)
            case Dead(because=because):
                serving.failed += 1
                circuits.passed(circuit, event_id, gone=True)
                feed.die(delivery, because, hand.attempt)
            case Failed(because=because, error=error, after=after):
                serving.failed += 1
                again = circuits.failed(circuit, event_id, delivery.attempt, because=because, after=after)
                if again is None:
                    feed.die(delivery, because, hand.attempt)
                else:
                    feed.retry(delivery, because, hand.attempt, again)
                self._log_failure(feed.handler, event_id, hand.attempt, because, error, dies=again is None)

    async def _after_cut(self, me: asyncio.Task[None], hand: _Hand, feed: Feed) -> None:
        """A handler was cut short, or has cancelled its own task: that ends with it. One whose thread goes on keeps
        this worker's place until it has ended, or there would be one worker more."""
        is_stray, because, thread = hand.is_stray, hand.because, hand.thread
        hand.because, hand.given_up, hand.strayed, hand.thread = "", False, False, None
        if thread is not None and (thread.over or self._closed):
            thread = None
        if is_stray and thread is None:
            raise asyncio.CancelledError  # somebody has cancelled this worker
        await _absorb(me)
        if thread is None:
            return
        self._tell_overran(feed, because, given_up=False)
        self._held.add(me)
        self._kit.held.count += 1
        try:
            await thread.ended()
        finally:
            self._held.discard(me)
            self._kit.held.count -= 1

    def _tell_overran(self, feed: Feed, because: str, *, given_up: bool) -> None:
        fact = HandlerOverran(
            train=self._kit.train,
            number=feed.serving.spec.number,
            channel=feed.handler.channel,
            handler=feed.handler.name,
            because=because,
            given_up=given_up,
        )
        self._kit.tell(fact)

    def _warn_of_blocking(self, handler: Handler, took: float) -> None:
        """It never waited, so it could not be cut short, and nothing else could run meanwhile."""
        if self._failures.due(("blocking", handler.name)) is not None:
            log_safely(
                _logger,
                logging.WARNING,
                "%s: handler %s held the event loop for %.1f s, and nothing else could run, so others may have taken this "
                "process for dead, and its events: let it wait with await, or make it a plain function, which runs in a "
                "thread",
                self._kit.train,
                handler.name,
                took,
            )

    def _log_failure(
        self, handler: Handler, event_id: str, attempt: int, because: str, error: BaseException | None, *, dies: bool
    ) -> None:
        """At WARNING the first failure of a kind in a minute, at ERROR each death; with a traceback once a minute a
        kind."""
        kind = (handler.name, dies, because if error is None else kind_of(error))
        held_back = self._failures.due(kind)
        if held_back is None and not dies:
            return
        more = f" ({held_back} more like it since the last was logged)" if held_back else ""
        log_safely(
            _logger,
            logging.ERROR if dies else logging.WARNING,
            "%s: handler %s failed on event %s at attempt %d%s: %s%s",
            self._kit.train,
            handler.name,
            plain(event_id, 100),
            attempt,
            ", its last" if dies else "",
            because,
            more,
            exc_info=shown(error, handlers_own(error)) if error is not None and held_back is not None else None,
        )

    def _arm(self, until: float) -> None:
        self._timer = asyncio.get_running_loop().call_at(until, self._on_time)

    def _on_time(self) -> None:
        """One timer for all workers: handlers have the same timeout, so the first to start is the first to be late."""
        self._timer = None
        now = asyncio.get_running_loop().time()
        timeout = self._kit.settings.handler_timeout
        for task, hand in self._hands.items():
            if hand.feed is not None and hand.until <= now:
                if hand.because:
                    self._give_up(task, hand)
                else:
                    self._cut_short(task, hand, f"not finished after handler_timeout={timeout:g} s")
        later = [hand.until for hand in self._hands.values() if hand.feed is not None and hand.until < math.inf]
        if later:
            self._arm(min(later))

    def _cut_short(self, task: asyncio.Task[None], hand: _Hand, because: str) -> None:
        if not hand.because:
            hand.because = because
            hand.until = asyncio.get_running_loop().time() + self._kit.settings.grace
            task.cancel()

    def _give_up(self, task: asyncio.Task[None], hand: _Hand) -> None:
        """It was cancelled, and goes on: it is run no further, and its worker goes on without it."""
        hand.until = math.inf
        if not hand.given_up and hand.feed is not None:
            hand.given_up = True
            self._tell_overran(hand.feed, hand.because, given_up=True)
            task.cancel()


async def _absorb(me: asyncio.Task[None]) -> None:
    """Cancellations that were meant for a handler end with it."""
    while me.cancelling():
        me.uncancel()
    with suppress(asyncio.CancelledError):  # one may still be on its way
        await asyncio.sleep(0)


def _age(serving: Serving) -> tuple[bool, float, int]:
    """The oldest first. Wagons are not always cut off in the order of their numbers."""
    cut_off_at = serving.spec.cut_off_at
    return cut_off_at is None, cut_off_at or 0.0, serving.spec.number


def _late(post: Candidate, before: float) -> bool:
    """The wagon's next event can't be on time any more; `before`: the promise ago."""
    return post.next_at is not None and post.next_at < before + post.remaining
