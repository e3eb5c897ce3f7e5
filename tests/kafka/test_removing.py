"""A removed train leaves no topic."""

from __future__ import annotations

import asyncio
from secrets import token_hex

from confluent_kafka.admin import AdminClient

from tests.removed import lives_and_is_removed
from tests.servers.kafka import KafkaServer


def test_a_removed_train_leaves_no_topic(kafka_server: KafkaServer) -> None:
    name = f"parcels{token_hex(4)}"
    admin = AdminClient({"bootstrap.servers": kafka_server.bootstrap})

    async def left() -> list[str]:
        return sorted(topic for topic in admin.list_topics(timeout=10).topics if topic.startswith(name))

    asyncio.run(lives_and_is_removed(name, kafka_server.url, left))
