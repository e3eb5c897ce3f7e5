"""The observed seam: a thin wrapper around a broker and its subscriptions that tells a meter of each call. Every driver
is measured the same, those of other packages too. Without a meter nothing is wrapped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version

from ..contracts.broker import Broker, Capabilities, Delivery, Depth, Subscription, Troubled
from ..contracts.facts import Fact
from ..contracts.metering import Meter, ProcessFigures, TrainFigures
from ..errors import ChannelFull, Sealed
from ..event import Channel, Event
from ..values import class_name
from .bulkhead import Bulkhead, passes
from .counting import ChannelCounter


class Metering:
    """A meter whose errors are logged and reach nobody. It has the methods of Meter."""

    __slots__ = ("_bulkhead", "_called", "_handled", "_heard", "_meter", "_train")

    def __init__(self, meter: Meter, train: str) -> None:
        self._meter = meter
        self._called, self._handled, self._heard = meter.called, meter.handled, meter.heard
        self._train = train
        self._bulkhead = Bulkhead(train)

    @classmethod
    def of(cls, meter: Meter | None, train: str) -> Metering | None:
        """None for no meter."""
        return None if meter is None else cls(meter, train)

    def called(self, operation: str, channel: Channel, events: int, seconds: float, error: str = "") -> None:
        """See Meter."""
        try:
            self._called(operation, channel, events, seconds, error)
        except BaseException as e:
            if passes(e):
                raise
            self._bulkhead.report("the meter", e)

    def handled(
        self, channel: Channel, seconds: Sequence[float], waits: Sequence[float], error: str, late: bool
    ) -> None:
        """See Meter."""
        try:
            self._handled(channel, seconds, waits, error, late)
        except BaseException as e:
            if passes(e):
                raise
            self._bulkhead.report("the meter", e)

    def heard(self, fact: Fact) -> None:
        """See Meter."""
        try:
            self._heard(fact)
        except BaseException as e:
            if passes(e):
                raise
            self._bulkhead.report("the meter", e)

    @contextmanager
    def joined(self, broker: Broker, revision: str, figures: Callable[[], ProcessFigures]) -> Iterator[None]:
        """While entered, the meter knows of this connection. See Meter."""
        left: list[Callable[[], object]] = []
        self._bulkhead.call(
            "the meter",
            lambda: left.append(self._meter.joined(self._train, system_of(unobserved(broker)), revision, figures)),
        )
        try:
            yield
        finally:
            for leave in left:
                self._bulkhead.call("the meter", leave)

    def looked(self, figures: TrainFigures | None) -> None:
        """See Meter."""
        self._bulkhead.call("the meter", lambda: self._meter.looked(self._train, figures))


class Handlings:
    """The handlings of one channel that ended well, gathered until a batch of events is settled: telling the meter and
    the counter of each by itself would cost every event."""

    __slots__ = ("_clock", "_counter", "_metering", "began", "seconds")

    def __init__(
        self, metering: Metering | None, clock: Callable[[], float], counter: ChannelCounter | None = None
    ) -> None:
        self._metering = metering
        self._clock = clock
        self._counter = counter
        self.seconds: list[float] = []
        """How long each took."""
        self.began: list[float] = []
        """When those of new events began by the loop's clock, less the time of the event. A wait once the difference of
        the clocks is added."""

    def tell(self, channel: Channel, *, late: bool) -> None:
        """Tell of those that have ended since the last time."""
        if self.seconds:
            seconds, self.seconds = self.seconds, []
            began, self.began = self.began, []
            ahead = self._clock() - asyncio.get_running_loop().time()
            waits = [each + ahead for each in began]
            self._tell(channel, seconds, waits, "", late=late)

    def tell_failed(self, channel: Channel, seconds: float, waits: Sequence[float], error: str, *, late: bool) -> None:
        """Tell of one that failed, or of a batch."""
        self._tell(channel, [seconds], waits, error, late=late)

    def _tell(
        self, channel: Channel, seconds: Sequence[float], waits: Sequence[float], error: str, *, late: bool
    ) -> None:
        if self._counter is not None:
            self._counter.handled(seconds, waits)
        if self._metering is not None:
            self._metering.handled(channel, seconds, waits, error, late)


_SYSTEMS = {"aws": "aws_sqs"}


def system_of(broker: Broker) -> str:
    """The kind of the broker, as OpenTelemetry names systems: that of our own drivers by their folder, that of another
    package's by the package."""
    package, *rest = type(broker).__module__.split(".")
    name = rest[1] if package == "eventwagon" and rest[:1] == ["drivers"] and len(rest) > 1 else package
    return _SYSTEMS.get(name, name)


@cache
def own_version() -> str:
    """The version of eventwagon; `unknown` if it is not installed."""
    try:
        return version("eventwagon")
    except PackageNotFoundError:
        return "unknown"


def observed(broker: Broker, metering: Metering | None) -> Broker:
    """The broker, measured; itself without a meter. It is entered as the broker would be."""
    return broker if metering is None else ObservedBroker(broker, metering)


def unobserved(broker: Broker) -> Broker:
    """The broker itself."""
    return broker.inner if isinstance(broker, ObservedBroker) else broker


class _Call:
    """Measures one call, whatever ends it."""

    __slots__ = ("_began", "_channel", "_events", "_metering", "_operation", "_time")

    def __init__(self, metering: Metering, operation: str, channel: Channel, events: int) -> None:
        self._metering = metering
        self._operation = operation
        self._channel = channel
        self._events = events

    def __enter__(self) -> None:
        self._time = time = asyncio.get_running_loop().time
        self._began = time()

    def __exit__(self, _: object, raised: BaseException | None, __: object) -> None:
        seconds = self._time() - self._began
        error = "" if raised is None else class_name(raised)
        self._metering.called(self._operation, self._channel, self._events, seconds, error)


class ObservedBroker:
    """A broker that tells a meter of each call. What a call returns or raises is not changed."""

    def __init__(self, inner: Broker, metering: Metering) -> None:
        self.inner = inner
        self._metering = metering

    @property
    def capabilities(self) -> Capabilities:
        return self.inner.capabilities

    @property
    def trouble(self) -> str:
        """See Troubled; empty if the broker is not one."""
        return self.inner.trouble if isinstance(self.inner, Troubled) else ""

    async def __aenter__(self) -> ObservedBroker:
        await self.inner.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.inner.__aexit__(*exc)

    def _call(self, operation: str, channel: Channel, events: int = 0) -> _Call:
        return _Call(self._metering, operation, channel, events)

    async def publish(self, channel: Channel, events: Sequence[Event]) -> None:
        time = asyncio.get_running_loop().time
        began, stored, error = time(), 0, ""
        try:
            await self.inner.publish(channel, events)
            stored = len(events)
        except BaseException as e:
            stored = e.accepted if isinstance(e, ChannelFull | Sealed) else 0
            error = class_name(e)
            raise
        finally:
            self._metering.called("publish", channel, stored, time() - began, error)

    async def create(self, channel: Channel, *, capacity: int | None = None) -> None:
        with self._call("create", channel):
            await self.inner.create(channel, capacity=capacity)

    async def unbound(self, channel: Channel) -> None:
        with self._call("unbound", channel):
            await self.inner.unbound(channel)

    async def warm(self, channel: Channel) -> None:
        with self._call("warm", channel):
            await self.inner.warm(channel)

    async def seal(self, channel: Channel) -> None:
        with self._call("seal", channel):
            await self.inner.seal(channel)

    async def reclaim(self, channel: Channel, owner: str) -> int:
        with self._call("reclaim", channel):
            return await self.inner.reclaim(channel, owner)

    async def depth(self, channels: Sequence[Channel]) -> Sequence[Depth]:
        if not channels:
            return await self.inner.depth(channels)
        with self._call("depth", channels[0], len(channels)):
            return await self.inner.depth(channels)

    async def delete(self, channel: Channel) -> None:
        with self._call("delete", channel):
            await self.inner.delete(channel)

    async def channels(self, train: str) -> Sequence[Channel]:
        with self._call("channels", Channel(train, 0)):
            return await self.inner.channels(train)

    def read(self, channel: Channel) -> AsyncIterator[Event]:
        return self.inner.read(channel)

    def consume(
        self, channel: Channel, *, visibility: float, owner: str = ""
    ) -> AbstractAsyncContextManager[Subscription]:
        return self._consume(channel, self.inner.consume(channel, visibility=visibility, owner=owner))

    @asynccontextmanager
    async def _consume(
        self, channel: Channel, consumer: AbstractAsyncContextManager[Subscription]
    ) -> AsyncIterator[Subscription]:
        async with AsyncExitStack() as stack:
            with self._call("consume", channel):
                subscription = await stack.enter_async_context(consumer)
            yield _ObservedSubscription(subscription, channel, self._metering)


class _ObservedSubscription:
    """A subscription that tells a meter of each call."""

    def __init__(self, inner: Subscription, channel: Channel, metering: Metering) -> None:
        self._inner = inner
        self._channel = channel
        self._metering = metering

    def _call(self, operation: str, events: int) -> _Call:
        return _Call(self._metering, operation, self._channel, events)

    async def receive(self, limit: int, timeout: float) -> Sequence[Delivery]:
        time = asyncio.get_running_loop().time
        began = time()
        try:
            found = await self._inner.receive(limit, timeout)
        except asyncio.CancelledError:
            raise  # its caller leaves: this says nothing about the broker
        except BaseException as e:
            self._metering.called("receive", self._channel, 0, time() - began, class_name(e))
            raise
        self._metering.called("receive", self._channel, len(found), time() - began)
        return found

    async def alone(self, delivery: Delivery) -> bool:
        with self._call("alone", 1):
            return await self._inner.alone(delivery)

    async def settle(self, deliveries: Sequence[Delivery]) -> None:
        with self._call("settle", len(deliveries)):
            await self._inner.settle(deliveries)

    async def release(
        self, deliveries: Sequence[Delivery], *, delay: float = 0.0, tried: bool = True, cleared: bool = False
    ) -> None:
        with self._call("release", len(deliveries)):
            await self._inner.release(deliveries, delay=delay, tried=tried, cleared=cleared)

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        with self._call("extend", len(deliveries)):
            await self._inner.extend(deliveries)
