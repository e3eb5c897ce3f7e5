"""Wagons on Redis are archived."""

from __future__ import annotations

import asyncio
from pathlib import Path
from secrets import token_hex

import pytest

from tests.archived import lives_and_is_archived, processes_die_and_all_is_archived
from tests.servers.server import Server


def test_a_train_on_redis(redis_server: Server, tmp_path: Path) -> None:
    url = f"{redis_server.url}?prefix={token_hex(4)}"
    asyncio.run(lives_and_is_archived("orders", url, f"file://{tmp_path}/archive"))


@pytest.mark.slow
def test_processes_that_are_killed(redis_server: Server, tmp_path: Path) -> None:
    url = f"{redis_server.url}?prefix={token_hex(4)}"
    processes_die_and_all_is_archived(url, f"file://{tmp_path}/archive")
