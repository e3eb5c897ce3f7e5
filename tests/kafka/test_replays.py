"""Replays whose feeders are killed, on topics of one partition."""

from __future__ import annotations

import asyncio
from pathlib import Path
from secrets import token_hex

import pytest

from tests.replays.test_kills import each_is_published_once
from tests.servers.server import Server


@pytest.mark.timeout(180)
def test_each_is_published_once(kafka_server: Server, tmp_path: Path) -> None:
    archive = (tmp_path / "archive").as_uri()
    print(asyncio.run(each_is_published_once(f"{kafka_server.url}?topic_prefix={token_hex(4)}.", archive, kills=1)))
