"""The entry point of a Lambda function that works for a train; SQS event-source mappings call it.

    from eventwagon.orchestrators import aws

    handler = aws.handler("app:signups")      # the train, or where it is; EVENTWAGON_URL says where its events are

An edge, not a driver: the same worker pool as in any worker process handles each batch, with the same retries, dead
letters and totals; only the receiving is Lambda's.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, Protocol, cast

import msgspec

from ...contracts.broker import Broker, Capabilities, Delivery, Subscription
from ...contracts.facts import log
from ...contracts.orchestrator import WagonSpec
from ...contracts.timetable import timetable_of
from ...display.text import as_line, said
from ...drivers.aws.clients import TROUBLE
from ...drivers.aws.place import Place
from ...drivers.aws.table import Table
from ...drivers.opening import open_drivers
from ...errors import EventwagonError, UsageError
from ...event import ARCHIVE, DEAD, Channel, Event, wagon_name
from ...loading import load
from ...runtime.bulkhead import Bulkhead
from ...runtime.circuits import Circuits
from ...runtime.handler import Handler
from ...runtime.lifespan import Opening, alive
from ...runtime.local_workers import LocalWorkers
from ...runtime.publish_settings import PublishSettings
from ...runtime.runtime import Runtime
from ...settings import Settings
from .counters import Counters

URL = "EVENTWAGON_URL"
PROBE = "eventwagon-probe"
_MARGIN = 2.0  # seconds before the function's end: to give back what is left
_MOST = 43_200.0


class FunctionTrain(Protocol):
    """The parts of a train that are used here."""

    name: str
    settings: Settings
    handlers: dict[str, Handler]
    opening: Opening | None


class GivenConsumer(Subscription, Protocol):
    """A consumer of messages that were received elsewhere."""

    async def taken(self, messages: Sequence[dict[str, Any]], began: float) -> Sequence[Delivery]: ...


class QueueBroker(Broker, Protocol):
    """The additional methods of the SQS broker that are used here."""

    place: Place
    table: Table

    def given(self, channel: Channel, *, visibility: float) -> GivenConsumer: ...


def handler(train: str | FunctionTrain, *, url: str | None = None) -> Function:
    """Return the function for Lambda to call: `(event, context) -> {"batchItemFailures": […]}`.

    `train` is the train or where it is (`module:attribute`); `url` is where its events are (`sqs://…`; default:
    EVENTWAGON_URL). Nothing is loaded or opened before the first call. The mapping must report batch item failures
    (ReportBatchItemFailures): events to be retried are reported there, with their pause set as the message's
    visibility.
    """
    return Function(train, url)


class Function:
    """One instance of a Lambda function. Its event loop and connections are kept from call to call."""

    def __init__(self, train: str | FunctionTrain, url: str | None) -> None:
        self._where = train
        self._url = url
        self._loop: asyncio.AbstractEventLoop | None = None
        self._train: FunctionTrain | None = None
        self._broker: QueueBroker | None = None
        self._opened: tuple[Any] | None = None
        """What the train's lifespan yielded, once it was entered."""
        self._channels: dict[str, Channel] = {}
        self._circuits: Circuits | None = None
        """The circuit breakers of this instance's channels, kept here since each batch has its own worker pool."""
        self._stack = AsyncExitStack()

    def close(self) -> None:
        """Close the connections and the loop. Lambda never calls it, since instances end without notice; other callers
        should."""
        if self._loop is not None:
            self._loop.run_until_complete(self._stack.aclose())
            self._loop.close()
            self._loop, self._broker, self._opened = None, None, None

    def __call__(self, event: Mapping[str, Any], context: object) -> dict[str, Any]:
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        left = getattr(context, "get_remaining_time_in_millis", None)
        seconds = left() / 1000 if left is not None else 60.0
        return self._loop.run_until_complete(self._answer(event, max(1.0, seconds - _MARGIN)))

    async def _answer(self, event: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        if self._train is None:
            self._train = _load(self._where) if isinstance(self._where, str) else self._where
        if PROBE in event:
            return await self._probed(event[PROBE], seconds)
        if bounded := _bounded(self._train):
            raise UsageError(bounded)
        records = event.get("Records")
        if not isinstance(records, list):
            raise UsageError("this function takes batches of an SQS event-source mapping, and eventwagon's probe")
        until = asyncio.get_running_loop().time() + seconds
        by_queue: dict[str, list[Mapping[str, Any]]] = {}
        for record in records:
            by_queue.setdefault(str(record["eventSourceARN"]).rpartition(":")[2], []).append(record)
        failed: list[str] = []
        for queue, some in by_queue.items():
            failed += await self._work(queue, some, until)
        return {"batchItemFailures": [{"itemIdentifier": each} for each in failed]}

    async def _probed(self, wanted: Sequence[str], seconds: float) -> dict[str, Any]:
        """Whether this code can serve these channels of a wagon: it loads, has handlers for them, and reaches its
        table."""
        assert self._train is not None  # noqa: S101 - for the type checker
        if bounded := _bounded(self._train):
            return {"ready": False, "trouble": bounded}
        missing = [name for name in wanted if name not in self._train.handlers]
        if missing:
            return {"ready": False, "trouble": f"this program has no handler for {', '.join(missing) or 'the ingress'}"}
        try:
            async with asyncio.timeout(seconds):
                await (await self._entered()).channels(self._train.name)
        except (EventwagonError, TimeoutError) as e:
            return {"ready": False, "trouble": str(e) or "no answer in time"}
        return {"ready": True, "trouble": ""}

    async def _entered(self) -> QueueBroker:
        if self._broker is None:
            assert self._train is not None  # noqa: S101 - for the type checker
            url = self._url or os.environ.get(URL)
            if not url or not url.startswith("sqs:"):
                raise UsageError(f"name the train's queues: handler(…, url='sqs://…') or the environment's {URL}")
            if self._opened is None:
                opening = alive(self._train.opening, self._train.settings.grace, Bulkhead(self._train.name))
                self._opened = (await self._stack.enter_async_context(opening),)
            broker = await self._stack.enter_async_context(open_drivers(url).broker)
            self._broker = cast(QueueBroker, broker)
        return self._broker

    async def _work(self, queue: str, records: Sequence[Mapping[str, Any]], until: float) -> list[str]:
        """Handle one queue's records until all are settled or given back, or time is up. Returns the ids of those not
        settled."""
        assert self._train is not None  # noqa: S101 - for the type checker
        train, loop = self._train, asyncio.get_running_loop()
        left = {str(record["messageId"]) for record in records}
        try:
            broker = await self._entered()
            channel = await self._channel(broker, queue)
            given = broker.given(channel, visibility=min(_MOST, train.settings.visibility))
            receipts = {str(record["receiptHandle"]): str(record["messageId"]) for record in records}
            deliveries = await given.taken([_message(record) for record in records], loop.time())
            standing = {receipts[delivery.token.receipt] for delivery in deliveries}
            left &= standing  # the others were settled before
            if not deliveries:
                return []
            batch, began = _Batch(given, deliveries), loop.time()
            spec = await self._spec(broker, channel, len(deliveries))
            if self._circuits is None:  # Lambda delivers the events: a breaker could hold none back
                settings = msgspec.structs.replace(train.settings, breaker=None)
                self._circuits = Circuits(train.name, settings, log, random.Random())
            runtime = Runtime(
                train=train.name,
                handlers=train.handlers,
                state=self._opened[0] if self._opened is not None else None,
                settings=train.settings,
                publishing=PublishSettings(train.settings),
                broker=cast(Broker, _Given(broker, channel, batch)),
                clock=time.time,
                tell=log,
                bulkhead=Bulkhead(train.name),
                timetable=timetable_of(broker),
            )
            async with LocalWorkers(runtime, shared=None, circuits=self._circuits) as workers:
                consumer = await workers.serve(spec)
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(until):
                        await batch.finished.wait()
                batch.finished.set()
                await consumer.end(0.0)
            took = (loop.time() - began) * min(1.0, (consumer.handled + consumer.failed) / len(deliveries))
            await self._count(broker, channel.wagon, consumer.handled, consumer.failed, took)
            return sorted(left - {receipts[each] for each in batch.settled})
        except EventwagonError as e:
            _complain(queue, e)
            return sorted(left)

    async def _count(self, broker: QueueBroker, wagon: int, handled: int, failed: int, seconds: float) -> None:
        """Store the counts of handlings, for observers that judge the code or size the workers. If that fails, the
        events are settled all the same."""
        assert self._train is not None  # noqa: S101 - for the type checker
        try:
            await Counters(broker.table, broker.place.prefix).add(self._train.name, wagon, handled, failed, seconds)
        except TROUBLE as e:
            print(
                f"eventwagon: {wagon_name(self._train.name, wagon)}: {handled} handled and {failed} failed are not "
                f"counted: {said(e)}",
                file=sys.stderr,
            )

    async def _channel(self, broker: QueueBroker, queue: str) -> Channel:
        assert self._train is not None  # noqa: S101 - for the type checker
        if queue not in self._channels:
            found = await broker.channels(self._train.name)
            self._channels = {broker.place.queue(channel): channel for channel in found}
        if queue not in self._channels:
            raise UsageError(f"queue {queue} is none of train {self._train.name}'s at {broker.place}")
        return self._channels[queue]

    async def _spec(self, broker: QueueBroker, channel: Channel, workers: int) -> WagonSpec:
        """The wagon as this program serves it: it may emit to the channels that exist and that it has handlers for."""
        assert self._train is not None  # noqa: S101 - for the type checker
        train, wagon = self._train, channel.wagon
        there = {c for c in self._channels.values() if c.wagon == wagon and c.name in train.handlers}
        if len(there) < len(train.handlers):  # one may have been added since
            found = await broker.channels(train.name)
            self._channels = {broker.place.queue(each): each for each in found}
            there = {c for c in found if c.wagon == wagon and c.name in train.handlers}
        if channel not in there:
            raise UsageError(f"this program has no handler for {channel}")
        return WagonSpec(
            train=train.name,
            number=wagon,
            unit=wagon,
            channels=tuple(sorted(there, key=str)),
            dead_letters=Channel(train.name, wagon, DEAD),
            workers=workers,
            archived=Channel(train.name, wagon, ARCHIVE) in self._channels.values(),
        )


def _bounded(train: FunctionTrain) -> str:
    """Why this function can't work for the train: Lambda delivers the events, so nothing can keep to a budget or claim
    events in a record. Empty if it can."""
    if train.settings.once is not None:
        return (
            f"train {train.name!r}: Lambda delivers the events by itself, so once= can't be kept to: leave it out, or "
            "use another orchestrator"
        )
    bounded = [name or train.name for name, handler in train.handlers.items() if handler.options.is_bounded]
    if not bounded:
        return ""
    return (
        f"handler of {bounded[0]!r}: Lambda delivers the events by itself, so concurrency=, rate= and budget= can't "
        "be kept to: leave them out, or use another orchestrator"
    )


class _Batch:
    """A consumer that returns its one batch once, and records the result of each event."""

    def __init__(self, given: GivenConsumer, deliveries: Sequence[Delivery]) -> None:
        self._given = given
        self._left = list(deliveries)
        self._open = {id(delivery.token) for delivery in deliveries}
        self.settled: set[str] = set()
        self.finished = asyncio.Event()

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        """Suspects come last, one by one, so that they can harm no other event."""
        others = [d for d in self._left if not d.suspect]
        some = others[:limit] or self._left[:1]
        self._left = [d for d in self._left if d not in some]
        if not some:
            await _pause(self.finished, timeout)
        return some

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        await self._given.settle(deliveries)
        self.settled.update(delivery.token.receipt for delivery in deliveries)
        self._done(deliveries)

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None:
        await self._given.release(deliveries, delay=delay, tried=tried, cleared=cleared)
        self._done(deliveries)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        await self._given.extend(deliveries)

    async def alone(self, delivery: Delivery) -> bool:
        return await self._given.alone(delivery)

    def _done(self, deliveries: Sequence[Delivery]) -> None:
        self._open -= {id(delivery.token) for delivery in deliveries}
        if not self._open:
            self.finished.set()


class _Nothing:
    """A channel of the wagon that this batch does not belong to: other calls of the function have its events."""

    def __init__(self, finished: asyncio.Event) -> None:
        self._finished = finished

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        await _pause(self._finished, timeout)
        return []

    async def settle(self, deliveries: Sequence[Delivery]) -> None: ...

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None: ...

    async def extend(self, deliveries: Sequence[Delivery]) -> None: ...

    async def alone(self, delivery: Delivery) -> bool:
        return False


class _Given:
    """The part of a broker that workers use, with the given batch in place of what it would receive."""

    def __init__(self, broker: QueueBroker, channel: Channel, batch: _Batch) -> None:
        self._broker = broker
        self._channel = channel
        self._batch = batch

    @property
    def capabilities(self) -> Capabilities:
        return self._broker.capabilities

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        await self._broker.publish(channel, events)

    @asynccontextmanager
    async def consume(self, channel: Channel, *, visibility: float, owner: str = "") -> AsyncIterator[Subscription]:
        yield self._batch if channel == self._channel else _Nothing(self._batch.finished)


async def _pause(finished: asyncio.Event, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await finished.wait()


def _message(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record in the form in which ReceiveMessage would return it."""
    attributes = record.get("messageAttributes") or {}
    return {
        "MessageId": record["messageId"],
        "ReceiptHandle": record["receiptHandle"],
        "Body": record["body"],
        "Attributes": record.get("attributes") or {},
        "MessageAttributes": {name: {"StringValue": value.get("stringValue")} for name, value in attributes.items()},
    }


def _complain(queue: str, error: EventwagonError) -> None:
    print(as_line(f"eventwagon: {queue}: the whole batch is given back: {error}"), file=sys.stderr)


def _load(target: str) -> FunctionTrain:
    return cast(FunctionTrain, load(target, lambda found: hasattr(found, "handlers"), what="train"))
