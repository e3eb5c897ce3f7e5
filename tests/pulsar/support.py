"""What the tests against a real Pulsar need: events, publishers that retry, consumers that settle."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from secrets import token_hex
from typing import Any

import pulsar  # type: ignore[import-untyped]

from eventwagon.contracts.broker import Broker, Subscription
from eventwagon.errors import PublishUncertain, Sealed, Unavailable
from eventwagon.event import Channel, Event, new_ids
from tests.servers.server import Server


def a_channel(name: str = "") -> Channel:
    return Channel(f"test_{token_hex(5)}", 1, name)


def events(count: int, data: bytes = b"x") -> list[Event]:
    now = time.time()
    return [Event(id=new, type="t", source="s", time=now, data=data) for new in new_ids(count, now)]


def client_of(server: Server) -> Any:
    """A client of Pulsar's own library, which logs errors only."""
    level = pulsar._pulsar.LoggerLevel.Error  # noqa: SLF001 - the library shows it nowhere else
    return pulsar.Client(server.url.split("/public")[0], logger=pulsar.ConsoleLogger(level))


class Publisher:
    """Publishes again and again, and again what was uncertain."""

    def __init__(self, broker: Broker, channel: Channel) -> None:
        self.broker = broker
        self.channel = channel
        self.accepted: set[str] = set()
        self.uncertain: set[str] = set()
        self.troubles: Counter[str] = Counter()
        self.reasons: list[str] = []
        self.stop = False

    async def run(self, batch: int = 3, pause: float = 0.002) -> None:
        while not self.stop:
            await self.once(events(batch))
            await asyncio.sleep(pause)

    async def once(self, some: Sequence[Event]) -> None:
        while not self.stop:
            try:
                await self.broker.publish(self.channel, some)
            except PublishUncertain as e:
                self.troubles["uncertain"] += 1
                self.reasons.append(str(e))
                self.uncertain.update(e.id for e in some)
                await asyncio.sleep(0.1)
                continue
            except Unavailable:
                self.troubles["unavailable"] += 1
                await asyncio.sleep(0.1)
                continue
            except Sealed as sealed:
                self.accepted.update(e.id for e in some[: sealed.accepted])
                self.stop = True
                return
            self.accepted.update(e.id for e in some)
            return


class Worker:
    """Receives and settles until told to stop; counts what it handled."""

    def __init__(self, consumer: Subscription) -> None:
        self.consumer = consumer
        self.handled: Counter[str] = Counter()
        self.attempts: dict[str, int] = {}
        self.troubles = 0
        self.stop = False

    async def run(self) -> None:
        while not self.stop:
            try:
                got = await self.consumer.receive(50, 0.3)
                self.handled.update(d.event.id for d in got)
                for d in got:
                    self.attempts[d.event.id] = max(d.attempt, self.attempts.get(d.event.id, 0))
                await self.consumer.settle(got)
            except Unavailable:
                self.troubles += 1
                await asyncio.sleep(0.1)
