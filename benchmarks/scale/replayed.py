"""What one look costs Redis at sizes that no machine here can run as processes: the requests of a real look at a real
train are kept on their way, and sent again as fast as Redis answers.

So many processes are checked in, and so many wagons are live; only one process is there. A busy server serves a request
in less CPU time than an idle one, which it wakes each time.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from benchmarks.observer import observer_of
from eventwagon.drivers.opening import open_drivers
from tests.servers.ports import free_port
from tests.servers.proxy import Flow, Heard, Proxy
from tests.servers.redis import RedisServer

from .counting import RedisRequests
from .looks import members_of
from .measure import redis_bytes, server_cpu
from .model import Shape

SIZES = ((1, 1), (10, 1), (100, 1), (1000, 1), (10_000, 1), (1, 10), (1, 100), (1, 1000), (10, 100), (100, 100))
"""Processes and live wagons."""
_SECONDS = 1.0
_AHEAD = 8
"""Looks that are under way at a time."""


class Replayed(msgspec.Struct, frozen=True, kw_only=True):
    """One look at a train of this size."""

    processes: int
    wagons: int
    each: int
    requests: int
    sent: float
    received: float
    server_cpu: float
    """Seconds of the main thread."""

    @property
    def shape(self) -> Shape:
        """One look a second at it."""
        return Shape(processes=self.processes, wagons=self.wagons, each=self.each, looks=1.0)


class _Kept:
    """The requests of all connections, while it listens."""

    def __init__(self) -> None:
        self.listening = False
        self.asked = b""

    def listener(self) -> Heard:
        def heard(flow: Flow, chunk: bytes) -> None:
            if flow == "asks" and self.listening:
                self.asked += chunk

        return heard


async def replayed(directory: Path, each: int) -> list[Replayed]:
    """All sizes. Raises Missing where Redis is not installed."""
    server = RedisServer(directory)
    try:
        await asyncio.to_thread(server.start)
        return [await _replayed(server, *size, each) for size in SIZES]
    finally:
        await asyncio.to_thread(server.close)


async def _replayed(server: RedisServer, processes: int, wagons: int, each: int) -> Replayed:
    kept = _Kept()
    async with AsyncExitStack() as stack:
        proxy = Proxy(server.host, server.port, listen=free_port(), listener=kept.listener)
        await stack.enter_async_context(proxy)
        drivers = open_drivers(f"redis://{proxy.host}:{proxy.port}?prefix=p{processes}w{wagons}")
        await stack.enter_async_context(drivers.broker)
        await stack.enter_async_context(drivers.registry)
        members = members_of(processes, wagons, each)
        observer = await observer_of(drivers.broker, drivers.registry, wagons, members, stack)
        async with asyncio.TaskGroup() as tasks:
            for _ in range(2):
                await observer.look(tasks)
            kept.listening = True
            await observer.look(tasks)
            kept.listening = False
        asked = kept.asked
        return await _again(server, asked, processes, wagons, each)


async def _again(server: RedisServer, asked: bytes, processes: int, wagons: int, each: int) -> Replayed:
    names = list(RedisRequests().names(asked))
    reader, writer = await asyncio.open_connection(server.host, server.port)
    size = await _answer(reader, writer, asked)
    before, cpu = redis_bytes(server), server_cpu("Redis", server)
    loop, looks = asyncio.get_running_loop(), 0
    until = loop.time() + _SECONDS
    while loop.time() < until or looks < 3 * _AHEAD:
        writer.write(asked * _AHEAD)
        await reader.readexactly(size * _AHEAD)
        looks += _AHEAD
    cpu, after = server_cpu("Redis", server) - cpu, redis_bytes(server)
    writer.close()
    await writer.wait_closed()
    return Replayed(
        processes=processes,
        wagons=wagons,
        each=each,
        requests=len(names),
        sent=len(asked),
        received=(after[1] - before[1]) / looks,
        server_cpu=cpu / looks,
    )


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: bytes) -> int:
    """Ask once; how many bytes come back."""
    writer.write(asked)
    size = 0
    while True:
        try:
            async with asyncio.timeout(1.0):
                size += len(await reader.read(1 << 20))
        except TimeoutError:
            return size
