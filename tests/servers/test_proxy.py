"""The proxy does what it says."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from tests.servers.proxy import Proxy


class Echo:
    """A server that answers with what it was asked, and remembers it."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.clients: list[asyncio.StreamWriter] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while chunk := await reader.read(65_536):
                self.heard += chunk
                writer.write(chunk)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def proxied() -> AsyncIterator[tuple[Echo, Proxy]]:
    echo = Echo()
    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    async with server, Proxy("127.0.0.1", server.sockets[0].getsockname()[1]) as proxy:
        try:
            yield echo, proxy
        finally:
            for writer in echo.clients:
                writer.transport.abort()
            await asyncio.sleep(0)


def run(test: Callable[[Echo, Proxy], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), proxied() as (echo, proxy):
            await test(echo, proxy)

    asyncio.run(main())


async def connect(echo: Echo, proxy: Proxy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection(proxy.host, proxy.port)
    echo.clients.append(writer)
    return reader, writer


async def nothing_comes(reader: asyncio.StreamReader) -> None:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.read(1), 0.1)


def test_it_forwards_both_ways_to_the_end() -> None:
    async def test(echo: Echo, proxy: Proxy) -> None:
        reader, writer = await connect(echo, proxy)
        asked = bytes(range(256)) * 8_000
        writer.write(asked)
        writer.write_eof()
        assert await reader.read() == asked
        while proxy.connections:
            await asyncio.sleep(0.01)
        assert proxy.accepted == 1

    run(test)


def test_cut_resets_and_accepts_again() -> None:
    async def test(echo: Echo, proxy: Proxy) -> None:
        reader, writer = await connect(echo, proxy)
        writer.write(b"a")
        assert await reader.read(1) == b"a"
        proxy.cut()
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        reader, writer = await connect(echo, proxy)
        writer.write(b"b")
        assert await reader.read(1) == b"b"

    run(test)


def test_refuse_and_accept_again_while_open_ones_stay() -> None:
    async def test(echo: Echo, proxy: Proxy) -> None:
        reader, writer = await connect(echo, proxy)
        for _ in range(3):
            proxy.refuse(True)
            with pytest.raises(ConnectionRefusedError):
                await connect(echo, proxy)
            writer.write(b"a")
            assert await reader.read(1) == b"a"
            proxy.refuse(False)
            other, its = await connect(echo, proxy)
            its.write(b"b")
            assert await other.read(1) == b"b"

    run(test)


def test_a_delay_is_a_delay_each_way() -> None:
    async def test(echo: Echo, proxy: Proxy) -> None:
        reader, writer = await connect(echo, proxy)
        proxy.delay = 0.1
        began = time.monotonic()
        for _ in range(5):
            writer.write(b"x" * 1_000_000)  # many chunks, one delay
            await writer.drain()
        await reader.readexactly(5_000_000)
        assert 0.2 <= time.monotonic() - began < 3.0

    run(test)


def test_hold_forwards_nothing_and_then_all() -> None:
    async def test(echo: Echo, proxy: Proxy) -> None:
        reader, writer = await connect(echo, proxy)
        proxy.hold()
        writer.write(b"a")
        late, its = await connect(echo, proxy)  # accepted all the same
        its.write(b"b")
        await nothing_comes(reader)
        await nothing_comes(late)
        assert not echo.heard
        proxy.go_on()
        assert await reader.read(1) == b"a"
        assert await late.read(1) == b"b"

    run(test)


def test_hold_answers_only_lets_requests_through() -> None:
    async def test(echo: Echo, proxy: Proxy) -> None:
        reader, writer = await connect(echo, proxy)
        proxy.hold(answers_only=True)
        writer.write(b"a")
        await nothing_comes(reader)
        assert echo.heard == b"a"
        proxy.cut()  # the answer is lost for good
        with pytest.raises(ConnectionResetError):
            await reader.read(1)
        proxy.go_on()

    run(test)


def test_no_server_behind_it() -> None:
    async def test(echo: Echo, proxy: Proxy) -> None:
        proxy.target = ("127.0.0.1", proxy.port + 1)
        reader, _ = await connect(echo, proxy)
        with pytest.raises(ConnectionResetError):
            await reader.read(1)

    run(test)
