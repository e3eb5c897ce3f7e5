"""Where a train may run, with a server of its own started for it where it needs one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from tests.servers.install import Missing
from tests.servers.kafka import KafkaServer
from tests.servers.pulsar import PulsarServer
from tests.servers.redis import RedisServer
from tests.servers.server import Server

SERVERS: dict[str, Callable[[Path], Server]] = {"Redis": RedisServer, "Kafka": KafkaServer, "Pulsar": PulsarServer}


@asynccontextmanager
async def place(name: str, directory: Path) -> AsyncIterator[str | None]:
    """The URL of memory, SQLite, Redis, Kafka or Pulsar; None, and a line on stderr, where that server is not
    installed."""
    if name == "memory":
        yield "memory://"
    elif name == "SQLite":
        yield f"sqlite:///{directory}/sqlite"
    else:
        try:
            server = SERVERS[name](directory)
        except Missing as e:
            print(e, file=sys.stderr)
            yield None
            return
        await asyncio.to_thread(server.start)
        try:
            registry = f"&registry={quote(f'sqlite:///{directory}/registry', safe='')}" if name == "Pulsar" else ""
            yield server.url + registry
        finally:
            await asyncio.to_thread(server.__exit__, None, None, None)
