"""Dead letters are settled out of order, the others are given back."""

from __future__ import annotations

import asyncio

from tests.scenarios.test_dead_processes import some_are_retried
from tests.servers.moto import MotoServer


def test_some_are_retried(moto_server: MotoServer) -> None:
    asyncio.run(some_are_retried(moto_server.url))
