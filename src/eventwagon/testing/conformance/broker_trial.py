"""A broker under trial: the argument of each check of the suite."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from secrets import token_hex
from typing import TypeVar

from ...contracts.broker import Broker, Delivery, Depth, Subscription
from ...event import Channel, Event, new_ids
from .check import CheckFailed, holds, same

T = TypeVar("T")

LONG = 600.0  # visibility in seconds, for claims that must not expire during a check


class BrokerTrial:
    """A broker under trial: the driver, the channels of one check, and the steps that checks share."""

    def __init__(
        self, broker: Broker, another: Callable[[], AbstractAsyncContextManager[Broker]], settings: BrokerSettings
    ) -> None:
        self.broker = broker
        self.visibility = settings.visibility
        self.patience = settings.patience
        self.clock = settings.clock
        self.train = f"check_{token_hex(6)}"  # a unique name: servers may hold leftovers of earlier runs
        self._wagons = 0
        self._events = 0
        self._another = another

    def another(self) -> AbstractAsyncContextManager[Broker]:
        """Another process's view: a second object if the driver is shared, otherwise the same one."""
        return self._another()

    def absent(self, name: str = "") -> Channel:
        """A channel that does not exist."""
        self._wagons += 1
        return Channel(self.train, self._wagons, name)

    async def channel(self, *, capacity: int | None = None, holding: Sequence[Event] = ()) -> Channel:
        """A new channel that holds the events `holding`."""
        channel = self.absent()
        await self.broker.create(channel, capacity=capacity)
        if holding:
            await self.broker.publish(channel, holding)
        return channel

    def events(self, count: int) -> list[Event]:
        """New events, numbered in their data."""
        now = round(self.clock(), 3)
        first = self._events
        self._events += count
        return [
            Event(id=new, type="check.happened", source="eventwagon/conformance", time=now, data=b"%d" % (first + i))
            for i, new in enumerate(new_ids(count, now))
        ]

    @asynccontextmanager
    async def claimed(
        self, channel: Channel, count: int = 1, *, visibility: float = LONG
    ) -> AsyncIterator[tuple[Subscription, list[Delivery]]]:
        """A new consumer that has claimed `count` events, and their deliveries."""
        async with self.broker.consume(channel, visibility=visibility) as consumer:
            yield consumer, await self.take(consumer, count)

    async def take(self, consumer: Subscription, count: int, *, limit: int = 500) -> list[Delivery]:
        """Exactly `count` deliveries, received in batches."""
        got: list[Delivery] = []
        while len(got) < count:
            some = await consumer.receive(min(limit, count - len(got)), self.patience)
            if not some:
                raise CheckFailed(f"expected {count} events, and after {len(got)} none came for {self.patience:g} s")
            got += some
        same(len(got), count, "events received")
        return got

    def order(self, found: Iterable[T]) -> list[T]:
        """The items as they came if the broker keeps the order of publishing, otherwise sorted: two such lists can be
        compared."""
        return list(found) if self.broker.capabilities.ordered else sorted(found)  # type: ignore[type-var]

    async def nothing(self, channel: Channel, why: str, *, seconds: float | None = None) -> None:
        """Raise CheckFailed if a new consumer gets anything within `seconds` (the visibility time, unless given)."""
        async with self.broker.consume(channel, visibility=LONG) as consumer:
            got = await consumer.receive(10, self.visibility if seconds is None else seconds)
            holds(not got, f"{why}: {len(got)} came")

    async def figures(self, channel: Channel, **expected: int) -> Depth:
        """The depth; raises CheckFailed if a figure that the driver knows differs from the expected one."""
        (depth,) = await self.broker.depth([channel])
        for name, figure in expected.items():
            found = getattr(depth, name)
            if found is None and name in ("published", "settled") and self.broker.capabilities.totals:
                raise CheckFailed(f"{name} is unknown, though totals are declared")
            if found is not None:
                same(found, figure, f"depth.{name}")
        return depth

    async def standing(self, channel: Channel) -> list[Event]:
        """The events that browsing the channel finds."""
        return [event async for event in self.broker.read(channel)]


class BrokerSettings:
    """How patient the checks are. No check asserts a speed: longer times only make the suite slower."""

    def __init__(self, visibility: float, patience: float, clock: Callable[[], float]) -> None:
        self.visibility = visibility
        self.patience = patience
        self.clock = clock


async def past(seconds: float) -> None:
    """Wait until a period of `seconds` that has already begun is certainly over."""
    await asyncio.sleep(seconds * 1.25)
