"""Journals on Kafka: a new one, into which many write at the same time."""

from __future__ import annotations

import asyncio
from secrets import token_hex

from eventwagon.facts import Entry, StepFailed
from eventwagon.registries.kafka import KafkaRegistry
from eventwagon.registry import Registry
from tests.servers.kafka import KafkaServer


def test_the_first_entries_of_a_new_journal_are_all_there(kafka_server: KafkaServer) -> None:
    """A partition that just got its leader may refuse a producer's first message, take its second, and then take the first for a
    repetition: one entry in thousands was reported as stored and not there."""

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
                assert sorted(found) == sorted(f"{writer} {n}" for writer in range(10) for n in range(4))

    asyncio.run(main())
