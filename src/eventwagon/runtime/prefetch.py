"""Prefetch: fetches events ahead of the workers, a channel each, and keeps those that were passed over.

The path of one event has ten steps, from its receipt to its settlement; a train with `once=` has two more:

1. `Prefetcher.fetch` receives a batch and puts it into the buffer (if the handler takes many events: once `Forming` has
   enough of them). With `once=` (`OncePrefetcher`) it is claimed before, in the record of handled events,
2. `PoolState.wake` wakes as many idle workers,
3. `Dispatcher.next` says from which channel the worker takes its event,
4. `Prefetcher.take` hands out the event, and `take_others` those of its batch,
5. `HandlerRunner.start` counts it as under way and sets its deadline,
6. `handling.begin` (or `batching.begin_batch`) decodes the payload and calls the handler,
7. `HandlerRunner.finish` counts the outcome and tells the channel's circuit,
8. `Settler.done` (or `skip`, `die`, `retry`, `snooze`) puts the event into a queue,
9. the queue's task stores what the event emitted, with all that waited for the same channels
   (with `once=` it then records that the event was handled),
10. and settles the event, or gives it back.

The channel's fetching task takes steps 1 and 2, a worker's task (`WorkerPool`) steps 3 to 8, the queue's task 9 and 10.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence

from ..backoff import Backoff
from ..contracts.broker import Delivery
from ..contracts.timetable import CHANNEL
from ..errors import ChannelGone, EventwagonError
from ..event import born
from .bulkhead import is_ours
from .forming import WITHIN, Forming, is_alone
from .once import OnceGuard
from .runtime import Runtime, report_failure
from .settling import Settler
from .worker_states import PAUSES, PoolState, WagonState

_FETCH_MOST = 1000
_RECEIVE = 0.5
_LOOK = 0.02
"""Seconds that a receive may take while workers wait for it."""
_CALL = 0.5
"""The longest, in seconds, that a worker waits for the event that it has chosen to be fetched."""
_KEPT_WAITING = 0.15
"""Seconds that an event waits in a process whose workers are all busy, before other processes may have it."""


class Prefetcher:
    """Fetches one channel's events ahead of the workers. It owns the events that were fetched and not yet taken.

    While all workers are busy, an event that another process could take is given back after a moment, and the
    prefetcher rests. It remembers when the chain of that event began. A free worker then chooses between wagons as if
    the event were still here, and has it fetched if it is chosen.

    `pool`: the workers that it fetches for. `has_peers`: whether other processes may have a free worker for the events.
    `on_gone` is called when the channel is gone.
    """

    def __init__(
        self,
        runtime: Runtime,
        settler: Settler,
        pool: PoolState,
        *,
        has_peers: Callable[[], bool],
        on_gone: Callable[[str], None],
    ) -> None:
        self.source = settler.source
        self.settler = settler
        self.buffer: deque[Delivery] = deque()
        self.aside: deque[Delivery] = deque()
        """Late events that were put aside. They are older than those in the buffer and are handled later."""
        options = self.source.handler.options
        within = WITHIN if options.within is None else options.within
        self.forming = None if options.batch is None else Forming(options.batch, within, self._ready)
        """The next batch, if the handler takes many events: they wait for one another before they are in the buffer."""
        self._suspects: Forming | None = None
        """The next batch of suspects, if the handler takes many. They may lose an attempt there: if they have but one,
        each is a batch of its own."""
        if options.batch is not None:
            together = 1 if self.source.retries.attempts == 1 else options.batch
            self._suspects = Forming(together, WITHIN, self._suspects_ready)
        self._without = 0
        """Receives in a row that brought no suspect."""
        self._others_first = False
        """A batch of suspects was formed, and no other events have come since."""
        self.looking = False
        """None of the fetched events can be on time: it is fetching those behind them."""
        self.resting = False
        """It fetches only what a worker has chosen."""
        self.remembered: float | None = None
        """While it rests: when the chain of the next event in the channel began."""
        self.receiving = False
        """A receive is under way."""
        self._runtime = runtime
        self._pool = pool
        self._has_peers = has_peers
        self._is_elsewhere = self.source.handler.elsewhere is not None
        """Its events wait for consumers, maybe for so long that other processes come meanwhile."""
        self._on_gone = on_gone
        self._newest: list[Delivery] = []
        """The newest event in the buffer and the newest aside, when `_kept_waiting` last looked."""
        self._called: list[asyncio.Future[None]] = []
        """Workers that wait for an event to be fetched."""
        self._timer: asyncio.TimerHandle | None = None
        self._dry = False
        """The last receive returned less than was asked for."""
        self._low = 0
        """The buffer is filled up when it holds no more than this."""
        self._allowance = 0.0
        self._most = 0

    # --- handing out -----------------------------------------------------------------------------

    @property
    def began(self) -> float | None:
        """When the chain of its next event began; None if nothing waits here, or nothing may be handed out."""
        source = self.source
        if source.circuit.held or source.wagon.paused or source.wagon.leaving:
            return None
        if source.budget is not None and self.is_waiting and source.budget.blocked:
            return None
        if self.buffer:
            return born(self.buffer[0].event)
        return self.remembered if self.remembered is not None or not self.aside else born(self.aside[0].event)

    @property
    def is_waiting(self) -> bool:
        """An event waits that may be handed out, as far as it knows, if the channel's budgets have room."""
        source = self.source
        if source.circuit.held or source.wagon.paused or source.wagon.leaving:
            return False
        return bool(self.buffer) or bool(self.aside) or self.remembered is not None

    def ready(self, idle: int) -> int:
        """How many of its events so many idle workers could begin: those at hand, and one that may have to be fetched
        first."""
        source = self.source
        if source.circuit.held or source.wagon.paused or source.wagon.leaving:
            return 0
        more = self.remembered is not None or not (self._dry or self.receiving)
        return max(0, min(idle, len(self.buffer) + len(self.aside) + more))

    @property
    def fresh(self) -> bool:
        """It has, or would fetch, an event that was not put aside."""
        return bool(self.buffer) or self.remembered is not None

    @property
    def spent(self) -> bool:
        """The channel has nothing more, and everything fetched was taken or put aside."""
        waits = self.buffer or self.looking or self.forming or self._suspects
        return not waits and self.receiving

    def take(self, *, late: bool = False) -> Delivery | None:
        """The next event, in the order of their receipt; with `late` those that were put aside come first. None if it
        must be fetched first: see `fetch_one`."""
        if self.source.circuit.opened_at is not None:
            return self._take_probe()
        if self.aside and (late or not self.fresh):
            return self.aside.popleft()
        if not self.buffer:
            return None
        delivery = self.buffer.popleft()
        if len(self.buffer) <= self._low:
            self.source.room.set()
        return delivery

    def take_others(self, first: Delivery, *, late: bool = False) -> Sequence[Delivery]:
        """What is handled in one batch with `first`, which `take` has returned."""
        others = list[Delivery]()
        forming = self._suspects if first.suspect else self.forming
        if forming is None or is_alone(first) or self.source.circuit.opened_at is not None:
            return others
        for waiting in (self.aside, self.buffer) if late else (self.buffer, self.aside):
            while waiting and len(others) < forming.most - 1 and _go_together(first, waiting[0]):
                others.append(waiting.popleft())
        others += forming.take(forming.most - 1 - len(others))
        if len(self.buffer) <= self._low:
            self.source.room.set()
        return others

    def _take_probe(self) -> Delivery | None:
        """The circuit is open: choose the event that shows whether the channel works again."""
        at_hand = self.buffer or self.aside
        if not at_hand:
            return None
        circuit = self.source.circuit
        index = circuit.choose([delivery.event.id for delivery in at_hand])
        delivery = at_hand[index]
        del at_hand[index]
        circuit.take(delivery.event.id)
        return delivery

    async def fetch_one(self) -> None:
        """Fetch one event for a worker that has chosen this channel. Returns when a receive has ended, or after a
        moment: a broker that does not answer must not keep the worker from other wagons."""
        self.remembered = None
        waiter = asyncio.get_running_loop().create_future()
        self._called.append(waiter)
        self.source.room.set()
        await asyncio.wait([waiter], timeout=_CALL)

    def pass_over(self, allowance: float, most: int) -> None:
        """Put aside at most `most` waiting events whose chain began more than `allowance` s ago, so that newer ones
        behind them can still be on time. If all fetched events are put aside, fetch those behind them."""
        self._allowance, self._most = allowance, most
        before = self._runtime.clock() - allowance
        while self.buffer and self._most > 0 and born(self.buffer[0].event) < before:
            self.aside.append(self.buffer.popleft())
            self._most -= 1
        self.looking = not self.buffer and not self.receiving and self._most > 0
        if len(self.buffer) <= self._low:
            self.source.room.set()

    # --- fetching --------------------------------------------------------------------------------

    def ahead(self) -> int:
        """How many events to have in the buffer: few if handlers are slow, so that none waits for a busy worker; none
        if this process has no worker for them or the wagon is paused."""
        pool, source = self._pool, self.source
        if not pool.target or source.wagon.paused:
            return 0
        if source.circuit.opened_at is not None:
            return source.circuit.room
        handlings = math.inf if source.budget is None else source.budget.ahead
        if self.forming is None:
            return int(min(handlings, max(pool.in_need, min(_FETCH_MOST, pool.soon))))
        most = self.forming.most
        return int(min(min(handlings, max(pool.in_need, pool.soon // most)) * most, self._fetch_most))

    @property
    def _fetch_most(self) -> int:
        return _FETCH_MOST if self.forming is None else max(_FETCH_MOST, self.forming.most)

    async def fetch(self) -> None:
        """Keep the buffer filled until the wagon is left or the channel gone."""
        source = self.source
        wagon, channel = source.wagon, source.channel
        backoff = Backoff(*PAUSES)
        try:
            while not wagon.leaving:
                count = self._wanted()
                if count <= 0:
                    self._end_looking()
                    self._answer_called()
                    if not self.buffer:
                        self._pool.starved = True
                    source.room.clear()
                    await source.room.wait()
                    continue
                called, self._called = self._called, []
                timeout = _LOOK if self.looking or called else _RECEIVE
                try:
                    self.receiving = True
                    deliveries = await source.subscription.receive(count, timeout)
                    self.receiving = False
                    ours = deliveries if source.once is None else await self._claimed(source.once, deliveries)
                    self._received(ours, count - len(deliveries) + len(ours))
                except ChannelGone:
                    self._on_gone(f"channel {channel} is gone")
                    return
                except BaseException as e:
                    if is_ours(e):
                        raise  # the wagon is drained
                    self._end_looking()
                    if not isinstance(e, EventwagonError):
                        self._runtime.bulkhead.report(f"receiving from {channel}", e)
                    elif not backoff.begun:
                        report_failure(self._runtime, f"receiving from {channel}", str(e))
                    _answer(called)
                    await asyncio.sleep(backoff.next())
                    continue
                finally:
                    self.receiving = False
                    _answer(called)
                backoff.reset()
                if self.looking and len(deliveries) == count and self._look_on():
                    continue
                self._end_looking()
                if deliveries:
                    self._runtime.pulse.beat()
                    if self.forming is None:
                        self._pool.wake(len(deliveries))
                    await asyncio.sleep(0)
        finally:
            self._end_looking()
            self._stop_waiting()

    def _wanted(self) -> int:
        """How many events to request from the broker now."""
        ahead = self.ahead()
        self._low = ahead // 2
        if len(self.settler.unsettled) > 4 * self._fetch_most or self.source.wagon.paused:
            return 0
        if self.forming is None:
            return len(self._called) if self.resting else ahead - len(self.buffer)
        most = len(self._called) * self.forming.most if self.resting else ahead - len(self.buffer)
        if self._gathers:
            most = min(most, 1 + len(self.forming))  # the sooner the next suspect comes
        return most - len(self.forming)

    @property
    def _gathers(self) -> bool:
        """Suspects wait for further ones."""
        return bool(self._suspects) and not self._others_first

    async def _claimed(self, once: OnceGuard, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Claim these events in the record of handled events. Those that were handled before are settled, and copies of
        events that are being handled are given back for a moment. Returns the others."""
        self.settler.received(deliveries)
        try:
            found = await once.admit(deliveries, within=self._runtime.settings.publish_timeout)
        except BaseException:
            for delivery in deliveries:
                self.settler.give_back(delivery, PAUSES[1])
            raise
        for delivery in found.copies:
            self.settler.give_back_copy(delivery)
        for delivery in found.handled:
            self.settler.skip(delivery)
        if found.handled:
            self._runtime.tell(once.fact(found.handled))
        return found.ours

    def _received(self, deliveries: Sequence[Delivery], asked: int) -> None:
        """A receive that asked for `asked` events has returned these."""
        self.settler.received(deliveries)
        self._dry = len(deliveries) < asked
        if not self.source.channel.name:
            deliveries = self._without_passed_on(deliveries)
        if self.forming is None:
            self.buffer.extend(deliveries)
        elif self.source.circuit.opened_at is None:
            self._form(self.forming, deliveries)
        elif deliveries:
            self._ready(deliveries)  # each probe is handled alone
        if self.resting:
            if deliveries:
                self.remembered = None if self._dry else born(deliveries[-1].event)
            else:
                self.resting = False
        circuit = self.source.circuit
        if deliveries and (self.source.wagon.leaving or self.source.wagon.paused or not self._pool.target):
            self.give_all_back()  # the receive was under way
        elif circuit.held and circuit.probe is None:
            self.give_all_back()  # the receive was under way when the circuit opened
        elif self.buffer and self._timer is None:
            self._look_soon()

    def _form(self, forming: Forming, deliveries: Sequence[Delivery]) -> None:
        """These were received, one suspect or none: they wait for one another. While suspects gather, others are asked
        for one at a time, since a consumer gets both in turn; once a batch of suspects is formed, others come first."""
        assert self._suspects is not None  # noqa: S101 - for the type checker: there are both or none
        if any(delivery.suspect for delivery in deliveries):
            self._without = 0
            self._suspects.add(deliveries)
            return
        forming.add(deliveries, at_least=WITHIN if self._gathers else 0.0)
        self._without += 1
        self._others_first = self._others_first and not deliveries
        if self._without > 1:
            self._suspects.end()  # no more are due

    def _suspects_ready(self, deliveries: Sequence[Delivery]) -> None:
        self._others_first = True
        self._ready(deliveries)

    def _ready(self, deliveries: Sequence[Delivery]) -> None:
        """These are a batch, or wait for no others."""
        self.buffer.extend(deliveries)
        self._pool.wake(1)
        if self._timer is None:
            self._look_soon()

    def _without_passed_on(self, deliveries: Sequence[Delivery]) -> Sequence[Delivery]:
        """Events of the timetable that are for inner channels go on to these; no handler sees them here. Returns the
        others."""
        passed_on = [delivery for delivery in deliveries if CHANNEL in delivery.event.extensions]
        if not passed_on or self.source.wagon.leaving or self.source.wagon.paused:
            return deliveries
        for delivery in passed_on:
            self.settler.pass_on(delivery)
        return [delivery for delivery in deliveries if CHANNEL not in delivery.event.extensions]

    def _look_on(self) -> bool:
        """Whether the events just received are late too, and more may follow."""
        self.pass_over(self._allowance, self._most)
        more, self.looking = self.looking, True
        return more

    def _end_looking(self) -> None:
        """Stop looking ahead; wake the workers that waited for it."""
        if self.looking:
            self.looking = False
            self._pool.wake_all()

    def _answer_called(self) -> None:
        """Nothing can be fetched now: let the waiting workers go."""
        _answer(self._called)
        self._called.clear()

    def _stop_waiting(self) -> None:
        """Nothing more is fetched: stop the timer, and let the waiting workers go."""
        self.remembered = None
        self._answer_called()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # --- while all workers are busy ------------------------------------------------------------

    def _look_soon(self) -> None:
        self._newest = [waiting[-1] for waiting in (self.buffer, self.aside) if waiting]
        self._timer = asyncio.get_running_loop().call_later(_KEPT_WAITING, self._kept_waiting)

    def _kept_waiting(self) -> None:
        """Give back the events that have waited since the last look while all workers were busy: another process may
        have a free one."""
        self._timer = None
        budget = self.source.budget
        is_busy = not self._pool.free or (budget is not None and budget.blocked)
        if not self.source.wagon.leaving and is_busy and self._has_peers():
            if self._dry:
                self._give_back_waiting(self.aside)
            if (began := self._give_back_waiting(self.buffer)) is not None:
                self.resting, self.remembered = True, began
        if self.buffer or self.aside:
            self._look_soon()

    def _give_back_waiting(self, waiting: deque[Delivery]) -> float | None:
        """Give back those that were here at the last look. Returns when the chain of the first of them began, None if
        none is left. Events are taken in order: if the newest of that look is gone, so are those before it."""
        if not any(delivery is newest for delivery in waiting for newest in self._newest):
            return None
        began = born(waiting[0].event)
        while True:
            delivery = waiting.popleft()
            self.settler.give_back(delivery)
            if any(delivery is newest for newest in self._newest):
                return began

    # --- its owner's -----------------------------------------------------------------------------

    def resume(self) -> None:
        """A worker is idle: fetch ahead again. Idempotent."""
        budget = self.source.budget
        if self.resting and (budget is None or not budget.blocked):
            self.resting, self.remembered = False, None
            self.source.room.set()

    def budget_room(self, count: int) -> None:
        """So many more events of the channel may begin: wake as many workers, if one waits."""
        if self.is_waiting:
            self._pool.wake(count)

    def budget_changed(self) -> None:
        """This process may use more of the channel's budgets, or less."""
        if self._is_elsewhere:
            self.resume()
        self.source.room.set()
        if self.is_waiting:
            self._pool.wake_all()

    def circuit_changed(self) -> None:
        """The channel's circuit opened or closed, a probe is due, or one failed."""
        circuit = self.source.circuit
        if circuit.held and circuit.probe is None:
            self.give_all_back()
        else:
            for forming in (self.forming, self._suspects):
                if forming is not None:
                    forming.end()
            self.source.room.set()
            self._pool.wake_all()

    def drop(self) -> None:
        """The channel is gone: forget what was fetched, and let its claims expire."""
        self._clear()
        self.looking = False
        self._stop_waiting()

    def give_all_back(self) -> None:
        """Give back everything that was fetched and not taken."""
        for delivery in self._clear():
            self.settler.give_back(delivery)

    def _clear(self) -> list[Delivery]:
        waited = [*self.buffer, *self.aside]
        for forming in (self.forming, self._suspects):
            if forming is not None:
                waited += forming.take(forming.most)
        self.buffer.clear()
        self.aside.clear()
        return waited


class WagonPrefetch:
    """The prefetchers of one wagon, one for each channel. WagonConsumer appends to them; Dispatcher reads them."""

    def __init__(self, wagon: WagonState) -> None:
        self.wagon = wagon
        self.prefetchers: list[Prefetcher] = []

    def __iter__(self) -> Iterator[Prefetcher]:
        return iter(self.prefetchers)

    def oldest(self) -> tuple[Prefetcher, float] | None:
        """The channel whose next event belongs to the chain that began first, and when that was; None if nothing waits.
        Of chains that began at the same moment, one that is already running comes first; events that were put aside
        come last."""
        best: Prefetcher | None = None
        began = 0.0
        for prefetcher in self.prefetchers:
            at = prefetcher.began
            if at is None or (best is not None and best.fresh and not prefetcher.fresh):
                continue
            if best is None or at <= began or (prefetcher.fresh and not best.fresh):
                best, began = prefetcher, at
        return None if best is None else (best, began)

    def refill(self) -> None:
        """Have empty prefetchers fetch again if they should have events by now: while handlers were slower, they were
        to fetch none. Otherwise their channel would wait for as long as the others keep the workers busy."""
        for prefetcher in self.prefetchers:
            asleep = not prefetcher.buffer and not prefetcher.receiving and not prefetcher.resting
            if asleep and prefetcher.ahead() > 0:
                prefetcher.source.room.set()

    def look(self) -> None:
        """Something changed: have the prefetchers check whether to fetch more."""
        for prefetcher in self.prefetchers:
            prefetcher.source.room.set()

    def worker_free(self, *, own: bool) -> None:
        """A worker is idle. Prefetchers that rest fetch ahead again; those of a wagon with its `own` workers fetch as
        soon as one of them is idle."""
        for prefetcher in self.prefetchers:
            prefetcher.resume()
            if own:
                prefetcher.source.room.set()

    def rescaled(self, target: int) -> None:
        """The pool has `target` workers now: fetch as many events as they need."""
        if not target:
            self.give_back()
        self.look()

    def give_back(self) -> None:
        """Give back everything that was fetched and not taken, in all channels."""
        for prefetcher in self.prefetchers:
            prefetcher.give_all_back()


def _go_together(first: Delivery, delivery: Delivery) -> bool:
    """Whether the event may be in one batch with `first`, which is not alone. Suspects are in no batch with others."""
    return delivery.suspect == first.suspect and not is_alone(delivery)


def _answer(called: Sequence[asyncio.Future[None]]) -> None:
    for waiter in called:
        if not waiter.done():
            waiter.set_result(None)
