"""Handle: runs handlers for the workers, ends those that take too long, and passes each outcome to the settler."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress

from ..breaker import DEATHS, Circuit
from ..cloudevents import is_batch
from ..contracts.broker import Delivery
from ..contracts.facts import HandlerOverran
from ..contracts.orchestrator import WagonSpec
from ..display.text import count, plain
from ..errors import EventwagonError
from ..event import JSON, Channel
from ..policy.demand import FEW
from ..policy.slices import undone_of
from .admission import Gate
from .batching import Batched, Result, begin_batch, error_of, holds_several
from .budgets import LEASE_LOST, ChannelBudget
from .bulkhead import ExcInfo, Seldom, is_ours, kind_of, log_safely, shown
from .circuits import Circuits
from .context import Context
from .forks import forks, leave
from .handler import Handler
from .handling import begin, handlers_own
from .log_fields import about, note_handlings
from .outcomes import HANDLED, Dead, Failed, Handled, Snoozed, decided
from .run_state import RunState
from .runtime import Runtime, report_failure
from .settling import Settler
from .standstills import Standstills
from .threads import Threads
from .worker_states import ChannelState, PoolState, WagonState

_logger = logging.getLogger("eventwagon.worker")

OUTCOMES = (Handled, Dead, Failed, Snoozed, Batched)
_TO_MARK = 5.0
"""Seconds within which a suspect's claim must be marked, because all other workers wait for that."""
_TO_MARK_OTHERS = 0.25
"""Seconds for the claims of all others of its batch."""
_BEFORE_ANOTHER_THREAD = 1.0
"""Seconds after which an event comes again if the system had no thread left for it."""
_STRAYS_FREE = 10
"""How often other tasks may cancel the handling of one event in this process before that counts as its failure. An
event that cancels the handlers of others, and is dead after a few attempts, costs those nothing."""
_STRAYS_KNOWN = 1000
"""The most events whose cancellations by others are remembered."""
_BEFORE_ALONE = 1.0
"""Seconds after which a suspect comes again if its claim could not be marked."""


def order_of(spec: WagonSpec) -> Sequence[Channel] | None:
    """The wagon's channels, if it can be undone one day: then its events say where they came from."""
    return spec.channels if spec.archived else None


class Worker(RunState):
    """One worker, and the event that it handles. Written by HandlerRunner."""

    __slots__ = ("attempt", "busy", "circuit", "delivery", "expired", "others", "settler", "task", "until")

    def __init__(self, task: asyncio.Task[None]) -> None:
        super().__init__()
        self.task = task
        self.settler: Settler | None = None
        """The settler of its event; None while it has no event."""
        self.delivery: Delivery | None = None
        self.others: Sequence[Delivery] = ()
        """The further events of its batch, if its handler takes many. Written by WorkerPool too."""
        self.circuit: Circuit | None = None
        """The channel's circuit when the handling began: the outcome counts for that one."""
        self.attempt = 1
        """How often the event was tried, this time included, as far as this process knows."""
        self.until = math.inf
        """The loop's time when its handler is cut short or, after that, given up."""
        self.busy = False
        """Its handler is under way."""
        self.expired = False
        """Its handler was cut short because it took longer than it may."""

    @property
    def is_stray(self) -> bool:
        """Somebody else has cancelled this worker's task: neither eventwagon nor its handler."""
        return self.strayed and not self.because

    def works_for(self, wagon: WagonState) -> bool:
        """It handles an event of this wagon."""
        return self.settler is not None and self.settler.source.wagon is wagon


class HandlerRunner:
    """Runs handlers for the workers of one pool. It owns the state of each worker, and the deadlines.

    `gate`, `threads`, `standstills` and `circuits` are the process's, shared by its pools. `on_handled` is called after
    each handling with the channel's name, the event and the seconds that its handler took.
    """

    def __init__(
        self,
        runtime: Runtime,
        pool: PoolState,
        *,
        gate: Gate,
        threads: Threads,
        standstills: Standstills,
        circuits: Circuits,
        on_handled: Callable[[str, Delivery, float], None] | None,
    ) -> None:
        self.gate = gate
        self._runtime = runtime
        self._pool = pool
        self._threads = threads
        self._standstills = standstills
        self._circuits = circuits
        self._on_handled = on_handled
        self._workers: dict[asyncio.Task[None], Worker] = {}
        self._held: set[asyncio.Task[None]] = set()
        """Workers whose handler still runs in its thread after the attempt was ended."""
        self._timer: asyncio.TimerHandle | None = None
        self._due = math.inf
        """The loop's time when the timer ends; no handler's deadline is earlier."""
        settings = runtime.settings
        self._blocks_from = min(settings.handler_timeout, settings.member_ttl, settings.visibility / 2)
        """Seconds after which a handler that blocks the event loop is reported: check-ins and claims begin to
        expire."""
        self._failures = Seldom()
        self._strays: dict[str, int] = {}
        """By event: how often other tasks have cancelled its handling."""
        self._time = asyncio.get_running_loop().time
        note_handlings((*runtime.handlers.values(), *runtime.undo_handlers.values()), runtime.revision)

    def add(self, task: asyncio.Task[None]) -> None:
        """Add a worker: this task takes events from now on."""
        self._workers[task] = Worker(task)

    def worker(self, task: asyncio.Task[None]) -> Worker:
        """The state of the worker whose task this is."""
        return self._workers[task]

    def remove(self, task: asyncio.Task[None]) -> bool:
        """The task has ended: let the claim of its event expire, if it has one. False if it was removed before."""
        worker = self._workers.pop(task, None)
        if worker is None:
            return False
        self.drop(worker)
        return True

    # --- one event -------------------------------------------------------------------------------

    def start(
        self, worker: Worker, settler: Settler, delivery: Delivery, now: float
    ) -> Result | Awaitable[Result] | None:
        """Call the handler for the worker's event and the `others` of its batch. Returns the outcome, an awaitable of
        it if the handler waits, or None if there was nothing to handle."""
        worker.settler, worker.delivery = settler, delivery
        source = settler.source
        wagon, circuit, event = source.wagon, source.circuit, delivery.event
        attempt = delivery.attempt
        if delivery.suspect and attempt > (source.retries.attempts or DEATHS):
            wagon.failed += 1
            self._circuits.passed(circuit, event.id, gone=True)
            settler.die(delivery, "its process ended while it handled this event alone", attempt - 1)
            worker.settler = worker.delivery = None
            return None
        if circuit.failing and not worker.others:
            attempt += circuit.uncounted(event.id)
        worker.attempt, worker.circuit = attempt, circuit
        wagon.busy += 1
        gate = self.gate
        gate.busy += 1
        if gate.others_first:
            gate.began()
        if source.budget is not None:
            source.budget.begin(1 + len(worker.others))
        worker.busy, worker.until = True, now + source.timeout
        if worker.until < self._due:
            self._arm(worker.until)
        handler = source.handler
        context = None
        if not handler.is_plain or (event.content_type != JSON and is_batch(event)):
            runtime = self._runtime
            context = Context(
                event,
                attempt,
                runtime.train,
                source.channel.wagon,
                handler.channel,
                {} if handler.undoes else runtime.handlers,
                runtime.publishing.now.max_event_bytes,
                runtime.clock,
                runtime.state,
                keeps_times=runtime.timetable is not None,
                publisher=runtime.publisher,
                order=None if handler.undoes else order_of(wagon.spec),
            )
            if handler.undoes:
                context.undone = undone_of(event, runtime.train, wagon.spec.undoes, handler.channel)
            if handler.batch:
                wagon.more += len(worker.others)
                return begin_batch(handler, (delivery, *worker.others), context, worker, self._threads)
        return begin(handler, event, context, worker, self._threads)

    def finish(
        self, worker: Worker, settler: Settler, delivery: Delivery, now: float, outcome: Result, *, at_once: bool
    ) -> float:
        """The handling that began at `now` has ended: count it, tell the circuit, and pass the event to its settler.
        `at_once`: the handler never waited. Returns the loop's time when it ended."""
        if worker.forks != forks():  # in the fork that it made
            leave(outcome.error if isinstance(outcome, Failed) else None)
        source, gate = settler.source, self.gate
        wagon, pool = source.wagon, self._pool
        wagon.busy -= 1
        gate.busy -= 1
        if source.budget is not None:
            _give_room(source.budget, worker)
        if gate.crowd:
            gate.make_room()
        worker.busy = False
        if gate.closed:
            gate.left()
        ended = self._time()
        took = each = ended - now
        if worker.others:
            each = _share(wagon, took, len(worker.others))
        wagon.count += 1
        wagon.seconds += each
        wagon.squares += each * each
        if wagon.count == FEW:
            wagon.on_known()
        pool.handler_seconds += (each - pool.handler_seconds) * 0.05 if pool.handler_seconds else each
        gate.usual += (took - gate.usual) * 0.05 if gate.usual else took
        if at_once and took > self._blocks_from:
            self._warn_of_blocking(source.handler, took)
        if self._on_handled is not None:
            self._on_handled(source.channel.name, delivery, took)
        if worker.because:
            outcome = Failed(worker.because)
        circuit = worker.circuit or source.circuit
        if outcome is HANDLED or isinstance(outcome, Handled):
            wagon.handled += 1
            if circuit.opened_at is None:
                if circuit.failing and not worker.others:
                    circuit.succeeded(delivery.event.id, now, ended)
                else:  # the same, without a call for each event
                    if now > circuit.worked:
                        circuit.worked = now
                    circuit.recent.append(ended)
            else:
                self._circuits.succeeded(circuit, delivery.event.id, now, ended)
            handlings = source.handlings
            if handlings is not None:
                handlings.seconds.append(took)
                if delivery.attempt == 1 and not wagon.spec.replay:
                    handlings.began.append(now - delivery.event.time)
            settler.done(delivery, outcome.emitted)
            if outcome.emitted:
                settler.tell_deaths(outcome.emitted)
        elif isinstance(outcome, Batched):
            self._measure(worker, source, delivery, outcome, took)
            self._finish_batch(worker, settler, outcome, circuit, (now, ended))
            worker.others = ()
        else:
            self._measure(worker, source, delivery, outcome, took)
            self._finish_badly(worker, settler, delivery, outcome, circuit)
            worker.others = ()
        worker.settler = worker.delivery = None
        return ended

    def _measure(self, worker: Worker, source: ChannelState, delivery: Delivery, outcome: Result, took: float) -> None:
        """Tell the meter of a handling that failed, or of a batch."""
        if source.handlings is not None:
            began = self._runtime.clock() - took
            first = (
                [] if source.wagon.spec.replay else [each for each in (delivery, *worker.others) if each.attempt == 1]
            )
            waits = [began - each.event.time for each in first]
            error, late = error_of(outcome, expired=worker.expired), source.wagon.spec.cut_off_at is not None
            source.handlings.tell_failed(source.channel, took, waits, error, late=late)

    def _finish_batch(
        self, worker: Worker, settler: Settler, batch: Batched, circuit: Circuit, times: tuple[float, float]
    ) -> None:
        """The handler has dealt with each event of its batch by itself. For the circuit that is one handling: it ended
        well if one of the events was handled."""
        handled = [delivery.event.id for delivery, outcome in batch.results if isinstance(outcome, Handled)]
        settler.source.wagon.handled += len(handled)
        if handled:
            for event_id in handled[1:]:
                circuit.failing.pop(event_id, None)
            self._circuits.succeeded(circuit, handled[0], *times)
        tells = not handled
        for delivery, outcome in batch.results:
            if isinstance(outcome, Handled):
                settler.done(delivery, outcome.emitted)
                settler.tell_deaths(outcome.emitted)
                continue
            worker.attempt = delivery.attempt + circuit.uncounted(delivery.event.id)
            with self._about(worker, settler, (delivery,)):
                self._conclude(worker, settler, (delivery,), outcome, circuit, tells=tells)
            tells = tells and not isinstance(outcome, Failed)

    def _finish_badly(
        self, worker: Worker, settler: Settler, delivery: Delivery, outcome: Dead | Failed | Snoozed, circuit: Circuit
    ) -> None:
        """The handling of an event has failed or was put off; or that of a whole batch, whose events come again one by
        one if it failed."""
        wagon, circuits, event_id = settler.source.wagon, self._circuits, delivery.event.id
        retries = settler.source.retries
        once = retries.attempts == 1
        if worker.because and (wagon.leaving or worker.because == LEASE_LOST) and not once:
            circuits.passed(circuit, event_id, gone=False)
            _give_back(worker, settler, delivery)  # cut short because we leave: not its failure
            return
        if worker.is_stray and isinstance(outcome, Failed) and issubclass(type(outcome.error), asyncio.CancelledError):
            strays = self._stray(settler.source, event_id, once=once)
            if strays <= _STRAYS_FREE and not once:
                circuits.passed(circuit, event_id, gone=False)
                pause = retries.pause(strays - 1, self._runtime.rng.random()) if strays > 1 else 0.0
                _give_back(worker, settler, delivery, pause)
                return
            outcome = Failed(f"another task cancelled its handler ({count(strays, 'time')})")
        if worker.not_started is not None:
            self._runtime.bulkhead.report("starting a handler", worker.not_started)
            worker.not_started = None
            circuits.passed(circuit, event_id, gone=False)
            _give_back(worker, settler, delivery, _BEFORE_ANOTHER_THREAD)
            return
        with self._about(worker, settler, (delivery, *worker.others)):
            self._conclude(worker, settler, (delivery, *worker.others), outcome, circuit)

    def _about(
        self, worker: Worker, settler: Settler, deliveries: Sequence[Delivery]
    ) -> AbstractContextManager[object]:
        """While entered, the lines of a structured log say what was handled."""
        place, runtime = settler.source.channel, self._runtime
        events = [delivery.event for delivery in deliveries]
        return about(runtime.train, place.wagon, place.name, events, worker.attempt, runtime.revision)

    def _conclude(
        self,
        worker: Worker,
        settler: Settler,
        deliveries: Sequence[Delivery],
        outcome: Dead | Failed | Snoozed,
        circuit: Circuit,
        *,
        tells: bool = True,
    ) -> None:
        """Let the event die, come again or come later; or those of a batch that failed or was put off as a whole.
        `tells`: a failure says something about the channel."""
        wagon, circuits, delivery = settler.source.wagon, self._circuits, deliveries[0]
        event_id, handler = delivery.event.id, settler.source.handler
        exc_info: ExcInfo | None = None
        if isinstance(outcome, Failed) and not holds_several(deliveries):
            verdict = decided(handler, outcome, expired=worker.expired)
            if isinstance(verdict, Dead):
                exc_info, outcome = self._deadly(handler, verdict.because, outcome.error), verdict
        match outcome:
            case Snoozed(after=after, because=because):
                circuits.passed(circuit, event_id, gone=False)
                for each in deliveries:
                    settler.snooze(each, after, because)
            case Dead(because=because, unreadable=unreadable):
                wagon.failed += 1
                wagon.uncounted += unreadable or _was_tried(delivery)
                circuits.passed(circuit, event_id, gone=True)
                settler.die(delivery, because, worker.attempt, exc_info)  # a batch does not die as a whole
            case Failed(because=because, error=error, after=after):
                wagon.failed += 1
                wagon.uncounted += _was_tried(delivery)
                own = self._cancelled_itself(worker, error)
                again = circuits.failed(
                    circuit, event_id, delivery.attempt, because=because, after=after, own=own, tells=tells
                )
                if len(deliveries) > 1:
                    circuit.failing.pop(event_id, None)  # nobody knows whether it was this one
                if again is None:
                    exc_info = self._deadly(handler, because, error)
                for each in deliveries:
                    attempt = worker.attempt if each is delivery else each.attempt
                    if again is None:
                        settler.die(each, because, attempt, exc_info if each is delivery else None)
                    else:
                        settler.retry(each, because, attempt, again)
                if again is not None:
                    self._log_failure(handler, deliveries, worker.attempt, because, error)

    def _cancelled_itself(self, worker: Worker, error: BaseException | None) -> bool:
        """Whether the handler has cancelled its own task. One that cancels all tasks ends its process, which then
        forgets how often the event has failed."""
        is_cut = issubclass(type(error), asyncio.CancelledError)
        return is_cut and not worker.strayed and not worker.because and worker.task.cancelling() > 0

    def drop(self, worker: Worker) -> None:
        """The worker failed, or ends: let the claim of its event expire, if it has one. Idempotent."""
        if worker.settler is not None and worker.delivery is not None:
            source = worker.settler.source
            if source.budget is not None and worker.busy:
                _give_room(source.budget, worker)
            source.wagon.busy -= worker.busy
            source.wagon.more -= len(worker.others) if worker.busy else 0
            self.gate.busy -= worker.busy
            worker.settler.not_tried(worker.delivery)
            worker.settler.forget([worker.delivery, *worker.others])
        worker.settler = worker.delivery = None
        worker.others = ()
        worker.busy = False
        self.gate.left()
        self.gate.make_room()

    # --- alone -----------------------------------------------------------------------------------

    async def handle_suspects(self, worker: Worker, settler: Settler, delivery: Delivery) -> None:
        """Handle a suspect: an event that may have killed the last process that handled it; or a batch of those, the
        `others` too. Nothing else is handled in this process meanwhile: then another death harms no other event, and is
        certainly the doing of this one, or one of the batch. If that would mean waiting long for other handlers, they
        come again later."""
        worker.settler, worker.delivery, worker.until = settler, delivery, math.inf
        try:
            async with self.gate.alone() as alone:
                if (pause := self._held_back(settler.source, alone=alone)) is not None:
                    _give_back(worker, settler, delivery, pause)
                elif await self._marked(worker, settler, delivery):
                    batch = (delivery, *worker.others)
                    await self._handle(worker, settler, delivery)
                    await settler.until_settled(batch)
        except asyncio.CancelledError:
            if worker.busy:
                raise
            if worker.settler is not None:
                _give_back(worker, settler, delivery)  # cut short, or cancelled by somebody, while it waited
                worker.settler = worker.delivery = None
                worker.others = ()
            if not worker.because:
                raise
        worker.settler = worker.delivery = None
        worker.others = ()
        if worker.because or worker.task.cancelling():
            await self.after_cut(worker, settler.source)

    def _held_back(self, source: ChannelState, *, alone: bool = True) -> float | None:
        """The seconds after which the channel's suspects come again; None if they may be handled now. `alone`: nothing
        else is under way."""
        wagon, budget = source.wagon, source.budget
        if wagon.paused:
            return 0.0
        if budget is not None and budget.blocked and not wagon.leaving:
            return _BEFORE_ALONE
        return None if alone and not wagon.leaving else _BEFORE_ALONE * (1.0 + 4.0 * self._runtime.rng.random())

    async def _marked(self, worker: Worker, settler: Settler, delivery: Delivery) -> bool:
        """Mark the claims of the worker's suspects as handled with nothing beside them. Returns whether they may be
        handled now. Those for which there was no time are `others` no more, and come again: a broker that stores each
        mark slowly gets smaller batches."""
        others, place = list(worker.others), 0
        worker.others = others
        stands = await self._mark(settler, delivery)
        if stands is None:
            self.gate.refuse()
        until = self._time() + _TO_MARK_OTHERS
        while stands and place < len(others) and self._time() < until and self._held_back(settler.source) is None:
            marked = await self._mark(settler, others[place], until - self._time())
            if marked:
                place += 1
            else:
                del others[place]
            if marked is None:
                break
        pause = self._held_back(settler.source)
        for other in others[place:]:
            settler.give_back(other, (pause or 0.0) if stands else _BEFORE_ALONE)
        del others[place:]
        if stands and pause is not None:
            _give_back(worker, settler, delivery, pause)
        return bool(stands) and pause is None

    async def _mark(self, settler: Settler, delivery: Delivery, within: float | None = None) -> bool | None:
        """Mark a suspect's claim. Returns False if it has expired, and None if the broker could not say in time: then
        the event was given back. `within`: the seconds that are left, after which that is no failure."""
        if self.gate.held:
            return True  # beside a handler that goes on in its thread it is not alone, and a death would prove nothing
        source, runtime = settler.source, self._runtime
        try:
            async with asyncio.timeout(within or min(_TO_MARK, runtime.settings.publish_timeout)):
                stands = await source.subscription.alone(delivery)
        except BaseException as e:
            if is_ours(e):
                raise
            step = f"marking a claim in {source.channel}"
            if within and isinstance(e, TimeoutError):
                pass
            elif isinstance(e, EventwagonError | TimeoutError):
                report_failure(runtime, step, str(e) or "no answer in time")
            else:
                runtime.bulkhead.report(step, e)
            settler.give_back(delivery, 0.0 if within else _BEFORE_ALONE)
            return None
        if not stands:
            settler.not_tried(delivery)
            settler.forget([delivery])
        return stands

    async def _handle(self, worker: Worker, settler: Settler, delivery: Delivery) -> None:
        now = self._time()
        outcome = self.start(worker, settler, delivery, now)
        if outcome is None:
            return
        at_once = isinstance(outcome, OUTCOMES)
        if not isinstance(outcome, OUTCOMES):
            outcome = await outcome
        self.finish(worker, settler, delivery, now, outcome, at_once=at_once)

    # --- deadlines -------------------------------------------------------------------------------

    def cut_short(self, wagon: WagonState, because: str) -> None:
        """Cancel the handlers that run for this wagon. Idempotent."""
        for worker in self._working_for(wagon):
            self._cut_short(worker, because)

    def cut_channel(self, source: ChannelState, because: str) -> None:
        """Cancel the handlers that run for this channel of a wagon. Idempotent."""
        for worker in self._workers.values():
            if worker.settler is not None and worker.settler.source is source and worker.busy:
                self._cut_short(worker, because)

    def give_up(self, wagon: WagonState) -> None:
        """Stop running the handlers of this wagon that were cancelled and go on all the same. Idempotent."""
        for worker in self._working_for(wagon):
            if worker.because and worker.busy:
                self._give_up(worker)

    def close(self) -> None:
        """Stop waiting for handlers that still run in their threads. Idempotent."""
        for task in self._held:
            task.cancel()

    async def after_cut(self, worker: Worker, source: ChannelState) -> None:
        """A handler was cut short, or has cancelled its own task: the cancellation must not reach the worker's next
        event. If the handler's thread goes on, this worker waits for its end, or there would be one worker too many."""
        is_stray, because, thread = worker.is_stray, worker.because, worker.thread
        worker.because, worker.given_up, worker.strayed, worker.thread = "", False, False, None
        worker.expired = False
        if thread is not None and (thread.over or self._pool.closed):
            thread = None
        if is_stray and thread is None:
            raise asyncio.CancelledError  # somebody has cancelled this worker
        await _absorb(worker.task)
        if thread is None:
            return
        self._tell_overran(source, because, given_up=False)
        self._held.add(worker.task)
        self.gate.held += 1
        try:
            await thread.ended()
        finally:
            self._held.discard(worker.task)
            self.gate.held -= 1
            self.gate.make_room()

    def _working_for(self, wagon: WagonState) -> Iterator[Worker]:
        return (worker for worker in self._workers.values() if worker.works_for(wagon))

    def _arm(self, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = until
        self._timer = asyncio.get_running_loop().call_at(until, self._on_time)

    def _on_time(self) -> None:
        """One timer for all workers, as early as the earliest deadline: a handler's timeout, or the `grace` of one that
        was cut short, which may be long over when it ends."""
        self._timer, self._due = None, math.inf
        now = self._time()
        working = [worker for worker in self._workers.values() if worker.settler is not None]
        for worker in working:
            if worker.until <= now:
                if worker.because:
                    self._give_up(worker)
                elif worker.settler is not None:
                    worker.expired = True
                    self._cut_short(worker, worker.settler.source.overran)
        later = [worker.until for worker in working if worker.until < math.inf]
        if later:
            self._arm(min(later))

    def _cut_short(self, worker: Worker, because: str) -> None:
        if not worker.because:
            worker.because = because
            worker.until = self._time() + self._runtime.settings.grace
            worker.task.cancel()

    def _give_up(self, worker: Worker) -> None:
        """It was cancelled and goes on: stop running it, so that its worker can go on."""
        worker.until = math.inf
        if not worker.given_up and worker.settler is not None:
            worker.given_up = True
            self._tell_overran(worker.settler.source, worker.because, given_up=True)
            worker.task.cancel()

    # --- what is told ----------------------------------------------------------------------------

    def _stray(self, source: ChannelState, event_id: str, *, once: bool) -> int:
        """Another task has cancelled the handling of this event. Returns how often that has happened to it."""
        strays = self._strays.pop(event_id, 0) + 1
        self._strays[event_id] = strays
        if len(self._strays) > _STRAYS_KNOWN:
            del self._strays[next(iter(self._strays))]
        counts = once or strays > _STRAYS_FREE
        self._runtime.bulkhead.warn(
            ("stray", source.handler.name, counts),
            f"another task cancelled handler {source.handler.name} while it handled event {plain(event_id, 100)} "
            f"({count(strays, 'time')} so far; {'this counts' if counts else 'no attempt is counted'}). Look for code "
            "that cancels tasks which it has not started: asyncio.all_tasks() lists the handlers of all events",
        )
        return strays

    def _tell_overran(self, source: ChannelState, because: str, *, given_up: bool) -> None:
        self._runtime.tell(
            HandlerOverran(
                train=source.channel.train,
                number=source.channel.wagon,
                channel=source.handler.channel,
                handler=source.handler.name,
                because=because,
                given_up=given_up,
            )
        )

    def _warn_of_blocking(self, handler: Handler, took: float) -> None:
        """It never waited, so it could not be cut short and nothing else could run; or nothing at all ran."""
        stood = self._standstills.since(took)
        if took - stood <= self._blocks_from:
            if self._failures.due(("standstill",)) is not None:
                log_safely(
                    _logger,
                    logging.WARNING,
                    "%s: this whole process stood still for %.1f s (stopped by a signal, or its machine was), so other "
                    "processes may have taken it for dead and its events over",
                    self._runtime.train,
                    stood,
                )
            return
        if self._failures.due(("blocking", handler.name)) is not None:
            log_safely(
                _logger,
                logging.WARNING,
                "%s: handler %s held the event loop for %.1f s, and nothing else could run, so other processes may "
                "have taken it for dead and its events over: let it wait with await, or make it a plain function, "
                "which runs in a thread",
                self._runtime.train,
                handler.name,
                took,
            )

    def _log_failure(
        self,
        handler: Handler,
        deliveries: Sequence[Delivery],
        attempt: int,
        because: str,
        error: BaseException | None,
    ) -> None:
        """Log the first failure of a kind in a minute at WARNING, with its traceback."""
        held_back = self._failures.due((handler.name, because if error is None else kind_of(error)))
        if held_back is None:
            return
        more = f" ({held_back} more like it since the last was logged)" if held_back else ""
        log_safely(
            _logger,
            logging.WARNING,
            "%s: handler %s failed on event %s%s at attempt %d: %s%s",
            self._runtime.train,
            handler.name,
            plain(deliveries[0].event.id, 100),
            f" and {len(deliveries) - 1} more of its batch" if len(deliveries) > 1 else "",
            attempt,
            because,
            more,
            exc_info=_traceback(error),
        )

    def _deadly(self, handler: Handler, because: str, error: BaseException | None) -> ExcInfo | None:
        """The traceback that is logged with a death: once a minute for each kind."""
        kind = (handler.name, "dies", because if error is None else kind_of(error))
        return _traceback(error) if self._failures.due(kind) is not None else None


def _traceback(error: BaseException | None) -> ExcInfo | None:
    return None if error is None else shown(error, handlers_own(error))


def _give_back(worker: Worker, settler: Settler, delivery: Delivery, delay: float = 0.0) -> None:
    """Give the worker's event back, with the others of its batch."""
    for each in (delivery, *worker.others):
        settler.give_back(each, delay)


def _share(wagon: WagonState, took: float, others: int) -> float:
    """A batch took so long: count its events but for the first, each with its share of the time. Returns the share."""
    each = took / (1 + others)
    wagon.more -= others
    if wagon.count < FEW <= wagon.count + others:
        wagon.on_known()
    wagon.count += others
    wagon.seconds += each * others
    wagon.squares += each * each * others
    return each


def _give_room(budget: ChannelBudget, worker: Worker) -> None:
    """A handling has ended; if its function goes on in a thread, it counts until that ends."""
    if worker.thread is not None and not worker.thread.over:
        worker.thread.on_end = budget.end
    else:
        budget.end()


async def _absorb(task: asyncio.Task[None]) -> None:
    """Take back cancellations of this task that were meant for its handler."""
    while task.cancelling():
        task.uncancel()
    with suppress(asyncio.CancelledError):  # one may still be on its way
        await asyncio.sleep(0)


def _was_tried(delivery: Delivery) -> bool:
    """It was delivered before, in this wagon or before it was retried as a dead letter."""
    return delivery.attempt > 1 or "deadretries" in delivery.event.extensions
