"""Undos whose processes are killed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from secrets import token_hex

import pytest

from tests.servers.server import Server
from tests.undo.test_kills import killed_at_work


@pytest.mark.timeout(180)
def test_children_come_first_whatever_is_killed(redis_server: Server, tmp_path: Path) -> None:
    url = f"{redis_server.url}?prefix={token_hex(4)}"
    print(asyncio.run(killed_at_work(url, (tmp_path / "archive").as_uri(), tmp_path / "log")))
