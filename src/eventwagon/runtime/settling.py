"""What came of a wagon's events on its way to the broker: emits stored, events settled or given back, in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Hashable, Sequence
from contextvars import copy_context
from functools import partial
from typing import Protocol

from ..contracts.broker import Delivery, Subscription
from ..contracts.facts import StepFailed
from ..display.text import said
from ..errors import ChannelGone, EventRefused, EventwagonError, Unavailable
from ..event import DEAD, Channel, Event
from .bulkhead import is_ours
from .handling import smaller
from .kit import PAUSES, Kit
from .tasks import all_of

_LATER_MOST = 60.0
"""The longest pause, in seconds, before something that could not be settled is to be settled again."""
_AT_ONCE = 16
"""Calls of one kind to the broker at a time."""


class Source(Protocol):
    """The channel that a delivery came from, as this process serves it."""

    channel: Channel
    subscription: Subscription

    def forget(self, deliveries: Sequence[Delivery]) -> None:
        """They are in hand no longer: settled, given back, or left to run out."""
        ...

    def give_back(self, delivery: Delivery, delay: float = 0.0, *, handled: bool = False) -> None:
        """Another may have it, after `delay` s. Unless it was `handled` here a suspect stays one."""
        ...

    def nudge(self) -> None:
        """There may be room again."""
        ...

    def done(self, delivery: Delivery, emitted: Emitted) -> None:
        """Handled: to be settled once what it emitted is stored."""
        ...

    def die(self, delivery: Delivery, because: str, attempt: int) -> None:
        """To the dead letters. `attempt`: how often it was tried."""
        ...

    def fail(self, delivery: Delivery, because: str) -> None:
        """This attempt failed."""
        ...


Emitted = Sequence[tuple[str, Event]]

Return = tuple[Delivery, float, bool, bool]
"""What is to be given back: after which pause, whether that was an attempt, and whether it was handled at all."""


class Line:
    """Events of one channel that wait for the same answers of the broker: while one batch is under way the next
    gathers."""

    __slots__ = ("back", "done", "source", "task")

    def __init__(self, source: Source) -> None:
        self.source = source
        self.done: list[tuple[Delivery, Emitted]] = []
        """What was handled, or died, and what is to be stored before it is settled."""
        self.back: list[Return] = []
        self.task: asyncio.Task[None] | None = None

    def take(self, most: int) -> list[tuple[Delivery, Emitted]]:
        """What comes next, one at least, with `most` emits together: each batch is settled once its emits are
        stored."""
        taken = self.done
        for place, (_, emitted) in enumerate(taken):
            most -= len(emitted)
            if most < 0 and place:
                self.done = taken[place:]
                return taken[:place]
        self.done = []
        return taken


class Settling:
    """Settles the events of one wagon in one process.

    Events that emit to the same channels travel together; those that emit elsewhere wait for no answer but their own.
    What the broker refuses for good is told apart: its event dies, the others are settled. `channels` gives the wagon's
    channels as they are now, `gone` is called when one of them is no more, `changed` after each batch.
    """

    def __init__(
        self,
        kit: Kit,
        number: int,
        channels: Callable[[], Collection[Channel]],
        gone: Callable[[str], None],
        changed: Callable[[], None],
    ) -> None:
        self._kit = kit
        self._number = number
        self._channels = channels
        self._gone = gone
        self._changed = changed
        self._lines: dict[Hashable, Line] = {}
        self._ended = False
        self._context = copy_context()  # of no event
        self._later: dict[int, tuple[float, asyncio.TimerHandle]] = {}
        """By identity: what could not be settled, the next pause, and the timer of this one."""

    def line(self, source: Source, key: Hashable) -> Line:
        """The line of those from `source` that have `key` in common: where they emit to, or that they are given
        back."""
        line = self._lines.get((source, key))
        if line is None:
            line = self._lines[source, key] = Line(source)
        return line

    def go(self, line: Line) -> None:
        """Something waits in the line."""
        if line.task is None and not self._ended:
            line.task = self._kit.tasks.create_task(self._work_off(line), context=self._context.copy())

    def give_back(self) -> None:
        """No time is left for what waits to be stored and settled: others may have it, and handle it again. A batch
        that is under way goes on."""
        for line in list(self._lines.values()):
            left, line.done = line.done, []
            for delivery, _ in left:
                line.source.give_back(delivery, handled=True)

    def end(self, why: str) -> None:
        """Nothing more can be done, or is to be: what has no answer yet is left to run out."""
        self._ended = True
        for _, timer in self._later.values():
            timer.cancel()
        for line in self._lines.values():
            if line.task is not None:
                line.task.cancel(why)

    async def _work_off(self, line: Line) -> None:
        try:
            while line.done or line.back:
                done = line.take(self._kit.settings.publish_batch)
                back, line.back = line.back, []
                try:
                    if back:
                        await self._release(line.source, back)
                    if done:
                        await self._settle(line.source, done)
                except BaseException as e:  # these events' claims run out, the others go on
                    if is_ours(e):
                        raise
                    self._kit.bulkhead.report(f"settling in wagon {self._number}", e)
                    line.source.forget([*(item[0] for item in done), *(item[0] for item in back)])
                self._changed()
        finally:
            line.task = None

    # --- handled, or dead ---------------------------------------------------------------------

    async def _settle(self, source: Source, finished: Sequence[tuple[Delivery, Emitted]]) -> None:
        emitted: dict[str, list[tuple[int, Event]]] = {}
        for place, (_, events) in enumerate(finished):
            for name, event in events:
                emitted.setdefault(name, []).append((place, event))
        refused: dict[int, tuple[str, BaseException]] = {}
        if emitted:
            await all_of([partial(self._store_all, name, some, refused) for name, some in emitted.items()])
        kept = [delivery for place, (delivery, _) in enumerate(finished) if place not in refused]
        if kept:
            await self._settle_all(source, kept)
        for place, (name, error) in refused.items():
            self._refuse(source, finished[place][0], name, error)

    async def _store_all(
        self, name: str, some: Sequence[tuple[int, Event]], refused: dict[int, tuple[str, BaseException]]
    ) -> None:
        most = self._kit.settings.publish_batch
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
        channel = Channel(self._kit.train, self._number, name)
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
                self._kit.bulkhead.report(f"emitting to {channel}", e)
            refused[place] = (name, e)

    def _refuse(self, source: Source, delivery: Delivery, name: str, error: BaseException) -> None:
        """What it emitted can't be stored."""
        because = f"emitting to {name}: {said(error)}"
        if name == DEAD:  # not even as small as can be: the broker refuses everything
            step = f"keeping a dead letter of wagon {self._number}"
            self._kit.tell(StepFailed(train=self._kit.train, step=step, because=because))
            source.give_back(delivery, PAUSES[1], handled=True)
        elif isinstance(error, EventRefused):
            source.die(delivery, because, delivery.attempt)
        else:
            source.fail(delivery, because)

    async def _emit(self, channel: Channel, events: Sequence[Event]) -> None:
        """Store them. A channel that the manifest does not give to this wagon (yet) may exist all the same, and would
        be swept with what it holds: handlers of a new version wait until it is added."""
        if channel.name != DEAD and channel not in self._channels():
            raise Unavailable(f"{channel} is not yet one of the wagon's channels")
        await self._kit.broker.publish(channel, events)

    async def _settle_all(self, source: Source, deliveries: list[Delivery]) -> None:
        try:
            await self._insist(f"settling in {source.channel}", partial(source.subscription.settle, deliveries))
        except BaseException as e:  # a driver may fail on one of them in any way
            if _ends(e):
                raise
            if len(deliveries) > 1:
                half = len(deliveries) // 2
                await self._settle_all(source, deliveries[:half])
                await self._settle_all(source, deliveries[half:])
                return
            self._kit.bulkhead.report(f"settling in {source.channel}", e)
            self._settle_later(source, deliveries[0])
            return
        for delivery in deliveries if self._later else ():
            self._later.pop(id(delivery), None)
        source.forget(deliveries)

    def _settle_later(self, source: Source, delivery: Delivery) -> None:
        """It was handled, and could not be settled for a reason that may stand: its claim is kept, so that nobody
        handles it again, and settling is tried again after a pause that grows."""
        pause = self._later[id(delivery)][0] if id(delivery) in self._later else PAUSES[1]
        timer = asyncio.get_running_loop().call_later(pause, source.done, delivery, (), context=self._context.copy())
        self._later[id(delivery)] = min(_LATER_MOST, 2 * pause), timer

    # --- given back ---------------------------------------------------------------------------

    async def _release(self, source: Source, released: Sequence[Return]) -> None:
        alike: dict[tuple[float, bool, bool], list[Delivery]] = {}
        for delivery, delay, tried, cleared in released:
            alike.setdefault((delay, tried, cleared), []).append(delivery)
        calls = list(alike.items())
        for start in range(0, len(calls), _AT_ONCE):  # retries have pauses of their own: not one round trip each
            some = calls[start : start + _AT_ONCE]
            await all_of([partial(self._release_all, source, *key, deliveries) for key, deliveries in some])

    async def _release_all(
        self, source: Source, delay: float, tried: bool, cleared: bool, deliveries: list[Delivery]
    ) -> None:
        release = partial(source.subscription.release, deliveries, delay=delay, tried=tried, cleared=cleared)
        try:
            await self._insist("giving back", release)
        except BaseException as e:  # a driver may fail in any way; then their claims run out
            if _ends(e):
                raise
            self._kit.bulkhead.report(f"giving back to {source.channel}", e)
        source.forget(deliveries)
        source.nudge()

    async def _insist(self, step: str, call: Callable[[], Awaitable[object]]) -> None:
        """Until it works, or the wagon is gone: then its events were handled by others, under the same ids. Raises
        EventRefused, and whatever is no EventwagonError: to try those again is of no use."""
        pause = PAUSES[0]
        while not self._ended:
            try:
                async with asyncio.timeout(self._kit.settings.publish_timeout):
                    await call()
                return
            except ChannelGone:
                self._gone(f"{step}: the channel is gone")
            except EventRefused:
                raise
            except asyncio.CancelledError as e:
                if self._ended or is_ours(e):
                    raise
                self._kit.bulkhead.report(step, e)  # something that the driver waited for was cancelled
                await asyncio.sleep(pause)
                pause = min(PAUSES[1], pause * 2)
            except (EventwagonError, TimeoutError) as e:
                if pause == PAUSES[0]:
                    because = str(e) or "the broker has not answered in time"
                    self._kit.tell(StepFailed(train=self._kit.train, step=step, because=because))
                await asyncio.sleep(pause)
                pause = min(PAUSES[1], pause * 2)


def _ends(error: BaseException) -> bool:
    """Whether this ends the settling: it is cancelled, or its wagon was left meanwhile."""
    return issubclass(type(error), asyncio.CancelledError) or is_ours(error)
