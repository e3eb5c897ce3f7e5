"""One channel of a wagon as one process serves it: what is fetched ahead of the workers, and what is passed over."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from ..breaker import USUAL, Again, Circuit
from ..contracts.broker import Delivery, Subscription
from ..contracts.facts import EventDied, EventRetried, EventSnoozed
from ..contracts.orchestrator import WagonSpec
from ..errors import ChannelGone, EventwagonError
from ..event import DEAD, Channel, born
from .bulkhead import is_ours
from .handling import Handler, died
from .kit import PAUSES, Kit
from .settling import Emitted, Line, Settling

_AHEAD = 0.05
"""Seconds of work fetched ahead, so that workers don't wait for the broker and events don't wait for a worker."""
_FETCH_MOST = 1000
_RECEIVE = 0.5
_LOOK = 0.02
"""Seconds that a receive may take while workers stand by for it."""
_CALL = 0.5
"""Seconds for which a worker waits for what it has chosen to be fetched."""
_OVER = 1.0
"""The longest that a process stays alone with an event for it to be settled, in seconds."""
_KEPT_WAITING = 0.15
"""Seconds that an event waits at a process whose workers are all busy before others may have it."""


class Hands(Protocol):
    """The workers that serve a wagon: its own, or the shared crew."""

    target: int
    """How many there should be."""
    service: float
    """Seconds that a handler takes, averaged over the recent ones; 0 before the first."""

    @property
    def in_need(self) -> int:
        """How many events should be at hand in each channel, however slow the handlers are."""
        ...

    @property
    def free(self) -> int:
        """How many wait for an event."""
        ...

    def wake(self, count: int) -> None:
        """`count` events came in."""
        ...


class Served(Protocol):
    """The wagon of a feed, as this process serves it."""

    kit: Kit
    spec: WagonSpec
    leaving: bool
    paused: bool
    """Nothing of it is handed out."""
    busy: int
    """Workers that are at one of its events."""
    handled: int
    """Handlings that ended well."""
    failed: int

    @property
    def lanes(self) -> Hands:
        """Who works on it."""
        ...

    @property
    def others(self) -> bool:
        """Other processes may have a free worker for its events."""
        ...

    def give_back(self) -> None:
        """Nobody here works on what was fetched: others may have it."""
        ...

    def lose(self, why: str) -> None:
        """A channel is gone: nothing more can be done here."""
        ...

    def stumble(self, step: str, because: str) -> None:
        """Something failed that is tried again."""
        ...


class Feed:
    """One channel of one served wagon: what was fetched from it, and what came of that.

    While all workers are busy an event that another process could take is not kept: it is given back after a moment,
    and the feed rests. It remembers when that event's chain began, so that a worker that is free chooses between wagons
    as if the event were here, and fetches what it has chosen.
    """

    def __init__(
        self, serving: Served, channel: Channel, handler: Handler, subscription: Subscription, settling: Settling
    ) -> None:
        self.serving = serving
        self._settling = settling
        self._settled, self._released = settling.line(self, None), settling.line(self, Line)
        self.channel = channel
        self.handler = handler
        self.subscription = subscription
        self.circuit = serving.kit.circuits.of(channel.name, guarded=serving.spec.guarded)
        self.buffer: deque[Delivery] = deque()
        self.aside: deque[Delivery] = deque()
        """What could not be on time any more and was passed over, older than what is in the buffer: worked on later."""
        self.looking = False
        """Nothing that was fetched can be on time: what comes after it is being fetched."""
        self.unsettled: dict[int, Delivery] = {}
        """By identity: everything claimed that is not settled or given back."""
        self.resting = False
        """Nothing is fetched but what a worker has chosen."""
        self.remembered: float | None = None
        """While it rests: when the chain began of what a worker would fetch."""
        self._newest: list[Delivery] = []
        """The last ones in the buffer and aside at the last look at what is kept waiting."""
        self._called: list[asyncio.Future[None]] = []
        self._awaited: dict[int, asyncio.Future[None]] = {}
        """By identity: those whose end somebody waits for."""
        self._timer: asyncio.TimerHandle | None = None
        self._dry = False
        """The last receive brought less than was asked for."""
        self._room = asyncio.Event()
        self._low = 0
        self.receiving = False
        """It waits for the broker to give it more."""
        self._allowance = 0.0
        self._most = 0

    @property
    def began(self) -> float | None:
        """When the chain of its next event began; None when nothing waits here, or nothing may be handed out."""
        if self.circuit.held or self.serving.paused:
            return None
        if self.buffer:
            return born(self.buffer[0].event)
        return self.remembered if self.remembered is not None or not self.aside else born(self.aside[0].event)

    @property
    def fresh(self) -> bool:
        """It has, or would fetch, an event that was not passed over."""
        return bool(self.buffer) or self.remembered is not None

    @property
    def spent(self) -> bool:
        """The channel had nothing more to give, and all that it gave was taken or passed over."""
        return not self.buffer and self.receiving and not self.looking

    def take(self, *, late: bool = False) -> Delivery | None:
        """The next event, in the order in which the broker gave them; with `late` what was passed over comes first.
        None where it must be fetched: see `call_up`."""
        if self.circuit.opened_at is not None:
            return self._take_probe()
        if self.aside and (late or not self.fresh):
            return self.aside.popleft()
        if not self.buffer:
            return None
        delivery = self.buffer.popleft()
        if len(self.buffer) <= self._low:
            self._room.set()
        return delivery

    def _take_probe(self) -> Delivery | None:
        """The circuit is open: one of what is at hand is to show whether the channel works again."""
        at_hand = self.buffer or self.aside
        if not at_hand:
            return None
        index = self.circuit.choose([delivery.event.id for delivery in at_hand])
        delivery = at_hand[index]
        del at_hand[index]
        self.circuit.take(delivery.event.id)
        return delivery

    def change_circuit(self, circuit: Circuit) -> None:
        """Its channel has, or has no longer, a breaker. A probe that is under way shows nothing to the one before."""
        before = self.circuit
        if circuit is not before:
            self.circuit = circuit
            if before.probe is not None and any(d.event.id == before.probe for d in self.unsettled.values()):
                self.serving.kit.circuits.passed(before, before.probe, gone=False)
            self.serving.lanes.wake(self.serving.lanes.target)

    def circuit_changed(self) -> None:
        """The channel's circuit opened or closed, a probe is due, or one failed."""
        if self.circuit.held and self.circuit.probe is None:
            self.give_all_back()
        else:
            self.nudge()
            self.serving.lanes.wake(self.serving.lanes.target)

    async def call_up(self) -> None:
        """Fetch one event for a worker that has chosen this channel. Returns when it was tried, or after a moment: a
        broker that does not answer keeps no worker from other wagons."""
        self.remembered = None
        waiter = asyncio.get_running_loop().create_future()
        self._called.append(waiter)
        self._room.set()
        await asyncio.wait([waiter], timeout=_CALL)

    def pass_over(self, allowance: float, most: int) -> None:
        """Put aside what waits whose chain began more than `allowance` s ago, `most` events at the most, so that newer
        ones behind them can be on time still. Where none of those that were fetched can, what comes after them is
        looked for."""
        self._allowance, self._most = allowance, most
        before = self.serving.kit.clock() - allowance
        while self.buffer and self._most > 0 and born(self.buffer[0].event) < before:
            self.aside.append(self.buffer.popleft())
            self._most -= 1
        self.looking = not self.buffer and not self.receiving and self._most > 0
        if len(self.buffer) <= self._low:
            self._room.set()

    def ahead(self) -> int:
        """How many events to have fetched: few where handlers are slow, so that none waits at a busy worker; none where
        this process has no worker for them, or the wagon is paused."""
        lanes = self.serving.lanes
        if not lanes.target or self.serving.paused:
            return 0
        if self.circuit.opened_at is not None:
            return self.circuit.room
        soon = int(_AHEAD * lanes.target / lanes.service) if lanes.service else 0
        return max(lanes.in_need, min(_FETCH_MOST, soon))

    async def fetch(self) -> None:
        """Keep the buffer filled until the wagon is left or gone."""
        serving = self.serving
        pause = PAUSES[0]
        try:
            while not serving.leaving:
                count = self._wanted()
                if count <= 0:
                    self._found()
                    self._answer_called()
                    self._room.clear()
                    await self._room.wait()
                    continue
                called, self._called = self._called, []
                timeout = _LOOK if self.looking or called else _RECEIVE
                try:
                    self.receiving = True
                    deliveries = await self.subscription.receive(count, timeout)
                    self.receiving = False
                    self._took(deliveries, count)
                except ChannelGone:
                    serving.lose(f"channel {self.channel} is gone")
                    return
                except BaseException as e:
                    if is_ours(e):
                        raise  # the wagon is drained
                    self._found()
                    if not isinstance(e, EventwagonError):
                        serving.kit.bulkhead.report(f"receiving from {self.channel}", e)
                    elif pause == PAUSES[0]:
                        serving.stumble(f"receiving from {self.channel}", str(e))
                    _answer(called)
                    await asyncio.sleep(pause)
                    pause = min(PAUSES[1], pause * 2)
                    continue
                finally:
                    self.receiving = False
                    _answer(called)
                pause = PAUSES[0]
                if self.looking and len(deliveries) == count and self._look_on():
                    continue
                self._found()
                if deliveries:
                    serving.lanes.wake(len(deliveries))
                    await asyncio.sleep(0)
        finally:
            self._found()
            self._forsake()

    def _wanted(self) -> int:
        """How many events to ask the broker for now."""
        ahead = self.ahead()
        self._low = ahead // 2
        if len(self.unsettled) > 4 * _FETCH_MOST or self.serving.paused:
            return 0
        return len(self._called) if self.resting else ahead - len(self.buffer)

    def _took(self, deliveries: Sequence[Delivery], asked: int) -> None:
        """The broker has given these."""
        for delivery in deliveries:
            self.unsettled[id(delivery)] = delivery
        self.buffer.extend(deliveries)
        self._dry = len(deliveries) < asked
        if self.resting:
            if deliveries:
                self.remembered = None if self._dry else born(deliveries[-1].event)
            else:
                self.resting = False
        if deliveries and (self.serving.leaving or self.serving.paused or not self.serving.lanes.target):
            self.serving.give_back()  # the receive was under way
        elif self.circuit.held and self.circuit.probe is None:
            self.give_all_back()  # the receive was under way when the circuit opened
        elif self.buffer and self._timer is None and self.serving.others:
            self._look_soon()

    def _look_soon(self) -> None:
        self._newest = [waiting[-1] for waiting in (self.buffer, self.aside) if waiting]
        self._timer = asyncio.get_running_loop().call_later(_KEPT_WAITING, self._kept_waiting)

    def _kept_waiting(self) -> None:
        """Give back what has waited here since the last look, while every worker is busy: one of another process may be
        free."""
        self._timer = None
        if not self.serving.leaving and not self.serving.lanes.free and self.serving.others:
            if self._dry:
                self._give_back_waiting(self.aside)
            if (began := self._give_back_waiting(self.buffer)) is not None:
                self.resting, self.remembered = True, began
        if self.buffer or self.aside:
            self._look_soon()

    def _give_back_waiting(self, waiting: deque[Delivery]) -> float | None:
        """Those that were there at the last look; when the chain of the first of them began. They come in order: where
        the newest of then is here no more, neither are those before it."""
        if not any(delivery is newest for delivery in waiting for newest in self._newest):
            return None
        began = born(waiting[0].event)
        while True:
            delivery = waiting.popleft()
            self.give_back(delivery)
            if any(delivery is newest for newest in self._newest):
                return began

    def rouse(self) -> None:
        """A worker is free and has nothing to do: fetch again as before."""
        if self.resting:
            self.resting, self.remembered = False, None
            self._room.set()

    def _look_on(self) -> bool:
        """Whether what just came is late too, and more may come."""
        self.pass_over(self._allowance, self._most)
        more, self.looking = self.looking, True
        return more

    def _found(self) -> None:
        """Stop looking ahead; wake the workers that waited for it."""
        if self.looking:
            self.looking = False
            self.serving.lanes.wake(self.serving.lanes.target)

    def _forsake(self) -> None:
        """Nothing is fetched any more: nobody is to wait for it."""
        self.remembered = None
        self._answer_called()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _answer_called(self) -> None:
        """Nothing can be fetched now: workers are not to wait for it."""
        _answer(self._called)
        self._called.clear()

    def nudge(self) -> None:
        """There may be room again, or it is time to leave."""
        self._room.set()

    def drop(self) -> None:
        """The channel is gone: forget what was fetched."""
        self.clear()
        self.looking = False
        self._forsake()

    def clear(self) -> list[Delivery]:
        """Everything that was fetched and not taken, which waits here no longer."""
        waited = [*self.buffer, *self.aside]
        self.buffer.clear()
        self.aside.clear()
        return waited

    def give_all_back(self) -> None:
        """What was fetched and not taken is for others, or for later."""
        for delivery in self.clear():
            self.give_back(delivery)

    # --- what came of an event --------------------------------------------------------------

    def forget(self, deliveries: Sequence[Delivery]) -> None:
        """They are in hand no longer: settled, given back, or left to run out."""
        for delivery in deliveries:
            self.unsettled.pop(id(delivery), None)
            if self._awaited and (waiter := self._awaited.pop(id(delivery), None)) is not None and not waiter.done():
                waiter.set_result(None)

    async def over(self, delivery: Delivery) -> None:
        """Return when it is in hand no longer, or after a moment: the others are not to wait for a broker that does not
        answer."""
        if id(delivery) not in self.unsettled or self.serving.leaving:
            return
        waiter = asyncio.get_running_loop().create_future()
        self._awaited[id(delivery)] = waiter
        await asyncio.wait([waiter], timeout=_OVER)

    def done(self, delivery: Delivery, emitted: Emitted) -> None:
        """Handled: to be settled once what it emitted is stored (I6)."""
        line = self._settled
        if emitted:
            line = self._settling.line(self, emitted[0][0] if len(emitted) == 1 else frozenset(n for n, _ in emitted))
        line.done.append((delivery, emitted))
        if line.task is None:
            self._settling.go(line)

    def give_back(self, delivery: Delivery, delay: float = 0.0, *, handled: bool = False) -> None:
        """Another may have it, after `delay` s. Unless it was `handled` here a suspect stays one."""
        self.untried(delivery)
        self._release(delivery, delay, tried=False, handled=handled)

    def untried(self, delivery: Delivery) -> None:
        """It was taken and not handled: as a probe it has shown nothing."""
        if self.circuit.probe is not None:
            self.serving.kit.circuits.passed(self.circuit, delivery.event.id, gone=False)

    def _release(self, delivery: Delivery, delay: float, *, tried: bool, handled: bool = True) -> None:
        self._released.back.append((delivery, delay, tried, handled))
        self._settling.go(self._released)

    def fail(self, delivery: Delivery, because: str) -> None:
        """What its handler emitted could not be stored: to be tried again, or dead after the last attempt."""
        settings = self.serving.kit.settings
        if delivery.attempt >= (settings.attempts or USUAL):
            self.die(delivery, because, delivery.attempt)
        else:
            pause = settings.retries.pause(delivery.attempt, self.serving.kit.rng.random())
            self.retry(delivery, because, delivery.attempt, Again(pause, counts=True))

    def die(self, delivery: Delivery, because: str, attempt: int) -> None:
        """To the dead letters of the wagon, then settled. `attempt`: how often it was tried, as far as is known
        here."""
        kit, number = self.serving.kit, self.serving.spec.number
        letters = [died(delivery.event, self.handler.channel, number, because, attempt, kit.clock())]
        self.done(delivery, letters)
        self.tell_deaths(letters)

    def tell_deaths(self, emitted: Emitted) -> None:
        """Tell of the dead letters among what is to be stored."""
        kit = self.serving.kit
        for channel, letter in emitted:
            if channel == DEAD:
                why = letter.extensions
                kit.tell(
                    EventDied(
                        train=kit.train,
                        number=self.serving.spec.number,
                        channel=self.handler.channel,
                        id=letter.id,
                        attempts=int(why["deadattempts"]),
                        because=why["deadbecause"],
                    )
                )

    def snooze(self, delivery: Delivery, pause: float, because: str) -> None:
        """Again after the pause that its handler asked for; that was no attempt."""
        kit = self.serving.kit
        self._release(delivery, pause, tried=False)
        kit.tell(
            EventSnoozed(
                train=kit.train,
                number=self.serving.spec.number,
                channel=self.handler.channel,
                id=delivery.event.id,
                pause=pause,
                because=because,
            )
        )

    def retry(self, delivery: Delivery, because: str, attempt: int, again: Again) -> None:
        """Again after a pause."""
        kit = self.serving.kit
        self._release(delivery, again.pause, tried=again.counts)
        kit.tell(
            EventRetried(
                train=kit.train,
                number=self.serving.spec.number,
                channel=self.handler.channel,
                id=delivery.event.id,
                attempt=attempt,
                pause=again.pause,
                because=because,
            )
        )


def _answer(called: Sequence[asyncio.Future[None]]) -> None:
    for waiter in called:
        if not waiter.done():
            waiter.set_result(None)
