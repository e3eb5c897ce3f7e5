"""Dead letters are settled out of order, the others are given back."""

from __future__ import annotations

import asyncio
from pathlib import Path
from urllib.parse import quote

from tests.scenarios.test_dead_processes import some_are_retried
from tests.servers.server import Server


def test_some_are_retried(pulsar_server: Server, tmp_path: Path) -> None:
    asyncio.run(some_are_retried(f"{pulsar_server.url}&registry={quote(f'sqlite:///{tmp_path}', safe='')}"))
