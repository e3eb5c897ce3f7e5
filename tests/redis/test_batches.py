"""Handlers of batches on a real Redis."""

from __future__ import annotations

from pathlib import Path
from secrets import token_hex

from tests.batches import try_batches
from tests.servers.server import Server


def test_batches_of_two_processes_of_which_one_is_killed(redis_server: Server, tmp_path: Path) -> None:
    try_batches(f"{redis_server.url}?prefix=batches-{token_hex(4)}", tmp_path)
