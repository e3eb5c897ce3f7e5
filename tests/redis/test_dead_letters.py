"""Dead letters that are retried by processes which are killed."""

from __future__ import annotations

import asyncio
from secrets import token_hex

import pytest

from tests.scenarios.test_dead_processes import none_is_lost_by_kills
from tests.servers.server import Server


@pytest.mark.timeout(180)
def test_none_is_lost_by_kills(redis_server: Server) -> None:
    print(asyncio.run(none_is_lost_by_kills(f"{redis_server.url}?prefix={token_hex(4)}")))
