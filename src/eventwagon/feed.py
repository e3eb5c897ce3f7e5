"""One channel of a wagon as one process serves it: what is fetched ahead of the workers, and what is passed over."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from .broker import Broker, Delivery, Subscription
from .errors import ChannelGone, EventwagonError
from .event import Channel, Event, born
from .facts import EventDied, EventRetried, Listener
from .orchestrator import WagonSpec
from .settings import Settings
from .worker import Handler, Threads, died

_AHEAD = 0.05
"""Seconds of work fetched ahead, so that workers don't wait for the broker and events don't wait for a worker."""
_FETCH_MOST = 1000
_RECEIVE = 0.5
_LOOK = 0.02
"""Seconds that a receive may take while workers stand by for it."""
PAUSES = (0.05, 2.0)
"""The first pause after a failure and the longest, in seconds."""


class Kit(NamedTuple):
    """What every part of a crew works with."""

    train: str
    handlers: Mapping[str, Handler]
    settings: Settings
    broker: Broker
    clock: Callable[[], float]
    tell: Listener
    rng: random.Random
    threads: Threads
    tasks: asyncio.TaskGroup
    revision: str = ""
    """Which code this process is, where it says so."""
    owner: str = ""
    """Its name, under which it claims."""


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

    def wake(self, count: int) -> None:
        """`count` events came in."""
        ...


class Served(Protocol):
    """The wagon of a feed, as this process serves it."""

    kit: Kit
    spec: WagonSpec
    leaving: bool
    busy: int
    """Workers that are at one of its events."""
    handled: int
    """Handlings that ended well."""
    failed: int
    finished: list[tuple[Feed, Delivery, list[tuple[str, Event]]]]
    """What is to be settled once what it emitted is stored."""
    released: list[tuple[Feed, Delivery, float, bool]]
    """What is to be given back: after which pause, and whether that was an attempt."""
    wanted: asyncio.Event
    """Set when there is something to settle or to give back."""

    @property
    def lanes(self) -> Hands:
        """Who works on it."""
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
    """One channel of one served wagon: what was fetched from it, and what came of that."""

    def __init__(self, serving: Served, channel: Channel, handler: Handler, subscription: Subscription) -> None:
        self.serving = serving
        self.channel = channel
        self.handler = handler
        self.subscription = subscription
        self.buffer: deque[Delivery] = deque()
        self.aside: deque[Delivery] = deque()
        """What could not be on time any more and was passed over, older than what is in the buffer: worked on later."""
        self.looking = False
        """Nothing that was fetched can be on time: what comes after it is being fetched."""
        self.unsettled: dict[int, Delivery] = {}
        """By identity: everything claimed that is not settled or given back."""
        self._room = asyncio.Event()
        self._low = 0
        self.receiving = False
        """It waits for the broker to give it more."""
        self._allowance = 0.0
        self._most = 0

    @property
    def next(self) -> Delivery | None:
        """The next event; None when nothing waits here."""
        return self.buffer[0] if self.buffer else self.aside[0] if self.aside else None

    @property
    def spent(self) -> bool:
        """The channel had nothing more to give, and all that it gave was taken or passed over."""
        return not self.buffer and self.receiving and not self.looking

    def take(self, *, late: bool = False) -> Delivery:
        """The next event, in the order in which the broker gave them; with `late` what was passed over comes first."""
        if self.aside and (late or not self.buffer):
            return self.aside.popleft()
        delivery = self.buffer.popleft()
        if len(self.buffer) <= self._low:
            self._room.set()
        return delivery

    def pass_over(self, allowance: float, most: int) -> None:
        """Put aside what waits whose chain began more than `allowance` s ago, `most` events at the most, so that newer ones
        behind them can be on time still. Where none of those that were fetched can, what comes after them is looked for."""
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
        this process has no worker for them."""
        lanes = self.serving.lanes
        if not lanes.target:
            return 0
        soon = int(_AHEAD * lanes.target / lanes.service) if lanes.service else 0
        return max(lanes.in_need, min(_FETCH_MOST, soon))

    async def fetch(self) -> None:
        """Keep the buffer filled until the wagon is left or gone."""
        serving = self.serving
        pause = PAUSES[0]
        while not serving.leaving:
            ahead = self.ahead()
            self._low = ahead // 2
            room = ahead - len(self.buffer)
            if room <= 0 or len(self.unsettled) > 4 * _FETCH_MOST:
                self._found()
                self._room.clear()
                await self._room.wait()
                continue
            try:
                self.receiving = True
                deliveries = await self.subscription.receive(room, _LOOK if self.looking else _RECEIVE)
            except ChannelGone:
                serving.lose(f"channel {self.channel} is gone")
                return
            except asyncio.CancelledError:  # the wagon is drained
                self._found()
                raise
            except EventwagonError as e:
                self._found()
                if pause == PAUSES[0]:
                    serving.stumble(f"receiving from {self.channel}", str(e))
                await asyncio.sleep(pause)
                pause = min(PAUSES[1], pause * 2)
                continue
            finally:
                self.receiving = False
            pause = PAUSES[0]
            for delivery in deliveries:
                self.unsettled[id(delivery)] = delivery
            self.buffer.extend(deliveries)
            if deliveries and not serving.lanes.target:
                serving.give_back()
            if self.looking and len(deliveries) == room and self._look_on():
                continue
            self._found()
            if deliveries:
                serving.lanes.wake(len(deliveries))
                await asyncio.sleep(0)
        self._found()

    def _look_on(self) -> bool:
        """Whether what just came is late too, and more may come."""
        self.pass_over(self._allowance, self._most)
        more, self.looking = self.looking, True
        return more

    def _found(self) -> None:
        """Nothing more is looked for: whoever stood by for it takes what there is."""
        if self.looking:
            self.looking = False
            self.serving.lanes.wake(self.serving.lanes.target)

    def nudge(self) -> None:
        """There may be room again, or it is time to leave."""
        self._room.set()

    def done(self, delivery: Delivery, emitted: list[tuple[str, Event]]) -> None:
        """Handled: to be settled once what it emitted is stored (I6)."""
        self.serving.finished.append((self, delivery, emitted))
        self.serving.wanted.set()

    def die(self, delivery: Delivery, because: str) -> None:
        """To the dead letters of the wagon, then settled."""
        kit, number = self.serving.kit, self.serving.spec.number
        self.done(delivery, [died(delivery, self.handler.channel, number, because, kit.clock())])
        kit.tell(
            EventDied(
                train=kit.train,
                number=number,
                channel=self.handler.channel,
                id=delivery.event.id,
                attempts=delivery.attempt,
                because=because,
            )
        )

    def retry(self, delivery: Delivery, because: str) -> None:
        """Again, after a pause that doubles with each attempt, with full jitter."""
        kit, settings = self.serving.kit, self.serving.kit.settings
        most = min(settings.backoff_most, settings.backoff * 2.0 ** (delivery.attempt - 1))
        pause = kit.rng.uniform(0.0, most)
        self.serving.released.append((self, delivery, pause, True))
        self.serving.wanted.set()
        kit.tell(
            EventRetried(
                train=kit.train,
                number=self.serving.spec.number,
                channel=self.handler.channel,
                id=delivery.event.id,
                attempt=delivery.attempt,
                pause=pause,
                because=because,
            )
        )
