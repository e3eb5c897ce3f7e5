"""A partition that just got its leader may refuse a producer's first message, take its second, and then take the first,
sent again, for a repetition: the client reports it as stored, without an offset, and it is nowhere. On a busy machine
it is so with one new topic in fifty."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from secrets import token_hex
from typing import Any

import pytest
from confluent_kafka import KafkaError, Message

from eventwagon.contracts.facts import Entry, StepFailed
from eventwagon.contracts.registry import Registry
from eventwagon.drivers.kafka.admin import Admin
from eventwagon.drivers.kafka.names import Names
from eventwagon.drivers.kafka.options import Options
from eventwagon.drivers.kafka.publishing import Publisher
from eventwagon.drivers.kafka.registry import KafkaRegistry
from eventwagon.drivers.kafka.sender import REPEATED, Sender
from eventwagon.errors import PublishUncertain
from eventwagon.event import Channel
from tests.kafka.support import events
from tests.servers.kafka import KafkaServer


def test_the_first_entries_of_a_new_journal_are_all_there(kafka_server: KafkaServer) -> None:
    async def add(registry: Registry, train: str, writer: int) -> None:
        facts = [StepFailed(train=train, step=f"{writer} {n}", because="") for n in range(4)]
        for some in (facts[:2], facts[2:]):
            await registry.append(train, [Entry(1.0, "a test", fact) for fact in some])

    async def main() -> None:
        url = kafka_server.url
        async with KafkaRegistry.from_url(url) as one, KafkaRegistry.from_url(url) as other:
            for _ in range(30):
                train = f"journal-{token_hex(4)}"
                await asyncio.gather(*(add(r, train, n) for n, r in enumerate([one, other] * 5)))
                found = [e.fact.step async for e in one.entries(train) if isinstance(e.fact, StepFailed)]
                assert set(found) == {f"{writer} {n}" for writer in range(10) for n in range(4)}

    asyncio.run(main())


class _Said:
    """A report's message, as far as it is looked at."""

    def __init__(self, offset: int | None) -> None:
        self._offset = offset

    def offset(self) -> int | None:
        return self._offset


class _Producer:
    """Reports these offsets, one for each message that it is given."""

    def __init__(self, *offsets: int | None) -> None:
        self.offsets = list(offsets)
        self.reports: list[Callable[[], Any]] = []

    def produce(self, topic: str, value: bytes, key: bytes, partition: int, report: Any, headers: Any) -> None:
        said = _Said(self.offsets.pop(0))
        self.reports.append(lambda: report(None, said))

    def poll(self, timeout: float) -> int:
        reports, self.reports = self.reports, []
        for report in reports:
            report()
        return len(reports)

    def flush(self, timeout: float) -> int:
        return 0


@pytest.mark.parametrize(
    ("offsets", "at", "left"),
    [((7,), 7, 0), ((None, 8), 8, 0), ((None, None, 9), None, 1)],
    ids=["stored", "taken for a repetition", "and once more"],
)
def test_a_success_without_an_offset_is_none(offsets: tuple[int | None, ...], at: int | None, left: int) -> None:
    async def main() -> tuple[KafkaError | None, Message | None]:
        sender = Sender({})
        sender.producer = producer = _Producer(*offsets)  # type: ignore[assignment]
        said = await sender.one("t", 0, b"x")
        assert len(producer.offsets) == left
        await sender.close()
        return said

    error, message = asyncio.run(main())
    assert error is (REPEATED if at is None else None)
    assert message is not None
    assert message.offset() == at


def test_events_that_are_reported_so_are_not_surely_stored(kafka_server: KafkaServer) -> None:
    async def main() -> None:
        admin = Admin(Options.from_url(kafka_server.url))
        publisher = Publisher(admin, Names(""), linger=0)
        channel = Channel("t", 1)
        await admin.create(str(channel), 1, {})
        await publisher.topic(channel)  # known before the producer is another
        publisher.sender.producer = _Producer(0, None, 1)  # type: ignore[assignment]
        with pytest.raises(PublishUncertain, match="1 of 3 events were not acknowledged: taken for a repetition"):
            await publisher.publish(channel, events(3))
        await admin.delete(str(channel))
        await publisher.close()
        await admin.close()

    asyncio.run(main())
