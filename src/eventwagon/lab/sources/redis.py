"""A Redis stream: the times are in the entries' ids."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, MovedError, RedisError, ResponseError
from redis.exceptions import ConnectionError as NotConnected

from ...contracts.address import Address
from ...drivers.redis.server import Server
from ...errors import StorageBroken, Unavailable
from .recorded import Arrival

_COUNT = 1000
"""Entries of one XRANGE."""


class RedisStream:
    """`redis://host:6379/STREAM?db=0`, with the options of the driver. XRANGE reads; no group is made or joined."""

    is_live = True

    def __init__(self, address: Address) -> None:
        """Raises UsageError."""
        path = address.path.removeprefix("/")
        name, service = path, ""
        if "+sentinel" in address.scheme:
            service, _, name = path.partition("/")
        elif "+unix" in address.scheme:
            raise address.wrong("a Unix socket leaves no place for the stream's name: use host and port")
        if not name:
            raise address.wrong("name the stream: redis://host:6379/STREAM?db=0")
        self.title = name
        self._stream = name
        query = address.url.partition("?")[2]
        at = f"{address.scheme}://{address.host}/{service}" + (f"?{query}" if query else "")
        self._server = Server.from_url(at)

    async def batches(self, since: float) -> AsyncIterator[Sequence[Arrival | None]]:
        """See Source.batches."""
        server = self._server
        start = f"{max(0, int(since * 1000))}"
        try:
            (last,) = await self._ask(server, "XREVRANGE", self._stream, "+", "-", "COUNT", 1) or [None]
        except MovedError as e:
            server = server.at(e.host, int(e.port))
            (last,) = await self._ask(server, "XREVRANGE", self._stream, "+", "-", "COUNT", 1) or [None]
        if last is None:
            return
        end = last[0].decode()
        async with self._connected(server) as connection:
            while found := await self._call(connection, "XRANGE", self._stream, start, end, "COUNT", _COUNT):
                yield [_arrival(entry) for entry in found]
                start = "(" + found[-1][0].decode()

    async def _ask(self, server: Server, *words: Any) -> Any:
        async with self._connected(server) as connection:
            return await self._call(connection, *words)

    @asynccontextmanager
    async def _connected(self, server: Server) -> AsyncIterator[AbstractConnection]:
        connection = server.connection()
        connection.client_name = None  # to give a name needs a right of its own
        try:
            try:
                await connection.connect()  # type: ignore[no-untyped-call]
            except (AuthenticationError, ResponseError) as e:
                raise StorageBroken(f"{server.where}: {e}") from None
            except (RedisError, OSError, TimeoutError) as e:
                raise Unavailable(f"{server.where}: can't be reached: {e}") from None
            yield connection
        finally:
            await connection.disconnect()

    async def _call(self, connection: AbstractConnection, *words: Any) -> Any:
        where = f"{self._server.where}: stream {self._stream}"
        try:
            async with asyncio.timeout(self._server.timeout):
                await connection.send_command(*words)
                return await connection.read_response()
        except MovedError:
            raise
        except TimeoutError:
            raise Unavailable(f"{where}: the server has not answered for {self._server.timeout:g} s") from None
        except (NotConnected, OSError) as e:
            raise Unavailable(f"{where}: the connection broke: {e}") from None
        except ResponseError as e:
            raise StorageBroken(f"{where}: {e}; reading needs the commands XRANGE and XREVRANGE on a stream") from None


def _arrival(entry: Sequence[Any]) -> Arrival:
    name, fields = entry
    return Arrival(int(name.partition(b"-")[0]) / 1000, sum(map(len, fields or ())))
