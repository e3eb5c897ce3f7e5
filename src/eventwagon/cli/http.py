"""HTTP servers of commands: where they listen, and what they do about clients that only hold connections open."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from ..errors import UsageError

_BACKLOG = 100
"""Connections that are accepted in one go."""
_SPARE = 64
"""Files that are left for everything else."""
_SILENT = 30.0
"""Seconds that a connection has for its first request, and for each further one."""
_GRACE = 3
_CLOSING = 30.0
"""Seconds that a client has to take the rest of an answer whose connection is closing."""
_FEW = 1000
"""Up to so many connections are looked at ten times a second, more of them once."""


@contextlib.asynccontextmanager
async def serving(server: Any, listening: socket.socket) -> AsyncIterator[asyncio.Task[None]]:
    """Serve while entered; the task ends if the server does. Leaving lets open requests finish."""
    task = asyncio.create_task(server.serve(sockets=[listening]))
    try:
        yield task
        server.should_exit = True
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def first_end(tasks: Sequence[asyncio.Task[Any]], *calls: Coroutine[Any, Any, object]) -> None:
    """Wait until one of them ends. The tasks go on, the other calls are cancelled."""
    waits = [asyncio.create_task(call) for call in calls]
    try:
        await asyncio.wait((*tasks, *waits), return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def listen(host: str, port: int) -> socket.socket:
    """A socket at that address. Raises UsageError."""
    try:
        family, *_, place = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.create_server(place[:2], family=family, backlog=256)
    except (OSError, UnicodeError) as e:
        raise UsageError(f"--host {host!r} --port {port}: {getattr(e, 'strerror', None) or e}") from None
    # asyncio sets it for sockets that it made itself; without it an answer in two writes waits 40 ms for the client
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def server(served: Any, *, connections: int, grace: int = _GRACE, **config: Any) -> Any:
    """A uvicorn server for the application. At most so many `connections`: further ones are closed at once, or get 503;
    fewer where this process may not open so many files. Open requests have `grace` seconds at the end. `config` goes
    to uvicorn."""
    import uvicorn

    class Server(uvicorn.Server):
        _closing: Mapping[Any, float] = {}
        """Connections that are closing: since when."""
        _silent: Mapping[Any, float] = {}
        """Connections without a request, with the one before: since when."""

        async def on_tick(self, counter: int) -> bool:
            """Ten times a second."""
            if counter % 10 == 0 or len(self.server_state.connections) < _FEW:
                self._abort_closing()
                self._abort_silent()
            return await super().on_tick(counter)

        def _abort_silent(self) -> None:
            """Cut off those that only hold a connection open."""
            now = time.monotonic()
            cycles = [(c, getattr(c, "cycle", None)) for c in self.server_state.connections]  # of its newest request
            silent = [(c, cycle) for c, cycle in cycles if cycle is None or cycle.response_complete]
            self._silent = {each: self._silent.get(each, now) for each in silent}
            for (connection, _), since in self._silent.items():
                if now - since >= _SILENT:
                    connection.transport.abort()

        def _abort_closing(self) -> None:
            """Cut off clients that never read: a connection closes only once they have taken what is left."""
            now = time.monotonic()
            transports = [getattr(each, "transport", None) for each in self.server_state.connections]
            self._closing = {t: self._closing.get(t, now) for t in transports if t is not None and t.is_closing()}
            for transport, since in self._closing.items():
                if now - since >= _CLOSING:
                    transport.abort()

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Signals are the command's."""
            yield

    settings = uvicorn.Config(
        _framed(served),
        access_log=False,
        lifespan="off",
        log_config=None,
        log_level="error",  # anybody may send what is no HTTP: not a line for each
        proxy_headers=False,
        server_header=False,
        limit_concurrency=connections,
        timeout_keep_alive=int(_SILENT),
        timeout_graceful_shutdown=grace,
        backlog=_BACKLOG,
        http="h11",  # httptools drops the body of a request that asks for an upgrade, as Java's client does
        **config,
    )
    settings.load()
    settings.http_protocol_class = _bounded(settings.http_protocol_class, _most_connections(connections))
    return Server(settings)


def _framed(served: Any) -> Any:
    """The application, which gets no request with two lengths: a proxy may take the end of one for the begin of another
    (RFC 9112, 6.1). They get 400, and their connections are closed."""

    async def answer(scope: Any, receive: Any, send: Any) -> None:
        names = {name for name, _ in scope["headers"]} if scope["type"] == "http" else frozenset[bytes]()
        if not {b"content-length", b"transfer-encoding"} <= names:
            await served(scope, receive, send)
            return
        body = b'{"error":"give either Content-Length or Transfer-Encoding, not both"}'
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", b"%d" % len(body)),
            (b"connection", b"close"),
        ]
        await send({"type": "http.response.start", "status": 400, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


def _bounded(protocol: Any, most: int) -> Any:
    """The same protocol, which closes further connections at once: an event loop that can't open another file logs that
    thousands of times a second, and answers nobody."""

    def connection_made(self: Any, transport: Any) -> None:
        protocol.connection_made(self, transport)
        if len(self.connections) > most:
            transport.abort()

    def init(self: Any, config: Any, *args: Any, **more: Any) -> None:
        if config.is_ssl and _open_files() > _files() - _SPARE:
            # raised where a connection was accepted, which is then closed: those in a handshake are no connections yet
            raise ConnectionRefusedError("too many open files")
        protocol.__init__(self, config, *args, **more)

    return type("Bounded", (protocol,), {"connection_made": connection_made, "__init__": init})


def _open_files() -> int:
    """How many files this process has open; 0 where that can't be told."""
    try:
        return len(os.listdir("/dev/fd"))  # noqa: PTH208 - it is asked for each connection
    except OSError:
        return 0


def _files() -> float:
    """How many files it may open."""
    try:
        import resource
    except ImportError:  # Windows
        return math.inf
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return math.inf if files == resource.RLIM_INFINITY else files


def _most_connections(wanted: int) -> int:
    # what was accepted in two rounds is not known to the protocol yet
    return int(max(8, min(wanted, _files() - _SPARE - 2 * _BACKLOG)))
