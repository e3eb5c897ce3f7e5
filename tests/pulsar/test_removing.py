"""A removed train leaves no topic, and no file of its registry."""

from __future__ import annotations

import asyncio
from pathlib import Path
from secrets import token_hex
from urllib.parse import quote

from eventwagon.drivers.pulsar import PulsarBroker
from tests.removed import lives_and_is_removed
from tests.servers.server import Server


def test_a_removed_train_leaves_no_topic(pulsar_server: Server, tmp_path: Path) -> None:
    name = f"parcels_{token_hex(4)}"

    def files() -> list[str]:
        return [str(path) for path in tmp_path.rglob("*")]

    async def left() -> list[str]:
        async with PulsarBroker.from_url(pulsar_server.url) as broker:
            return [*map(str, await broker.channels(name)), *files()]

    url = f"{pulsar_server.url}&registry={quote(f'sqlite:///{tmp_path}', safe='')}"
    asyncio.run(lives_and_is_removed(name, url, left))
