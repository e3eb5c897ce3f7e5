"""Wagons that come and go on Kafka."""

from __future__ import annotations

import asyncio
import re
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
        """A server may list a topic for a while after its deletion; a claims log alone is removed after a minute."""
        async with asyncio.timeout(120):
            while True:
                names = (await asyncio.to_thread(client.list_topics, timeout=10)).topics
                found = [topic for topic in names if name in topic]
                if len({number for topic in found for number in re.findall(r"_v(\d+)", topic)}) <= 2:
                    return len(found)
                await asyncio.sleep(0.5)

    before, after = asyncio.run(wagons_gone(kafka_server.url, name, first=first, last=last, server=topics))
    print(f"after {first:,} wagons {before}; after {last:,} {after}")
    assert after.server == before.server
    assert after.threads < before.threads + 5  # a pool starts its threads when calls overlap; one a wagon would be 30
    assert after.blocks < before.blocks * 1.03
