"""Wagons archived, exported, replayed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from secrets import token_hex

import pytest

from tests.servers.kafka import KafkaServer
from tests.wagons_back import wagons_come_back


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_what_comes_back_is_what_went_in(kafka_server: KafkaServer, tmp_path: Path) -> None:
    archive, url = (tmp_path / "archive").as_uri(), kafka_server.url
    print(asyncio.run(wagons_come_back(url, f"goods{token_hex(4)}", archive, wagons=10, each=10_000, seconds=890)))
