"""Records of wagons on a real Redis, in a ledger of their own directory."""

from __future__ import annotations

import asyncio
from pathlib import Path
from secrets import token_hex

from tests.recorded import recorded
from tests.servers.server import Server


def test_a_record_reconciles_with_the_totals_of_redis(redis_server: Server, tmp_path: Path) -> None:
    record = asyncio.run(recorded(f"{redis_server.url}?prefix={token_hex(4)}", tmp_path))
    assert record.ended == "drained"
    assert (tmp_path / "orders" / "ledger.db").exists()
