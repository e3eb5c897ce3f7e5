"""Settle: stores what a channel's events emitted, then settles them, or gives them back to the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import copy_context
from functools import partial

from ..backoff import Backoff, pause_after
from ..breaker import USUAL, Again, Circuit
from ..contracts.broker import Delivery, Depth
from ..contracts.facts import EventDied, EventRetried, EventSnoozed
from ..contracts.timetable import passed_on
from ..display.text import said
from ..errors import ChannelGone, EventRefused, EventwagonError, Unavailable
from ..event import DEAD, Channel, Event, wagon_name
from .bulkhead import ExcInfo, is_ours
from .circuits import Circuits
from .context import LATER, OUT
from .dead_letters import died, log_death, smaller
from .later import store_emitted
from .once import COPY_AGAIN, OnceGuard
from .runtime import Runtime, report_failure
from .settled_rows import SettledRows
from .tasks import all_of
from .worker_states import PAUSES, ChannelState

_LATER_MOST = 60.0
"""The longest pause, in seconds, before something that could not be settled is to be settled again."""
_RECORDINGS = 3
"""How often recording what was handled is tried if the record's driver has a defect."""
_AT_ONCE = 16
"""Calls of one kind to the broker at a time."""
_UNTIL_SETTLED = 1.0
"""The longest that a process waits for an event that it handled alone to be settled, in seconds."""

Emitted = Sequence[tuple[str, Event]]
"""Events to be stored before the event that emitted them is settled, each with its channel's name."""

Return = tuple[Delivery, float, bool, bool]
"""An event to be given back: the pause, whether it counts as an attempt, and whether it was handled at all."""


class SettleQueue:
    """Events that are settled together. While one batch is under way the next one gathers."""

    __slots__ = ("back", "called_off", "done", "emits", "stores", "task")

    def __init__(self, *, emits: bool) -> None:
        self.emits = emits
        """Its events have emitted something."""
        self.done: list[tuple[Delivery, Emitted]] = []
        """Events to settle, each with what must be stored before."""
        self.back: list[Return] = []
        """Events to give back."""
        self.task: asyncio.Task[None] | None = None
        self.stores = False
        """What the events of the batch under way emitted is being stored."""
        self.called_off = False
        """That was cancelled."""

    def take(self, most: int) -> list[tuple[Delivery, Emitted]]:
        """The next batch to settle: events that emitted at most `most` events together, but at least one event."""
        taken = self.done
        for place, (_, emitted) in enumerate(taken if self.emits else ()):
            most -= len(emitted)
            if most < 0 and place:
                self.done = taken[place:]
                return taken[:place]
        self.done = []
        return taken


class Settler:
    """Settles the events of one channel of a wagon in one process.

    Each event ends in one call: `done`, `die`, `retry`, `snooze` or `give_back`. It then waits in a queue, and is
    settled or given back in a batch. Events that emitted to the same channels share a queue: a channel that does not
    answer holds up only the events that emitted to it. If the broker refuses an emitted event for good, the event that
    emitted it dies, and the others of its batch are settled.

    It owns `unsettled`: each event from its receipt until it is settled or given back. `on_gone` is called when a
    channel of the wagon is gone, `on_settled` after each batch.
    """

    def __init__(
        self,
        runtime: Runtime,
        tasks: asyncio.TaskGroup,
        source: ChannelState,
        circuits: Circuits,
        *,
        on_gone: Callable[[str], None],
        on_settled: Callable[[], None],
    ) -> None:
        self.source = source
        self.unsettled: dict[int, Delivery] = {}
        """By identity: everything claimed that is not settled or given back."""
        self._runtime = runtime
        self._tasks = tasks
        self._circuits = circuits
        self._on_gone = on_gone
        self._on_settled = on_settled
        self._done = SettleQueue(emits=False)
        """Events that emitted nothing."""
        self._back = SettleQueue(emits=False)
        self._emitting: dict[str | frozenset[str], SettleQueue] = {}
        """Events that emitted, by the channels to which they did."""
        self._ended = False
        self._context = copy_context()  # of no event
        self._later: dict[int, tuple[int, asyncio.TimerHandle]] = {}
        """By identity: events that could not be settled, how often that failed, and the timer of the next attempt."""
        self._awaited: dict[int, asyncio.Future[None]] = {}
        """By identity: events for which `until_settled` waits."""
        self._dying: set[int] = set()
        """By identity: events that are to be settled as dead. Empty if nothing is counted."""
        self._skipped: set[int] = set()
        """By identity: events that are to be settled without having been handled."""
        self._rows = SettledRows(runtime, source.channel, self._insist)
        self._told_letterless = False
        """It was told that the wagon's dead letters go to the train's."""

    def received(self, deliveries: Iterable[Delivery]) -> None:
        """These were received: their claims are kept from now on."""
        self.unsettled.update({id(delivery): delivery for delivery in deliveries})

    # --- what came of an event -----------------------------------------------------------------

    def done(self, delivery: Delivery, emitted: Emitted) -> None:
        """The event was handled: settle it once everything that it emitted is stored (I6)."""
        queue = self._done if not emitted else self._queue_of(emitted)
        queue.done.append((delivery, emitted))
        if queue.task is None:
            self._go(queue)

    def skip(self, delivery: Delivery) -> None:
        """The event was handled before: settle it."""
        self._skipped.add(id(delivery))
        self.done(delivery, ())

    def die(self, delivery: Delivery, because: str, attempt: int, exc_info: ExcInfo | None = None) -> None:
        """Put the event among the wagon's dead letters, then settle it. `attempt`: how often it was tried, as far as
        this process knows. `exc_info`: the handler's error, if the log should have its traceback."""
        channel = self.source.channel
        if self.source.once is not None:
            self.source.once.died(delivery)
        letters = [died(delivery.event, channel.name, channel.wagon, because, attempt, self._runtime.clock())]
        if self.source.counter is not None:
            self._dying.add(id(delivery))
        if self.source.handler.elsewhere is not None:
            self.source.handler.elsewhere.died(delivery.event, because)
        self.done(delivery, letters)
        self.tell_deaths(letters, uncounted=max(0, attempt - delivery.attempt), exc_info=exc_info)

    def pass_on(self, delivery: Delivery) -> None:
        """The event comes from the timetable, and is for an inner channel of its wagon: store it there, then settle
        it."""
        name, event = passed_on(delivery.event)
        if any(name == channel.name for channel in self.source.wagon.spec.channels if channel.name):
            self.done(delivery, [(name, event)])
        else:
            self._emitting_failed(delivery, f"it was due for channel {name}, which its wagon does not have")

    def retry(self, delivery: Delivery, because: str, attempt: int, again: Again) -> None:
        """Try the event again after a pause."""
        self._queue_return(delivery, again.pause, tried=again.counts)
        if self.source.counter is not None:
            self.source.counter.retried += 1
        channel = self.source.channel
        self._runtime.tell(
            EventRetried(
                train=channel.train,
                number=channel.wagon,
                channel=channel.name,
                id=delivery.event.id,
                attempt=attempt,
                pause=again.pause,
                because=because,
            )
        )

    def snooze(self, delivery: Delivery, pause: float, because: str) -> None:
        """Deliver the event again after the pause that its handler asked for; this does not count as an attempt."""
        self._queue_return(delivery, pause, tried=False)
        if self.source.counter is not None:
            self.source.counter.snoozed += 1
        channel = self.source.channel
        self._runtime.tell(
            EventSnoozed(
                train=channel.train,
                number=channel.wagon,
                channel=channel.name,
                id=delivery.event.id,
                pause=pause,
                because=because,
            )
        )

    def give_back(self, delivery: Delivery, delay: float = 0.0, *, handled: bool = False) -> None:
        """Give the event back, for any process to take after `delay` s. A suspect stays one unless it was `handled`
        here."""
        self.not_tried(delivery)
        self._queue_return(delivery, delay, tried=False, handled=handled)

    def give_back_copy(self, delivery: Delivery) -> None:
        """Give back a copy of an event that is being handled. That event, which has the same id, may be the circuit's
        probe, and stays it."""
        self._queue_return(delivery, COPY_AGAIN, tried=False, handled=False)

    def not_tried(self, delivery: Delivery) -> None:
        """The event was taken and not handled. If it was the circuit's probe, another event must be."""
        if self.source.circuit.probe is not None:
            self._circuits.passed(self.source.circuit, delivery.event.id, gone=False)

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """They are settled or given back, or their claims are left to expire. Idempotent."""
        if self.source.once is not None:
            deliveries = list(deliveries)
            self.source.once.forget(deliveries)
        if (elsewhere := self.source.handler.elsewhere) is not None:
            deliveries = list(deliveries)
            for delivery in deliveries:
                elsewhere.ended(delivery.event)
        marked = self._later or self._awaited or self._dying or self._skipped
        unsettled = self.unsettled
        for delivery in deliveries:
            unsettled.pop(id(delivery), None)
            if not marked:
                continue
            if self._later and (later := self._later.pop(id(delivery), None)) is not None:
                later[1].cancel()
            if self._awaited and (waiter := self._awaited.pop(id(delivery), None)) is not None and not waiter.done():
                waiter.set_result(None)
            if self._dying:
                self._dying.discard(id(delivery))
            if self._skipped:
                self._skipped.discard(id(delivery))

    def tell_deaths(self, emitted: Emitted, *, uncounted: int = 0, exc_info: ExcInfo | None = None) -> None:
        """Report and log each dead letter among the emitted events. `uncounted`: how many of the attempts did not
        count."""
        channel = self.source.channel
        for name, letter in emitted:
            if name == DEAD:
                why = letter.extensions
                death = EventDied(
                    train=channel.train,
                    number=channel.wagon,
                    channel=channel.name,
                    id=letter.id,
                    attempts=int(why["deadattempts"]),
                    because=why["deadbecause"],
                    uncounted=uncounted,
                )
                log_death(death, self.source.handler.name, exc_info)
                self._runtime.tell(death)

    async def until_settled(self, deliveries: Iterable[Delivery]) -> None:
        """Wait until they are settled or given back, but only briefly: others must not wait for a broker that does not
        answer."""
        left = [id(delivery) for delivery in deliveries if id(delivery) in self.unsettled]
        if left and not self.source.wagon.leaving:
            waiters = {key: asyncio.get_running_loop().create_future() for key in left}
            self._awaited.update(waiters)
            await asyncio.wait(waiters.values(), timeout=_UNTIL_SETTLED)

    # --- its owner's -----------------------------------------------------------------------------

    def change_circuit(self, circuit: Circuit) -> None:
        """The channel gets, or loses, its breaker. A probe under way does not count for the old circuit. Idempotent."""
        before = self.source.circuit
        if circuit is not before:
            self.source.circuit = circuit
            if before.probe is not None and any(d.event.id == before.probe for d in self.unsettled.values()):
                self._circuits.passed(before, before.probe, gone=False)

    async def record_unsettled(self, within: float) -> None:
        """Leaving: record what was handled, emitted nothing and waits to be settled, so that nobody handles it again
        when it is given back. Never raises an error of the record."""
        if (once := self.source.once) is None or not self._done.done:
            return
        try:
            async with asyncio.timeout(within):
                done = list(self._done.done)
                if self.source.wagon.spec.archived:  # or they would be archived as skipped, when they come again
                    await self._keep_rows(done)
                await once.record([delivery for delivery, _ in done])
        except (EventwagonError, TimeoutError):
            pass  # they are handled again
        except BaseException as e:
            if _ends(e):
                raise
            self._runtime.bulkhead.report(f"recording what was handled in {self.source.channel}", e)

    def give_back_unstored(self) -> None:
        """There is no time left to store and settle the events that wait for that: give them back, to be handled again.
        So are those of a batch under way, unless all that they emitted is stored: then it goes on."""
        for queue in self._queues():
            left, queue.done = queue.done, []
            for delivery, _ in left:
                self.give_back(delivery, handled=True)
            if queue.stores and queue.task is not None and not queue.called_off:
                queue.called_off = True
                queue.task.cancel("no time is left to store what its events emitted")

    def end(self, why: str) -> None:
        """Settle nothing more: the claims of the remaining events expire. Idempotent."""
        self._ended = True
        self._measure()
        if (elsewhere := self.source.handler.elsewhere) is not None:
            for delivery in self.unsettled.values():
                elsewhere.ended(delivery.event)
        for _, timer in self._later.values():
            timer.cancel()
        for queue in self._queues():
            if queue.task is not None:
                queue.task.cancel(why)

    # --- queues ------------------------------------------------------------------------------------

    def _queues(self) -> list[SettleQueue]:
        return [self._done, self._back, *self._emitting.values()]

    def _queue_of(self, emitted: Emitted) -> SettleQueue:
        """The queue of events that emitted to the same channels as this one."""
        key = emitted[0][0] if len(emitted) == 1 else frozenset(name for name, _ in emitted)
        queue = self._emitting.get(key)
        if queue is None:
            queue = self._emitting[key] = SettleQueue(emits=True)
        return queue

    def _queue_return(self, delivery: Delivery, delay: float, *, tried: bool, handled: bool = True) -> None:
        self._back.back.append((delivery, delay, tried, handled))
        self._go(self._back)

    def _go(self, queue: SettleQueue) -> None:
        """Start the queue's task, unless it already runs."""
        if queue.task is None and not self._ended:
            work = self._work_off(queue)
            try:
                queue.task = self._tasks.create_task(work, context=self._context.copy())
            except RuntimeError:  # other code has cancelled the owner of the group: nothing more can be settled
                work.close()
                self.end("its tasks were cancelled")

    def _measure(self) -> None:
        """Tell the meter of what was handled since the last time."""
        if (handlings := self.source.handlings) is not None:
            handlings.tell(self.source.channel, late=self.source.wagon.spec.cut_off_at is not None)

    async def _work_off(self, queue: SettleQueue) -> None:
        try:
            while queue.done or queue.back:
                self._measure()
                done = queue.take(self._runtime.settings.publish_batch)
                back, queue.back = queue.back, []
                try:
                    if back:
                        await self._release(back)
                    if done:
                        await self._settle(queue, done)
                except BaseException as e:  # these events' claims expire, the others go on
                    if queue.called_off and not self._ended and not _cancelled_by_others():
                        queue.called_off = False
                        for delivery, _ in done:
                            self.give_back(delivery, handled=True)
                        continue
                    if is_ours(e):
                        raise
                    self._runtime.bulkhead.report(f"settling in {self.source.channel}", e)
                    self.forget([*(item[0] for item in done), *(item[0] for item in back)])
                self._on_settled()
        finally:
            queue.task = None

    # --- handled, or dead ---------------------------------------------------------------------

    async def _settle(self, queue: SettleQueue, finished: Sequence[tuple[Delivery, Emitted]]) -> None:
        emitted: dict[str, list[tuple[int, Event]]] = {}
        for place, (_, events) in enumerate(finished if queue.emits else ()):
            for name, event in events:
                emitted.setdefault(name, []).append((place, event))
        refused: dict[int, tuple[str, BaseException]] = {}
        if emitted:
            queue.stores = True
            try:
                await all_of([partial(self._store_all, name, some, refused) for name, some in emitted.items()])
            finally:
                queue.stores = False
        stored = finished if not refused else [each for place, each in enumerate(finished) if place not in refused]
        kept = [delivery for delivery, _ in stored]
        if kept:
            if self.source.wagon.spec.archived:
                await self._keep_rows(stored)
            if (once := self.source.once) is not None:
                await self._record(once, kept)
            await self._settle_all(kept)
        for place, (name, error) in refused.items():
            self._refuse(finished[place][0], name, error)

    async def _keep_rows(self, finished: Sequence[tuple[Delivery, Emitted]]) -> None:
        """Keep what came of these for the archive. Those that could not be settled before have their rows."""
        await self._rows.keep([each for each in finished if id(each[0]) not in self._later], self._skipped)

    async def _record(self, once: OnceGuard, handled: Sequence[Delivery]) -> None:
        """Record that these were handled. A record that fails other than by being away is tried a few times; then the
        events are settled all the same: they were handled, and unsettled they would be again."""
        step = f"recording what was handled in {self.source.channel}"
        for attempt in range(1, _RECORDINGS + 1):
            try:
                await self._insist(step, partial(once.record, handled))
                break
            except BaseException as e:
                if _ends(e):
                    raise
                self._runtime.bulkhead.report(step, e)
                if attempt < _RECORDINGS:
                    await asyncio.sleep(pause_after(attempt, *PAUSES))
        await once.release_dead(handled)

    async def _store_all(
        self, name: str, some: Sequence[tuple[int, Event]], refused: dict[int, tuple[str, BaseException]]
    ) -> None:
        most = self._runtime.settings.publish_batch
        for start in range(0, len(some), most):
            await self._store(name, some[start : start + most], refused)

    async def _store(
        self,
        name: str,
        part: Sequence[tuple[int, Event]],
        refused: dict[int, tuple[str, BaseException]],
        *,
        again: bool = False,
    ) -> None:
        """Store these emitted events. Those that the broker refuses for good are found by bisection and recorded in
        `refused`, by the place of the event that emitted them."""
        events = [event for _, event in part]
        step, store = self._way(name, events)
        try:
            await self._insist(step, store)
        except BaseException as e:  # a driver may fail on an event in any way
            if _ends(e):
                raise
            part = part[len(part) - len(events) :]  # what was published is stored: not once more
            if not part:
                return
            if len(part) > 1:
                for half in (part[: len(part) // 2], part[len(part) // 2 :]):
                    await self._store(name, half, refused)
                return
            place, event = part[0]
            if name == DEAD and not again and not isinstance(e, EventRefused):
                await self._store(name, part, refused, again=True)  # a single defect must not cost the letter anything
                return
            if name == DEAD and (less := smaller(event, cut=isinstance(e, EventRefused))) is not None:
                await self._store(name, [(place, less)], refused, again=True)
                return
            if not isinstance(e, EventRefused):
                self._runtime.bulkhead.report(step, e)
            refused[place] = (name, e)

    def _way(self, name: str, events: list[Event]) -> tuple[str, Callable[[], Awaitable[None]]]:
        """How events are stored that were emitted to a channel or published to a train, and what that is called."""
        publisher = self._runtime.publisher
        if name.startswith(OUT) and publisher is not None:
            train = name.removeprefix(OUT)
            return f"publishing to train {train}", partial(publisher.publish, train, events)
        channel = Channel(self.source.channel.train, self.source.channel.wagon, name)
        return f"emitting to {channel}", partial(self._emit, channel, events)

    def _refuse(self, delivery: Delivery, name: str, error: BaseException) -> None:
        """The broker refuses what the event emitted: the event dies, or is tried again if the driver failed."""
        doing = f"publishing to train {name.removeprefix(OUT)}" if name.startswith(OUT) else f"emitting to {name}"
        because = f"{doing}: {said(error)}"
        if name == DEAD:  # not even in its smallest form: the broker refuses everything
            report_failure(
                self._runtime,
                f"storing a dead letter of {wagon_name(self.source.channel.train, self.source.channel.wagon)}",
                because,
            )
            self.give_back(delivery, PAUSES[1], handled=True)
        elif isinstance(error, EventRefused):
            self.die(delivery, because, delivery.attempt)
        else:
            self._emitting_failed(delivery, because)

    def _emitting_failed(self, delivery: Delivery, because: str) -> None:
        """The driver failed on what the handler emitted: try the event again, or let it die after the last attempt."""
        retries = self.source.retries
        if delivery.attempt >= (retries.attempts or USUAL):
            self.die(delivery, because, delivery.attempt)
        else:
            pause = retries.pause(delivery.attempt, self._runtime.rng.random())
            self.retry(delivery, because, delivery.attempt, Again(pause, counts=True))

    async def _emit(self, channel: Channel, events: Sequence[Event]) -> None:
        """Store them. A channel that the manifest does not give to this wagon yet may exist, and would be swept
        together with its events: handlers of a new version wait until it is added."""
        if channel.name == LATER:
            await store_emitted(self._runtime, events)
            return
        if channel.name != DEAD and channel not in self.source.wagon.spec.channels:
            raise Unavailable(f"{channel} is not yet one of the wagon's channels")
        broker, source = self._runtime.broker, self.source.channel
        try:
            await broker.publish(channel, events)
        except ChannelGone:
            if channel.name != DEAD or (await broker.depth([source]))[0] == Depth():
                raise
            await self._keep(channel, events)

    async def _keep(self, gone: Channel, letters: Sequence[Event]) -> None:
        """The wagon stands and its dead letters are gone: the train's own take these, or their events would come again
        for ever."""
        broker, kept = self._runtime.broker, Channel(gone.train, 0, DEAD)
        if not self._told_letterless:
            self._told_letterless = True
            step = f"storing dead letters of {wagon_name(self.source.channel.train, self.source.channel.wagon)}"
            report_failure(self._runtime, step, f"{gone} is gone; {kept} takes them")
        try:
            await broker.publish(kept, letters)
        except ChannelGone:
            await broker.create(kept)
            await broker.publish(kept, letters)

    async def _settle_all(self, deliveries: list[Delivery]) -> None:
        try:
            await self._insist(f"settling in {self.source.channel}", partial(self._settle_now, deliveries))
        except BaseException as e:  # a driver may fail on one of them in any way
            if _ends(e):
                raise
            if len(deliveries) > 1:
                half = len(deliveries) // 2
                await self._settle_all(deliveries[:half])
                await self._settle_all(deliveries[half:])
                return
            self._runtime.bulkhead.report(f"settling in {self.source.channel}", e)
            self._settle_later(deliveries[0])
            return
        self.forget(deliveries)

    async def _settle_now(self, deliveries: list[Delivery]) -> None:
        await self.source.subscription.settle(deliveries)
        if (elsewhere := self.source.handler.elsewhere) is not None:
            for delivery in deliveries:
                elsewhere.settled(delivery.event)
        if (counter := self.source.counter) is not None:
            dying = self._dying
            counter.settled(deliveries, sum(id(d) in dying for d in deliveries) if dying else 0)

    def _settle_later(self, delivery: Delivery) -> None:
        """The event was handled but could not be settled. Its claim is kept, so that nobody handles it again, and
        settling is retried after growing pauses."""
        failures = self._later[id(delivery)][0] + 1 if id(delivery) in self._later else 1
        pause = pause_after(failures, PAUSES[1], _LATER_MOST)
        timer = asyncio.get_running_loop().call_later(pause, self.done, delivery, (), context=self._context.copy())
        self._later[id(delivery)] = failures, timer

    # --- given back ---------------------------------------------------------------------------

    async def _release(self, released: Sequence[Return]) -> None:
        if self.source.once is not None:  # first, or the events would come again as copies of claimed ones
            await self.source.once.release([delivery for delivery, *_ in released])
        alike: dict[tuple[float, bool, bool], list[Delivery]] = {}
        for delivery, delay, tried, cleared in released:
            alike.setdefault((delay, tried, cleared), []).append(delivery)
        calls = list(alike.items())
        for start in range(0, len(calls), _AT_ONCE):  # retries have pauses of their own: not one trip each
            some = calls[start : start + _AT_ONCE]
            await all_of([partial(self._release_all, *key, deliveries) for key, deliveries in some])

    async def _release_all(self, delay: float, tried: bool, cleared: bool, deliveries: list[Delivery]) -> None:
        release = partial(self.source.subscription.release, deliveries, delay=delay, tried=tried, cleared=cleared)
        try:
            await self._insist("giving back", release)
        except BaseException as e:  # a driver may fail in any way; then their claims expire
            if _ends(e):
                raise
            self._runtime.bulkhead.report(f"giving back to {self.source.channel}", e)
        self.forget(deliveries)
        self.source.room.set()

    async def _insist(self, step: str, call: Callable[[], Awaitable[object]]) -> None:
        """Call until it succeeds or the wagon is gone (its events were then handled by others, with the same ids).
        Raises EventRefused, and any error that is no EventwagonError: repeating those would not help."""
        backoff = Backoff(*PAUSES)
        while not self._ended:
            try:
                async with asyncio.timeout(self._runtime.settings.publish_timeout):
                    await call()
                return
            except ChannelGone:
                self._on_gone(f"{step}: the channel is gone")
            except EventRefused:
                raise
            except asyncio.CancelledError as e:
                if self._ended or is_ours(e):
                    raise
                self._runtime.bulkhead.report(step, e)  # something that the driver waited for was cancelled
                await asyncio.sleep(backoff.next())
            except (EventwagonError, TimeoutError) as e:
                if not backoff.begun:
                    report_failure(self._runtime, step, str(e) or "the broker has not answered in time")
                await asyncio.sleep(backoff.next())


def _cancelled_by_others() -> bool:
    """Take back one cancellation of this task, which was ours. Whether there is another."""
    task = asyncio.current_task()
    return task is None or task.uncancel() > 0


def _ends(error: BaseException) -> bool:
    """Whether this ends the queue's task: it was cancelled, or the program is interrupted."""
    return issubclass(type(error), asyncio.CancelledError) or is_ours(error)
