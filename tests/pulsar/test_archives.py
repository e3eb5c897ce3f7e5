"""Wagons on Pulsar are archived."""

from __future__ import annotations

import asyncio
from pathlib import Path
from secrets import token_hex

from tests.archived import lives_and_is_archived
from tests.servers.pulsar import PulsarServer


def test_a_train_on_pulsar(pulsar_server: PulsarServer, tmp_path: Path) -> None:
    name = f"orders{token_hex(4)}"
    asyncio.run(lives_and_is_archived(name, pulsar_server.url, f"file://{tmp_path}/archive"))
