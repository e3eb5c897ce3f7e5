"""A TCP proxy on loopback that troubles the network between a client and a server."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Literal, Self, TypeAlias

from tests.servers.ports import free_port

_CHUNK = 65_536
_WAITING = 64
"""Chunks under way in one direction: then the sender is slowed down, as by a network."""

Flow: TypeAlias = Literal["asks", "answers"]
Heard: TypeAlias = Callable[[Flow, bytes], None]
"""Is given each chunk of one connection, before it goes on."""


class Proxy:
    """Forwards `127.0.0.1:port` to `host:port` of a server. An asynchronous context manager; its methods belong to the
    loop that entered it and take effect at once.

    `delay` is how many seconds every chunk of bytes is on its way, in each direction; throughput stays. `port` is
    chosen unless given (a server that advertises its address must know it before the proxy runs: `free_port()`).
    `listener` is called for each connection and returns what hears it."""

    def __init__(
        self, host: str, port: int, *, listen: int | None = None, listener: Callable[[], Heard] | None = None
    ) -> None:
        self.target = (host, port)
        self.host = "127.0.0.1"
        self.port = listen if listen is not None else free_port()
        self.delay = 0.0
        self.accepted = 0
        """How many connections clients have made."""
        self._hearing = listener
        self._flows: dict[Flow, asyncio.Event] = {
            "asks": asyncio.Event(),
            "answers": asyncio.Event(),
        }
        self._connections: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self.go_on()

    async def __aenter__(self) -> Self:
        self.refuse(False)
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.refuse(True)
        self.cut()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def connections(self) -> int:
        """How many are open now."""
        return len(self._connections)

    def cut(self) -> None:
        """Reset all connections; what was under way or held is lost. New ones are accepted."""
        for connection in self._connections:
            connection.cancel()

    def refuse(self, refusing: bool = True) -> None:
        """Refuse new connections, as a port on which nothing listens; False: accept again. Open ones stay (see
        `cut`)."""
        loop = asyncio.get_running_loop()
        if refusing and self._listener is not None:
            loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        elif not refusing and self._listener is None:
            self._listener = socket.create_server((self.host, self.port), backlog=128)
            self._listener.setblocking(False)
            loop.add_reader(self._listener, self._accept, self._listener)

    def hold(self, *, answers_only: bool = False) -> None:
        """Forward nothing, drop nothing: connections are accepted and stay open, half-open to those who wait. With
        `answers_only` requests still reach the server, and its answers do not come back."""
        self._flows["answers"].clear()
        if not answers_only:
            self._flows["asks"].clear()

    def go_on(self) -> None:
        """Forward again, what was held first."""
        for flow in self._flows.values():
            flow.set()

    # --- inside -------------------------------------------------------------------------------

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            client, _ = listener.accept()
            client.setblocking(False)
            # closing it resets it: the client sees a broken connection, not a polite end
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.accepted += 1
            task = asyncio.create_task(self._serve(client))
            self._connections.add(task)
            task.add_done_callback(self._connections.discard)

    async def _serve(self, client: socket.socket) -> None:
        writers: list[asyncio.StreamWriter] = []
        heard = self._hearing() if self._hearing is not None else None
        try:
            asks, answer = await asyncio.open_connection(sock=client)
            writers.append(answer)
            await self._flows["asks"].wait()
            answers, ask = await asyncio.open_connection(*self.target)
            writers.append(ask)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._forward(asks, ask, "asks", heard))
                group.create_task(self._forward(answers, answer, "answers", heard))
            answer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 0, 0))
        except* OSError:
            pass  # either side broke: so does the other
        finally:
            for writer in writers:
                writer.transport.abort()
            if not writers:
                client.close()

    async def _forward(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: Flow, heard: Heard | None
    ) -> None:
        """One direction, to its end. Each chunk has its own time of arrival, so a delay costs no throughput."""
        loop = asyncio.get_running_loop()
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING)

        async def take() -> None:
            while chunk := await reader.read(_CHUNK):
                if heard is not None:
                    heard(flow, chunk)
                await under_way.put((loop.time() + self.delay, chunk))
            await under_way.put((loop.time() + self.delay, b""))

        async def give() -> None:
            while True:
                due, chunk = await under_way.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                await self._flows[flow].wait()
                if not chunk:
                    with contextlib.suppress(OSError):
                        writer.write_eof()
                    return
                writer.write(chunk)
                await writer.drain()

        async with asyncio.TaskGroup() as group:
            group.create_task(take())
            group.create_task(give())
