"""Carries records from a source into a train, batch by batch: read, map, publish, commit."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from typing import TypeVar

import msgspec

from ..backoff import Backoff
from ..connection import Connection, accepted_by
from ..contracts.facts import BridgeHeldUp, BridgeWentOn, Decision, Entry
from ..contracts.registry import Member, bridge_member
from ..display.text import count, plain, said, span
from ..errors import EventRefused, EventwagonError, PublishError, TrainRemoved, Unavailable, UsageError
from ..event import CheckedEvents, Event
from ..metrics.instruments import BRIDGE_HELD_UP, BRIDGE_LAG, BRIDGE_LAG_AGE, BRIDGED
from ..metrics.measures import Point
from ..runtime.bulkhead import Bulkhead, Seldom, is_ours
from ..runtime.dead_letters import bury, died
from .mapping import Rules, Unmapped, event_of, unmapped
from .source import Lag, Record, Source

T = TypeVar("T")

_PUBLISHED = 2
"""How many of the train's `publish_batch` make one batch of the bridge. A kill repeats all of it; each waits for its
commit."""
_MAPPED = 50
"""Records that are mapped at once."""
_WAIT = 0.5
"""Seconds for which a read waits for records, and so the longest time until it notices that it should end."""
_PAUSES = 0.1, 5.0
"""The first and the longest pause, in seconds, while the source or the train is in trouble."""
_SLOW = 5.0
"""Seconds without an answer after which publishing counts as held up."""
_IS_SLOW = f"publishing: the train has not stored a batch for {_SLOW:g} s; it is tried on"
_LOOK = 2.0
"""Seconds between two looks at the lag."""
_NOTED = 2.0
"""Seconds of trouble after which the journal has it, and the most that the journal may take."""
_DEFECTS = 3
"""How often the broker's driver may fail on the same event before that is buried."""
_logger = logging.getLogger("eventwagon.bridge")


class Bridge:
    """One run of a bridge. The source and the connection are entered by its owner.

    Each batch is committed when all of it is stored: as events, or as dead letters. While the train takes no events or
    the source can't be read, it tries again, with growing pauses. At most two batches are held in memory.
    """

    def __init__(
        self,
        source: Source,
        connection: Connection,
        rules: Rules,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.source = source
        self._rules = rules
        self.passed = 0
        """Records that were published as events."""
        self.buried = 0
        """Records that went to the dead letters."""
        self.lag = Lag()
        """As of the last look."""
        self._troubles: dict[str, str] = {}
        """By step."""
        self._c = connection
        self._name = source.name
        self._clock = clock
        self._limit = _PUBLISHED * connection.train.settings.publish_batch
        """Of records, for one batch."""
        self._asked = asyncio.Event()
        self._bulkhead = Bulkhead(f"bridge from {self._name}")
        self._seldom = Seldom()
        self._late = False

    async def run(self, asked: asyncio.Event) -> None:
        """Carry records until `asked` is set or the source has ended. When asked it finishes the batches that it has
        read, unless the train takes no events. Raises UsageError, TrainRemoved."""
        self._asked = asked
        batches: asyncio.Queue[_Batch | None] = asyncio.Queue()
        try:
            async with asyncio.TaskGroup() as tasks:
                beside = [tasks.create_task(self._look()), tasks.create_task(self._stay())]
                reading = tasks.create_task(self._read(batches))
                await self._carry(batches)
                await reading
                for task in beside:
                    task.cancel()
        except* (UsageError, TrainRemoved) as e:
            error: BaseException = e
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error from None
        finally:
            await self._check_in(leaves=True)

    @property
    def rules(self) -> Rules:
        """As given, but for the most bytes of an event: those are the train's, as it is declared now."""
        if self._rules.most != (most := self._c.publishing.now.max_event_bytes):
            self._rules = msgspec.structs.replace(self._rules, most=most)
        return self._rules

    @property
    def trouble(self) -> str:
        """What the bridge waits for, or would wait for if there was something to publish; empty while it runs well."""
        return self.waits_for or self._c.unreachable

    @property
    def waits_for(self) -> str:
        """What a step of the bridge waits for that it has begun; empty if none does."""
        return next(iter(list(self._troubles.values())), "")

    def points(self) -> Iterator[Point]:
        """Its figures, for `Metrics.add`. From any thread."""
        labels = self._c.train.name, self._name
        yield BRIDGED, (*labels, "published"), self.passed
        yield BRIDGED, (*labels, "dead"), self.buried
        yield BRIDGE_HELD_UP, labels, float(bool(self.trouble))
        if self.lag.records is not None:
            yield BRIDGE_LAG, labels, self.lag.records
        if self.lag.seconds is not None:
            yield BRIDGE_LAG_AGE, labels, self.lag.seconds

    # --- reading ------------------------------------------------------------------------------

    async def _read(self, batches: asyncio.Queue[_Batch | None]) -> None:
        """Read and map one batch ahead of the one that is being published."""
        while not self._asked.is_set():
            found = await self._insist("reading", lambda: self.source.read(self._limit, _WAIT))
            if found is None or found[0] is None:
                break
            if found[0]:
                batch = _Batch(found[0], self.rules)
                await batch.map()
                batches.put_nowait(batch)
                await batches.join()  # one waits at most
        batches.put_nowait(None)

    async def _insist(self, step: str, call: Callable[[], Awaitable[T]]) -> tuple[T] | None:
        """The result of a call to the source, tried until it succeeds. None: asked to end meanwhile."""
        attempts = _Attempts(step)
        while True:
            try:
                found = await call()
            except (UsageError, TrainRemoved):
                raise
            except BaseException as e:
                if is_ours(e):
                    raise
                error = e
            else:
                await self._succeeded(attempts)
                return (found,)
            if await self._failed(attempts, error):
                return None

    # --- passing on ---------------------------------------------------------------------------

    async def _carry(self, batches: asyncio.Queue[_Batch | None]) -> None:
        stopped = False
        while (batch := await batches.get()) is not None:
            batches.task_done()
            if stopped:  # an earlier record was given up: those after it come again too
                continue
            stopped = not await self._pass_on(batch)

    async def _pass_on(self, batch: _Batch) -> bool:
        """Store all of a batch, and commit it. Returns False if asked to end before that was possible."""
        records, committed, attempts = batch.records, 0, _Attempts("publishing")
        while True:
            error = await self._store(batch)
            if (done := batch.done) > committed:
                part = records[committed:done]
                if await self._insist("committing", lambda part=part: self.source.commit(part)) is None:  # type: ignore[misc]
                    _logger.warning("bridge from %s: its last records may come again, with the same ids", self._name)
                    return False
                committed = done
            if error is None:
                break
            if await self._failed(attempts, error):
                left = count(len(records) - committed, "record")
                _logger.warning("bridge from %s: ends before %s, which come again", self._name, left)
                return False
        await self._succeeded(attempts)
        return True

    async def _store(self, batch: _Batch) -> BaseException | None:
        """Store what is left of a batch. Returns what it failed on, if anything."""
        try:
            while (part := batch.next) is not None:
                if isinstance(part, Unmapped):
                    await self._bury(part)
                    self.buried += batch.stored(1)
                else:
                    await self._publish(batch, part)
        except (UsageError, TrainRemoved):
            raise
        except BaseException as e:
            if is_ours(e):
                raise
            return e
        return None

    async def _publish(self, batch: _Batch, events: CheckedEvents) -> None:
        slow = asyncio.get_running_loop().call_later(_SLOW, self._tell_slow)
        try:
            await self._c.publish_many(events)
        except BaseException as e:
            self.passed += batch.stored(accepted_by(e))
            if type(e) is PublishError:  # the broker's driver failed, perhaps on the first event that it did not store
                batch.defects += 1
            if isinstance(e, EventRefused) or batch.defects >= _DEFECTS:
                batch.refuse(f"it was refused: {_text(e)}")
                return
            raise
        finally:
            slow.cancel()
            if self._troubles.get("publishing") == _IS_SLOW:
                del self._troubles["publishing"]
        self.passed += batch.stored(len(events))

    def _tell_slow(self) -> None:
        """A broker that is away says nothing until the publishing's patience is over."""
        self._troubles.setdefault("publishing", _IS_SLOW)
        if self._seldom.due("slow") is not None:
            _logger.warning("bridge from %s: %s", self._name, self._c.unreachable or _IS_SLOW)

    async def _bury(self, refused: Unmapped) -> None:
        train, settings = self._c.train.name, self._c.train.settings
        _, letter = died(refused.letter, self.rules.channel, 0, refused.because, 0, self._clock())
        try:
            await bury(self._c.broker, train, letter, settings.publish_timeout)
        except TimeoutError:
            raise Unavailable(
                f"train {train}: no answer within {settings.publish_timeout:g} s, for the dead letter {letter.id}"
            ) from None
        if (held_back := self._seldom.due("letter")) is not None:
            more = f" ({held_back:,} more since the last line)" if held_back else ""
            _logger.warning(
                "bridge from %s: record %s is in the dead letters of %s: %s%s; `eventwagon dead %s` lists it",
                self._name,
                plain(letter.id, 200),
                train,
                plain(refused.because, 500),
                more,
                train,
            )

    # --- telling ------------------------------------------------------------------------------

    async def _failed(self, attempts: _Attempts, error: BaseException) -> bool:
        """Tell of it, and wait before the next attempt. Returns True as soon as the bridge is asked to end."""
        step, text = attempts.step, _text(error)
        self._troubles[step] = f"{step}: {text}"
        if not isinstance(error, EventwagonError):
            self._bulkhead.report(step, error)
        elif (held_back := self._seldom.due((step, type(error)))) is not None:
            attempts.is_told = True
            what = "reads no more until the train takes events" if step == "publishing" else "tries again"
            more = f" ({held_back:,} more times since the last line)" if held_back else ""
            _logger.warning("bridge from %s: %s: %s; it %s%s", self._name, step, text, what, more)
        if not attempts.is_noted and attempts.seconds > _NOTED:
            fact = BridgeHeldUp(train=self._c.train.name, source=self._name, because=plain(f"{step}: {text}", 500))
            attempts.is_noted = await self._note(fact)
        with suppress(TimeoutError):
            async with asyncio.timeout(attempts.backoff.next()):
                await self._asked.wait()
        return self._asked.is_set()

    async def _succeeded(self, attempts: _Attempts) -> None:
        """Tell that it goes on, if it was held up."""
        if not attempts.backoff.begun:
            return
        self._troubles.pop(attempts.step, None)
        seconds = attempts.seconds
        if attempts.is_told:  # else the last line of the log would speak of the hold-up before
            _logger.info("bridge from %s: %s goes on after %s", self._name, attempts.step, span(seconds))
        if attempts.is_noted:
            await self._note(BridgeWentOn(train=self._c.train.name, source=self._name, seconds=seconds))

    async def _note(self, fact: Decision) -> bool:
        """Write it to the journal, if that can be reached now."""
        train, entry = self._c.train, Entry(self._clock(), self._c.name, fact)
        append = self._c.registry.append
        return await self._told("writing to the journal", lambda: append(train.name, [entry], keep=train.settings.keep))

    async def _told(self, step: str, call: Callable[[], Awaitable[None]]) -> bool:
        """Whether the registry took it, in time. If it did not, nothing else fails."""
        try:
            async with asyncio.timeout(_NOTED):
                await call()
        except BaseException as e:
            if is_ours(e):
                raise
            if not isinstance(e, EventwagonError | TimeoutError):
                self._bulkhead.report(step, e)
            return False
        return True

    async def _look(self) -> None:
        """Read the lag from time to time, and warn while the source's backlog is older than the train's promise."""
        while True:
            try:
                self.lag = await self.source.lag()
            except BaseException as e:
                if is_ours(e):
                    raise
                self.lag = Lag()
                if not isinstance(e, EventwagonError):
                    self._bulkhead.report("reading the lag", e)
            self._compare(self.lag.seconds, self._c.train.settings.promise)
            await asyncio.sleep(_LOOK)

    async def _stay(self) -> None:
        """Be among the train's processes, for `status`."""
        while True:
            await self._check_in()
            await asyncio.sleep(_LOOK)

    async def _check_in(self, *, leaves: bool = False) -> None:
        """Say in the registry that this bridge is there, and what it waits for."""
        c, trouble = self._c, self.trouble
        if not c.manifest.wagons:
            return  # a train that is not there yet, or no more: a check-in would make something of it
        because = plain(f"the bridge from {self._name} is held up: {trouble}", 500) if trouble else ""
        member = Member(name=bridge_member(c.name, self._name), roles=("bridge",), trouble=because)
        ttl = 0 if leaves else max(c.train.settings.member_ttl, 3 * _LOOK)
        await self._told("checking in", lambda: c.registry.check_in(c.train.name, member, ttl=ttl))

    def _compare(self, age: float | None, promise: float | None) -> None:
        if age is None or promise is None or (age > promise) is self._late:
            return
        self._late = age > promise
        if self._late:
            _logger.warning(
                "bridge from %s: the oldest record there has waited for %s, longer than train %s promises (%s): its "
                "events are late before they arrive",
                self._name,
                span(age),
                self._c.train.name,
                span(promise),
            )
        else:
            _logger.info("bridge from %s: its oldest record is within the train's promise again", self._name)


def _text(error: BaseException) -> str:
    """Our own errors speak for themselves."""
    return plain(str(error), 2000) if isinstance(error, EventwagonError) else said(error)


class _Attempts:
    """Of one step, until it succeeds."""

    def __init__(self, step: str) -> None:
        self.step = step
        self.backoff = Backoff(*_PAUSES)
        self.is_noted = self.is_told = False
        """The journal, the log says that they fail."""
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()

    @property
    def seconds(self) -> float:
        """Since the first of them."""
        return self._loop.time() - self._began


class _Batch:
    """What becomes of the records of one batch, in their order."""

    def __init__(self, records: Sequence[Record], rules: Rules) -> None:
        self.records = records
        self.outcomes: list[Event | Unmapped] = []
        self.done = 0
        """How many of the leading records are stored."""
        self.defects = 0
        """How often the broker's driver has failed on the first of the others."""
        self._rules = rules

    async def map(self) -> None:
        """Map all records. Meanwhile the batch before goes out and its answer comes in, as both need the loop."""
        for start in range(0, len(self.records), _MAPPED):
            self.outcomes += [event_of(record, self._rules) for record in self.records[start : start + _MAPPED]]
            await asyncio.sleep(0)

    @property
    def next(self) -> Unmapped | CheckedEvents | None:
        """What is to be stored now: a letter, or the events before the next one; None when all is stored. Each waits
        for all before it: else it would come twice if the bridge is asked to end while the train takes no events."""
        events = CheckedEvents(self._rules.most)
        for outcome in islice(self.outcomes, self.done, None):
            if isinstance(outcome, Unmapped):
                return events or outcome
            events.append(outcome)
        return events or None

    def stored(self, number: int) -> int:
        """So many more are stored. Returns their number."""
        self.done += number
        if number:
            self.defects = 0
        return number

    def refuse(self, because: str) -> None:
        """The first record that is not stored can never be an event."""
        self.outcomes[self.done] = unmapped(self.records[self.done], self._rules, because)
        self.defects = 0
