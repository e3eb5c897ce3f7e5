"""Wagons archived, exported, replayed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from secrets import token_hex

import pytest

from tests.servers.server import Server
from tests.wagons_back import wagons_come_back


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_what_comes_back_is_what_went_in(redis_server: Server, tmp_path: Path) -> None:
    archive, url = (tmp_path / "archive").as_uri(), f"{redis_server.url}?prefix={token_hex(4)}"
    print(asyncio.run(wagons_come_back(url, "goods", archive, wagons=10, each=10_000, seconds=890)))
