"""Wagons that come and go on Kafka."""

from __future__ import annotations

import asyncio
from secrets import token_hex

import pytest
from confluent_kafka.admin import AdminClient

from tests.servers.kafka import KafkaServer
from tests.wagons_gone import wagons_gone


@pytest.mark.parametrize(
    ("first", "last"),
    [
        pytest.param(15, 45, marks=pytest.mark.timeout(300)),
        pytest.param(300, 1_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)]),
    ],
)
def test_nothing_grows_with_the_wagons_that_were(kafka_server: KafkaServer, first: int, last: int) -> None:
    name = f"goods{token_hex(4)}"
    client = AdminClient({"bootstrap.servers": kafka_server.bootstrap})

    async def topics() -> int:
        names = (await asyncio.to_thread(client.list_topics, timeout=10)).topics
        return sum(name in topic for topic in names)

    before, after = asyncio.run(wagons_gone(kafka_server.url, name, first=first, last=last, server=topics))
    print(f"after {first:,} wagons {before}; after {last:,} {after}")
    assert after.server == before.server
    assert after.threads < before.threads + 5  # a pool starts its threads when calls overlap; one a wagon would be 30
    assert after.blocks < before.blocks * 1.03
