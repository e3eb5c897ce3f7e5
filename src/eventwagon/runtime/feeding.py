"""Feeds the wagons of replays: publishes past events to them. Any number of processes may run it at once; one of them
feeds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from functools import partial

import msgspec

from ..backoff import Backoff
from ..contracts.lifecycle import State
from ..contracts.replay import EventSource, PastEvents, Replay, mark_of
from ..errors import EventRefused, EventwagonError, PublishUncertain, StorageBroken, Unavailable, UsageError
from ..event import DEAD, LEVEL, REPLAY, REPLAYED_FROM, UNDO, Channel, Event, at_level, level_of, wagon_name
from ..policy.replays import cancelled, claimed, fed, let_go, recounted, to_feed, torn, troubled
from .dead_letters import died, smaller
from .in_time import in_time
from .publish_queue import fitting
from .runtime import Runtime, Steps
from .tasks import to_the_end
from .train_state import TrainState
from .undoing import to_undo

_POLL = 1.0
"""Seconds between two looks at whether the feeder still lives."""
_REST_MOST = 60.0
"""The longest pause before feeding that failed is tried again: each attempt reads the archive from its beginning."""
_NOTED_EVERY = 1.0
"""Seconds between two changes of the manifest for the progress alone, where the archive says it better."""
_IN_DOUBT = 100_000
"""The most events of which the archive is asked whether they were stored: more than are published between two notes of
the progress. Others are published again."""
_BATCH = 500
"""The most events that are published twice if a feeder is killed, where a wagon can't be sealed against it."""
_TO_THE_END = 2.0
"""Seconds that a publish which has begun still has when its process stops."""
_AHEAD = 5000
"""So many events may wait in a wagon that is fed: its broker need not hold all at once, and new events feel less."""
_LOOKS = (0.1, 1.0)
"""Seconds between two looks at how many wait: the first, and the longest."""
_BURST = 0.1
"""Seconds' worth of a replay's rate that may be published at once."""


class _ChangedError(EventwagonError):
    """What was counted can't be replayed any more."""


class Feeder:
    """Publishes the events of the train's first replay to its wagon, from `source`; None: others must."""

    def __init__(self, runtime: Runtime, state: TrainState, source: EventSource | None) -> None:
        self._runtime = runtime
        self._train = runtime.train
        self._broker = runtime.broker
        self._state = state
        self._source = source
        caps = runtime.broker.capabilities
        self._exact = caps.fences and caps.ordered
        """A sealed ingress gets nothing more, and has got the first events, in their order."""
        self._unsure: int | None = None
        """The wagon of which this process does not know which events it got."""
        self._stored = (0, 0, 0)
        """A replay, its wagon, and how many events of the replay this process knows to be stored."""
        self._noted = float("-inf")
        """When that was last written into the manifest (the loop's time)."""
        self._pauses = Backoff(_POLL, _REST_MOST)
        self._steps = Steps(runtime)

    async def run(self) -> None:
        """Feed until cancelled. A failure is reported once while it lasts, and nothing is lost by it."""
        while True:
            await self._state.until(lambda m: to_feed(m) is not None)
            failed = True
            with self._steps.going_on("feeding a replay"):
                if await self._turn():
                    self._pauses.reset()
                    continue
                failed = False
            await asyncio.sleep(self._pauses.next() if failed else _POLL)

    async def _turn(self) -> bool:
        """Feed the replay that waits for events, if that is for this process to do. Returns whether it is done."""
        due = to_feed(self._state.snapshot.manifest)
        if due is None or (self._source is None and not due.is_over):
            return due is None
        me = self._runtime.name
        if due.feeder != me and not await self._claimed(due):
            return False
        replay = to_feed(self._state.snapshot.manifest)
        if replay is None or replay.feeder != me:
            return False
        try:
            if replay.torn:
                await self._recount(replay)
            elif self._unsure == replay.wagon and self._exact and not replay.of.channel:
                await self._tear(replay, "how many events it got is not known")
            elif replay.is_over:
                await self._let_go(replay.number)
            elif self._source is not None:
                await self._feed(replay, self._source)
        except (StorageBroken, _ChangedError) as e:
            await self._give_up(replay, str(e))
        except EventwagonError as e:
            because = str(e)
            await self._state.apply(lambda m: troubled(m, replay.number, me, because))
            raise
        except asyncio.CancelledError:
            if self._unsure != replay.wagon:  # else the next feeder finds that this one is gone
                await to_the_end(partial(self._let_go, replay.number), _TO_THE_END)
            raise
        return True

    async def _claimed(self, due: Replay) -> bool:
        """Become the feeder if there is none, or it is gone. Returns whether this process is to go on at once."""
        me = self._runtime.name
        alive = {m.name for m in await self._state.registry.members(self._train)}
        if me not in alive or due.feeder in alive:
            return False
        await self._state.apply(lambda m: claimed(m, due, me, alive, exact=self._exact))
        return True

    async def _let_go(self, number: int) -> None:
        me, (of, wagon, count) = self._runtime.name, self._stored
        await self._state.apply(lambda m: let_go(m, number, me, wagon, count if of == number else 0))

    async def _give_up(self, replay: Replay, because: str) -> None:
        """End it: another attempt would find the same."""
        me = self._runtime.name
        await self._state.apply(lambda m: cancelled(m, replay.number, because, me))

    async def _tear(self, replay: Replay, because: str) -> None:
        await self._state.apply(lambda m: torn(m, replay.number, self._runtime.name, because))
        self._unsure = None

    async def _recount(self, replay: Replay) -> None:
        """The wagon is gone: what the archive has of it was stored. An event that is not found there is published
        again, whatever the broker has counted."""
        count, me = replay.fed, self._runtime.name
        if self._source is not None:
            try:
                count += await self._got(self._source, replay)
            except StorageBroken:  # feeding the next wagon finds that, too, and ends the replay
                pass
            except Unavailable:
                if not replay.cancelled:  # else nothing more is published: it need not be known
                    raise
        await self._state.apply(lambda m: recounted(m, replay.number, me, replay.wagon, count))

    async def _got(self, source: EventSource, replay: Replay) -> int:
        """How many of the next events are kept of its wagon, before the first that is not; 0 if none is, or several
        wagons had that number."""
        wanted: list[bytes] = []
        async with aclosing(self._left(replay, source, replay.fed)) as batches:
            async for events in batches:
                wanted += map(mark_of, events)
                if len(wanted) >= _IN_DOUBT:
                    break
        mark, name, missing = REPLAY if replay.undo is None else UNDO, replay.name(self._train), set(wanted)
        with suppress(UsageError):
            parts = await source.parts(replay.wagon, "")
            async for batch in source.events(replay.wagon, "", parts):
                missing.difference_update(mark_of(e) for e, *_ in batch if e.extensions.get(mark) == name)
        return next((i for i, each in enumerate(wanted) if each in missing), len(wanted))

    # --- publishing -------------------------------------------------------------------------------

    async def _feed(self, replay: Replay, source: EventSource) -> None:
        """Publish from where the replay stands until it is over, or this process is no longer its feeder."""
        loop = asyncio.get_running_loop()
        channel = Channel(self._train, replay.wagon, replay.of.channel)
        wagon_now = self._state.snapshot.manifest.wagon(replay.wagon)
        if channel.name and wagon_now is not None and channel.name not in wagon_now.channels:
            raise _ChangedError(f"{wagon_name(self._train, replay.wagon)} has no channel {channel.name}")
        began, since, looked = loop.time(), 0, -_AHEAD  # what the feeder before has left there counts, too
        number, wagon, stored = self._stored
        count = max(replay.fed, stored) if (number, wagon) == (replay.number, replay.wagon) else replay.fed
        if count == replay.count:  # it was written down, and the registry stepped back
            await self._state.apply(lambda m: fed(m, replay.number, self._runtime.name, count))
            return
        async for events in self._left(replay, source, count):
            left = list(events)
            while left:
                if since - looked >= _AHEAD // 2:
                    await self._not_too_far(replay, channel, count)
                    looked = since
                if not self._is_mine(replay):
                    return
                most = _BATCH if replay.rate is None else max(1, min(_BATCH, int(replay.rate * _BURST)))
                some = list(fitting(left, most))
                await to_the_end(partial(self._store, replay, channel, some, count + len(some)), _TO_THE_END)
                count, since, left = count + len(some), since + len(some), left[len(some) :]
                if replay.rate is not None:
                    due = began + since / replay.rate
                    await self._wait(replay, due - loop.time())
                    began += max(0.0, loop.time() - due - _BURST)  # what was missed is not caught up
        if count < replay.count and self._is_mine(replay):
            raise _ChangedError(f"{replay.count:,} events were counted, and only {count:,} are kept now")

    async def _not_too_far(self, replay: Replay, channel: Channel, count: int) -> None:
        """Wait while too many events wait in the wagon already; `count` have been published. That may take long, so
        that is written down."""
        loop, me, looks = asyncio.get_running_loop(), self._runtime.name, Backoff(*_LOOKS)
        while self._is_mine(replay):
            (depth,) = await in_time(
                lambda: self._broker.depth([channel]), self._runtime.settings.publish_timeout, f"looking at {channel}"
            )
            if depth.waiting is None or depth.waiting <= _AHEAD:
                return
            if loop.time() - self._noted >= _NOTED_EVERY:
                await self._state.apply(lambda m: fed(m, replay.number, me, count))
                self._noted = loop.time()
            await self._wait(replay, looks.next())

    async def _wait(self, replay: Replay, seconds: float) -> None:
        """Wait so long, or until the replay is not for this process any more."""
        with suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._state.until(lambda _: not self._is_mine(replay))

    async def _left(self, replay: Replay, source: EventSource, count: int) -> AsyncGenerator[Sequence[Event], None]:
        """The events that are not yet published, as they are published; `count` are."""
        if replay.undo is not None:
            async with aclosing(to_undo(source, replay, replay.undo, self._train, count)) as batches:
                async for events in batches:
                    yield events
            return
        passed, left = count, replay.count - count
        marks = {
            REPLAY: replay.name(self._train),
            REPLAYED_FROM: wagon_name(self._train, replay.of.wagon),
        }
        async for events in meant(source, replay.of, replay.parts):
            if left <= 0:
                return
            skipped = min(passed, len(events))
            passed -= skipped
            some = events[skipped : skipped + left]
            left -= len(some)
            if some:
                yield [_marked(event, marks | _level(event, replay)) for event in some]

    def _is_mine(self, replay: Replay) -> bool:
        now = self._state.snapshot.manifest.replay(replay.number)
        wagon = self._state.snapshot.manifest.wagon(replay.wagon)
        return (
            now is not None
            and now.feeder == self._runtime.name
            and now.wagon == replay.wagon
            and not (now.torn or now.cancelled)
            and wagon is not None
            and wagon.state is State.DRAINING
        )

    async def _store(self, replay: Replay, channel: Channel, events: Sequence[Event], count: int) -> None:
        """Publish these events, and write down how many are stored."""
        me = self._runtime.name
        self._unsure = replay.wagon
        try:
            await self._publish(replay, channel, events, count - len(events))
        except Unavailable:
            self._unsure = None  # nothing is stored
            raise
        now = asyncio.get_running_loop().time()
        self._stored = (replay.number, replay.wagon, count)
        exact = self._exact and not channel.name
        if exact and count < replay.count and now - self._noted < _NOTED_EVERY:
            self._unsure = None  # a feeder that follows asks the archive what the sealed wagon got
            return
        await self._state.apply(lambda m: fed(m, replay.number, me, count))
        self._noted = now
        self._unsure = None

    async def _publish(self, replay: Replay, channel: Channel, events: Sequence[Event], before: int) -> None:
        """Store the events in this order, the replay's after the first `before`. Those that the broker refuses for good
        become dead letters. Raises Unavailable only if nothing was stored."""
        try:
            async with asyncio.timeout(self._runtime.settings.publish_timeout):
                await self._broker.publish(channel, events)
            return
        except TimeoutError:
            raise PublishUncertain(f"publishing to {channel}: the broker has not answered in time") from None
        except EventRefused as e:
            if len(events) == 1:
                await self._bury(channel, events[0], e)
                me = self._runtime.name  # its row is in no archive, so that it would seem never published
                await self._state.apply(lambda m: fed(m, replay.number, me, before + 1))
                return
        half = len(events) // 2
        await self._publish(replay, channel, events[:half], before)
        try:
            await self._publish(replay, channel, events[half:], before + half)
        except Unavailable as e:
            raise PublishUncertain(f"publishing to {channel}: {e}") from e

    async def _bury(self, channel: Channel, event: Event, error: EventRefused) -> None:
        because = f"it was replayed, and could not be published: {error}"
        _, letter = died(event, channel.name, channel.wagon, because, 0, self._runtime.clock())
        dead = Channel(self._train, channel.wagon, DEAD)
        while True:
            try:
                async with asyncio.timeout(self._runtime.settings.publish_timeout):
                    await self._broker.publish(dead, [letter])
                return
            except TimeoutError:
                raise PublishUncertain(f"publishing to {dead}: the broker has not answered in time") from None
            except EventRefused:
                if (less := smaller(letter, cut=True)) is None:
                    raise
                letter = less


async def meant(source: EventSource, of: PastEvents, parts: Sequence[str]) -> AsyncGenerator[Sequence[Event], None]:
    """The events that are meant, each once: one that died and was handled later is kept twice. The same in the same
    order at each call. Its memory grows with their number, 100 bytes or so for each. Raises what the source raises."""
    seen = set[bytes]()
    async for batch in source.events(of.wagon, of.channel, parts):
        events = []
        for past in batch:
            if of.takes(past):
                event = past.event
                mark = mark_of(event)
                if mark not in seen:
                    seen.add(mark)
                    events.append(event)
        if events:
            yield events


def _level(event: Event, replay: Replay) -> dict[str, str]:
    """The mark of an event that is as deep in the replay's wagon as it was in that which it comes from: so children
    are undone before their parents in that one, too."""
    level = level_of(event, replay.of.wagon)
    return {LEVEL: at_level(replay.wagon, level)} if level else {}


def _marked(event: Event, marks: dict[str, str]) -> Event:
    return msgspec.structs.replace(event, extensions={**event.extensions, **marks})
