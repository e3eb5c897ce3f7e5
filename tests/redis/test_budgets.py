"""Budgets of real processes, on Redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.bounded import check, shared
from tests.servers.redis import RedisServer


@pytest.mark.timeout(180)
def test_three_processes_share_a_rate_and_a_concurrency_and_one_is_killed(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    check(asyncio.run(shared(redis_server.url, tmp_path)))
