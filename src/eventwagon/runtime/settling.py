"""Settle: takes what came of a channel's events (done, dead, to be retried, given back) and brings it to the broker."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import copy_context
from functools import partial

from ..breaker import USUAL, Again, Circuit
from ..contracts.broker import Delivery
from ..contracts.facts import EventDied, EventRetried, EventSnoozed
from ..display.text import said
from ..errors import ChannelGone, EventRefused, EventwagonError, Unavailable
from ..event import DEAD, Channel, Event
from .bulkhead import is_ours
from .circuits import Circuits
from .handling import died, smaller
from .tasks import all_of
from .worker_runtime import PAUSES, ChannelState, WorkerRuntime

_LATER_MOST = 60.0
"""The longest pause, in seconds, before something that could not be settled is to be settled again."""
_AT_ONCE = 16
"""Calls of one kind to the broker at a time."""
_UNTIL_SETTLED = 1.0
"""The longest that a process stays alone with an event for it to be settled, in seconds."""

Emitted = Sequence[tuple[str, Event]]
"""Events to be stored before the event that emitted them is settled, each with its channel's name."""

Return = tuple[Delivery, float, bool, bool]
"""What is to be given back: after which pause, whether that was an attempt, and whether it was handled at all."""


class SettleQueue:
    """Events of one channel that wait for the same answers of the broker: while one batch is under way the next
    gathers."""

    __slots__ = ("back", "done", "task")

    def __init__(self) -> None:
        self.done: list[tuple[Delivery, Emitted]] = []
        """Handled or dead, each with what is to be stored before it is settled."""
        self.back: list[Return] = []
        self.task: asyncio.Task[None] | None = None

    def take(self, most: int) -> list[tuple[Delivery, Emitted]]:
        """The next batch: one event at least, with at most `most` emits together, so that it is settled as soon as they
        are stored."""
        taken = self.done
        for place, (_, emitted) in enumerate(taken):
            most -= len(emitted)
            if most < 0 and place:
                self.done = taken[place:]
                return taken[:place]
        self.done = []
        return taken


class Settler:
    """Settles the events of one channel of a wagon in one process.

    It owns `unsettled`: each event from its receipt until the broker has taken what came of it. Events that emit to the
    same channels travel together; those that emit elsewhere wait for no answer but their own. What the broker refuses
    for good is told apart: its event dies, the others are settled.

    `on_gone` is called when a channel of the wagon is no more, `on_settled` after each batch.
    """

    def __init__(
        self,
        runtime: WorkerRuntime,
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
        self._done = SettleQueue()
        """Handled, and emitted nothing."""
        self._back = SettleQueue()
        self._emitting: dict[str | frozenset[str], SettleQueue] = {}
        """By the channels to which they emitted."""
        self._ended = False
        self._context = copy_context()  # of no event
        self._later: dict[int, tuple[float, asyncio.TimerHandle]] = {}
        """By identity: what could not be settled, the next pause, and the timer of this one."""
        self._awaited: dict[int, asyncio.Future[None]] = {}
        """By identity: those for which `until_settled` waits."""

    def received(self, deliveries: Iterable[Delivery]) -> None:
        """The broker has given these to this process: from now on their claims are kept."""
        for delivery in deliveries:
            self.unsettled[id(delivery)] = delivery

    # --- what came of an event -----------------------------------------------------------------

    def done(self, delivery: Delivery, emitted: Emitted) -> None:
        """Handled: to be settled once what it emitted is stored (I6)."""
        queue = self._done if not emitted else self._queue_of(emitted)
        queue.done.append((delivery, emitted))
        if queue.task is None:
            self._go(queue)

    def die(self, delivery: Delivery, because: str, attempt: int) -> None:
        """To the dead letters of the wagon, then settled. `attempt`: how often it was tried, as far as is known
        here."""
        channel = self.source.channel
        letters = [died(delivery.event, channel.name, channel.wagon, because, attempt, self._runtime.clock())]
        self.done(delivery, letters)
        self.tell_deaths(letters)

    def retry(self, delivery: Delivery, because: str, attempt: int, again: Again) -> None:
        """Again after a pause."""
        self._queue_return(delivery, again.pause, tried=again.counts)
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
        """Again after the pause that its handler asked for; that was no attempt."""
        self._queue_return(delivery, pause, tried=False)
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
        """Another process may have it, after `delay` s. Unless it was `handled` here a suspect stays one."""
        self.not_tried(delivery)
        self._queue_return(delivery, delay, tried=False, handled=handled)

    def not_tried(self, delivery: Delivery) -> None:
        """It was taken and not handled: as a circuit's probe it has shown nothing."""
        if self.source.circuit.probe is not None:
            self._circuits.passed(self.source.circuit, delivery.event.id, gone=False)

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """They are in hand no longer: settled, given back, or left to run out. Idempotent."""
        for delivery in deliveries:
            self.unsettled.pop(id(delivery), None)
            if self._awaited and (waiter := self._awaited.pop(id(delivery), None)) is not None and not waiter.done():
                waiter.set_result(None)

    def tell_deaths(self, emitted: Emitted) -> None:
        """Tell of the dead letters among what is to be stored."""
        channel = self.source.channel
        for name, letter in emitted:
            if name == DEAD:
                why = letter.extensions
                self._runtime.tell(
                    EventDied(
                        train=channel.train,
                        number=channel.wagon,
                        channel=channel.name,
                        id=letter.id,
                        attempts=int(why["deadattempts"]),
                        because=why["deadbecause"],
                    )
                )

    async def until_settled(self, delivery: Delivery) -> None:
        """Return when it is in hand no longer, or after a moment: the others are not to wait for a broker that does not
        answer."""
        if id(delivery) not in self.unsettled or self.source.wagon.leaving:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._awaited[id(delivery)] = waiter
        await asyncio.wait([waiter], timeout=_UNTIL_SETTLED)

    # --- its owner's -----------------------------------------------------------------------------

    def change_circuit(self, circuit: Circuit) -> None:
        """The channel has, or no longer has, a breaker. A probe that is under way shows nothing to the old one.
        Idempotent."""
        before = self.source.circuit
        if circuit is not before:
            self.source.circuit = circuit
            if before.probe is not None and any(d.event.id == before.probe for d in self.unsettled.values()):
                self._circuits.passed(before, before.probe, gone=False)

    def give_back_unstored(self) -> None:
        """No time is left for what waits to be stored and settled: others may have it, and handle it again. A batch
        that is under way goes on."""
        for queue in self._queues():
            left, queue.done = queue.done, []
            for delivery, _ in left:
                self.give_back(delivery, handled=True)

    def end(self, why: str) -> None:
        """Nothing more can be done, or is to be: what has no answer yet is left to run out. Idempotent."""
        self._ended = True
        for _, timer in self._later.values():
            timer.cancel()
        for queue in self._queues():
            if queue.task is not None:
                queue.task.cancel(why)

    # --- queues ------------------------------------------------------------------------------------

    def _queues(self) -> list[SettleQueue]:
        return [self._done, self._back, *self._emitting.values()]

    def _queue_of(self, emitted: Emitted) -> SettleQueue:
        """The queue of those that emitted to the same channels."""
        key = emitted[0][0] if len(emitted) == 1 else frozenset(name for name, _ in emitted)
        queue = self._emitting.get(key)
        if queue is None:
            queue = self._emitting[key] = SettleQueue()
        return queue

    def _queue_return(self, delivery: Delivery, delay: float, *, tried: bool, handled: bool = True) -> None:
        self._back.back.append((delivery, delay, tried, handled))
        self._go(self._back)

    def _go(self, queue: SettleQueue) -> None:
        """Something waits in the queue."""
        if queue.task is None and not self._ended:
            queue.task = self._tasks.create_task(self._work_off(queue), context=self._context.copy())

    async def _work_off(self, queue: SettleQueue) -> None:
        try:
            while queue.done or queue.back:
                done = queue.take(self._runtime.settings.publish_batch)
                back, queue.back = queue.back, []
                try:
                    if back:
                        await self._release(back)
                    if done:
                        await self._settle(done)
                except BaseException as e:  # these events' claims run out, the others go on
                    if is_ours(e):
                        raise
                    self._runtime.bulkhead.report(f"settling in {self.source.channel}", e)
                    self.forget([*(item[0] for item in done), *(item[0] for item in back)])
                self._on_settled()
        finally:
            queue.task = None

    # --- handled, or dead ---------------------------------------------------------------------

    async def _settle(self, finished: Sequence[tuple[Delivery, Emitted]]) -> None:
        emitted: dict[str, list[tuple[int, Event]]] = {}
        for place, (_, events) in enumerate(finished):
            for name, event in events:
                emitted.setdefault(name, []).append((place, event))
        refused: dict[int, tuple[str, BaseException]] = {}
        if emitted:
            await all_of([partial(self._store_all, name, some, refused) for name, some in emitted.items()])
        kept = [delivery for place, (delivery, _) in enumerate(finished) if place not in refused]
        if kept:
            await self._settle_all(kept)
        for place, (name, error) in refused.items():
            self._refuse(finished[place][0], name, error)

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
        """Store these emits; those that the broker never takes are found by halves and noted in `refused`, by the place
        of the event that emitted them."""
        channel = Channel(self.source.channel.train, self.source.channel.wagon, name)
        events = [event for _, event in part]
        try:
            await self._insist(f"emitting to {channel}", partial(self._emit, channel, events))
        except BaseException as e:  # a driver may fail on an event in any way
            if _ends(e):
                raise
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
                self._runtime.bulkhead.report(f"emitting to {channel}", e)
            refused[place] = (name, e)

    def _refuse(self, delivery: Delivery, name: str, error: BaseException) -> None:
        """What it emitted can't be stored."""
        because = f"emitting to {name}: {said(error)}"
        if name == DEAD:  # not even as small as can be: the broker refuses everything
            self._runtime.report_failure(f"keeping a dead letter of wagon_{self.source.channel.wagon}", because)
            self.give_back(delivery, PAUSES[1], handled=True)
        elif isinstance(error, EventRefused):
            self.die(delivery, because, delivery.attempt)
        else:
            self._emitting_failed(delivery, because)

    def _emitting_failed(self, delivery: Delivery, because: str) -> None:
        """The driver failed on what its handler emitted: to be tried again, or dead after the last attempt."""
        settings = self._runtime.settings
        if delivery.attempt >= (settings.attempts or USUAL):
            self.die(delivery, because, delivery.attempt)
        else:
            pause = settings.retries.pause(delivery.attempt, self._runtime.rng.random())
            self.retry(delivery, because, delivery.attempt, Again(pause, counts=True))

    async def _emit(self, channel: Channel, events: Sequence[Event]) -> None:
        """Store them. A channel that the manifest does not give to this wagon (yet) may exist all the same, and would
        be swept with what it holds: handlers of a new version wait until it is added."""
        if channel.name != DEAD and channel not in self.source.wagon.spec.channels:
            raise Unavailable(f"{channel} is not yet one of the wagon's channels")
        await self._runtime.broker.publish(channel, events)

    async def _settle_all(self, deliveries: list[Delivery]) -> None:
        try:
            await self._insist(
                f"settling in {self.source.channel}", partial(self.source.subscription.settle, deliveries)
            )
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
        for delivery in deliveries if self._later else ():
            self._later.pop(id(delivery), None)
        self.forget(deliveries)

    def _settle_later(self, delivery: Delivery) -> None:
        """It was handled, and could not be settled for a reason that may stand: its claim is kept, so that nobody
        handles it again, and settling is tried again after a pause that grows."""
        pause = self._later[id(delivery)][0] if id(delivery) in self._later else PAUSES[1]
        timer = asyncio.get_running_loop().call_later(pause, self.done, delivery, (), context=self._context.copy())
        self._later[id(delivery)] = min(_LATER_MOST, 2 * pause), timer

    # --- given back ---------------------------------------------------------------------------

    async def _release(self, released: Sequence[Return]) -> None:
        alike: dict[tuple[float, bool, bool], list[Delivery]] = {}
        for delivery, delay, tried, cleared in released:
            alike.setdefault((delay, tried, cleared), []).append(delivery)
        calls = list(alike.items())
        for start in range(0, len(calls), _AT_ONCE):  # retries have pauses of their own: not one round trip each
            some = calls[start : start + _AT_ONCE]
            await all_of([partial(self._release_all, *key, deliveries) for key, deliveries in some])

    async def _release_all(self, delay: float, tried: bool, cleared: bool, deliveries: list[Delivery]) -> None:
        release = partial(self.source.subscription.release, deliveries, delay=delay, tried=tried, cleared=cleared)
        try:
            await self._insist("giving back", release)
        except BaseException as e:  # a driver may fail in any way; then their claims run out
            if _ends(e):
                raise
            self._runtime.bulkhead.report(f"giving back to {self.source.channel}", e)
        self.forget(deliveries)
        self.source.room.set()

    async def _insist(self, step: str, call: Callable[[], Awaitable[object]]) -> None:
        """Until it works, or the wagon is gone: then its events were handled by others, under the same ids. Raises
        EventRefused, and whatever is no EventwagonError: to try those again is of no use."""
        pause = PAUSES[0]
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
                await asyncio.sleep(pause)
                pause = min(PAUSES[1], pause * 2)
            except (EventwagonError, TimeoutError) as e:
                if pause == PAUSES[0]:
                    because = str(e) or "the broker has not answered in time"
                    self._runtime.report_failure(step, because)
                await asyncio.sleep(pause)
                pause = min(PAUSES[1], pause * 2)


def _ends(error: BaseException) -> bool:
    """Whether this ends the settling: it is cancelled, or its wagon was left meanwhile."""
    return issubclass(type(error), asyncio.CancelledError) or is_ours(error)
