"""Dead letters are settled out of order, the others are given back."""

from __future__ import annotations

import asyncio

from tests.scenarios.test_dead_processes import some_are_retried
from tests.servers.server import Server


def test_some_are_retried(kafka_server: Server) -> None:
    asyncio.run(some_are_retried(f"{kafka_server.url}?topic_prefix=letters."))
