"""A live topic looked at by the lab: all of its records, and nothing changes there."""

from __future__ import annotations

import asyncio
import time
from secrets import token_hex

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from eventwagon.errors import EventwagonError, UsageError
from eventwagon.lab.sources.reading import read, source_at
from eventwagon.lab.sources.recorded import Recorded
from tests.servers.server import Server


async def look(url: str, last: float = 3600.0) -> Recorded:
    return await read(source_at(url, field=""), last=last, rate=10**9, say=lambda _: None)


def test_a_live_topic_is_only_read(kafka_server: Server) -> None:
    servers = kafka_server.url.removeprefix("kafka://").partition("?")[0]
    topic = f"orders-{token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(topic, 3, 1)])[topic].result(20)
    producer = Producer({"bootstrap.servers": servers, "transactional.id": topic})
    producer.init_transactions(20)
    now = int(time.time() * 1000)
    for ended in (True, False, True):  # the records of the second transaction are none, and markers are left at the end
        producer.begin_transaction()
        for number in range(3000):
            producer.produce(topic, b"x" * 50, key=b"k%d" % (number % 10), timestamp=now - 5_000_000 + number * 1000)
        assert producer.flush(20) == 0
        (producer.commit_transaction if ended else producer.abort_transaction)(20)
    groups = {each.group_id for each in admin.list_consumer_groups().result(20).valid}

    found = asyncio.run(look(f"kafka://{servers}/{topic}"))

    assert 3190 <= len(found) <= 3210  # the last hour of 3,000 seconds with two records each
    assert set(found.sizes) == {50.0}
    assert found.arrivals == sorted(found.arrivals)
    assert "10 keys, the busiest has 10.0%" in found.summary
    assert {each.group_id for each in admin.list_consumer_groups().result(20).valid} == groups


def test_no_such_topic_is_made(kafka_server: Server) -> None:
    servers = kafka_server.url.removeprefix("kafka://").partition("?")[0]
    topic = f"none-{token_hex(4)}"
    with pytest.raises(EventwagonError, match=f"topic {topic}"):
        asyncio.run(look(f"kafka://{servers}/{topic}"))
    assert topic not in AdminClient({"bootstrap.servers": servers}).list_topics(timeout=20).topics


def test_nothing_in_that_time(kafka_server: Server) -> None:
    servers = kafka_server.url.removeprefix("kafka://").partition("?")[0]
    topic = f"orders-{token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": servers})
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)
    producer = Producer({"bootstrap.servers": servers})
    producer.produce(topic, b"x", timestamp=int(time.time() * 1000) - 10_000_000)
    assert producer.flush(20) == 0
    with pytest.raises(UsageError, match="no records in the last 3,600 s"):
        asyncio.run(look(f"kafka://{servers}/{topic}"))
