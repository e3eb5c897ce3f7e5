"""Wagons on Pulsar are archived."""

from __future__ import annotations

import asyncio
from pathlib import Path
from secrets import token_hex
from urllib.parse import quote

from tests.archived import lives_and_is_archived
from tests.servers.pulsar import PulsarServer


def test_a_train_on_pulsar(pulsar_server: PulsarServer, tmp_path: Path) -> None:
    name = f"orders{token_hex(4)}"
    url = f"{pulsar_server.url}&registry={quote(f'sqlite:///{tmp_path}', safe='')}"
    asyncio.run(lives_and_is_archived(name, url, f"file://{tmp_path}/archive"))
