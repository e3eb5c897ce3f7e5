"""Wagons on Kafka are archived."""

from __future__ import annotations

import asyncio
from pathlib import Path
from secrets import token_hex

from tests.archived import lives_and_is_archived
from tests.servers.kafka import KafkaServer


def test_a_train_on_kafka(kafka_server: KafkaServer, tmp_path: Path) -> None:
    name = f"orders{token_hex(4)}"
    asyncio.run(lives_and_is_archived(name, kafka_server.url, f"file://{tmp_path}/archive"))
