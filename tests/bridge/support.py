"""What the tests of the bridge share."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from secrets import token_hex
from typing import Any

from redis.asyncio import Redis

from eventwagon.bridge import Source, open_source
from eventwagon.bridge.sources.stdin import StdinSource
from tests.servers.server import Server


class RedisFlow:
    """A stream of its own, with a group."""

    ordered = True

    def __init__(self, server: Server, client: Any, claim: float) -> None:
        self.claim = claim
        self.client = client
        self.stream = f"flow-{token_hex(4)}"
        self.url = f"redis://{server.host}:{server.port}/{self.stream}?group=workers&idle={claim}"

    def open(self) -> Source:
        return open_source(self.url, "earliest")

    async def write(self, values: Sequence[bytes]) -> None:
        async with self.client.pipeline(transaction=False) as pipe:
            for value in values:
                pipe.xadd(self.stream, {"data": value})
            await pipe.execute()


@asynccontextmanager
async def redis_flow(server: Server, claim: float = 0.4) -> AsyncIterator[RedisFlow]:
    async with Redis(host=server.host, port=server.port) as client:
        flow = RedisFlow(server, client, claim)
        yield flow
        await client.delete(flow.stream)


class PipeFlow:
    """A pipe, as stdin is one."""

    claim = 0.0
    ordered = True

    def __init__(self) -> None:
        self.end, self._begin = os.pipe()

    def open(self) -> AbstractAsyncContextManager[Source]:
        return StdinSource(self.end)

    async def write(self, values: Sequence[bytes]) -> None:
        await asyncio.to_thread(os.write, self._begin, b"".join(value + b"\n" for value in values))

    def close(self) -> None:
        """Idempotent."""
        if self._begin >= 0:
            os.close(self._begin)
            self._begin = -1


@asynccontextmanager
async def pipe_flow() -> AsyncIterator[PipeFlow]:
    flow = PipeFlow()
    try:
        yield flow
    finally:
        flow.close()
        os.close(flow.end)
